//go:build linux && !pure

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// knockdsExample is /etc/knockd.conf as knockd comes.
const knockdsExample = `[options]
	UseSyslog

[openSSH]
	sequence    = 7000,8000,9000
	seq_timeout = 5
	command     = /sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
	tcpflags    = syn

[closeSSH]
	sequence    = 9000,8000,7000
	seq_timeout = 5
	command     = /sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
	tcpflags    = syn

[openHTTPS]
	sequence    = 12345,54321,24680,13579
	seq_timeout = 5
	command     = /usr/local/sbin/knock_add -i -c INPUT -p tcp -d 443 -f %IP%
	tcpflags    = syn

`

// TestInit writes a door into configurations of each kind: what others have written stays to the byte, the file is for its
// owner alone, and check has nothing to say against the door.
func TestInit(t *testing.T) {
	const own = "[a]\r\n  sequence=7000,9000,8000 # mine\n\tcommand = true"
	const exampleLine = "[options]\n\tUseSyslog\n#\tInterface   = eth0\n"
	// The interface is this machine's, where there is one.
	newest := regexp.MustCompile(`^(\[options\]\n\tUseSyslog\n)(?:\tInterface   = \S+\n|#\tInterface   = eth0\n)(\n\[ssh\])`)
	for _, tt := range []struct{ name, was, want string }{
		{"missing", "-", "[options]\n\tUseSyslog\n\n"},
		{"empty", "", "[options]\n\tUseSyslog\n\n"},
		{"install's example", exampleConfig, "[options]\n\tUseSyslog\n\n"},
		{"its options changed", strings.Replace(exampleConfig, "UseSyslog", "LogFile = /x", 1), exampleConfig[:strings.Index(exampleConfig, "#[")]},
		{"an own door, and the example's line", exampleLine + own, exampleLine + own + "\n\n"},
		{"knockd's example", knockdsExample, "[options]\n\tUseSyslog\n\n"},
		{"knockd's example changed", strings.Replace(knockdsExample, "seq_timeout = 5", "seq_timeout = 6", 1), strings.Replace(knockdsExample, "seq_timeout = 5", "seq_timeout = 6", 1)},
		{"own doors", own, own + "\n\n"},
		{"own doors, and a line end", own + "\n", own + "\n\n"},
		{"comments", "# mine\n", "# mine\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "c")
			if tt.was != "-" {
				if err := os.WriteFile(file, []byte(tt.was), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got := runProgram("sesame", "init", "-c", file, "--host", "192.0.2.1")
			line, err := parseLine(got.stdout)
			if got.status != 0 || err != nil || strings.Count(got.stdout, "\n") != 1 || line.host != "192.0.2.1" || line.name != "ssh" || line.verify != 22 {
				t.Fatalf("got %+v, %v, want one line for the client alone", got, err)
			}
			ports := []int{22}
			for port := range strings.SplitSeq(line.sequence, ",") {
				n, _ := strconv.Atoi(port)
				ports = append(ports, n)
			}
			slices.Sort(ports)
			if want := "They are secret, too: " + strings.ReplaceAll(strings.Trim(fmt.Sprint(ports), "[]"), " ", ":tcp,") + ":tcp\n"; !strings.Contains(got.stderr, want) {
				t.Errorf("it says %s, want %s", got.stderr, want)
			}
			if want := "come in:\n  sesame install\n  "; !strings.Contains(got.stderr, want) {
				t.Errorf("it says %s, want %s", got.stderr, want)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Replace(tt.want, "UseSyslog", "LogFile = /x", strings.Count(tt.was, "LogFile")) +
				"[ssh]\n\tSequence    = " + line.sequence + "\n\tOpen_Ports  = 22\n\tCmd_Timeout = 30\n\tHide        = yes\n"
			if got := newest.ReplaceAllString(string(text), "$1$2"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
				t.Errorf("got mode %v, %v, want 600", info.Mode(), err)
			}
			c, err := parseConfig(file, bytes.NewReader(text))
			if err != nil || slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, `"ssh"`) }) {
				t.Errorf("got %v, warnings %q", err, c.Warnings)
			}
			again := runProgram("sesame", "init", "-c", file, "--host", "192.0.2.1")
			if now, _ := os.ReadFile(file); again.status != 1 || !strings.Contains(again.stderr, `there is a door "ssh" already`) || again.stdout != "" || !bytes.Equal(now, text) {
				t.Errorf("once more: got %+v, and\n%s", again, now)
			}
			second := runProgram("sesame", "init", "-c", file, "web", "--port", "443,51820:udp", "--host=home.example")
			other, err := parseLine(second.stdout)
			if now, _ := os.ReadFile(file); err != nil || other.verify != 443 || other.sequence == line.sequence || !bytes.HasPrefix(now, text) {
				t.Errorf("another door: got %+v, %v, and\n%s", second, err, now)
			}
		})
	}
}

// TestInitTOTP writes a door with a code, and makes a profile of its line: nothing is to be said against either.
func TestInitTOTP(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	file := writeConfig(t, "[options]\nStateDir = "+t.TempDir()+"\n[web]\nSequence = 7,9,8\nOpen_Ports = 20500\nCmd_Timeout = 30\n[b]\nSequence = 21999,9,8\nCommand = true\n")
	for _, tt := range []struct{ name, host, page string }{{"ssh", "192.0.2.1", "192.0.2.1"}, {"other", "home.example", "IPV4-ADDRESS"}} {
		got := runProgram("sesame", "init", "--totp", "-c", file, "--host", tt.host, "--port", "22", tt.name)
		line, err := parseLine(got.stdout)
		if err != nil || got.status != 0 || line.totp.base != 22000 || len(line.totp.secret) != 20 {
			t.Fatalf("got %+v, %v, %v", got, line, err)
		}
		knocks := strings.Split(line.sequence, ",")
		if len(knocks) != 3 || knocks[2] != "totp" {
			t.Fatalf("got the sequence %s, want two knocks and totp", line.sequence)
		}
		secret, _, _ := strings.Cut(line.totp.String(), " ")
		want := fmt.Sprintf("(time-based, six digits): %s\nWithout sesame, open these in a browser, one after the other within a minute; no page comes. If the code is 493 027:\n"+
			"  http://%s:%s/\n  http://%[2]s:%[4]s/\n  http://%[2]s:22493/\n  http://%[2]s:22027/\n", secret, tt.page, knocks[0], knocks[1])
		if !strings.Contains(got.stderr, want) || !strings.Contains(got.stderr, ", and all from 22000 to 22999\n") {
			t.Errorf("it says %s, want %s", got.stderr, want)
		}
		text, _ := os.ReadFile(file)
		if want := "[" + tt.name + "]\n\tSequence    = " + line.sequence + "\n\tTOTP        = " + secret + " 22000\n\tOpen_Ports  = 22\n"; !strings.Contains(string(text), want) {
			t.Errorf("got\n%s\nwant in it\n%s", text, want)
		}
		if c, err := parseConfig(file, bytes.NewReader(text)); err != nil || slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, tt.name) }) {
			t.Errorf("got %v, warnings %q", err, c.Warnings)
		}
		var out, said bytes.Buffer
		now := time.Unix(1_900_000_000, 0)
		e := env{stdin: strings.NewReader(got.stdout), stdout: &out, stderr: &said, date: func() time.Time { return now }}
		if status := run(e, []string{"sesame", "add"}); status != 0 {
			t.Fatalf("add: %s", said.String())
		}
		out.Reset()
		if status := run(e, []string{"sesame", "knock", "--show", tt.name}); status != 0 {
			t.Fatalf("show: %s", said.String())
		}
		ports := line.totp.ports(line.totp.code(codeStep(time.Duration(now.UnixNano()))))
		if want := fmt.Sprintf("%s %s %s %d %d\nfor 50 seconds\n", tt.host, knocks[0], knocks[1], ports[0], ports[1]); out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
}

// TestInitRefuses has what init does not do: nothing is written then.
func TestInitRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, served, _ := net.SplitHostPort(l.Addr().String())
	for _, tt := range []struct {
		args   string
		status int
		want   string
	}{
		{"a b", 2, `unexpected argument "b"`},
		{"options", 2, `a door's name is made of letters, digits, - and _, and "options" is not`},
		{"a]b --port 22", 2, `a door's name is made of`},
		{"web", 2, "what the door opens is missing: --port 443"},
		{"--port 70000", 2, "option --port: ports are numbers from 1 to 65535"},
		{"--host a/b", 2, `option --host: an address or a name is needed, such as 192.0.2.1, not "a/b"`},
		{"--host 7000", 2, "option --host: an address or a name is needed"},
		{"--to 10.0.0.5", 2, "option --to: an address and a port are needed, such as 192.168.1.5:22"},
		{"--to 10.0.0.5:" + served + " --host 192.0.2.1", 2, "option --to: port " + served + " of this host has its own service: --port 2222"},
		{"--port 22,23 --to 10.0.0.5:22", 2, "--port takes one port"},
		{"--host 192.0.2.1 -c " + file + "/none", 1, "no such file or directory"},
	} {
		got := runProgram(append([]string{"sesame", "init", "-c", file}, strings.Fields(tt.args)...)...)
		if got.status != tt.status || !strings.Contains(got.stderr, tt.want) || got.stdout != "" {
			t.Errorf("%s: got %+v, want %d and %q", tt.args, got, tt.status, tt.want)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s: something was written", tt.args)
		}
	}
	const bad = "[a]\nSequence = oops\n"
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	got := runProgram("sesame", "init", "-c", file, "--host", "192.0.2.1")
	if text, _ := os.ReadFile(file); got.status != 1 || !strings.HasPrefix(got.stderr, file+`:2: door "a": Sequence: `) || string(text) != bad {
		t.Errorf("a file with a mistake: got %+v, and %s", got, text)
	}
}

// TestAddTerminal pastes all that init prints: nothing of it is left for the shell.
func TestAddTerminal(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	made := runProgram("sesame", "init", "-c", t.TempDir()+"/c", "--host", "192.0.2.1")
	for _, tt := range []struct {
		pasted, want string
		status       int
	}{
		{made.stderr + made.stdout, "\nTo knock: sesame knock ssh\n", 0},
		{"words\n\x04", "no line that begins with sesame:// has come", 1},
	} {
		ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
		if err := cmp.Or(err, unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0)); err != nil {
			t.Fatal(err)
		}
		terminal, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer terminal.Close()
		if _, err := ours.WriteString(tt.pasted); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		status := run(env{stdin: terminal, stdout: &stdout, stderr: &stderr}, []string{"sesame", "add"})
		if status != tt.status || !strings.Contains(stderr.String(), tt.want) {
			t.Errorf("got %d, %s", status, stderr.String())
		}
		if left, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCINQ); err != nil || left != 0 {
			t.Errorf("got %v, and %d bytes are left for the shell", err, left)
		}
	}
}
