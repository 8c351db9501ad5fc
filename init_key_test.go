//go:build linux && !pure

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestInitKey adds keys to doors that are there, and to new ones: both sides' lines open the same door.
func TestInitKey(t *testing.T) {
	const door = "[options]\n\tKey_Port = 7777\n[web]\n\tOpen_Ports = 443, 8443 -> 10.0.0.5:443\n\tCmd_Timeout = 60\n\tSequence = 7000,9000,8000\n[b]\n\tSequence = 7,9,8"
	file := filepath.Join(t.TempDir(), "c")
	for _, tt := range []struct{ name, was, args, wantOpen, wantPort string }{
		{"a new door in a new file", "", "ssh", "22", ""},
		{"a new door", door, "ssh", "22", "SPA_SERVER_PORT 7777\n"},
		{"a door that is there", door, "web", "443,8443", "SPA_SERVER_PORT 7777\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(tt.was), 0o600); err != nil {
				t.Fatal(err)
			}
			for i, name := range []string{"alice", "bob"} {
				got := runProgram("sesame", "init", "-c", file, "--host", "192.0.2.1", "--key", name, tt.args)
				line, err := parseLine(got.stdout)
				if got.status != 0 || err != nil || strings.Count(got.stdout, "\n") != 1 || line.open != tt.wantOpen || line.verify == 0 {
					t.Fatalf("got %+v, %v", got, err)
				}
				text, _ := os.ReadFile(file)
				c, err := parseConfig(file, strings.NewReader(string(text)))
				if err != nil || !strings.HasPrefix(string(text), strings.Split(tt.was, "[web]")[0]) {
					t.Fatalf("got %v,\n%s", err, text)
				}
				d := c.lastDoor(tt.args)
				if len(d.Keys) != i+1 || d.Keys[i].Name != name || tt.args != "web" && d.Sequence != nil {
					t.Fatalf("got %+v,\n%s", d, text)
				}
				client, err := parseProfiles("p", strings.NewReader(line.section()))
				if err != nil || client[0].sequence[0].Port != c.KeyPort {
					t.Fatalf("got %v, %s", err, line.section())
				}
				if r, err := d.Keys[i].open([]byte(client[0].key.packet(time.Now()))); err != nil || len(r.ports) != len(d.opens()) {
					t.Errorf("what the client sends: got %+v, %v", r, err)
				}
				keys := strings.Fields(line.key)
				for _, part := range []string{
					"\tKey = " + name + " " + line.key + "\n",
					"[" + tt.args + "]\nSPA_SERVER      192.0.2.1\n" + tt.wantPort + "ACCESS          tcp/",
					"KEY_BASE64      " + keys[0] + "\nHMAC_KEY_BASE64 " + keys[1] + "\n",
				} {
					if !strings.Contains(got.stderr, part) {
						t.Errorf("it says\n%s\nwant %s", got.stderr, part)
					}
				}
				if again := runProgram("sesame", "init", "-c", file, "--host", "192.0.2.1", "--key", name, tt.args); again.status != 1 || !strings.Contains(again.stderr, "has a key of "+name+" already") {
					t.Errorf("again: got %+v", again)
				}
				if now, _ := os.ReadFile(file); string(now) != string(text) {
					t.Errorf("then there is\n%s", now)
				}
			}
		})
	}
	for args, want := range map[string]string{
		"--key a]b":                 "a key's name is made of letters, digits, - and _",
		"--key a b":                 "Key without Open_Ports opens nothing",
		"--key a web --port 22":     `there is a door "web" already, and --key adds a key to it: leave out --port and --to`,
		"--key a other":             "what the door opens is missing: --port 443",
		"--from . --key a":          "--from takes a folder, and beside it -c alone",
		"--from /nosuch":            "no such file or directory",
		"--from " + file + " other": "--from takes a folder, and beside it -c alone",
	} {
		if err := os.WriteFile(file, []byte(door), 0o600); err != nil {
			t.Fatal(err)
		}
		got := runProgram(append([]string{"sesame", "init", "-c", file, "--host", "192.0.2.1"}, strings.Fields(args)...)...)
		if text, _ := os.ReadFile(file); got.status == 0 || !strings.Contains(got.stderr, want) || string(text) != door {
			t.Errorf("%s: got %+v, want %s", args, got, want)
		}
	}
}

// TestInitFrom takes over configurations of fwknopd, as they are found in public: what is left out is said by line.
func TestInitFrom(t *testing.T) {
	const keys = "KEY_BASE64              " + aliceSecret + "\nHMAC_KEY_BASE64         " + aliceAuth + "\n"
	const open = "\tKey         = fwknop " + aliceSecret + " " + aliceAuth
	for _, tt := range []struct{ name, access, options, want string }{
		{"of a tutorial", "SOURCE                  ANY\nREQUIRE_SOURCE_ADDRESS  Y\n" + keys, "PCAP_FILTER                 udp port 12345;\nPCAP_DISPATCH_COUNT            1;\n",
			"[options]\n\tKey_Port = 12345\n\n# DIR/access.conf:1\n# DIR/access.conf:1: without OPEN_PORTS fwknopd opens whatever is asked for: name here what your clients ask for\n[fwknop1]\n" + open + " strict\n\tOpen_Ports  = 22\n\tCmd_Timeout = 30\n\n"},
		{"several ports", "SOURCE ANY\n" + keys + "OPEN_PORTS  tcp/22, tcp/80, udp/53;\nFW_ACCESS_TIMEOUT       60\nMAX_FW_TIMEOUT 60\n", "",
			"# DIR/access.conf:1\n# DIR/access.conf:6: MAX_FW_TIMEOUT: clients may ask for up to Cmd_Timeout\n[fwknop1]\n" + open + "\n\tOpen_Ports  = 22, 80, 53:udp\n\tCmd_Timeout = 60\n\n"},
		{"of Debian's package", "# comment\n\n; another\nSOURCE              ANY\nKEY_BASE64          __CHANGEME__\nHMAC_KEY_BASE64     __CHANGEME__\n", "",
			"# DIR/access.conf:4: no door: as one it would be wrong: \"fwknop1\": Key fwknop: the first key: it is 1 to 32 bytes in base64\n# DIR/access.conf:4: without OPEN_PORTS fwknopd opens whatever is asked for: name here what your clients ask for\n\n"},
		{"passphrases, networks, a forward", "SOURCE: 192.168.0.0/16,10.1.2.3;\nKEY: testtest\nHMAC_KEY: hmactest\nREQUIRE_USERNAME An Other\nFORCE_NAT 10.0.0.5 443\nOPEN_PORTS tcp/8443\n", "PCAP_INTF eth1;\nMAX_SPA_PACKET_AGE 300;\nENABLE_SPA_OVER_HTTP Y;\nUDPSERV_PORT 62201;\n",
			"# DIR/fwknopd.conf:1: PCAP_INTF: Interface in [options], or in a door, says where to listen\n# DIR/fwknopd.conf:2: MAX_SPA_PACKET_AGE: clocks may differ by 120 s\n# DIR/fwknopd.conf:3: ENABLE_SPA_OVER_HTTP: packets come over UDP alone\n" +
				"# DIR/access.conf:1\n# DIR/access.conf:4: REQUIRE_USERNAME: the key alone tells who it is, and has this name\n[fwknop1]\n\tKey         = An-Other dGVzdHRlc3Q= aG1hY3Rlc3Q=\n\tOpen_Ports  = 8443 -> 10.0.0.5:443\n\tCmd_Timeout = 30\n\tAllow       = 192.168.0.0/16, 10.1.2.3\n\n"},
		{"what cannot be", "%include /etc/more\nSOURCE ANY\nKEY x\nOPEN_PORTS tcp/22\nSOURCE ANY\nGPG_REMOTE_ID x\nOPEN_PORTS tcp/22\nSOURCE ANY\nENCRYPTION_MODE legacy\n" + keys + "OPEN_PORTS tcp/22\nSOURCE ANY\nHMAC_DIGEST_TYPE sha512\n" + keys + "OPEN_PORTS tcp/22\nSOURCE ANY\n" + keys + "ENABLE_CMD_EXEC Y\nCMD_CYCLE_OPEN /x $IP\nOPEN_PORTS ANY\n", "",
			"# DIR/access.conf:1: %include: it is not followed: copy its lines into this file, and run sesame init --from once more\n" +
				"# DIR/access.conf:2: no door: it has no HMAC_KEY, without which anybody could change packets: sesame init --key makes a key with one\n\n" +
				"# DIR/access.conf:5: no door: it has no KEY, and packets by GnuPG are not read\n# DIR/access.conf:6: GPG_REMOTE_ID: packets by GnuPG are not read\n\n" +
				"# DIR/access.conf:8: no door: its ENCRYPTION_MODE is not CBC, or its HMAC_DIGEST_TYPE is not SHA256\n\n" +
				"# DIR/access.conf:13: no door: its ENCRYPTION_MODE is not CBC, or its HMAC_DIGEST_TYPE is not SHA256\n\n" +
				"# DIR/access.conf:18: no door: as one it would be wrong: \"fwknop1\": Open_Ports: ports are numbers from 1 to 65535 with commas between them, each optionally followed by :tcp or :udp, not \":any\"\n" +
				"# DIR/access.conf:21: ENABLE_CMD_EXEC: no packet runs a command: Start_Command is run when the door opens\n# DIR/access.conf:22: CMD_CYCLE_OPEN: no packet runs a command: Start_Command is run when the door opens\n\n"},
		{"two, and one of that name", "SOURCE ANY\n" + keys + "OPEN_PORTS tcp/22\nSOURCE 10.0.0.0/8\n" + keys + "OPEN_PORTS tcp/23\n", "",
			"# DIR/access.conf:1\n[fwknop1]\n" + open + "\n\tOpen_Ports  = 22\n\tCmd_Timeout = 30\n\n# DIR/access.conf:5\n[fwknop2]\n" + open + "\n\tOpen_Ports  = 23\n\tCmd_Timeout = 30\n\tAllow       = 10.0.0.0/8\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{"access.conf": tt.access, "fwknopd.conf": tt.options} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, was := range []string{"", "[fwknop3]\nSequence = 7000,9000,8000\n"} {
				file := filepath.Join(dir, "c")
				if err := os.WriteFile(file, []byte(was), 0o600); err != nil {
					t.Fatal(err)
				}
				got := runProgram("sesame", "init", "-c", file, "--from", dir)
				text, _ := os.ReadFile(file)
				links, err := readLinks(true)
				if err != nil {
					t.Fatal(err)
				}
				if want := beforeDoors(was, links) + strings.ReplaceAll(tt.want, "DIR", dir); got.status != 0 || got.stdout != "" || string(text) != want {
					t.Errorf("got %+v\n%s\nwant\n%s", got, text, want)
				}
				if strings.Contains(got.stderr, aliceSecret[:9]) {
					t.Errorf("a key is in %s", got.stderr)
				}
				again := runProgram("sesame", "init", "-c", file, "--from", dir)
				now, _ := os.ReadFile(file)
				if _, err := parseConfig(file, strings.NewReader(string(now))); again.status != 0 || err != nil {
					t.Errorf("once more: %+v, %v", again, err)
				}
			}
		})
	}
}
