package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	const (
		ssh = "[ssh]\nSequence = 41941,42942:udp\n"
		sh  = "Command = /bin/sh -c 'open %IP%'\n"
	)
	tests := []struct {
		name, config, options string
		want                  output
	}{
		{"good", ssh + sh, "", output{0, "configuration OK\nssh: 2 knocks within 25s, runs a command\n", ""}},
		{"with the secrets", ssh + sh + "[once]\nSequence = 3,2,1\nCommand = open\nStop_Command = close\nCmd_Timeout = 500\n", "-v", output{0,
			"configuration OK\nssh: 41941:tcp,42942:udp within 25s, runs a command; Start_Command = /bin/sh -c 'open %IP%'; Start_Command_6 = /bin/sh -c 'open %IP%'\n" +
				"once: 3:tcp,2:tcp,1:tcp within 25s, opens for 8m20s; Start_Command = open; Start_Command_6 = open; Stop_Command = close; Stop_Command_6 = close\n", ""}},
		{"door that closes", ssh + sh + "Stop_Command = close\nCmd_Timeout = 5\nSeq_Timeout = 3", "",
			output{0, "configuration OK\nssh: 2 knocks within 3s, opens for 5s\n", ""}},
		{"door for IPv6", ssh + "Command_6 = /bin/sh open", "", output{0, "configuration OK\nssh: 2 knocks within 25s, runs a command\n", ""}},
		{"door without a command, of one knock", "[ssh]\nSequence = 41941", "", output{0, "configuration OK\nssh: 1 knock within 25s, runs nothing\n",
			`warning: FILE:1: door "ssh": it has no command: knocking is only logged` + "\n" +
				`warning: FILE:1: door "ssh": a sequence of one knock is opened by any port scan` + "\n"}},
		{"name with blanks", "[open ssh]\nSequence = 41941,42942:udp\n" + sh, "",
			output{0, "configuration OK\nopen ssh: 2 knocks within 25s, runs a command\n", ""}},
		{"no door", "", "", output{0, "configuration OK\n", "warning: FILE:1: there is no door: nothing can be opened\n"}},
		{"mistakes", ssh + "Colour = red\nTCPFlags = x\n", "-v", output{1, "", `FILE:3: door "ssh": unknown directive "Colour"` + "\n" +
			`FILE:4: door "ssh": TCPFlags: "x" is no flag: fin, syn, rst, psh, ack, urg, each also with ! before it` + "\n"}},

		{"missing programs", ssh + "Command = /nosuch/iptables -I\nStop_Command = /nosuch/nft\nCmd_Timeout = 5\nStart_Command_6 = /nosuch/nft", "",
			output{0, "configuration OK\nssh: 2 knocks within 25s, opens for 5s\n",
				`warning: FILE:1: door "ssh": there is no program "/nosuch/iptables" on this host` + "\n" +
					`warning: FILE:1: door "ssh": there is no program "/nosuch/nft" on this host` + "\n"}},
		{"missing interface", "[options]\nInterface = lo,nosuch0\n" + ssh + sh, "", output{0, "configuration OK\nssh: 2 knocks within 25s, runs a command\n",
			`warning: FILE: there is no interface "nosuch0": there are LINKS` + "\n"}},
		{"interface that is there", "[options]\nInterface = lo\n" + ssh + sh, "", output{0, "configuration OK\nssh: 2 knocks within 25s, runs a command\n", ""}},
	}
	links := regexp.MustCompile(`there are .*\blo\b.*`)
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
	file := writeConfig(t, "[a]\nSequence = 7000,3000\nCommand = open\n")
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
			got := establishedWarning(&Config{File: "knockd.conf", Doors: []*Door{{Name: "a", Line: 1}, {Name: "b", Line: 3, Stop: test.stop}}})
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
		{"from PATH", "iptables -I INPUT", ""},
		{"shell word", "if [ -e /a ]; then /bin/open; fi", ""},
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
