//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ping runs our ping at client i.
func (w *world) ping(i int, args ...string) clientRun {
	w.Helper()
	return w.callCmd(i, sesame("sesame", append([]string{"ping"}, args...)...))
}

const (
	noneCame  = `0 packets received, 100% packet loss\nround-trip min/avg/max = 0\.0/0\.0/0\.0 ms\n`
	roundTrip = `round-trip min/avg/max = [\d.]+/[\d.]+/[\d.]+ ms\n`
)

// statisticOf is what ping prints at last, as a pattern.
func statisticOf(host string, sent, received, loss int) string {
	s := fmt.Sprintf(`\n--- %s ping statistic ---\n%d packets transmitted, `, regexp.QuoteMeta(host), sent)
	if received == 0 {
		return s + noneCame
	}
	return s + fmt.Sprintf(`%d packets received, %d%% packet loss\n`, received, loss) + roundTrip
}

var pingLine = regexp.MustCompile(`(?m)^(len=.*) rtt=([\d.]+) ms$`)

// TestPingBesideHping has both ask the same, and compares their lines but for the times, and their statistics.
func TestPingBesideHping(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("80")
	answers := 0
	for _, args := range []string{
		"-S -p 80", "-S -p 81", "-A -p 80", "-A -p 81", "-F -p 80", "-F -p 81", "-R -p 80", "-S -A -p 80", "-S -F -P -U -p 80", "-P -U -F -p 81",
		"-S -p 80 -c 3 -i u20000",
	} {
		t.Run(args, func(t *testing.T) {
			fields := strings.Fields(args)
			if !strings.Contains(args, "-c") {
				fields = append(fields, "-c1")
			}
			ours := w.ping(0, append(fields, hostAddr)...)
			if !strings.Contains(args, "-c") {
				fields = append(fields[:len(fields)-1], "-c", "1")
			}
			got := pingLine.FindAllStringSubmatch(ours.stdout, -1)
			var theirs clientRun
			var want [][]string
			for try := 0; try == 0 || try < 10 && len(want) < len(got); try++ { // on a busy machine it misses answers
				theirs = w.callCmd(0, exec.Command("hping3", append(fields, hostAddr)...))
				want = pingLine.FindAllStringSubmatch(theirs.stdout, -1)
			}
			if len(got) != len(want) {
				t.Fatalf("got %d lines:\n%s\nwant %d:\n%s", len(got), ours.stdout, len(want), theirs.stdout)
			}
			answers += len(got)
			for i := range got {
				if got[i][1] != want[i][1] {
					t.Errorf("got  %s\nwant %s", got[i][1], want[i][1])
				}
				for _, rtt := range []string{got[i][2], want[i][2]} {
					if ms, err := strconv.ParseFloat(rtt, 64); err != nil || ms < 0 || ms >= 1000 {
						t.Errorf("got rtt %s ms", rtt)
					}
				}
			}
			status := 1
			if len(got) > 0 {
				status = 0
			}
			_, header, _ := strings.Cut(theirs.stdout, "): ")
			header, _, _ = strings.Cut(header, "\n")
			count := regexp.MustCompile(`\d+ packets transmitted, .*`)
			statistic := regexp.QuoteMeta(count.FindString(theirs.stderr))
			w := &world{T: t}
			w.wantCall(ours, status, `PING 10\.9\.0\.1 \(10\.9\.0\.1\): `+regexp.QuoteMeta(header)+`\n(len=[^\n]*\n)*\n--- 10\.9\.0\.1 ping statistic ---\n`+statistic+`\n`+roundTrip, "")
		})
	}
	if answers < 9 {
		t.Errorf("got %d answers to compare", answers)
	}
}

// TestPingUnanswered has packets dropped, and rejected with each of the ICMP errors, over both families.
func TestPingUnanswered(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("80")
	w.must(w.host.run("sysctl", "-q", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"))
	for _, tt := range []struct{ tool, with, want string }{
		{"iptables", "", ""},
		{"iptables", "icmp-port-unreachable", `port unreachable, ICMP type 3 code 3`},
		{"iptables", "icmp-host-prohibited", `host prohibited, ICMP type 3 code 10`},
		{"iptables", "icmp-admin-prohibited", `prohibited by a firewall, ICMP type 3 code 13`},
		{"ip6tables", "", ""},
		{"ip6tables", "icmp6-port-unreachable", `port unreachable, ICMPv6 type 1 code 4`},
		{"ip6tables", "icmp6-adm-prohibited", `prohibited by a firewall, ICMPv6 type 1 code 1`},
	} {
		t.Run(tt.tool+" "+tt.with, func(t *testing.T) {
			w := &world{T: t, host: w.host, clients: w.clients}
			host, headers, rule := hostAddr, 40, []string{"-j", "DROP"}
			if tt.tool == "ip6tables" {
				host, headers = hostAddr6, 60
			}
			lines := ""
			if tt.with != "" {
				rule = []string{"-j", "REJECT", "--reject-with", tt.with}
				for seq := range 2 {
					lines += fmt.Sprintf(`seq=%d %s, from %s\n`, seq, tt.want, host)
				}
			}
			w.must(w.host.run(tt.tool, append([]string{"-w", "-A", "INPUT", "-p", "tcp", "--dport", "80"}, rule...)...))
			began := time.Now()
			r := w.ping(0, "-c2", "-i0.1", host)
			if took := time.Since(began); took < 1100*time.Millisecond || took > 20*time.Second {
				t.Errorf("it took %v, want 0.1 s to the last packet, and 1 s after it", took)
			}
			w.wantCall(r, 1, fmt.Sprintf(`PING %s \(%s\): S set, %d headers \+ 0 data bytes\n`, host, host, headers)+lines+statisticOf(host, 2, 0, 100), "")
			w.must(w.host.run(tt.tool, "-w", "-F", "INPUT"))
		})
	}
	// Nobody has that address: this host itself says so.
	w.wantCall(w.ping(0, "-c1", "-i4", "10.9.0.99"), 1, `[^\n]*\n`+statisticOf("10.9.0.99", 1, 0, 100), "")
	w.wantCall(w.ping(0, "-c5", "10.9.0.99"), 1, `[^\n]*\n(seq=\d host unreachable, ICMP type 3 code 1, from 10\.9\.0\.2\n)+`+statisticOf("10.9.0.99", 5, 0, 100), "")
	w.wantCall(w.ping(0, "-c1", "198.51.100.1"), 1, "", `sesame ping: connect: network is unreachable\n`)
	// Our own firewall lets nothing out.
	w.must(w.clients[0].run("iptables", "-w", "-A", "OUTPUT", "-p", "tcp", "-j", "DROP"))
	w.wantCall(w.ping(0, "-c1", hostAddr), 1, `[^\n]*\nseq=0 send: operation not permitted\n`+statisticOf(hostAddr, 1, 0, 100), "")
}

// TestPingIPv6 has answers over IPv6, with the hop limit that they came with.
func TestPingIPv6(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("80")
	w.must(w.host.run("sysctl", "-q", "net.ipv6.conf.all.hop_limit=57", "net.ipv6.conf.eth0.hop_limit=57"))
	const header = `PING fd00:9::1 \(fd00:9::1\): S set, 60 headers \+ 0 data bytes\n`
	w.wantCall(w.ping(0, "-c1", "["+hostAddr6+"]"), 0, header+
		`len=64 ip=fd00:9::1 ttl=57 sport=80 flags=SA seq=0 win=[1-9]\d+ rtt=\d\d?\.\d ms\n`+statisticOf(hostAddr6, 1, 1, 0), "")
	w.wantCall(w.ping(0, "-c2", "-i.01", "-p81", hostAddr6), 0, header+
		`(len=60 ip=fd00:9::1 ttl=\d+ sport=81 flags=RA seq=\d win=0 rtt=\d\d?\.\d ms\n){2}`+statisticOf(hostAddr6, 2, 2, 0), "")
}

// TestPingWithoutRoot has another user ping: connections are timed.
func TestPingWithoutRoot(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("80")
	for _, rule := range []string{"--dport 82 -j REJECT", "--dport 83 -j DROP"} {
		for _, tool := range []string{"iptables", "ip6tables"} {
			w.must(w.host.run(tool, append([]string{"-w", "-A", "INPUT", "-p", "tcp"}, strings.Fields(rule)...)...))
		}
	}
	const said = `sesame ping: raw packets need CAP_NET_RAW: run as root: connections are timed instead\n`
	for _, tt := range []struct {
		args, lines string
		came        int
	}{
		{"-c2 -i.01 -S -p80 " + hostAddr, `ip=10\.9\.0\.1 sport=80 flags=SA seq=\d rtt=\d+\.\d ms\n`, 2},
		{"-c2 -i.01 -p81 " + hostAddr, `ip=10\.9\.0\.1 sport=81 flags=RA seq=\d rtt=\d+\.\d ms\n`, 2},
		{"-c2 -i.01 -p80 " + hostAddr6, `ip=fd00:9::1 sport=80 flags=SA seq=\d rtt=\d+\.\d ms\n`, 2},
		{"-c2 -i.01 -p83 " + hostAddr, ``, 0},
		{"-c2 -i.01 -p82 " + hostAddr, `seq=\d (unreachable \(port unreachable, ICMP type 3 code 3, from 10\.9\.0\.1\)|unreachable \(.*\))\n`, 0},
	} {
		t.Run(tt.args, func(t *testing.T) {
			w := &world{T: t, clients: w.clients}
			args := strings.Fields(tt.args)
			cmd := sesame("sesame", append([]string{"ping"}, args...)...)
			w.as(65534, cmd)
			status := 0
			if tt.came == 0 {
				status = 1
			}
			lines := ""
			if tt.lines != "" {
				lines = `(` + tt.lines + `){2}`
			}
			w.wantCall(w.callCmd(0, cmd), status, `PING [^\n]*\n`+lines+statisticOf(args[len(args)-1], 2, tt.came, 100-tt.came*50), said)
		})
	}
	cmd := sesame("sesame", "ping", "-c1", "-A", hostAddr)
	w.as(65534, cmd)
	w.wantCall(w.callCmd(0, cmd), 1, "", `sesame ping: flags other than syn need CAP_NET_RAW: run as root\n`)
}

// TestPingEnds ends an endless ping by each signal.
func TestPingEnds(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("80")
	for _, tt := range []struct {
		signal syscall.Signal
		port   string
		status int
	}{{unix.SIGINT, "80", 0}, {unix.SIGTERM, "80", 0}, {unix.SIGINT, "83", 1}} {
		w.must(w.host.run("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "83", "-j", "DROP"))
		out := new(said)
		cmd := sesame("sesame", "ping", "-i", "600", "-p", tt.port, hostAddr)
		cmd.Stdout, cmd.Stderr = out, out
		w.must(w.clients[0].start(cmd))
		w.Cleanup(func() {
			_ = cmd.Process.Kill()
			if w.Failed() {
				w.Logf("ping %s: %s", tt.port, out)
			}
		})
		line := "seq=0 win="
		if tt.status != 0 {
			line = "PING "
		}
		w.eventually("the line "+line, func() bool { return strings.Contains(out.String(), line) })
		if tt.status != 0 { // it must follow signals from then on
			w.eventually("a packet is sent", func() bool {
				n, err := w.host.output("iptables", "-w", "-nvxL", "INPUT")
				return err == nil && regexp.MustCompile(`(?m)^ +1 `).MatchString(n)
			})
		}
		began := time.Now()
		w.must(cmd.Process.Signal(tt.signal))
		status := exitStatus(cmd.Wait())
		if took := time.Since(began); took > time.Minute { // which is long before the next packet
			t.Errorf("%v: it took %v", tt.signal, took)
		}
		if !regexp.MustCompile(`(?s)^PING .*\n--- 10\.9\.0\.1 ping statistic ---\n1 packets transmitted, `).MatchString(out.String()) || status != tt.status {
			t.Errorf("%v: got status %d and %q", tt.signal, status, out)
		}
	}
}

// TestPingProfile pings the host of a profile, from where its knocks leave; a file with mistakes is in nobody's way who
// names a host.
func TestPingProfile(t *testing.T) {
	w := newWorld(t, 1)
	w.must(w.clients[0].run("ip", "address", "add", "10.9.0.200/24", "dev", "eth0"))
	h := newPerson(t, "[home]\nhost = "+hostAddr+"\nsequence = 7000\nsource = 10.9.0.200\n[six.lan]\nhost = "+hostAddr6+"\nsequence = 7000\nipv6 = yes\n")
	ping := func(args ...string) clientRun {
		cmd := h.command()
		cmd.Args = append([]string{"sesame", "ping", "-c1"}, args...)
		return w.callCmd(0, cmd)
	}
	answer := func(host, addr string) string {
		return `PING ` + host + ` \(` + addr + `\): [^\n]*\n[^\n]* ip=` + addr + ` [^\n]*\n` + statisticOf(host, 1, 1, 0)
	}
	w.must(w.host.run("iptables", "-w", "-A", "INPUT", "!", "-s", "10.9.0.200", "-j", "DROP"))
	w.wantCall(ping("home"), 0, answer(hostAddr, `10\.9\.0\.1`), "")
	w.wantCall(ping("six.lan"), 0, answer(hostAddr6, hostAddr6), "")
	w.wantCall(ping("six.lan", "-4"), 1, "", `sesame ping: fd00:9::1 is an address of the other family than -4 or -6 asks for\n`)
	w.wantCall(ping(hostAddr), 1, `[^\n]*\n`+statisticOf(hostAddr, 1, 0, 100), "")
	h.write(h.file, "[home]\nhost = 7001\n")
	w.wantCall(ping("home"), 1, "", regexp.QuoteMeta(h.file)+`:1: profile "home": one host is needed: host = 192\.0\.2\.1\n`)
	w.wantCall(ping("127.0.0.1"), 0, answer("127.0.0.1", `127\.0\.0\.1`), "")
}

// TestPingDuplicate has the host send its answer again, as the client's kernel does not tell it that it knows nothing of
// the connection.
func TestPingDuplicate(t *testing.T) {
	w := newWorld(t, 1)
	w.listen("80")
	w.must(w.clients[0].run("iptables", "-w", "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"))
	r := w.ping(0, "-c2", "-i3", hostAddr)
	w.wantCall(r, 0, `PING [^\n]*\nlen=44 [^\n]* seq=0 win=\d+ rtt=\d+\.\d ms\nDUP! len=44 [^\n]* seq=0 win=\d+ rtt=1\d\d\d\.\d ms\nlen=44 [^\n]* seq=1 [^\n]*\n`+statisticOf(hostAddr, 2, 2, 0), "")
}

// TestPingFlood has the host send what looks like answers as fast as it can: ping ends in time, says little and keeps
// nothing.
func TestPingFlood(t *testing.T) {
	const count = 30
	w := newWorld(t, 1)
	w.listen("80")
	flood := exec.Command("hping3", "-q", "--flood", "-S", "-A", "-s", "80", "-k", "-p", "++4096", "10.9.0.2")
	w.must(w.host.start(flood))
	t.Cleanup(func() {
		_ = flood.Process.Kill()
		_ = flood.Wait()
	})
	out := new(said)
	cmd := sesame("sesame", "ping", "-c", fmt.Sprint(count), "-i", "0.05", hostAddr)
	cmd.Stdout, cmd.Stderr = out, out
	began := time.Now()
	w.must(w.clients[0].start(cmd))
	w.Cleanup(func() { _ = cmd.Process.Kill() })
	w.eventually("answers to the last packets", func() bool { return regexp.MustCompile(`seq=2\d `).MatchString(out.String()) })
	// Its own peak: the Maxrss of wait4(2) has this test's before the exec, too.
	memory, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	w.must(err)
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(memory)
	if peak == nil {
		t.Fatalf("no peak in %q", memory)
	}
	if kb, err := strconv.Atoi(string(peak[1])); err != nil || kb > 64<<10 {
		t.Errorf("it took %s KB", peak[1])
	}
	status := exitStatus(cmd.Wait())
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if !strings.Contains(out.String(), fmt.Sprintf("\n%d packets transmitted, ", count)) || status != 0 {
		t.Errorf("got status %d and %q", status, out)
	}
	if lines := strings.Count(out.String(), "\n"); lines > 2*count+5 {
		t.Errorf("got %d lines", lines)
	}
}

// TestPingShow has answers come late, twice, and behind an error: each counts for its own packet, and once.
func TestPingShow(t *testing.T) {
	var out bytes.Buffer
	p := &pinger{env: env{stdout: &out}, slots: make([]pingPacket, pingSlots), sent: 3}
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for seq := range 3 {
		p.slots[seq] = pingPacket{seq: seq, at: ms(1000 * (seq + 1))}
	}
	is := answer{text: "T", window: "W "}
	for _, h := range []heard{
		{slot: 2, at: ms(3001), answer: is},
		{slot: 0, at: ms(3501), answer: is}, // late
		{slot: 2, at: ms(3601), answer: is}, // twice
		{slot: 2, at: ms(3701), answer: is}, // and again
		{slot: 1, at: ms(3801), failed: "host unreachable"},
		{slot: 1, at: ms(3801), failed: "host unreachable"},
		{slot: 1, at: ms(3901), answer: is},
		{slot: 7, at: ms(4001), answer: is}, // never sent
		{slot: 7, at: ms(4001), failed: "host unreachable"},
	} {
		p.show(&h)
	}
	const want = `T seq=2 W rtt=1.0 ms
T seq=0 W rtt=2501.0 ms
DUP! T seq=2 W rtt=601.0 ms
seq=1 host unreachable
T seq=1 W rtt=1901.0 ms
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if p.received != 3 || p.least != ms(1) || p.most != ms(2501) || p.sum != ms(4403) {
		t.Errorf("got %d received, %v least, %v most, %v in all", p.received, p.least, p.most, p.sum)
	}
}

// TestPingFilter runs the filter by bpf.VM: it lets in what parseAnswer takes, and nothing else.
func TestPingFilter(t *testing.T) {
	for _, from := range []string{"192.0.2.1", "2001:db8::1"} {
		vm, err := bpf.NewVM(pingFilter(from == "2001:db8::1", 80, 5000))
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			from, to uint16
			in       bool
		}{
			{80, 5000, true}, {80, 5000 + pingSlots - 1, true},
			{80, 4999, false}, {80, 5000 + pingSlots, false}, {81, 5000, false}, {81, 4999, false}, {5000, 80, false},
		} {
			for _, options := range []int{0, 8} {
				p := testPacket{from: from, to: from, fromPort: tt.from, knock: Knock{tt.to, tcp}, options: options}
				b := p.bytes()
				if from == "2001:db8::1" {
					b = b[ipv6Len:]
				}
				if n, err := vm.Run(b); n >= len(b) != tt.in || err != nil {
					t.Errorf("from %s, port %d, to %d, with %d bytes of options: got %d bytes, %v", from, tt.from, tt.to, options, n, err)
				}
			}
		}
	}
}

func TestPingUsage(t *testing.T) {
	const interval = `an interval is from 0.01 to 3600 seconds, such as 1, 0.5 or u500000, and not %q: at most 100 packets a second are sent`
	for _, tt := range []struct{ args, want string }{
		{"-i 0.009 192.0.2.1", "option -i: " + fmt.Sprintf(interval, "0.009")},
		{"-i u9999 192.0.2.1", "option -i: " + fmt.Sprintf(interval, "u9999")},
		{"-i 0 192.0.2.1", "option -i: " + fmt.Sprintf(interval, "0")},
		{"-i -1 192.0.2.1", "option -i: " + fmt.Sprintf(interval, "-1")},
		{"-i 3601 192.0.2.1", "option -i: " + fmt.Sprintf(interval, "3601")},
		{"-i fast 192.0.2.1", "option -i: " + fmt.Sprintf(interval, "fast")},
		{"-c 0 192.0.2.1", `option -c: a number from 1 to 1073741824 is needed, not "0"`},
		{"-c x 192.0.2.1", `option -c: a number from 1 to 1073741824 is needed, not "x"`},
		{"-p 0 192.0.2.1", `option -p: a port is a number from 1 to 65535, or the name of a service, not "0"`},
		{"-4 -6 192.0.2.1", "-4 and -6 exclude each other"},
		{"", "one host is needed, not 0"},
		{"192.0.2.1 80", "one host is needed, not 2"},
		{"-Q 192.0.2.1", `unknown option "-Q"`},
	} {
		got := runProgram(append([]string{"sesame", "ping"}, strings.Fields(tt.args)...)...)
		if want := (output{2, "", "sesame ping: " + tt.want + " (sesame ping --help shows what there is)\n"}); got != want {
			t.Errorf("ping %s: got %+v, want %+v", tt.args, got, want)
		}
	}
	if got := runProgram("sesame", "ping", "-6", "192.0.2.1"); got.status != 1 || strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("another family: got %+v", got)
	}
}
