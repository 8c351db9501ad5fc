//go:build router

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// make router-test runs what is here. testdata/router has what the router is made of.

const (
	openSeconds  = 10
	floodPackets = 20000 // more than there is room for attempts

	// In KB, of the daemon on a router.
	residentAtRest     = 6700 // after a door was open
	residentAfterFlood = 8700
)

// guest is an emulated router: a Malta board with a 24Kc CPU. Its eth0 has the address 10.0.2.15, and whoever connects
// to a forwarded port of 127.0.0.1 comes from 10.0.2.2.
type guest struct {
	*testing.T
	dir     string
	qemu    *exec.Cmd
	forward map[Knock]string // ports of 127.0.0.1
	wire    *net.UDPConn     // what is written there is a frame on the network of eth0
	lines   io.Writer        // run by the guest's shell
	answers chan string      // of the guest's shell, by line
	said    strings.Builder  // the transcript
}

// TestRouter runs our file on routers, and knocks from outside.
func TestRouter(t *testing.T) {
	parts := routerParts(t)
	guests := make([]*guest, 3)
	t.Run("guests", func(t *testing.T) {
		for i, run := range []func(t *testing.T, dir string) *guest{
			// Of 92 MB, 27 hold the files that a router has in its flash.
			func(t *testing.T, dir string) *guest {
				return outside(t, dir, "iptables", "iptables-legacy and OpenWrt's fw3", 92)
			},
			func(t *testing.T, dir string) *guest { return outside(t, dir, "fw4", "nft beside OpenWrt's fw4", 92) },
			neighbours,
		} {
			t.Run([]string{"iptables", "fw4", "links"}[i], func(t *testing.T) {
				t.Parallel()
				guests[i] = run(t, parts)
			})
		}
	})
	transcript := "$ make router-test\n"
	for _, g := range guests {
		if g == nil {
			t.FailNow()
		}
		transcript += g.said.String()
	}
	fmt.Print(transcript)
	text, err := os.ReadFile("docs/router.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(text), "<!-- make router-test prints this -->\n```text\n")
	shown, _, _ = strings.Cut(shown, "```\n<!-- end -->\n")
	numbers := regexp.MustCompile(`[0-9][0-9.]*`)
	mask := func(text string) string { return numbers.ReplaceAllString(text, "N") }
	if mask(transcript) != mask(shown) {
		t.Errorf("docs/router.md shows another transcript:\n%s", shown)
	}
}

// routerParts makes kernel and initial RAM disks in a folder that it returns, with the README's configuration: only the
// time is shorter.
func routerParts(t *testing.T) string {
	t.Helper()
	debs, err := script("testdata/router/fetch.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := strings.Replace(blocks(t, "README.md", "ini")[0], "= 500\n", fmt.Sprintf("= %d\n", openSeconds), 1)
	links := strings.Replace(config, "= eth0\n", "= lan0.2, ppp*, wg0, port*\n", 1) +
		"\tSeq_Timeout = 60\n[thrice]\n\tSequence = 8888:udp,8888:udp,8888:udp\n\tCommand = true\n" +
		"[flags]\n\tSequence = 6000,5000\n\tTCPFlags = fin,psh,urg\n\tCommand = true\n"
	for name, text := range map[string]string{"knockd.conf": config, "links.conf": links} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := script("testdata/router/initrd.sh", strings.TrimSpace(debs), "build/sesame-linux-mipsle", dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// script runs a shell script and returns what it has printed. Its errors are the script's words.
func script(args ...string) (string, error) {
	cmd := exec.Command("sh", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", args[0], err, stderr.String())
	}
	return string(out), nil
}

// bootRouter starts a router and waits until the daemon listens. kind is for etc/init.d/rcS.
func bootRouter(t *testing.T, parts, kind, initrd string, megabytes int) *guest {
	t.Helper()
	g := &guest{T: t, dir: t.TempDir(), answers: make(chan string, 1000)}
	// Between the choice of a port and its use another program may take it.
	for try := 1; ; try++ {
		err := g.start(parts, kind, initrd, megabytes)
		if err == nil {
			break
		}
		if try == 3 {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			_, _ = io.WriteString(g.lines, "sesame status; ip address\n")
			out, _ := g.answer(5 * time.Second)
			g.say("%s", out)
		}
		_ = g.qemu.Process.Kill()
		_ = g.qemu.Wait()
		if t.Failed() {
			t.Logf("what was done:\n%s\nthe router's console:\n%s", g.said.String(), g.console())
		}
	})
	g.await("starting up, listening on", time.Minute)
	return g
}

// start starts qemu and waits for the first answer of the guest's shell.
func (g *guest) start(parts, kind, initrd string, megabytes int) (err error) {
	var ports []io.Closer
	defer func() {
		for _, p := range ports {
			_ = p.Close()
		}
	}()
	g.forward = map[Knock]string{}
	user := "user,id=user"
	for _, k := range []Knock{{22, tcp}, {7000, tcp}, {18000, udp}, {9000, tcp}} {
		port, err := freePort(k.Proto, &ports)
		if err != nil {
			return err
		}
		g.forward[k] = port
		user += fmt.Sprintf(",hostfwd=%v:127.0.0.1:%s-:%d", k.Proto, port, k.Port)
	}
	if g.wire, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		return err
	}
	frames, err := freePort(udp, &ports)
	if err != nil {
		return err
	}
	here := g.wire.LocalAddr().String()
	_ = g.wire.Close()
	local, _ := net.ResolveUDPAddr("udp4", here)
	remote, _ := net.ResolveUDPAddr("udp4", "127.0.0.1:"+frames)
	if g.wire, err = net.DialUDP("udp4", local, remote); err != nil {
		return err
	}
	for _, p := range ports {
		_ = p.Close()
	}
	// A tick every 4 ms: on a busy machine the emulator is too late for a next event 8 µs away (mips_next_event in
	// arch/mips/kernel/cevt-r4k.c), and the one after that is 43 s later.
	g.qemu = exec.Command("qemu-system-mipsel", "-M", "malta", "-cpu", "24Kc", "-m", strconv.Itoa(megabytes),
		"-kernel", filepath.Join(parts, "vmlinuz"), "-initrd", filepath.Join(parts, initrd),
		"-append", "console=ttyS0 quiet panic=1 highres=off nohz=off rootfstype=ramfs rdinit=/sbin/init router="+kind,
		"-display", "none", "-vga", "none", "-monitor", "none", "-no-reboot",
		"-serial", "file:"+filepath.Join(g.dir, "console"), "-serial", "stdio",
		// One network of slirp's, of eth0, and of the frames that a test sends.
		"-netdev", user, "-netdev", "hubport,id=hub0,hubid=0,netdev=user",
		"-netdev", "socket,id=wire,udp="+here+",localaddr=127.0.0.1:"+frames, "-netdev", "hubport,id=hub1,hubid=0,netdev=wire",
		"-netdev", "hubport,id=hub2,hubid=0", "-device", "virtio-net-pci,netdev=hub2,romfile=,mac="+guestMAC.String())
	var stderr strings.Builder
	g.qemu.Stderr = &stderr
	if g.lines, err = g.qemu.StdinPipe(); err != nil {
		return err
	}
	out, err := g.qemu.StdoutPipe()
	if err != nil {
		return err
	}
	if err := g.qemu.Start(); err != nil {
		return err
	}
	g.answers = make(chan string, 1000)
	go func(to chan string) {
		for s := bufio.NewScanner(out); s.Scan(); {
			to <- s.Text()
		}
		close(to)
	}(g.answers)
	if _, status := g.answer(time.Minute); status != 0 {
		_ = g.qemu.Process.Kill()
		_ = g.qemu.Wait()
		return fmt.Errorf("qemu: %s\nthe router does not start: %s", stderr.String(), g.console())
	}
	return nil
}

var guestMAC = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}

// freePort finds a port of 127.0.0.1 that nobody has. It stays so until what is added to held is closed.
func freePort(proto Protocol, held *[]io.Closer) (string, error) {
	var at net.Addr
	if proto == udp {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		*held, at = append(*held, c), c.LocalAddr()
	} else {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		*held, at = append(*held, l), l.Addr()
	}
	_, port, err := net.SplitHostPort(at.String())
	return port, err
}

func (g *guest) console() string {
	text, _ := os.ReadFile(filepath.Join(g.dir, "console"))
	return string(text)
}

// await waits for a text on the console, where the daemon's log is.
func (g *guest) await(text string, patience time.Duration) {
	g.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(g.console(), text); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.Fatalf("waited in vain for %q", text)
		}
	}
}

// answer is what the guest's shell prints up to its line "status N". -1: it has not answered.
func (g *guest) answer(patience time.Duration) (string, int) {
	var text strings.Builder
	deadline := time.After(patience)
	for {
		select {
		case line, ok := <-g.answers:
			if !ok {
				return text.String(), -1
			}
			if n, ok := strings.CutPrefix(line, "status "); ok {
				status, err := strconv.Atoi(strings.TrimSpace(n))
				if err == nil {
					return text.String(), status
				}
			}
			text.WriteString(strings.TrimSuffix(line, "\r") + "\n")
		case <-deadline:
			return text.String(), -1
		}
	}
}

// try runs a line of the guest's shell and returns what it has printed, and its exit status.
func (g *guest) try(line string) (string, int) {
	g.Helper()
	if _, err := io.WriteString(g.lines, line+"\n"); err != nil {
		g.Fatal(err)
	}
	out, status := g.answer(30 * time.Second)
	if status < 0 {
		g.Fatalf("%s: no answer: %s", line, out)
	}
	return out, status
}

func (g *guest) run(line string) string {
	g.Helper()
	out, status := g.try(line)
	if status != 0 {
		g.Fatalf("%s: exit status %d: %s", line, status, out)
	}
	return strings.TrimSpace(out)
}

func (g *guest) say(format string, a ...any) { fmt.Fprintf(&g.said, format, a...) }

// field is the number behind a word in what a line prints.
func (g *guest) field(line, word string) int {
	g.Helper()
	out := g.run(line)
	found := regexp.MustCompile(word + `:?\s+(\d+)`).FindStringSubmatch(out)
	if found == nil {
		g.Fatalf("%s: got %q, want %s and a number in it", line, out, word)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		g.Fatal(err)
	}
	return n
}

// resident is the daemon's memory in KB.
func (g *guest) resident() int {
	g.Helper()
	return g.field("cat /proc/$(pidof sesame)/status", "VmRSS")
}

// ssh is what a connection to port 22 from outside comes to. The forwarded port itself takes every connection, and what
// the router does is seen after that.
func (g *guest) ssh(patience time.Duration) string {
	g.Helper()
	conn, err := net.Dial("tcp4", "127.0.0.1:"+g.forward[Knock{22, tcp}])
	if err != nil {
		g.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(conn)
	switch {
	case string(text) == "a service of the router\n":
		return reached
	case len(text) == 0 && (err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNRESET)):
		return hidden // it is silent, or refuses, and then it is the emulator that ends the connection
	}
	return fmt.Sprintf("%q, %v", text, err)
}

// clock is the router's own: where it shares a CPU with others, its time passes more slowly than ours.
func (g *guest) clock() time.Duration {
	g.Helper()
	seconds, err := strconv.ParseFloat(g.run("cut -d ' ' -f 1 /proc/uptime"), 64)
	if err != nil {
		g.Fatal(err)
	}
	return time.Duration(seconds * float64(time.Second))
}

// opens connects until it is let in.
func (g *guest) opens(connect func() string) {
	g.Helper()
	for began := g.clock(); ; {
		got := connect()
		if got == reached {
			return
		}
		if got != hidden || g.clock()-began > openSeconds*time.Second {
			g.Fatalf("after the knocks: got %s, want %s", got, reached)
		}
	}
}

// closes connects until it is not let in any more, and returns how long that took since a time before the knocks. It must
// have been let in until shortly before the end. One connection that takes too long on a busy machine does not count.
func (g *guest) closes(knocked time.Duration, connect func() string) time.Duration {
	g.Helper()
	const open, tolerance = openSeconds * time.Second, 5 * time.Second
	for last := knocked; ; time.Sleep(100 * time.Millisecond) {
		began := g.clock()
		got := connect()
		switch after := g.clock() - knocked; {
		case got == reached && began-knocked <= open+tolerance:
			last = began
		case got == hidden && after >= open && last-knocked >= open-tolerance:
			return began - knocked
		case got != hidden || after >= open:
			g.Fatalf("%v after the knocks: got %s, and the last time that it was open is %v before that: want it to close after %v", after, got, g.clock()-last, open)
		}
	}
}

// outside knocks on a router by our client and by Debian's, floods it, and kills its daemon.
func outside(t *testing.T, parts, kind, firewall string, megabytes int) *guest {
	g := bootRouter(t, parts, kind, "initrd.gz", megabytes)
	g.say("A router with %s: MIPS 24Kc, %d MB, Linux %s, busybox\n", firewall, megabytes, g.run("uname -r"))
	connect := func() string { return g.ssh(3 * time.Second) }
	if got := connect(); got != hidden {
		t.Fatalf("before the knocks: got %s, want %s", got, hidden)
	}
	g.say("  port 22: %s\n", hidden)
	started := g.resident()

	knocks := []string{"127.0.0.1", g.forward[Knock{7000, tcp}], g.forward[Knock{18000, udp}] + ":udp", g.forward[Knock{9000, tcp}]}
	knock := func(cmd *exec.Cmd) {
		g.Helper()
		if out, err := cmd.CombinedOutput(); err != nil {
			g.Fatalf("%v: %v: %s", cmd.Args, err, out)
		}
	}
	knocked := g.clock()
	knock(sesame("sesame", append([]string{"knock"}, knocks...)...))
	g.opens(connect)
	g.say("  sesame knock %s, forwarded to 7000 18000:udp 9000\n", strings.Join(knocks, " "))
	g.say("  port 22: open, and after %.0f s: %s\n", g.closes(knocked, connect).Seconds(), hidden)

	rest := g.resident()
	taken := g.flood()
	flooded := g.resident()
	g.say("  a flood of %d first knocks, of as many sources: the daemon gets %d\n", floodPackets, taken)
	g.say("  resident memory: %d KB after the start, %d KB after a door was open, %d KB after the flood\n", started, rest, flooded)
	if rest > residentAtRest || flooded > residentAfterFlood {
		t.Errorf("resident: got %d, %d and %d KB, want the last two %d and %d at most", started, rest, flooded, residentAtRest, residentAfterFlood)
	}

	const stays, over = "10.0.2.2: ssh: still open", "10.0.2.2: ssh: left open by an earlier daemon: closing it"
	old := ""
	for try := 1; !strings.Contains(g.console(), stays); try++ {
		if try > 3 {
			g.Fatalf("got %q each time, want %q", over, stays)
		}
		knocked = g.clock()
		knock(exec.Command("knock", append([]string{"-d", "50"}, knocks...)...))
		g.opens(connect)
		old = g.run("pidof sesame")
		g.run("kill -9 " + old)
		g.run("i=0; until pid=$(pidof sesame) && [ $pid != " + old + " ]; do usleep 100000; i=$((i+1)); [ $i -lt 50 ] || break; done; [ $i -lt 50 ]")
		// On a busy machine the door's time may be over before the next daemon is there, which closes it then.
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(g.console(), stays) && strings.Count(g.console(), over) < try; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				g.Fatalf("waited in vain for %q", stays)
			}
		}
	}
	g.say("  Debian's knock -d 50 %s\n  port 22: open\n", strings.Join(knocks, " "))
	if got := connect(); got != reached {
		t.Fatalf("after kill -9 of the daemon: got %s, want %s", got, reached)
	}
	g.say("  kill -9 %s, and init starts the daemon again\n", old)
	g.say("  port 22: open, and after %.0f s: %s\n", g.closes(knocked, connect).Seconds(), hidden)
	return g
}

// flood sends first knocks from many sources, SYNs and UDP, 2,000 a second, and returns how many of
// them the daemon has got.
func (g *guest) flood() int {
	g.Helper()
	packets := func() int { return g.field("sesame status", "packets") }
	before := packets()
	header := append(append([]byte{}, guestMAC...), 0x52, 0x55, 10, 0, 2, 2, 0x08, 0x00)
	p := testPacket{to: "10.0.2.15", fromPort: 40000, flags: flagSYN}
	for i := range floodPackets {
		p.from = netip.AddrFrom4([4]byte{100, byte(64 + i>>16), byte(i >> 8), byte(i)}).String()
		p.knock, p.seq = Knock{7000, tcp}, rand.Uint32()
		if i%8 == 7 {
			p.knock = Knock{18000, udp}
		}
		b := p.bytes()
		ipv4Checksum(b[:ipv4MinLen])
		if _, err := g.wire.Write(append(header, b...)); err != nil {
			g.Fatal(err)
		}
		// Where frames come without a pause, the emulator hardly gets to running the router.
		if i%100 == 99 {
			time.Sleep(50 * time.Millisecond)
		}
	}
	for got := before; ; {
		time.Sleep(500 * time.Millisecond)
		now := packets()
		if now == got {
			return got - before
		}
		got = now
	}
}

// ipv4Checksum puts an IPv4 header's checksum in (RFC 791, section 3.1).
func ipv4Checksum(header []byte) {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum+sum>>16))
}

// until repeats a line of the guest's shell until its exit status is 0.
func (g *guest) until(line string) {
	g.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, status := g.try(line); status == 0 {
			return
		}
		if time.Now().After(deadline) {
			g.Fatalf("waited in vain for: %s", line)
		}
	}
}

// neighbours knocks on a router over links that are made while the daemon runs, from a network namespace on the router:
// a VLAN, ppp, which then dials again, wireguard, and ports of a bond, a team and a VRF.
func neighbours(t *testing.T, parts string) *guest {
	g := bootRouter(t, parts, "links", "ppp.gz", 128)
	g.say("A router with a VLAN, ppp and wireguard: MIPS 24Kc, 128 MB, Linux %s, busybox, nft beside OpenWrt's fw4\n", g.run("uname -r"))
	there := "nsenter -t $(cat /run/neighbour) -n "
	knock := func(knocks string) string {
		g.Helper()
		g.run(there + "sesame knock " + knocks)
		return "sesame knock " + knocks
	}
	connect := func(address string) string {
		out, status := g.try(there + "nc -w 2 " + address + " 22")
		switch {
		case status == 0 && out == "a service of the router\n":
			return reached
		case status == 1 && (strings.Contains(out, "timed out") || strings.Contains(out, "refused")):
			return hidden
		}
		return fmt.Sprintf("%q, exit status %d", out, status)
	}
	const vlan, ppp, wg, redialled = "10.2.0.1", "10.3.0.1", "10.5.0.1", "10.4.0.1"
	// door is what the log of a door that opens and closes says.
	door := func(link, address, other string) string {
		g.Helper()
		if got := connect(address); got != hidden {
			t.Fatalf("%s before the knocks: got %s, want %s", link, got, hidden)
		}
		asked, _ := g.try(there + "nc -w 2 " + address + " 22")
		closed, _ := g.try(there + "nc -w 2 " + address + " 23")
		// On a VRF the refusal of a connection that was translated does not get out: knockd.conf(5), Hide.
		if strings.ReplaceAll(asked, ":22", "") != strings.ReplaceAll(closed, ":23", "") && (link != "port3" || !strings.Contains(asked, "timed out")) {
			t.Errorf("%s: the hidden port answers %q, and a closed one %q", link, asked, closed)
		}
		knocked := g.clock()
		line := knock(address + " 7000 18000:udp 9000")
		g.opens(func() string { return connect(address) })
		if got := connect(other); got != hidden {
			t.Errorf("knocked over %s, connected over another link: got %s, want %s", link, got, hidden)
		}
		after := g.closes(knocked, func() string { return connect(address) })
		return fmt.Sprintf("  %s: port 22: %s\n  %s\n  %s: port 22: open, and after %.0f s: %s\n", link, hidden, line, link, after.Seconds(), hidden)
	}
	listens := func(address string) { g.Helper(); g.until("sesame status | grep -qF ' up, " + address + "'") }

	for _, absent := range []string{"interface lan0.2 does not exist", "no interface fits ppp*", "interface wg0 does not exist", "no interface fits port*"} {
		g.await(absent+" yet: waiting for ", 10*time.Second)
	}
	g.run("connect lan0.2 && connect ppp0 " + ppp + " 10.3.0.2 && connect wg0")
	for _, address := range []string{vlan, ppp, wg} {
		listens(address)
	}
	g.say("  the daemon has started first, and each link is listened on when it is there\n")
	g.say("%s%s", door("lan0.2", vlan, ppp), door("ppp0", ppp, vlan))
	pings := g.run("sesame ping -c 3 10.2.0.2") // the firewall lets answers in
	_, statistic, _ := strings.Cut(pings, " ping statistic ---\n")
	count, _, _ := strings.Cut(statistic, "\n")
	if !strings.Contains(count, " 3 packets received") {
		t.Errorf("sesame ping: got %s", pings)
	}
	g.say("  sesame ping -c 3 10.2.0.2: %s\n", count)
	g.say("  %s: the door opens\n", knock("--flags fin,psh,urg "+vlan+" 6000 5000"))
	g.await("10.2.0.2: flags: OPEN SESAME", 10*time.Second)
	g.until("wg show wg0 latest-handshakes | grep -q '[1-9][0-9]*$'")
	door("wg0", wg, vlan)
	g.say("  wg0, a tunnel over lan0.2: the same\n")

	// fw4 has nobody on these links find the router over IPv6.
	g.run("nft insert rule inet fw4 input icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept")
	for i, port := range []struct{ name, of, net string }{{"port1", "bond0", "10.6.0"}, {"port2", "team0", "10.7.0"}, {"port3", "vrf0", "10.8.0"}} {
		g.run("connect " + port.of + " " + port.name + " " + port.net)
		g.until("sesame status | grep -q '" + port.name + " is a port of " + port.of + ": ' && nft list chain inet sesame doors | grep -q '\"" + port.of + "\".* drop'")
		door(port.name, port.net+".1", vlan)
		door(port.name, "fe80::1%far-"+port.name, vlan)
		g.say("  port%d, a port of %s: the same, also at a link-local address\n", i+1, port.of)
	}

	knock(vlan + " 7000 18000:udp")
	g.run("kill $(cat /run/ppp0)")
	g.until("! pidof pppd")
	g.run("connect ppp0 " + redialled + " 10.4.0.2")
	listens(redialled)
	knock(vlan + " 9000")
	g.opens(func() string { return connect(vlan) })
	g.say("  ppp0 dials again, as %s, after two of three knocks on lan0.2: the third one opens\n", redialled)
	door("ppp0", redialled, wg)
	g.say("  ppp0: the same at %s\n", redialled)

	// lan0 shows the frames of lan0.2, too.
	g.run("sed -i 's/Interface .*/Interface = any/' /etc/knockd.conf && kill -HUP $(pidof sesame)")
	g.until("sesame status | grep -q ' listening on any' && sesame status | grep -q ' lan0 '")
	knock("-d20 " + vlan + " 8888:udp 8888:udp")
	g.await("10.2.0.2: thrice: Stage 2", 10*time.Second)
	g.run("sesame status")
	if strings.Contains(g.console(), "thrice: OPEN") {
		t.Error("lan0 and lan0.2 show a frame, and two knocks count as three")
	}
	knock(vlan + " 8888:udp")
	g.await("10.2.0.2: thrice: OPEN SESAME", 10*time.Second)
	g.say("  Interface = any: a frame that lan0 and lan0.2 show is one knock\n")

	g.run("sesame init walk --port 22 --host " + vlan + " >/tmp/line 2>/tmp/told && grep -q 'sesame try$' /tmp/told")
	g.run(there + "env HOME=/tmp sesame add </tmp/line")
	if out, status := g.try("sleep 4 | sesame try 1s"); status != 1 || !strings.Contains(out, "it was not kept: ") {
		t.Errorf("sesame try 1s: got exit status %d, %s", status, out)
	}
	if out, status := g.try(there + "env HOME=/tmp sesame knock --retries 0 --timeout 2 walk"); status == 0 {
		t.Errorf("not kept, and yet the door opens: %s", out)
	}
	g.run("sesame close --all; { sleep 99 | sesame try 99s >/tmp/tried 2>&1; } & ")
	g.until("grep -q 'Press Enter' /tmp/tried")
	g.say("  sesame init walk --port 22 | sesame add; sesame try, and nobody keeps it: as before\n")
	for _, when := range []string{"sesame try again: it opens, and is kept", "kill -9: it opens"} {
		g.run(there + "env HOME=/tmp sesame knock walk")
		g.opens(func() string { return connect(vlan) })
		g.say("  %s\n", when)
		if strings.HasPrefix(when, "kill") {
			break
		}
		g.run("sesame try --keep; sesame close --all")
		g.run("kill -9 $(pidof sesame)")
		g.until("sesame status")
	}
	return g
}
