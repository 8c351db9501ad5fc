//go:build linux && !pure

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// String shows what the tests compare of a profile.
func (to *profile) String() string {
	s := fmt.Sprintf("%d %s: %s %s%s", to.line, to.name, to.host, joinSent(to.sequence), besideFile("/etc/p", to.oneTime))
	var o knockOptions
	o.options()
	for _, set := range []struct {
		name      string
		got, zero any
	}{
		{"delay", to.delay, o.delay}, {"verify", to.port, o.port}, {"timeout", to.timeout, o.timeout},
		{"retries", to.retries, o.retries}, {"stdio", to.stdio, o.stdio}, {"flags", to.flags, o.flags},
		{"source", to.from.source, o.from.source}, {"interface", to.from.link, o.from.link}, {"ttl", to.from.ttl, o.from.ttl}, {"udp", to.udp, o.udp}, {"ipv4", to.ipv4, o.ipv4}, {"ipv6", to.ipv6, o.ipv6},
		{"verbose", to.verbose, o.verbose}, {"quiet", to.quiet, o.quiet}, {"list", to.list, o.list},
	} {
		if set.got != set.zero {
			s += fmt.Sprintf(" %s=%v", set.name, set.got)
		}
	}
	return s
}

func TestParseProfiles(t *testing.T) {
	const least = "host = h\nsequence = 7\n"
	tests := []struct{ name, in, want string }{
		{"that of the manual", "[home]\n\thost     = 192.0.2.1\n\tsequence = 7000, 18000:udp, 9000\n\tdelay    = 100\n\tverify   = 22\n\ttcpflags = syn\n",
			"1 home: 192.0.2.1 7000:tcp,18000:udp,9000:tcp delay=100ms verify=22"},
		{"nothing", "", ""},
		{"comments alone", "# a\n\n  # b\n", ""},
		{"two", "[a]\n" + least + "[b]\n" + least, "1 a: h 7:tcp\n4 b: h 7:tcp"},
		{"CRLF, tabs, a byte order mark, no newline at the end", "\xef\xbb\xbf[ a b ]\r\n\tHost\t=\th\r\n\tSEQUENCE=7 , 8:UDP", "1 a b: h 7:tcp,8:udp"},
		{"comments behind values", "[a]\nhost = h # c\nsequence = 7,8 # , 9\nverify = 22 # c\nquiet = yes # c", "1 a: h 7:tcp,8:tcp verify=22 quiet=true"},
		{"all options", "[a]\n" + least + "delay = 0\nverify = 22\ntimeout = 0.5\nretries = 0\nstdio = h:23\nflags = fin,urg\nsource = 192.0.2.7\n" +
			"interface = eth0\nttl = 9\nudp = no\nipv4 = on\nipv6 = no\nverbose = 1\nquiet = off\n",
			"1 a: h 7:tcp/fin+urg delay=0s verify=22 timeout=500ms retries=0 stdio=h:23 flags=33 source=192.0.2.7 interface=eth0 ttl=9 ipv4=true verbose=true"},
		{"UDP", "[a]\n" + least + "udp = yes\n", "1 a: h 7:udp udp=true"},
		{"flags of a knock", "[a]\nhost = h\nsequence = 7:tcp/fin+urg, 8, 9:tcp/none", "1 a: h 7:tcp/fin+urg,8:tcp,9:tcp/none"},
		{"brackets", "[a]\nhost = [2001:db8::1]\nsequence = 7\n", "1 a: 2001:db8::1 7:tcp"},
		{"one-time files", "[a]\nhost=h\none_time_sequences = /o\n[b]\nhost=h\nOne-Time-Sequences = o # c\n[c]\nhost=h\none_time_sequences = ~/o\n",
			"1 a: h /o\n4 b: h /etc/o\n7 c: h /home/o"},
		{"32 knocks", "[a]\nhost = h\nsequence = 7" + strings.Repeat(",7", 31), "1 a: h 7:tcp" + strings.Repeat(",7:tcp", 31)},

		{"flags of knocks", "[a]\nhost = h\nflags = fin\nsequence = 7, 8:udp, 9:tcp/none, 10:tcp/syn+urg\n", "1 a: h 7:tcp/fin,8:udp,9:tcp/none,10:tcp/syn+urg flags=1"},
		{"a code", "[a]\nhost = h\ntotp = JBSWY3DPEHPK3PXP 30000\nsequence = 7, TOTP:udp, 9", "1 a: h 7:tcp,totp:udp,totp:udp,9:tcp"},
		{"a code without its secret", "[a]\nhost = h\nsequence = 7, totp", `/etc/p:1: profile "a": totp = SECRET and totp in the sequence need each other: sequence = 7000, totp`},
		{"a secret without its code", "[a]\n" + least + "totp = JBSWY3DPEHPK3PXP", `/etc/p:1: profile "a": totp = SECRET and totp in the sequence need each other: sequence = 7000, totp`},
		{"a wrong secret", "[a]\nhost = h\nsequence = 7, totp\ntotp = 777", `/etc/p:4: profile "a": totp: the secret of an app is needed, in base32 and without blanks, and a base for its ports if it is not 20000: TOTP = SECRET 30000; sesame init --totp draws one, not "777"`},
		{"a code first", "[a]\nhost = h\nsequence = totp, 7\ntotp = JBSWY3DPEHPK3PXP", `/etc/p:3: profile "a": Sequence: totp stands there once, after a knock, and as two of 32 knocks at most: Sequence = 7000, totp`},
		{"flags of knocks, wrong", "[a]\nhost = h\nsequence = 8:udp/fin, 9:tcp/x\n", `/etc/p:3: profile "a": Sequence: a UDP knock has no flags, not "8:udp/fin"` + "\n" +
			`/etc/p:3: profile "a": Sequence: a knock with flags is PORT:tcp/FLAGS, such as 7000:tcp/fin+urg, not "9:tcp/x"`},

		{"no name", "[]\n" + least, "/etc/p:1: a profile needs a name: [name], and there can be 1000 of them"},
		{"two of one name", "[a]\n" + least + "[a]\n" + least, `/etc/p:4: there is a profile "a" on line 1 already: give one of them another name`},
		{"no host", "[a]\nsequence = 7", `/etc/p:1: profile "a": one host is needed: host = 192.0.2.1`},
		{"nothing in it", "\n[a]\n", `/etc/p:2: profile "a": one host is needed: host = 192.0.2.1`},
		{"no sequence", "[a]\nhost = h\nsequence =\n", `/etc/p:1: profile "a": one of sequence, one_time_sequences and key is needed, and no other: sequence = 7000, 8000:udp, 9000`},
		{"both", "[a]\n" + least + "one_time_sequences = o\n",
			`/etc/p:1: profile "a": one of sequence, one_time_sequences and key is needed, and no other: sequence = 7000, 8000:udp, 9000`},
		{"host that is ports", "[a]\nhost = 7000\nsequence = 7", `/etc/p:1: profile "a": one host is needed: host = 192.0.2.1, not "7000"`},
		{"host with ports", "[a]\nhost = h 7000 8000\nsequence = 7", `/etc/p:1: profile "a": one host is needed: host = 192.0.2.1, not "h 7000 8000"`},
		{"empty host", "[a]\nhost =\nsequence = 7", `/etc/p:1: profile "a": one host is needed: host = 192.0.2.1`},
		{"empty file", "[a]\nhost = h\none_time_sequences = # c", `/etc/p:1: profile "a": one of sequence, one_time_sequences and key is needed, and no other: sequence = 7000, 8000:udp, 9000`},
		{"sequence", "[a]\nhost = h\nsequence = 7000, 0, , shh, 8:icmp", `/etc/p:3: profile "a": Sequence: a port is a number from 1 to 65535, not "0"` + "\n" +
			`/etc/p:3: profile "a": Sequence: an item is empty: a port is a number from 1 to 65535, and commas only go between ports` + "\n" +
			`/etc/p:3: profile "a": Sequence: a port is a number from 1 to 65535, not "shh"` + "\n" +
			`/etc/p:3: profile "a": Sequence: a knock is PORT, PORT:tcp or PORT:udp, not "8:icmp"`},
		{"33 knocks", "[a]\nhost = h\nsequence = 7" + strings.Repeat(",7", 32), `/etc/p:3: profile "a": Sequence: a sequence has 1 to 32 knocks, not 33`},
		{"values", "[a]\n" + least + "delay = fast\nverify = 0\nudp = maybe\nflags = x,y", `/etc/p:4: profile "a": delay: a number of milliseconds from 0 to 3600000 is needed, not "fast"` + "\n" +
			`/etc/p:5: profile "a": verify: a port is a number from 1 to 65535, or the name of a service, not "0"` + "\n" +
			`/etc/p:6: profile "a": udp: yes or no is needed, not "maybe"` + "\n" +
			`/etc/p:7: profile "a": flags: flags are fin, syn, rst, psh, ack and urg with commas between them, or none, not "x,y"`},
		{"no value", "[a]\n" + least + "delay\nverify =", `/etc/p:4: profile "a": delay: a number of milliseconds from 0 to 3600000 is needed` + "\n" +
			`/etc/p:5: profile "a": verify: a port is a number from 1 to 65535, or the name of a service`},
		{"services", "[a]\nhost = h\nsequence = 7, http, domain:udp\nverify = ssh", "1 a: h 7:tcp,80:tcp,53:udp verify=22"},
		{"two ports to verify", "[a]\n" + least + "verify = 22, 80", `/etc/p:4: profile "a": verify: it takes one port, not "22, 80"`},
		{"unknown keys", "[a]\nhots = h\nsequence = 7\nlist = yes\nhelp\nversion = 1\nverif = 22\n7000,8000", `/etc/p:2: profile "a": unknown directive "hots" (did you mean host?)` + "\n" +
			`/etc/p:4: profile "a": unknown directive "list" (did you mean host?)` + "\n" +
			`/etc/p:5: profile "a": "help" is not a directive: a line is [section], Directive = value or # comment` + "\n" +
			`/etc/p:6: profile "a": unknown directive "version"` + "\n" +
			`/etc/p:7: profile "a": unknown directive "verif" (did you mean verify?)` + "\n" +
			`/etc/p:8: profile "a": a line is [section], Directive = value or # comment, not "7000,8000"`},
		{"before the first", "host = h\n", "/etc/p:1: the first line is to be the [name] of a profile"},
		{"twice", "[a]\n" + least + "Host = g\n", `/etc/p:4: profile "a": host is on line 2 already: delete one of the two`},
		{"broken name", "[a\n" + least + "[b] c\n" + least, "/etc/p:1: a section is [name]: the ] is missing\n" +
			`/etc/p:4: profile "a": a section is [name] and nothing after it: put the rest on a line of its own`},
		{"control character", "[a]\n" + least + "stdio = \x1b", `/etc/p:4: profile "a": a control character (0x1b) is not allowed in a configuration: delete it`},
		{"contradictions", "[a]\n" + least + "ipv4=yes\nipv6=yes\n[b]\n" + least + "verify=7\n",
			`/etc/p:1: profile "a": -4 and -6 exclude each other: give neither to knock over both` + "\n" +
				`/etc/p:6: profile "b": the port that is to open is one of the knocks: to connect to it, and see whether it opens, would be a knock too`},
		{"too many mistakes", "[a]\n" + strings.Repeat("a\n", 200), strings.Repeat(`/etc/p:N: profile "a": "a" is not a directive: a line is [section], Directive = value or # comment`+"\n", 100) +
			`/etc/p:101: profile "a": too many mistakes: reading ends here`},
		{"too long", strings.Repeat("#", maxConfigSize+1), "/etc/p:1: a configuration is at most 1048576 bytes"},
	}
	t.Setenv("HOME", "/home")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			profiles, err := parseProfiles("/etc/p", strings.NewReader(test.in))
			var lines []string
			for _, to := range profiles {
				lines = append(lines, to.String())
			}
			got := strings.Join(lines, "\n")
			if err != nil {
				got = err.Error()
				if profiles != nil {
					t.Errorf("got profiles with the error %v", err)
				}
				if _, ok := errors.AsType[configErrors](err); !ok {
					t.Errorf("got %#v, want configErrors", err)
				}
				said := strings.NewReplacer("sequence = 7000, 8000:udp, 9000", "", "equence = 7000, totp", "", "such as 7000:tcp/fin+urg", "").Replace(withoutSecrets(err).Error())
				for _, secret := range []string{"7000", "8000", "shh", "icmp", "fin", "9:tcp"} {
					if strings.Contains(strings.ReplaceAll(said, "flags are fin,", ""), secret) {
						t.Errorf("without secrets: got %q", said)
					}
				}
			}
			if strings.Contains(test.want, "p:N:") {
				got = regexp.MustCompile(`p:\d+: profile "a": "`).ReplaceAllString(got, `p:N: profile "a": "`)
			}
			if got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// FuzzProfiles has each profile with what it takes to knock, and each mistake with its place.
func FuzzProfiles(f *testing.F) {
	for _, seed := range []string{
		"", "[home]\n\thost = 192.0.2.1\n\tsequence = 7000, 18000:udp, 9000\n\tdelay = 100\n\tverify = 22\n\ttcpflags = syn\n",
		"\xef\xbb\xbf[a]\r\nHOST=h\r\none-time-sequences = ~/x # c\r\n[b]\nhost=[::1]\nsequence=1\nudp=yes\nlist=1\nver=2\n",
		"host = h\n[\n[]\n[a]\n[a]\nhost = 7\nsequence = ,0,65536\nudp\nipv4=yes\nipv6=yes\ndelay=-1\n7000\x00\n\xff\n",
	} {
		f.Add([]byte(seed))
	}
	located := regexp.MustCompile(`^fuzz:[0-9]+: [^\n]+$`)
	f.Fuzz(func(t *testing.T, text []byte) {
		profiles, err := parseProfiles("fuzz", bytes.NewReader(text))
		if err != nil {
			for _, line := range append(strings.Split(err.Error(), "\n"), strings.Split(withoutSecrets(err).Error(), "\n")...) {
				if !located.MatchString(line) {
					t.Errorf("mistake without a place: %q", line)
				}
			}
		}
		names := map[string]bool{}
		for _, to := range profiles {
			n := len(to.sequence)
			if to.host == "" || to.name == "" || names[to.name] || (to.oneTime == "") != (n >= 1 && n <= maxKnocks) || to.oneTime != "" && n > 0 {
				t.Errorf("got %q with host %q, %d knocks and the file %q", to.name, to.host, n, to.oneTime)
			}
			names[to.name] = true
			if err := to.contradictions(to.host, to.sequence, nil); err != nil {
				t.Errorf("got %q with contradictions: %v", to.name, err)
			}
		}
	})
}

// person is somebody with profiles.
type person struct {
	*testing.T
	dir, file string
}

func newPerson(t *testing.T, text string) *person {
	t.Helper()
	h := &person{T: t, dir: t.TempDir()}
	h.file = filepath.Join(h.dir, ".config/sesame/profiles")
	if err := os.MkdirAll(filepath.Dir(h.file), 0o700); err != nil {
		t.Fatal(err)
	}
	h.write(h.file, text)
	return h
}

func (h *person) write(file, text string) {
	h.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
}

// command is a client of that person.
func (h *person) command(args ...string) *exec.Cmd {
	cmd := sesame("sesame", append([]string{"knock"}, args...)...)
	cmd.Env = append(cmd.Env, "HOME="+h.dir, "XDG_CONFIG_HOME=", "PATH="+os.Getenv("PATH"))
	return cmd
}

func (h *person) run(cmd *exec.Cmd) output {
	h.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil && exitStatus(err) <= 0 {
		h.Error(err)
	}
	return output{exitStatus(err), stdout.String(), stderr.String()}
}

// TestKnockProfile has the whole program knock by a profile.
func TestKnockProfile(t *testing.T) {
	h := newPerson(t, "[home]\nhost = 127.0.0.1\nsequence = 7001, 7002:udp\ndelay = 1\nverbose = yes\n[four.lan]\nhost = ::1\nsequence = 7003:udp\nipv6 = yes\nverbose = yes\n"+
		"[silent]\nhost = 127.0.0.1\nsequence = 7001\nquiet = yes\n")
	const home, lan = "hitting tcp 127.0.0.1:7001\nhitting udp 127.0.0.1:7002\n", "hitting udp ::1:7003\n"
	const hint = " (sesame knock --help shows what there is)\n"
	for _, tt := range []struct {
		args string
		want output
	}{
		{"home", output{0, home, ""}},
		{"-- home", output{0, home, ""}},
		{"home -- echo done", output{0, "hitting tcp 127.0.0.1:7001\nhitting udp 127.0.0.1:7002\ndone\n", ""}},
		{"-u home", output{0, strings.Replace(home, "tcp", "udp", 1), ""}},
		{"home -q", output{0, "", ""}},
		{"silent", output{0, "", ""}},
		{"-v silent", output{0, "hitting tcp 127.0.0.1:7001\n", ""}},
		{"four.lan", output{0, lan, ""}},
		{"-4 four.lan", output{1, "", "sesame knock: ::1 is an address of the other family than -4 or -6 asks for\n"}},
		{"home 7005 -v", output{1, "", "sesame knock: looking up the host: lookup home"}},
		{"hom", output{2, "", `sesame knock: no profile "hom" in ` + h.file + " (did you mean home?); otherwise the ports to knock on are needed: hom 7000 8000:udp 9000" + hint}},
		{"gate", output{2, "", `sesame knock: no profile "gate" in ` + h.file + "; otherwise the ports to knock on are needed: gate 7000 8000:udp 9000" + hint}},
		{"192.0.2.1", output{2, "", "sesame knock: the ports to knock on are needed: 192.0.2.1 7000 8000:udp 9000" + hint}},
		{"2001:db8::1", output{2, "", "sesame knock: the ports to knock on are needed: 2001:db8::1 7000 8000:udp 9000" + hint}},
		{"7000", output{2, "", "sesame knock: no profile \"7000\" in " + h.file + "; otherwise 7000 is a port and no host: write the host before the ports: HOST 7000" + hint}},
		{"--list home", output{2, "", "sesame knock: --list takes no other arguments: it lists the profiles" + hint}},
		{"--list -- echo", output{2, "", "sesame knock: --list takes no other arguments: it lists the profiles" + hint}},
		{"-w 7001 home", output{2, "", "sesame knock: the port that is to open is one of the knocks: to connect to it, and see whether it opens, would be a knock too" + hint}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := h.run(h.command(strings.Fields(tt.args)...))
			if tt.args == "home -- echo done" { // what is no error goes to standard error where standard output is a command's
				got.stdout, got.stderr = got.stderr+got.stdout, ""
			}
			if tt.want.status == 1 && strings.HasPrefix(got.stderr, tt.want.stderr) {
				got.stderr = tt.want.stderr
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	if got := h.run(h.command("home", "-d", "300")); got.status != 0 {
		t.Error(got)
	}
	began := time.Now()
	h.run(h.command("home", "-d", "500"))
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("with -d 500, got %v for two knocks: the command line is to win", took)
	}
}

// TestProfilesFile has the file where the variables say.
func TestProfilesFile(t *testing.T) {
	for _, tt := range []struct{ xdg, home, want string }{
		{"", "/nowhere/u", "/nowhere/u/.config/sesame/profiles"},
		{"/nowhere/x", "/nowhere/u", "/nowhere/x/sesame/profiles"},
		{"/nowhere/x", "", "/nowhere/x/sesame/profiles"},
		{"x", "/nowhere/u", "/nowhere/u/.config/sesame/profiles"}, // a relative path is ignored
		{"", "", "/.config/sesame/profiles"},                      // and not one in whatever folder we are in
	} {
		t.Setenv("XDG_CONFIG_HOME", tt.xdg)
		t.Setenv("HOME", tt.home)
		if got, _, err := readProfiles(os.Stderr); got != tt.want || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q, %q: got %q, %v, want %q", tt.xdg, tt.home, got, err, tt.want)
		}
	}
}

// TestProfilesMissing says where profiles are looked for, and how to make one: what it says to write there works.
func TestProfilesMissing(t *testing.T) {
	h := newPerson(t, "# none\n")
	const hint = " (sesame knock --help shows what there is)\n"
	const lines = "[home]\nhost = 192.0.2.1\nsequence = 7000, 18000:udp, 9000\nverify = 22\n"
	const needed = "sesame knock: a host and its ports are needed: HOST 7000 8000:udp 9000"
	for _, there := range []bool{true, false} {
		if !there {
			if err := os.Remove(h.file); err != nil {
				t.Fatal(err)
			}
		}
		want := output{1, "", "sesame knock: there are no profiles in " + h.file + ": sesame add makes one; or put lines such as these there, and let nobody else read it (chmod 600):\n" + lines}
		if got := h.run(h.command("--list")); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		want = output{2, "", needed + "; there are no profiles in " + h.file + ": sesame add makes one; or put lines such as these there, and let nobody else read it (chmod 600):\n" + lines + hint}
		if got := h.run(h.command()); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	want := output{2, "", `sesame knock: no profile "home": ` + h.file + " does not exist: sesame add makes one; otherwise the ports to knock on are needed: home 7000 8000:udp 9000" + hint}
	if got := h.run(h.command("home")); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	h.write(h.file, lines+strings.Replace(lines, "home", "office", 1))
	if got, want := h.run(h.command()), (output{2, "", needed + "; or one of your profiles: home, office" + hint}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := h.run(h.command("--list")), (output{0, "home            192.0.2.1 verifies port 22\noffice          192.0.2.1 verifies port 22\n", ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	h.write(h.file, "oops\n")
	if got, want := h.run(h.command()), (output{2, "", needed + hint}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestListProfiles has names, hosts and verified ports in the list, and nothing of any sequence.
func TestListProfiles(t *testing.T) {
	h := newPerson(t, "[home]\nhost = 192.0.2.1\nsequence = 7001, 7002:udp\nverify = 22\n[a longer name than that]\nhost = h\none_time_sequences = once\n")
	h.write(filepath.Join(filepath.Dir(h.file), "once"), "7003,7004\n")
	want := output{0, "home            192.0.2.1 verifies port 22\na longer name than that h\n", ""}
	if got := h.run(h.command("--list")); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// A profile that says all in the wrong places.
	h.write(h.file, "[a]\nhost = 7001\nsequence = 7001,x7002\ndelay = 7001, 7002\nudp = 7001\nverify = 7001,7002\n7001,7002\nhots = 7001\n7001 = 7001\nsource=7001\nsequence 7001 7002\nttl=7001\n"+
		"[b]\nhost = h\nsequence = 7001\nverify=7001\n")
	got := h.run(h.command("--list"))
	if got.status != 1 || got.stdout != "" || strings.Count(got.stderr, "\n") < 10 || strings.Count(got.stderr, "\n") != strings.Count(got.stderr, h.file+":") {
		t.Errorf("got %+v, want the mistakes, each a line", got)
	}
	if regexp.MustCompile(`70\d\d`).MatchString(strings.ReplaceAll(got.stderr, h.dir, "")) {
		t.Errorf("got a knock in %q", got.stderr)
	}
}

// TestProfilesPrivate has a warning where others can read what is secret.
func TestProfilesPrivate(t *testing.T) {
	h := newPerson(t, "[home]\nhost = 127.0.0.1\none_time_sequences = ~/once\n")
	once := filepath.Join(h.dir, "once")
	h.write(once, strings.Repeat("7001\n", 9))
	warning := func(file string) string {
		return "warning: " + file + ": others can read it, and it holds the secret: chmod 600 " + file + "\n"
	}
	for _, tt := range []struct {
		file, once os.FileMode
		args, want string
	}{
		{0o600, 0o600, "home", ""},
		{0o600, 0o600, "--list", ""},
		{0o640, 0o600, "home", warning(h.file)},
		{0o604, 0o600, "--list", warning(h.file)},
		{0o600, 0o640, "home", warning(once)},
		{0o644, 0o644, "home", warning(h.file) + warning(once)},
		{0o644, 0o644, "-q home", ""},
	} {
		if err := errors.Join(os.Chmod(h.file, tt.file), os.Chmod(once, tt.once)); err != nil {
			t.Fatal(err)
		}
		if got := h.run(h.command(strings.Fields(tt.args)...)); got.status != 0 || got.stderr != tt.want {
			t.Errorf("%v %v %s: got %+v, want %q", tt.file, tt.once, tt.args, got, tt.want)
		}
	}
}

// TestProfileOneTime has eight clients at once that use up a file: each line is knocked once.
func TestProfileOneTime(t *testing.T) {
	h := newPerson(t, "[home]\nhost = 127.0.0.1\none_time_sequences = once\nverbose = yes\ndelay = 0\n")
	once := filepath.Join(filepath.Dir(h.file), "once")
	for name, text := range map[string]string{
		"different": "# mine\n7001\n7002\r\n 7003\n7004\n\n\t7005\n7006\n7007\n7008",
		"equal":     "7001\n7001\n 7001\n7001\n7002\n7002\n7002\n7002\n",
	} {
		t.Run(name, func(t *testing.T) {
			h.write(once, text)
			unused, mistakes := parseOneTime(once, []byte(text))
			var want, got []string
			for _, l := range unused {
				want = append(want, fmt.Sprintf("hitting tcp 127.0.0.1:%d\n", l.sequence[0].Port))
			}
			if len(want) != 8 || mistakes != nil {
				t.Fatalf("got lines %v, %v", unused, mistakes)
			}
			said := make(chan output)
			for range want {
				go func() { said <- h.run(h.command("home")) }()
			}
			for range want {
				out := <-said
				if out.status != 0 || out.stderr != "" {
					t.Errorf("got %+v, want a knock", out)
				}
				got = append(got, out.stdout)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want each line once", got)
			}
			left := h.run(h.command("home"))
			if want := (output{1, "", "sesame knock: nothing has been knocked: all sequences in " + once + " are used: write new ones into it, and into the daemon's file\n"}); left != want {
				t.Errorf("got %+v, want %+v", left, want)
			}
		})
	}
}

// TestProfileOneTimeRefused has files that no sequence can be taken from: nothing is knocked, and nothing marked.
func TestProfileOneTimeRefused(t *testing.T) {
	h := newPerson(t, "[home]\nhost = 127.0.0.1\none_time_sequences = once\nverbose = yes\n")
	once := filepath.Join(filepath.Dir(h.file), "once")
	const nothing = "sesame knock: nothing has been knocked: "
	for _, tt := range []struct{ text, args, want string }{
		{"7001\nx\n", "home", once + ":2: Sequence: a port is a number from 1 to 65535, not \"x\"\n"},
		{"7001,22\n", "home -w 22", nothing + "the port that is to open is one of the knocks: to connect to it, and see whether it opens, would be a knock too\n"},
		{"7001\n", "home -- no-such-command", "sesame knock: running no-such-command: executable file not found in $PATH\n"},
		{"7001\n", "home -6", "sesame knock: 127.0.0.1 is an address of the other family than -4 or -6 asks for\n"},
	} {
		h.write(once, tt.text)
		if got, want := h.run(h.command(strings.Fields(tt.args)...)), (output{1, "", tt.want}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if got, err := os.ReadFile(once); err != nil || string(got) != tt.text {
			t.Errorf("got the file %q, %v, want %q", got, err, tt.text)
		}
	}
	if err := os.Remove(once); err != nil {
		t.Fatal(err)
	}
	if got, want := h.run(h.command("home")), (output{1, "", nothing + "open " + once + ": no such file or directory\n"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestProfileOneTimeReadOnly has a one-time file that cannot be written: nothing is knocked.
func TestProfileOneTimeReadOnly(t *testing.T) {
	needRoot(t)
	h := newPerson(t, "[home]\nhost = 127.0.0.1\none_time_sequences = once\nverbose = yes\n")
	once := filepath.Join(filepath.Dir(h.file), "once")
	h.write(once, "7001\n")
	cmd := h.command("home")
	mounted := exec.Command("unshare", "-m", "bash", "-c", `mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec -a sesame "$0" knock home`, cmd.Path, h.dir)
	mounted.Env = cmd.Env
	want := output{1, "", "sesame knock: nothing has been knocked: open " + once + ": read-only file system\n"}
	if got := h.run(mounted); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if text, err := os.ReadFile(once); err != nil || string(text) != "7001\n" {
		t.Errorf("got the file %q, %v", text, err)
	}
}

// TestProfileOpens has clients with a profile of verified one-time knocks open a door of the daemon, which has the same
// lines in its own file.
func TestProfileOpens(t *testing.T) {
	w := newWorld(t, 3)
	w.hide()
	lines := "7001,7002:udp,7003\n9004,9003\n"
	once := filepath.Join(t.TempDir(), "once")
	w.must(os.WriteFile(once, []byte(lines), 0o600))
	d := w.serve(strings.Replace(sshDoor("ssh", "1", 60), "sequence      = 1\n", "one_time_sequences = "+once+"\n", 1))
	h := newPerson(t, "[home]\nhost = "+hostAddr+"\none_time_sequences = mine\nverify = 22\ntimeout = 1\nretries = 9\n")
	mine := filepath.Join(filepath.Dir(h.file), "mine")
	h.write(mine, lines)
	w.wantCall(w.callCmd(0, h.command("home")), 0, `10\.9\.0\.1 port 22: open in \d+ ms\n`, "")
	w.wantCall(w.callCmd(1, h.command("home", "--", "echo", "in")), 0, `in\n`, `10\.9\.0\.1 port 22: open in \d+ ms\n`)
	w.wantCall(w.callCmd(2, h.command("home")), 1, "", `sesame knock: nothing has been knocked: all sequences in \S+ are used: [^\n]+\n`)
	for _, file := range []string{once, mine} {
		if got, err := os.ReadFile(file); err != nil || string(got) != "#"+strings.Replace(lines, "\n9", "\n#9", 1) {
			t.Errorf("got the file %q, %v, want each line marked", got, err)
		}
	}
	d.stop()
}
