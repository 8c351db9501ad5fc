//go:build linux && !pure

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	const (
		ssh = "[ssh]\nSequence = 21941,22942:udp,3943\n"
		sh  = "Command = /bin/sh -c 'open %IP%'\n"
	)
	tests := []struct {
		name, config, options string
		want                  output
	}{
		{"good", ssh + sh, "", output{0, "configuration OK\nssh: 3 knocks within 25s, runs a command\n", ""}},
		{"with the secrets", ssh + sh + "[once]\nSequence = 3,2,1\nCommand = echo open\nStop_Command = exit\nCmd_Timeout = 500\n", "-v", output{0,
			"configuration OK\nssh: 21941:tcp,22942:udp,3943:tcp within 25s, runs a command; Start_Command = /bin/sh -c 'open %IP%'; Start_Command_6 = /bin/sh -c 'open %IP%'\n" +
				"once: 3:tcp,2:tcp,1:tcp within 25s, opens for 8m20s; Start_Command = echo open; Start_Command_6 = echo open; Stop_Command = exit; Stop_Command_6 = exit\n", ""}},
		{"door that closes", ssh + sh + "Stop_Command = if true; then sh; fi\nCmd_Timeout = 5\nSeq_Timeout = 3", "",
			output{0, "configuration OK\nssh: 3 knocks within 3s, opens for 5s\n", ""}},
		{"door for IPv6", ssh + "Command_6 = /bin/sh open", "", output{0, "configuration OK\nssh: 3 knocks within 25s, runs a command\n", ""}},
		{"door without a command, of one knock", "[ssh]\nSequence = 21941", "", output{0, "configuration OK\nssh: 1 knock within 25s, runs nothing\n",
			`warning: FILE:1: door "ssh": it has neither Open_Ports nor a Start_Command: knocking is only logged` + "\n" +
				`warning: FILE:1: door "ssh": a sequence of one knock is opened by any port scan` + "\n"}},
		{"name with blanks", "[open ssh]\nSequence = 21941,22942:udp,3943\n" + sh, "",
			output{0, "configuration OK\nopen ssh: 3 knocks within 25s, runs a command\n", ""}},
		{"no door", "[options]\nUseSyslog\n", "", output{0, "configuration OK\n", "warning: FILE:3: there is no door: nothing can be opened\n"}},
		{"no section", "# all of it\n\n", "", output{1, "", "FILE:1: there is no section in it: has its text been lost? a door is [name] and what belongs to it: [ssh], Sequence = 7000,8000:udp,9000\n"}},
		{"mistakes", ssh + "Colour = red\nTCPFlags = x\n", "-v", output{1, "", `FILE:3: door "ssh": unknown directive "Colour"` + "\n" +
			`FILE:4: door "ssh": TCPFlags: "x" is no flag: fin, syn, rst, psh, ack, urg, each also with ! before it` + "\n"}},

		{"missing programs", ssh + "Command = /nosuch/iptables -I\nStop_Command = /nosuch/nft\nCmd_Timeout = 5\nStart_Command_6 = /nosuch/nft\nStop_Command_6 = nosuch-program -D", "",
			output{0, "configuration OK\nssh: 3 knocks within 25s, opens for 5s\n",
				`warning: FILE:3: door "ssh": there is no program "/nosuch/iptables" on this host` + "\n" +
					`warning: FILE:6: door "ssh": there is no program "/nosuch/nft" on this host` + "\n" +
					`warning: FILE:7: door "ssh": there is no program "nosuch-program" on this host` + "\n"}},
		{"missing interface", "[options]\nInterface = lo,nosuch0\n" + ssh + sh, "", output{0, "configuration OK\nssh: 3 knocks within 25s, runs a command\n",
			"warning: FILE:2: interface nosuch0 does not exist yet: waiting for it (there are LINKS)\n"}},
		{"missing interfaces of a door", "[options]\nInterface = nosuch0\n" + ssh + sh + "Interface = nosuch1,lo,nosuch*\n", "",
			output{0, "configuration OK\nssh: 3 knocks within 25s on nosuch1, lo, nosuch*, runs a command\n",
				"warning: FILE:6: interface nosuch1 does not exist yet: waiting for it (there are LINKS)\n" +
					"warning: FILE:6: no interface fits nosuch* yet: waiting for one (there are LINKS)\n"}},
		{"interface that is there", "[options]\nInterface = lo\n" + ssh + sh, "", output{0, "configuration OK\nssh: 3 knocks within 25s, runs a command\n", ""}},
	}
	links := regexp.MustCompile(`there are .*\blo\b[^)]*`)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := writeConfig(t, test.config)
			got := runProgram(append([]string{"sesame", "check", "-c", file}, strings.Fields(test.options)...)...)
			got.stderr = links.ReplaceAllString(strings.ReplaceAll(got.stderr, file, "FILE"), "there are LINKS")
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestDescribeDoor(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"open ports", "Open_Ports = 22,51820:udp\nCmd_Timeout = 500", "ssh: 3 knocks within 25s, opens 22:tcp,51820:udp for 8m20s"},
		{"hidden", "Open_Ports = 22\nHide = yes", "ssh: 3 knocks within 25s, opens 22:tcp for 10s, hidden otherwise"},
		{"exceptions", "Open_Ports = 22\nHide = yes\nHide_Except = 10.0.0.0/8,2001:db8::7",
			"ssh: 3 knocks within 25s, opens 22:tcp for 10s, hidden otherwise except from 10.0.0.0/8,2001:db8::7/128"},
		{"commands, too", "Open_Ports = 22\nStop_Command_6 = close\nHide = on", "ssh: 3 knocks within 25s, opens 22:tcp for 10s and runs a command, hidden otherwise"},
	} {
		c, err := readText("[ssh]\nSequence = 21941,22942,3943\n" + test.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := describeDoor(c.Doors[0], 0, false); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// nativeConfig is a configuration with a native door and one without ports.
const nativeConfig = "[open ssh]\nSequence = 21941,22942:udp,3943\nOpen_Ports = 22\nHide = yes\nCmd_Timeout = 500\n[b]\nSequence = 3,2,1\nCommand = /bin/sh open\n"

func TestFirewallReport(t *testing.T) {
	const (
		byIptables = "firewall: iptables, as the configuration says; no rule of this host closes a port\n"
		byNFT      = "firewall: nft; no rule of this host closes a port\n"
		eth0       = "[options]\nInterface = eth0\n"
	)
	v4 := Tool{iptables: iptables{"iptables", true}, Rules: listed(acceptingRules)}
	for _, test := range []struct {
		name, options string
		in            Inspection
		want          string // the report, warnings, and the error
		works         bool
	}{
		{"nft", eth0, Inspection{}, byNFT, true},
		{"no nft", eth0, Inspection{Tools: []Tool{v4}, NoIPv6: true, NFTError: fmt.Errorf("running nft: %w", exec.ErrNotFound)},
			"firewall: iptables, as nft is not installed; no rule of this host closes a port\n", true},
		{"iptables", eth0 + "Firewall = iptables\n", Inspection{Tools: []Tool{v4}, NoIPv6: true}, byIptables, true},
		{"iptables and no ip6tables", eth0 + "Firewall = iptables\n", Inspection{Tools: []Tool{v4}},
			byIptables + "knockd.conf: only iptables works here: the other family's packets are let through\n", true},
		{"another", eth0 + "Firewall = nft\n", Inspection{Tools: []Tool{v4}, NFTError: errFake}, "knockd.conf: Firewall = nft: nft failed: " + errFake.Error() + "\n", false},
		{"name of a link", "[options]\nInterface = eth+\n", Inspection{}, `knockd.conf: door "open ssh": the firewall cannot take "eth+" for the name of an interface` + "\n", false},
	} {
		c, err := readText(test.options + nativeConfig)
		if err != nil {
			t.Fatal(err)
		}
		got, warnings, err := test.in.applier(c).describe(c, nil, false)
		for _, w := range warnings {
			got += w + "\n"
		}
		if err != nil {
			got += err.Error() + "\n"
		}
		if got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, got, test.want)
		}
		if dry, _, err := test.in.applier(c).describe(c, nil, true); strings.Contains(dry, "would run") != test.works || (err == nil) != test.works {
			t.Errorf("%s: want it to work: %v, got %v\n%s", test.name, test.works, err, dry)
		}
	}
}

// TestNothingDrops has a port that is not hidden, on a host whose rules drop nothing.
func TestNothingDrops(t *testing.T) {
	c, err := readText(strings.Replace(nativeConfig, "Hide = yes\n", "", 1))
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, _ := Inspection{}.applier(c).describe(c, nil, false)
	want := `knockd.conf:1: door "open ssh": no rule of this host closes a port: everybody can reach its ports: write Hide = yes`
	if len(warnings) != 1 || warnings[0] != want {
		t.Errorf("got %q, want %q", warnings, want)
	}
}

// TestCheckWithoutDescriptors: what could not be asked is not said to be missing.
func TestCheckWithoutDescriptors(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "knockd.conf")
	if err := os.WriteFile(file, []byte(nativeConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	self := sesame("sesame", "check", "-c", file)
	cmd := exec.Command("sh", "-c", `ulimit -n 10; exec "$0" check -c "$1"`, self.Path, file)
	cmd.Env = self.Env
	out, _ := cmd.CombinedOutput()
	if !strings.Contains(string(out), "too many open files") || strings.Contains(string(out), "install") {
		t.Errorf("got %s", out)
	}
}

// Who may not look is told so, and nothing about what to install.
func TestFirewallReportNothingWorks(t *testing.T) {
	var want []string
	wantError := "knockd.conf: neither nft nor iptables works here: install one of them (apt install nftables; opkg install nftables): nft failed: exit status 1"
	if os.Geteuid() != 0 {
		want, wantError = []string{"knockd.conf: only root can look at the firewall, which is to open doors: run check as root"}, "<nil>"
	}
	c, err := readText(nativeConfig)
	if err != nil {
		t.Fatal(err)
	}
	report, warnings, err := Inspection{NFTError: errFake}.applier(c).describe(c, nil, true)
	if report != "" || !slices.Equal(warnings, want) || fmt.Sprint(err) != wantError {
		t.Errorf("got %q, warnings %q, error %v, want %q and %s", report, warnings, err, want, wantError)
	}
}

func TestFirewallDryRun(t *testing.T) {
	const options = "[options]\nInterface = eth0\nFirewall = iptables\n"
	c, err := readText(options + nativeConfig)
	if err != nil {
		t.Fatal(err)
	}
	in := Inspection{Tools: []Tool{{iptables: iptables{"iptables", true}, Rules: listed(acceptingRules)}}, NoIPv6: true}
	const want = `firewall: iptables, as the configuration says; no rule of this host closes a port
these rules switch connection tracking on
at its start serve would run:
    iptables-restore -w -n <<END
    *filter
    :SESAME - [0:0]
    -A SESAME -p tcp -m tcp --dport 22 -m conntrack --ctstate ESTABLISHED -m comment --comment "sesame: established" -j ACCEPT
    -A SESAME -i eth0 -p tcp -m tcp --dport 22 --tcp-flags RST,ACK NONE -m comment --comment "sesame: open ssh" -j REJECT --reject-with tcp-reset
    -D INPUT -j SESAME
    -I INPUT 1 -j SESAME
    COMMIT
    END
to open door "open ssh" for 192.0.2.7 it would run:
    iptables -w -C SESAME -s 192.0.2.7/32 -p tcp -m tcp --dport 22 -m comment --comment "sesame: open ssh" -j ACCEPT || iptables-restore -w -n <<END
    *filter
    -I SESAME -s 192.0.2.7/32 -p tcp -m tcp --dport 22 -m comment --comment "sesame: open ssh" -j ACCEPT
    COMMIT
    END
to see who is let in, run:
    iptables -w -S SESAME
`
	if got, warnings, _ := in.applier(c).describe(c, nil, true); got != want || warnings != nil {
		t.Errorf("got\n%s\nwarnings %q, want\n%s", got, warnings, want)
	}
	c.Firewall = "auto"
	if got, _, _ := in.applier(c).describe(c, nil, true); !strings.Contains(got, "\nthese rules need no connection tracking\n") {
		t.Errorf("by nft: got\n%s", got)
	}
	c.Firewall = "iptables"
	// Each family has its example.
	got, _, _ := Inspection{Tools: append(in.Tools, Tool{iptables: iptables{"ip6tables", true}})}.applier(c).describe(c, nil, true)
	for _, line := range []string{`to open door "open ssh" for 2001:db8::7 it would run:`, "    ip6tables-restore -w -n <<END"} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("got\n%s\nwant %q in it", got, line)
		}
	}
}

// On a real host check says what it sees, and changes nothing.
func TestCheckFirewall(t *testing.T) {
	for _, test := range []struct{ name, rules, reason, build, open string }{
		{"iptables", dropByIptables, "nft", "    ip6tables-restore -w -n <<END\n    *filter\n    -D INPUT -m mark ",
			"to open door \"open ssh\" for 2001:db8::7 it would run:\n    nft -f - <<END\n    add element inet sesame open6 { 2001:db8::7 . tcp . 22 }\n"},
		{"nft", fw4Table, "nft",
			"    insert rule inet fw4 input meta mark & 0x00000100 == 0x00000100 accept comment \"sesame 0x00000100\"\n",
			"to open door \"open ssh\" for 192.0.2.7 it would run:\n    nft -f - <<END\n    add element inet sesame open4 { 192.0.2.7 . tcp . 22 }\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &firewallTest{world: newWorld(t, 0)}
			f.must(f.host.run("sh", "-ec", test.rules))
			f.before = f.text()
			file := writeConfig(t, "[options]\nInterface = eth0\nFirewall_Mark = 256\n"+nativeConfig)
			check := func(options ...string) string {
				cmd := sesame("sesame", append([]string{"check", "-c", file}, options...)...)
				cmd.Env = append(cmd.Env, "LC_ALL=de_DE.UTF-8")
				var stdout, stderr strings.Builder
				cmd.Stdout, cmd.Stderr = &stdout, &stderr
				f.must(f.host.start(cmd))
				if err := cmd.Wait(); err != nil || stderr.String() != "" {
					t.Errorf("check: %v, %s", err, stderr.String())
				}
				return stdout.String()
			}
			want := "configuration OK\nopen ssh: 3 knocks within 25s, opens 22:tcp for 8m20s, hidden otherwise\n" +
				"b: 3 knocks within 25s, runs a command\nfirewall: " + test.reason + "\n"
			if got := check(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			got := check("-v")
			for _, want := range []string{"open ssh: 21941:tcp,22942:udp", "firewall: " + test.reason + "\nthese rules switch connection tracking on\nat its start serve would run:\n", test.build, test.open,
				"to see who is let in, run:\n    nft list table inet sesame\n"} {
				if !strings.Contains(got, want) {
					t.Errorf("got\n%s\nwant %q in it", got, want)
				}
			}
			if after := f.text(); after != f.before {
				t.Errorf("check has changed the rules: got\n%s\nwant\n%s", after, f.before)
			}
		})
	}
}

func TestCheckOneTimeFile(t *testing.T) {
	once := filepath.Join(t.TempDir(), "once")
	file := writeConfig(t, "[a]\nOne_Time_Sequences = "+once+"\nCommand = open\n")
	missing := "warning: " + file + ":1: door \"a\": One_Time_Sequences: open " + once + ": no such file or directory\n"
	for _, there := range []bool{false, true} {
		if there {
			if err := os.WriteFile(once, []byte(" 7000,3000\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := runProgram("sesame", "check", "-c", file)
		left := "0 one-time sequences"
		if there {
			left = "1 one-time sequence"
		}
		if want := "configuration OK\na: " + left + " left in " + once + ", within 25s, runs a command\n"; got.stdout != want {
			t.Errorf("got %q, want %q", got.stdout, want)
		}
		if warned := strings.Contains(got.stderr, missing); warned == there {
			t.Errorf("the file exists: %v, yet got %q", there, got.stderr)
		}
	}
}

func TestCheckOthersCanRead(t *testing.T) {
	file := writeConfig(t, "[a]\nSequence = 7000,3000,9000\nCommand = true\n")
	warning := "warning: " + file + ": others can read it, and it holds the secret: chmod 600 " + file + "\n"
	for mode, want := range map[os.FileMode]string{0o600: "", 0o640: "", 0o644: warning, 0o604: warning} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if got := runProgram("sesame", "check", "-c", file); got.stderr != want {
			t.Errorf("mode %v: got %q, want %q", mode, got.stderr, want)
		}
	}
}

// TestCheckCodes has a file with the secret of codes that others can read, and ports of codes that this host's services have: both
// are mistakes.
func TestCheckCodes(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	door := func(base int) string {
		return fmt.Sprintf("[options]\nStateDir = %s\n[a]\nSequence = 7, totp\nTOTP = %s %d\nCommand = true\n", onDisk(t), testSecret, base)
	}
	file := writeConfig(t, door(10000))
	for mode, want := range map[os.FileMode]string{0o600: "", 0o644: "sesame check: " + file + ": others can read it, and it holds the secret: chmod 600 " + file + "\n"} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if got := runProgram("sesame", "check", "-c", file); got.stderr != want || (got.status == 0) != (want == "") || strings.Contains(got.stdout+got.stderr, testSecret) {
			t.Errorf("mode %v: got %+v, want %q", mode, got, want)
		}
	}
	got := runProgram("sesame", "check", "-v", "-c", writeConfig(t, door(10000)))
	if want := "configuration OK\na: 7:tcp,totp:tcp within 1m0s, runs a command; Start_Command = true; Start_Command_6 = true\n"; got.stdout != want {
		t.Errorf("got %q, want %q", got.stdout, want)
	}
	file = writeConfig(t, door(port-999))
	want := fmt.Sprintf("sesame check: %s:5: door \"a\": TOTP: something on this host listens on %d:tcp, which is among the ports of its codes: write another base: TOTP = SECRET 30000\n", file, port)
	if got := runProgram("sesame", "check", "-c", file); got.stderr != want || got.status != 1 {
		t.Errorf("got %+v, want %q", got, want)
	}
	// /dev/shm is a tmpfs, on which nothing outlives a reboot.
	file = writeConfig(t, strings.Replace(door(10000), "StateDir = ", "StateDir = /dev/shm/none", 1))
	got = runProgram("sesame", "check", "-c", file)
	if !strings.HasPrefix(got.stderr, "warning: "+file+": /dev/shm/none/") || !strings.Contains(got.stderr, "is in memory: after a boot, ") || got.status != 0 {
		t.Errorf("StateDir in memory: got %+v", got)
	}
}

// TestCheckDefaultFile cannot know whether this host has the file: it says the same as when it is named.
func TestCheckDefaultFile(t *testing.T) {
	got, want := runProgram("sesame", "check"), runProgram("sesame", "check", "-c", "/etc/knockd.conf")
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got.status != 0 && !strings.Contains(got.stderr, "/etc/knockd.conf") {
		t.Errorf("got %q, want the file's name in it", got.stderr)
	}
}

func TestEstablishedWarning(t *testing.T) {
	const (
		accept = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
		drop   = "-P INPUT ACCEPT\n-A INPUT -i eth0 -p tcp -m tcp --dport 22 -j DROP\n"
		policy = "-P INPUT DROP\n"
		stop   = "iptables -D INPUT -s %IP% -j ACCEPT"
	)
	tests := []struct {
		name, rules, stop string
		want              bool
	}{
		{"port dropped", drop, stop, true},
		{"port rejected", strings.Replace(drop, "DROP", "REJECT --reject-with icmp-port-unreachable", 1), stop, true},
		{"all dropped", policy, stop, true},
		{"nothing dropped", "-P INPUT ACCEPT\n", stop, false},
		{"established accepted", policy + accept, stop, false},
		{"established accepted in a chain of ufw", policy + "-A INPUT -j ufw-before-input\n" + strings.Replace(accept, "INPUT", "ufw-before-input", 1), stop, false},
		{"established accepted where it is forwarded", policy + strings.Replace(accept, "INPUT", "FORWARD", 1), stop, true},
		{"other command", drop, "close %IP%", false},
		{"no stop command", drop, "", false},
		{"native door", drop, "native", false},
		{"rules that cannot be read", "", stop, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bin := t.TempDir()
			iptables := "#!/bin/sh\ncase $* in\n*INPUT) grep -e '^-[PA] INPUT' " + bin + "/rules;;\n*) cat " + bin + "/rules;;\nesac\n"
			if err := os.WriteFile(filepath.Join(bin, "iptables"), []byte(iptables), 0o700); err != nil {
				t.Fatal(err)
			}
			if test.rules != "" {
				if err := os.WriteFile(filepath.Join(bin, "rules"), []byte(test.rules), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			door := &Door{Name: "b", Line: 3, Stop: test.stop}
			if test.stop == "native" {
				door.Stop, door.OpenPorts = stop, []Knock{{22, tcp}}
			}
			got := establishedWarning(&Config{File: "knockd.conf", Doors: []*Door{{Name: "a", Line: 1}, door}})
			var want []string
			if test.want {
				want = []string{`knockd.conf:3: door "b": connections stall when it closes, as no rule accepts established ones: ` +
					"iptables -I INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestProgram(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"alone", "/bin/open", "/bin/open"},
		{"with arguments", "/bin/open -s %IP%", "/bin/open"},
		{"behind a tab", "/bin/open\t-s", "/bin/open"},
		{"one of several", "/bin/open; /bin/log", "/bin/open"},
		{"from PATH", "iptables -I INPUT", "iptables"},
		{"shell word", "if [ -e /a ]; then /bin/open; fi", "if"},
		{"assignment", "PATH=/a open", ""},
		{"in the folder that it runs in", "./open", ""},
		{"joined to another", "/bin/open&&/bin/log", ""},
		{"redirected", "/bin/open>/dev/null", ""},
		{"quoted", `"/opt/my open"`, ""},
		{"variable", "/opt/$NAME/open", ""},
		{"address", "/etc/doors/%IP%", ""},
		{"none", "", ""},
	}
	for _, test := range tests {
		if got := program(test.in); got != test.want {
			t.Errorf("%s: program(%q): got %q, want %q", test.name, test.in, got, test.want)
		}
	}
}

// TestCheckIPv6 warns of iptables for knocks over IPv6, where they can come.
func TestCheckIPv6(t *testing.T) {
	w := newWorld(t, 0)
	const door = "[a]\nSequence = 7000,3000\nCommand = /usr/sbin/iptables -I INPUT -s %IP% -j ACCEPT\n"
	for _, test := range []struct {
		name, config string
		args         []string
		want         bool
	}{
		{"iptables alone", door, nil, true},
		{"by name", strings.Replace(door, "/usr/sbin/", "", 1), nil, true},
		{"a command for IPv6", door + "Start_Command_6 = ip6tables -I INPUT -s %IP% -j ACCEPT\n", nil, false},
		{"none for IPv6", door + "Command_6 =\n", nil, false},
		{"without IPv6", door, []string{"-4"}, false},
		{"another interface", door + "Interface = other\n", nil, false},
		{"IPv4 sources alone", door + "Allow = 192.0.2.0/24\n", nil, false},
		{"an IPv4 target", door + "Target = 192.0.2.1\n", nil, false},
	} {
		cmd := sesame("knockd", append([]string{"-t", "-c", writeConfig(t, test.config)}, test.args...)...)
		var b strings.Builder
		cmd.Stderr = &b
		w.must(w.host.start(cmd))
		_ = cmd.Wait()
		if got := strings.Contains(b.String(), `knockd.conf:3: door "a": iptables fails for knocks over IPv6`); got != test.want {
			t.Errorf("%s: got %q", test.name, b.String())
		}
	}
}
