//go:build linux && !pure

package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// said is what a program has written so far.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// tcpdump shows the packets that arrive at the host's link, a line for each, with its IP header before it.
func (w *world) tcpdump(link, filter string) (packets *said) {
	w.Helper()
	packets, stderr := new(said), new(said)
	cmd := exec.Command("tcpdump", "-n", "-l", "-vv", "--immediate-mode", "-i", link, "-Q", "in", filter)
	cmd.Stdout, cmd.Stderr = packets, stderr
	w.must(w.host.start(cmd))
	w.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if w.Failed() {
			w.Logf("tcpdump: %s\n%s", stderr, packets)
		}
	})
	w.eventually("tcpdump listens", func() bool { return strings.Contains(stderr.String(), "listening on "+link) })
	return packets
}

// TestRawOnTheWire sends knocks with each kind of flags, and has tcpdump say what arrives at the host.
func TestRawOnTheWire(t *testing.T) {
	w := newWorld(t, 1)
	packets := w.tcpdump("eth0", "tcp and dst portrange 7000-7099")
	port := 7000
	for _, addr := range []string{hostAddr, hostAddr6} {
		for _, tt := range []struct {
			flags, want string // in tcpdump's letters
			ttl         int
		}{
			{"fin,urg", "FU", 64},
			{"none", "none", 1},
			{"fin,syn,rst,psh,ack,urg", "FSRP.U", 255},
			{"ack", ".", 7},
			{"syn,ack", "S.", 64},
			{"rst", "R", 64},
			{"psh", "P", 64},
			{"fin", "F", 64},
		} {
			port++
			args := []string{addr, fmt.Sprint(port), "--flags", tt.flags}
			if tt.ttl != 64 {
				args = append(args, fmt.Sprint("--ttl=", tt.ttl))
			}
			w.wantCall(w.call(0, args...), 0, "", "")
			source, ack := `10\.9\.0\.2`, ""
			ttl := fmt.Sprintf(`ttl %d,[^\n]*\n[^\n]*`, tt.ttl)
			if addr == hostAddr6 {
				source, ttl = `fd00:9::2`, fmt.Sprintf(`hlim %d,[^\n]*`, tt.ttl)
			}
			if strings.Contains(tt.flags, "ack") {
				ack = `(, ack \d+)`
			}
			want := regexp.MustCompile(ttl + source + `\.\d+ > [0-9a-f:.]+\.` + fmt.Sprint(port) + `: Flags \[` + regexp.QuoteMeta(tt.want) +
				`\], cksum 0x[0-9a-f]{4} \(correct\), seq \d+` + ack + `(, win 512)`)
			w.eventually(fmt.Sprintf("%s, flags %s: a packet like %v", addr, tt.flags, want), func() bool { return want.MatchString(packets.String()) })
		}
	}
	if got := strings.Count(packets.String(), "Flags ["); got != port-7000 {
		t.Errorf("got %d packets, want %d", got, port-7000)
	}
}

// TestRawRoute sends raw knocks the way that is asked for, and says what is wrong with it.
func TestRawRoute(t *testing.T) {
	w := newWorld(t, 1)
	w.must(w.clients[0].run("ip", "address", "add", "10.9.0.77/24", "dev", "eth0"))
	w.must(w.clients[0].run("ip", "address", "add", "fd00:9::77/64", "dev", "eth0", "nodad"))
	packets := w.tcpdump("eth0", "tcp and dst portrange 7000-7099")
	out, err := w.host.output("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
	w.must(err)
	local := regexp.MustCompile(`fe80::[0-9a-f:]+`).FindString(out)
	w.eventually("a link-local address that is not tentative", func() bool {
		theirs, err := w.clients[0].output("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
		ours, errHost := w.host.output("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
		return err == nil && errHost == nil && strings.Contains(theirs, "fe80") && !strings.Contains(theirs+ours, "tentative")
	})
	for _, tt := range []struct{ args, from string }{
		{hostAddr + " 7001:tcp/fin --source 10.9.0.77", `10\.9\.0\.77`},
		{hostAddr6 + " 7002:tcp/fin+urg --source fd00:9::77", `fd00:9::77`},
		{hostAddr + " 7003:tcp/fin --interface eth0", `10\.9\.0\.2`},
		{local + "%eth0 7004:tcp/fin", `fe80::[0-9a-f:]+`},
	} {
		args := strings.Fields(tt.args)
		w.wantCall(w.call(0, args...), 0, "", "")
		want := regexp.MustCompile(`(?m)^[^\n]*\b` + tt.from + `\.\d+ > [0-9a-f:.]+\.` + args[1][:4] + `: Flags \[FU?\], cksum 0x[0-9a-f]{4} \(correct\)`)
		w.eventually("a packet like "+want.String(), func() bool { return want.MatchString(packets.String()) })
	}
	for _, tt := range []struct{ args, want string }{
		{hostAddr + " 7001:tcp/fin --source 192.0.2.9", `192\.0\.2\.9 is not an address of this host`},
		{hostAddr + " 7001:tcp/fin --interface nosuch0", `there is no interface "nosuch0"`},
		{"198.51.100.1 7001:tcp/fin", `connect: network is unreachable`},
	} {
		args := strings.Fields(tt.args)
		w.wantCall(w.call(0, args...), 1, "", `sesame knock: knocking on `+args[0]+` port 7001: `+tt.want+`\n`)
	}
	cmd := sesame("sesame", "knock", hostAddr, "7001:tcp/fin")
	w.as(65534, cmd)
	w.wantCall(w.callCmd(0, cmd), 1, "", `sesame knock: knocking on 10\.9\.0\.1 port 7001: flags other than syn need CAP_NET_RAW: run as root\n`)
	cmd = sesame("sesame", "knock", hostAddr, "7001", "--ttl=3", "--source", "10.9.0.77", "--interface", "eth0")
	w.as(65534, cmd)
	w.wantCall(w.callCmd(0, cmd), 0, "", "")
}
