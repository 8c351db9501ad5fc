//go:build linux && !pure

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseArguments(t *testing.T) {
	const needed = "the ports to knock on are needed: H 7000 8000:udp 9000"
	tests := []struct{ name, in, want string }{
		{"plain", "H 7000 8000 9000", "H 7000:tcp,8000:tcp,9000:tcp 50ms"},
		{"brackets", "[2001:db8::1] 7000", "2001:db8::1 7000:tcp 50ms"},
		{"empty brackets", "[] 7000", "the host is empty"},
		{"list of ports and no host", "7000,8000:udp", "7000,8000:udp is a port and no host: write the host before the ports: HOST 7000,8000:udp"},
		{"options first", "-v -d 500 H 7000", "H 7000:tcp 500ms verbose"},
		{"options last", "H 7000 8000 9000 -d 500 -v", "H 7000:tcp,8000:tcp,9000:tcp 500ms verbose"},
		{"options joined", "-4vd100 H 7000", "H 7000:tcp 100ms verbose ipv4"},
		{"long options", "--verb H --delay=0 7000 --ipv6", "H 7000:tcp 0s verbose ipv6"},
		{"protocols", "H 7000:udp 8000:TCP 9000:Udp 1", "H 7000:udp,8000:tcp,9000:udp,1:tcp 50ms"},
		{"all udp", "-u H 7000 8000:tcp", "H 7000:udp,8000:udp 50ms"},
		{"list in one argument", "H 12345,23456:udp,34567", "H 12345:tcp,23456:udp,34567:tcp 50ms"},
		{"commas after each", "H 15000, 16000, 17000,", "H 15000:tcp,16000:tcp,17000:tcp 50ms"},
		{"one port several times", "H 8 8 8", "H 8:tcp,8:tcp,8:tcp 50ms"},
		{"lowest and highest port", "H 1 65535", "H 1:tcp,65535:tcp 50ms"},
		{"more knocks than a sequence has", "H" + strings.Repeat(" 5", 40), "H 5:tcp" + strings.Repeat(",5:tcp", 39) + " 50ms"},
		{"IPv4 address", "192.0.2.7 7000", "192.0.2.7 7000:tcp 50ms"},
		{"IPv6 address", "2001:db8::7 7000", "2001:db8::7 7000:tcp 50ms"},
		{"name of digits and letters", "7even.lan 7000", "7even.lan 7000:tcp 50ms"},
		{"longest delay", "-d 3600000 H 1", "H 1:tcp 1h0m0s"},

		{"nothing", "", "a host and its ports are needed: HOST 7000 8000:udp 9000"},
		{"options alone", "-v", "a host and its ports are needed: HOST 7000 8000:udp 9000"},
		{"no host", "1941 1942 1945", "1941 is a port and no host: write the host before the ports: HOST 1941 1942 1945"},
		{"no host, with commas", "1941, 1942, 1945", "1941, is a port and no host: write the host before the ports: HOST 1941, 1942, 1945"},
		{"no ports", "H", needed},
		{"commas alone", "H ,,", needed},
		{"port 0", "H 7000 0", `a port is a number from 1 to 65535, not "0"`},
		{"port too high", "H 65536:udp", `a port is a number from 1 to 65535, not "65536:udp"`},
		{"names of services", "H ssh domain:udp,telnet http:tcp/fin", "H 22:tcp,53:udp,23:tcp,80:tcp/fin 50ms"},
		{"name of no service", "H shh", `a port is a number from 1 to 65535, not "shh"`},
		{"protocol after a slash", "H 7000/udp", `a knock is PORT, PORT:tcp or PORT:udp, not "7000/udp"`},
		{"protocol after a slash, with a name", "H ssh/TCP", `a knock is PORT, PORT:tcp or PORT:udp, not "ssh/TCP"`},
		{"range", "H 7000-7003", `a port is a number from 1 to 65535, not "7000-7003"`},
		{"unknown protocol", "H 7000:icmp", `a knock is PORT, PORT:tcp or PORT:udp, not "7000:icmp"`},
		{"both families", "-4 -6 H 7000", "-4 and -6 exclude each other: give neither to knock over both"},
		{"delay in words", "-d fast H 7000", `option -d: a number of milliseconds from 0 to 3600000 is needed, not "fast"`},
		{"delay with a unit", "--delay=50ms H 7000", `option --delay: a number of milliseconds from 0 to 3600000 is needed, not "50ms"`},
		{"delay below 0", "-d -1 H 7000", `option -d: a number of milliseconds from 0 to 3600000 is needed, not "-1"`},
		{"port 0 to verify", "-w 0 H 7000", `option -w: a port is a number from 1 to 65535, or the name of a service, not "0"`},
		{"two ports to verify", "-w 22,80 H 7000", `option -w: it takes one port, not "22,80"`},
		{"a service to verify", "-w ssh H 22", `the port that is to open is one of the knocks: to connect to it, and see whether it opens, would be a knock too`},
		{"a knock to verify", "-w 7000 H 7000:tcp", `the port that is to open is one of the knocks: to connect to it, and see whether it opens, would be a knock too`},
		{"the same port, UDP", "-w 7000 H 7000:udp", "H 7000:udp 50ms"},
		{"no timeout", "--timeout 0 H 7000", `option --timeout: a timeout is seconds, a number above 0 and up to 3600, such as 5 or 0.5, not "0"`},
		{"timeout with a unit", "--timeout 5s H 7000", `option --timeout: a timeout is seconds, a number above 0 and up to 3600, such as 5 or 0.5, not "5s"`},
		{"too many retries", "--retries 101 H 7000", `option --retries: a number from 0 to 100 is needed, not "101"`},
		{"retries below 0", "--retries=-1 H 7000", `option --retries: a number from 0 to 100 is needed, not "-1"`},
		{"-W without a port", "-W H H 7000", `option -W: HOST:PORT is needed, such as 192.0.2.1:22 or [2001:db8::1]:22, not "H"`},
		{"-W with IPv6 without brackets", "-W 2001:db8::1:22 H 7000", `option -W: HOST:PORT is needed, such as 192.0.2.1:22 or [2001:db8::1]:22, not "2001:db8::1:22"`},
		{"flags", "--flags fin+urg H 7000 8000/none 9000:tcp/Syn+ack 90:udp", "H 7000:tcp/fin+urg,8000:tcp/none,9000:tcp/syn+ack,90:udp 50ms"},
		{"no such flag", "--flags fan H 7000", `option --flags: flags are fin, syn, rst, psh, ack and urg with commas between them, or none, not "fan"`},
		{"no such flag of a knock", "H 7000:tcp/fan", `a knock with flags is PORT:tcp/FLAGS, such as 7000:tcp/fin+urg, not "7000:tcp/fan"`},
		{"flags of a UDP knock", "H 7000:udp/fin", `a UDP knock has no flags, not "7000:udp/fin"`},
		{"flags of UDP knocks", "-u --flags fin H 7000", `-u and --flags exclude each other: a UDP knock has no flags`},
		{"quiet and verbose", "-qv H 7000", `-q and -v exclude each other`},
		{"source of the other family", "-6 --source 127.0.0.1 H 7000", `127.0.0.1 is an address of the other family than -4 or -6 asks for`},
		{"no address", "--source eth0 H 7000", `option --source: an address is needed, such as 192.0.2.7 or 2001:db8::7, not "eth0"`},
		{"no interface", "--interface= H 7000", `option --interface: the name of an interface is needed, such as eth0, not ""`},
		{"TTL of 0", "--ttl 0 H 7000", `option --ttl: a number from 1 to 255 is needed, not "0"`},
		{"delay too long", "-d 3600001 H 7000", `option -d: a number of milliseconds from 0 to 3600000 is needed, not "3600001"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var o knockOptions
			rest, err := getopt(strings.Fields(test.in), o.options())
			var host string
			var sequence []sentKnock
			if err == nil {
				host, sequence, err = o.parseArguments(rest)
			}
			if err == nil {
				err = o.contradictions(host, sequence, nil)
			}
			got := fmt.Sprintf("%s %s %v", host, joinSent(sequence), o.delay)
			for _, f := range []struct {
				name string
				set  bool
			}{{"verbose", o.verbose}, {"ipv4", o.ipv4}, {"ipv6", o.ipv6}} {
				if f.set {
					got += " " + f.name
				}
			}
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestResolveAddress(t *testing.T) {
	tests := []struct {
		name    string
		options knockOptions
		in      string
		want    string // "" for an error
	}{
		{"IPv4", knockOptions{}, "192.0.2.7", "192.0.2.7"},
		{"IPv4, asked for", knockOptions{ipv4: true}, "192.0.2.7", "192.0.2.7"},
		{"IPv4, not asked for", knockOptions{ipv6: true}, "192.0.2.7", ""},
		{"IPv4 in IPv6 form", knockOptions{}, "::ffff:192.0.2.7", "192.0.2.7"},
		{"IPv6", knockOptions{}, "2001:db8::7", "2001:db8::7"},
		{"IPv6, asked for", knockOptions{ipv6: true}, "2001:db8::7", "2001:db8::7"},
		{"IPv6, not asked for", knockOptions{ipv4: true}, "2001:db8::7", ""},
		{"link-local", knockOptions{}, "fe80::1%lo", "fe80::1%lo"},
		{"link-local, of no link", knockOptions{}, "fe80::1", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.options.resolve(test.in)
			var want []netip.Addr
			if test.want != "" {
				want = []netip.Addr{netip.MustParseAddr(test.want)}
			}
			if !slices.Equal(got, want) || (err != nil) != (want == nil) {
				t.Errorf("resolving %s: got %v, %v, want %v", test.in, got, err, want)
			}
		})
	}
}

// TestKnock knocks on this host: a UDP knock is one datagram with one zero byte, and a TCP knock that is refused is
// one nevertheless.
func TestKnock(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	port := conn.LocalAddr().(*net.UDPAddr).Port
	got := runProgram("knock", "-v", "127.0.0.1", fmt.Sprintf("%d:udp", port), "1", "-d0")
	if want := (output{0, fmt.Sprintf("hitting udp 127.0.0.1:%d\nhitting tcp 127.0.0.1:1\n", port), ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, _, err := conn.ReadFrom(buf)
	if err != nil || n != 1 || buf[0] != 0 {
		t.Errorf("got the datagram %v, %v, want one zero byte", buf[:n], err)
	}
}

// TestKnockInNamespace knocks where the network is of the test's making: names with addresses of both families, and
// what cannot be reached.
func TestKnockInNamespace(t *testing.T) {
	needRoot(t)
	w := &world{T: t}
	hosts := t.TempDir() + "/hosts"
	w.must(os.WriteFile(hosts, []byte("127.0.0.1 four\n::1 six\n127.0.0.1 both\n::1 both\n2001:db8::1 far\n127.0.0.2 far\n198.51.100.1 nowhere\n"), 0o644))
	n := w.netns()
	w.must(n.do(func() error {
		l, err := net.Listen("tcp4", "127.0.0.2:22")
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	}))
	for _, tt := range []struct {
		name, args string
		status     int
		want       string
	}{
		{"IPv4", "-v four 7000 8000:udp", 0, "hitting tcp 127.0.0.1:7000\nhitting udp 127.0.0.1:8000\n"},
		{"IPv6", "-v six 7000", 0, "hitting tcp ::1:7000\n"},
		{"both families", "-v both 7000 8000", 0, "hitting tcp 127.0.0.1:7000\nhitting tcp ::1:7000\nhitting tcp 127.0.0.1:8000\nhitting tcp ::1:8000\n"},
		{"both, and -6", "-v6 both 7000", 0, "hitting tcp ::1:7000\n"},
		{"both, one of them unreachable", "far 7000 8000", 0, ""},
		{"-6, unreachable", "-6 far 7000 8000", 1, "knock: knocking on 2001:db8::1 port 7000: connect: network is unreachable\n"},
		{"unreachable, UDP", "-u nowhere 7000", 1, "knock: knocking on 198.51.100.1 port 7000: sendto: network is unreachable\n"},
		{"both, verified, no IPv6", "-w 22 far 7000", 0, "127.0.0.2 port 22: open, as it was before the knock: still open, or a proxy on the way\n"},
		{"both, not open, no IPv6", "-w 23 --timeout 0.1 --retries 0 far 7000", 3, "127.0.0.2 port 23: closed (RST)\n2001:db8::1 port 23: unreachable (network is unreachable)\nport 23 stayed shut: "},
		{"verified, no such host", "-w 22 absent.invalid 7000", 1, "knock: looking up the host: lookup absent.invalid"},
		{"from an address", "-v --source 127.0.0.9 --ttl 3 --interface lo four 7000 8000:udp", 0, "hitting tcp 127.0.0.1:7000\nhitting udp 127.0.0.1:8000\n"},
		{"from an address of the other family", "--source ::1 127.0.0.1 7000", 1, "knock: 127.0.0.1 and the source ::1 are addresses of different families\n"},
		{"from an address of another", "--source 192.0.2.9 four 7000", 1, "knock: knocking on 127.0.0.1 port 7000: 192.0.2.9 is not an address of this host\n"},
		{"through no interface", "--interface eth9 four 7000", 1, "knock: knocking on 127.0.0.1 port 7000: there is no interface \"eth9\"\n"},
		{"the same, raw", "--interface eth9 four 7000:tcp/fin", 1, "knock: knocking on 127.0.0.1 port 7000: there is no interface \"eth9\"\n"},
		{"from an address of another, raw", "--source 192.0.2.9 four 7000:tcp/fin", 1, "knock: knocking on 127.0.0.1 port 7000: 192.0.2.9 is not an address of this host\n"},
		{"no such host", "absent.invalid 7000", 1, "knock: looking up the host: lookup absent.invalid"},
		{"no IPv6 address", "-6 127.0.0.1 7000", 1, "knock: 127.0.0.1 is an address of the other family than -4 or -6 asks for\n"},
		{"no host", "1941 1942 1945", 2, "knock: 1941 is a port and no host: write the host before the ports: HOST 1941 1942 1945 (knock --help shows what there is)\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			self := sesame("knock")
			cmd := exec.Command("unshare", "-m", "bash", "-c", "mount --bind "+hosts+" /etc/hosts && exec -a knock "+self.Path+" -d5 "+tt.args)
			cmd.Env = self.Env
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			w.must(n.start(cmd))
			if got := exitStatus(cmd.Wait()); got != tt.status {
				t.Errorf("exit status: got %d, want %d", got, tt.status)
			}
			if got := out.String(); got != tt.want && (strings.HasSuffix(tt.want, "\n") || tt.want == "" || !strings.HasPrefix(got, tt.want) || strings.Count(got, "\n") != strings.Count(tt.want, "\n")+1) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// joinSent prints knocks as they are written on the command line.
func joinSent(sequence []sentKnock) string {
	var s []string
	for _, k := range sequence {
		text := k.Knock.String()
		if k.Proto == tcp && k.Flags != flagSYN {
			var flags []string
			for _, name := range []string{"fin", "syn", "rst", "psh", "ack", "urg"} {
				if k.Flags&flagBits[name] != 0 {
					flags = append(flags, name)
				}
			}
			text += "/" + cmp.Or(strings.Join(flags, "+"), "none")
		}
		s = append(s, text)
	}
	return strings.Join(s, ",")
}
