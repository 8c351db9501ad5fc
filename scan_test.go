//go:build linux && !pure

package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// scanDoors are sequences of two, three and four knocks that go up, down and anyhow, far from each other and adjacent.
// In a configuration each has 150 ports for itself: the knocks of others among its decoys would end attempts, too.
var scanDoors = []struct {
	name  string
	ports []int
}{
	{"up2", []int{10, 120}}, {"down2", []int{120, 10}}, {"near2", []int{70, 71}},
	{"up3", []int{10, 70, 120}}, {"down3", []int{120, 70, 10}}, {"any3", []int{70, 130, 10}}, {"near3", []int{70, 71, 72}},
	{"up4", []int{10, 50, 80, 140}}, {"down4", []int{140, 90, 50, 10}}, {"any4", []int{70, 10, 140, 100}},
	{"back4", []int{73, 72, 71, 70}}, {"gaps4", []int{70, 73, 76, 79}},
}

const (
	scanFirst, scanLast = 20000, 20000 + 3*12*150 - 1
	scanReal            = 19000 // and 19500: the knocks of a door that is really knocked on
)

// scanConfig is a configuration with each door over TCP, over TCP with TCPFlags, over UDP, and over both in turn. All
// open the firewall.
func scanConfig(more string) string {
	var s strings.Builder
	door := func(name, sequence string) {
		fmt.Fprintf(&s, "[%s]\n sequence = %s\n command = iptables -w -I INPUT -s %%IP%% -p tcp --dport 22 -j ACCEPT\n %s\n", name, sequence, more)
	}
	door("real", fmt.Sprintf("%d,%d", scanReal, scanReal+500))
	for i, d := range scanDoors {
		sequence := func(first int, protocols ...string) string {
			var knocks []string
			for n, port := range d.ports {
				knocks = append(knocks, fmt.Sprint(first+i*150+port, protocols[n%len(protocols)]))
			}
			return strings.Join(knocks, ",")
		}
		door(d.name+" tcp", sequence(scanFirst, ""))
		door(d.name+" udp", sequence(scanFirst, ":udp"))
		door(d.name+" both", sequence(scanFirst+12*150, "", ":udp"))
		door(d.name+" syn", sequence(scanFirst+2*12*150, "")+"\n tcpflags = syn")
	}
	return s.String()
}

// scanWorld has clients with a hundred addresses each: 10.9.I.1 to 10.9.I.100 and fd00:9::I:1 to fd00:9::I:100 for
// client I-2. The host's policy is to drop, so that a scan need not wait for answers at a bounded rate.
func scanWorld(t *testing.T, clients int) *world {
	w := newWorld(t, clients)
	for i, n := range append([]*Netns{w.host}, w.clients...) {
		w.must(n.run("ip", "route", "add", "10.9.0.0/16", "dev", "eth0"))
		if i > 0 {
			w.must(n.run("sh", "-ec", fmt.Sprintf("i=1; while [ $i -le 100 ]; do echo address add 10.9.%d.$i/32 dev eth0; "+
				"echo address add fd00:9::%d:$i/128 dev eth0 nodad; i=$((i+1)); done | ip -batch -", i+1, i+1)))
		}
	}
	w.must(w.host.run("iptables", "-w", "-A", "INPUT", "-p", "udp", "-j", "DROP"))
	w.must(w.host.run("ip6tables", "-w", "-A", "INPUT", "-p", "udp", "-j", "DROP"))
	return w
}

// knocker knocks again and again while something goes on.
type knocker struct {
	w     *world
	d     *running
	i     int // the client that knocks
	times int
}

// during knocks on the door real as long as cmd runs, at least once, and wants to open it each time.
func (k *knocker) during(cmd *exec.Cmd) {
	w := k.w
	w.Helper()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for pause, before := 100*time.Millisecond, k.times; ; pause = 300 * time.Millisecond {
		select {
		case err := <-ended:
			w.must(err)
			if k.times == before {
				w.Errorf("%v: it ended before anybody knocked", cmd.Args)
			}
			return
		case <-time.After(pause):
			k.times++
			w.knock(k.i, "-d5", hostAddr, fmt.Sprint(scanReal), fmt.Sprint(scanReal+500))
			w.eventually("the opening by a real knock", func() bool { return len(k.d.opened(fmt.Sprintf("10.9.0.%d", k.i+2))) == k.times })
		}
	}
}

// opened lists the doors that a source has opened.
func (r *running) opened(from string) (doors []string) {
	for line := range strings.Lines(r.logged()) {
		if _, text, ok := strings.Cut(line, "] "+from+": "); ok {
			if door, ok := strings.CutSuffix(text, ": OPEN SESAME\n"); ok {
				doors = append(doors, door)
			}
		}
	}
	return doors
}

// TestScans runs nmap's scans, each from an address of its own, over all ports around the knocks: nothing opens, and who
// knocks meanwhile gets in.
func TestScans(t *testing.T) {
	w := scanWorld(t, 3)
	d := w.serve(scanConfig(""))
	scan := func(client, n int, line string) (cmd *exec.Cmd, from string) {
		from = fmt.Sprintf("10.9.%d.%d", client+2, n+1)
		to := hostAddr
		if strings.HasPrefix(line, "-6") {
			from, to = fmt.Sprintf("fd00:9::%d:%d", client+2, n+1), hostAddr6
		}
		if strings.Contains(line, "-sT") { // it takes the address that the kernel takes
			w.must(w.clients[client].run("ip", "route", "replace", to, "dev", "eth0", "src", from))
		} else {
			line = "-e eth0 -S " + from + " " + line
		}
		cmd = exec.Command("nmap", append(strings.Fields(line), "-n", "-Pn", "--send-eth", to)...)
		w.must(w.clients[client].start(cmd))
		return cmd, from
	}
	// It takes 0.4 s for each port, and so it looks at those around one door alone.
	slow, slowFrom := scan(2, 0, "-sS -r -T2 -p 20960-20980")
	knocks := knocker{w: w, d: d, i: 1}
	var sources []string
	for n, line := range []string{
		"-sS -r -T3",
		"-sS -r -T4 --max-retries 1",
		"-sS -r -T5",
		"-sS -T3",
		"-sS -T5",
		"-sT -r",
		"-sT",
		"-sF -r",
		"-sX -r",
		"-sN -r",
		"-sA -r",
		"-sM -r",
		"-sS -r --scanflags SYNACK",
		"-sS -r --scanflags SYNRST",
		"-sU -r",
		"-sU --max-retries 1",
		"-sSU -r",
		"-6 -sS -r",
		"-6 -sU -r",
	} {
		ports := fmt.Sprintf("%d-%d", scanFirst, scanLast)
		if strings.Contains(line, "-sSU") {
			ports = "T:" + ports + ",U:" + ports
		}
		retries := " --max-retries 0"
		if strings.Contains(line, "retries") {
			retries = ""
		}
		began := time.Now()
		cmd, from := scan(0, n, line+retries+" --min-rate 5000 --max-rate 8000 -p "+ports)
		knocks.during(cmd)
		sources = append(sources, from)
		t.Logf("%v: nmap %s", time.Since(began).Round(10*time.Millisecond), line)
		for _, door := range d.opened(from) {
			// A scan in random order opens a door of two knocks about once in ten thousand times.
			if strings.Contains(line, " -r") || !strings.Contains(door, "2 ") {
				t.Errorf("nmap %s opened %s", line, door)
			}
		}
	}
	// And all ports there are, as fast as can be sent.
	x := w.wire(0)
	every := make([]uint16, 65535)
	for i := range every {
		every[i] = uint16(i + 1)
	}
	for n, order := range []func(){func() {}, func() { slices.Reverse(every) }, func() { rand.Shuffle(len(every), func(i, j int) { every[i], every[j] = every[j], every[i] }) }} {
		order()
		p := fromClient4
		p.from = fmt.Sprintf("10.9.2.%d", 90+n)
		sources = append(sources, p.from)
		for _, p.knock.Proto = range []Protocol{tcp, udp} {
			for _, p.knock.Port = range every {
				p.seq++
				x.send(p.bytes())
			}
		}
		if opened := d.opened(p.from); n < 2 && len(opened) > 0 {
			t.Errorf("the scan of all ports opened %v", opened)
		}
	}
	w.must(slow.Wait())
	if opened := d.opened(slowFrom); len(opened) > 0 {
		t.Errorf("the slow scan opened %v", opened)
	}
	w.eventually("the end of the commands", func() bool {
		return strings.Count(d.logged(), "command took") == strings.Count(d.logged(), "OPEN SESAME")
	})
	if w.rules("-s 10.9.0.3/32 ") == 0 {
		t.Error("the firewall has no rule for who knocked")
	}
	for _, from := range append(sources, slowFrom) {
		if n := w.rules("-s " + from + "/"); n > 0 {
			t.Errorf("the firewall has %d rules for %s", n, from)
		}
	}
	d.stop()
}

// TestScanOpensWithoutDecoys runs a scan that opens all doors that go up where there are no decoys, and knockd's.
func TestScanOpensWithoutDecoys(t *testing.T) {
	w := scanWorld(t, 1)
	d := w.serve(scanConfig("decoys = no"))
	config, log := t.TempDir()+"/knockd.conf", t.TempDir()+"/log"
	w.must(os.WriteFile(config, []byte("[options]\n logfile = "+log+"\n[theirs]\n sequence = 20010,20070,20120\n command = true\n"), 0o600))
	theirs := w.daemon(exec.Command("/usr/sbin/knockd", "-i", "eth0", "-c", config), config, log)
	theirs.await("starting up")
	w.from(0, fmt.Sprintf("nmap -sS -r -n -Pn --send-eth --max-rate 8000 --max-retries 0 -p %d-%d %s", scanFirst, scanLast, hostAddr))
	theirs.await("10.9.0.2: theirs: OPEN SESAME")
	var want []string
	for _, d := range scanDoors {
		if slices.IsSorted(d.ports) {
			want = append(want, d.name+" syn", d.name+" tcp")
		}
	}
	slices.Sort(want)
	w.eventually("all openings", func() bool { return len(d.opened("10.9.0.2")) >= len(want) })
	if got := slices.Sorted(slices.Values(d.opened("10.9.0.2"))); !slices.Equal(got, want) {
		t.Errorf("opened %q, want %q", got, want)
	}
	d.stop()
}

// TestScanSpringsTrap has a door of one knock block whoever scans: in order the scan comes to its neighbours first.
func TestScanSpringsTrap(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[trap]\n sequence = 22\n tcpflags = syn\n command = iptables -w -A INPUT -s %IP% -j DROP\n")
	w.from(0, "nmap -sS -r -n -Pn --max-retries 0 -p 20-23 "+hostAddr)
	w.eventually("the rule against the scanner", func() bool { return w.rules("-s 10.9.0.2/32 -j DROP") > 0 })
	d.stop()
}

// kill ends a process that the test has started, by its id, and waits for it.
func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// counted asks the daemon how many packets the filter has let through.
func (w *world) counted(socket string) int {
	w.Helper()
	packets, _ := w.counters(socket)
	return packets
}

// counters asks for that, and how many of them were hits.
func (w *world) counters(socket string) (packets, hits int) {
	w.Helper()
	cmd := sesame("sesame", "status", "-s", socket)
	var out strings.Builder
	cmd.Stdout = &out
	w.must(w.host.start(cmd))
	w.must(cmd.Wait())
	_, counters, _ := strings.Cut(out.String(), "\npackets ")
	if _, err := fmt.Sscanf(counters, "%d, lost by the kernel %d, hits %d", &packets, new(int), &hits); err != nil {
		w.Fatalf("%v in %q", err, out.String())
	}
	return packets, hits
}

// TestFloodByHping has hping3 send all it can to the first port, from addresses at random, while somebody knocks: who
// knocks again, as people do, gets in although more comes than a slow machine can read, and loses packets of his too.
func TestFloodByHping(t *testing.T) {
	w := newWorld(t, 2)
	w.hide()
	socket := t.TempDir() + "/control"
	d := w.serve(sshDoor("ssh", "7000,8000,9000", 60), "-s", socket)
	flood := exec.Command("hping3", "-q", "--flood", "--rand-source", "-S", "-p", "7000", hostAddr)
	w.must(w.clients[0].start(flood))
	defer kill(flood)
	w.eventually("the flood", func() bool { return w.counted(socket) > 10000 })
	w.eventually("an opening", func() bool {
		w.knock(1, hostAddr, "7000", "8000", "9000")
		return strings.Contains(d.logged(), "10.9.0.3: ssh: OPEN SESAME")
	})
	before := w.counted(socket)
	w.eventually("more of the flood", func() bool { return w.counted(socket) > before })
	w.awaitPort(1, hostSSH, reached)
	kill(flood)
	d.stop()
}

// relayWorld is a world whose first client also has a tun link to the host, with 10.7.0.1 for the host, on which the
// daemon listens.
func relayWorld(t *testing.T, config string, carry func(packet []byte, deliver func([]byte))) (*world, *running) {
	w := newWorld(t, 1)
	w.must(w.relay(unix.IFF_TUN, carry))
	for i, end := range []*Netns{w.host, w.clients[0]} {
		w.must(end.run("ip", "address", "add", fmt.Sprintf("10.7.0.%d/24", i+1), "dev", "x0"))
	}
	return w, w.serveOn("x0", config)
}

// serveOn starts the daemon on other interfaces than eth0 alone.
func (w *world) serveOn(interfaces, config string, args ...string) *running {
	w.Helper()
	dir := w.TempDir()
	w.must(os.WriteFile(dir+"/c", []byte(config), 0o600))
	d := w.daemon(sesame("sesame", append([]string{"serve", "-c", dir + "/c", "-i", interfaces, "-g", dir + "/log"}, args...)...), dir+"/c", dir+"/log")
	d.await("starting up, listening on " + interfaces)
	return d
}

const (
	relayAddr  = "10.7.0.1"
	relayDoors = "[mixed]\n sequence = 7000,8000:udp,9000\n command = true\n[tcp]\n sequence = 7100,8100,9100\n command = true\n" +
		"[udp]\n sequence = 7200:udp,8200:udp,9200:udp\n command = true\n[end]\n sequence = 6000:udp\n command = true\n"
)

var relaySequences = map[string][]string{
	"mixed": {"7000", "8000:udp", "9000"}, "tcp": {"7100", "8100", "9100"}, "udp": {"7200:udp", "8200:udp", "9200:udp"},
}

// knockOver knocks on a door over the relay, and then on the door end: so all has arrived when that opens.
func (r *running) knockOver(door string, delay int, ends int) {
	r.w.Helper()
	r.w.knock(0, append([]string{fmt.Sprint("-d", delay), relayAddr}, relaySequences[door]...)...)
	time.Sleep(30 * time.Millisecond) // the relay may hold back a packet as long
	r.w.knock(0, relayAddr, "6000:udp")
	r.w.eventually("the end of the knocks", func() bool { return strings.Count(r.logged(), "end: OPEN SESAME") >= ends })
}

// TestDuplicatedKnocks has each packet arrive three times at once, and copies of a door's SYNs once more, late.
func TestDuplicatedKnocks(t *testing.T) {
	var late [][]byte
	w, d := relayWorld(t, relayDoors, func(packet []byte, deliver func([]byte)) {
		for range 3 {
			deliver(packet)
		}
		if packet[ipv4OffProto] == uint8(tcp) && packet[20+tcpOffFlags] == flagSYN {
			for _, p := range late {
				deliver(p)
			}
			late = append(late, slices.Clone(packet))
		} else if packet[ipv4OffProto] == uint8(udp) && binary.BigEndian.Uint16(packet[20+portOffDestination:]) == 6000 {
			late = nil // else they would be wrong knocks at the next door
		}
	})
	ends := 0
	for door := range relaySequences {
		ends += 3
		d.knockOver(door, 5, ends)
		d.await("10.7.0.2: " + door + ": OPEN SESAME")
		if n := strings.Count(d.logged(), door+": OPEN SESAME"); n != 1 {
			w.Errorf("%s: opened %d times, want once", door, n)
		}
	}
	d.stop()
}

// TestReorderedKnocks has every other packet overtaken by those that are less than 25 ms behind it: what comes faster does
// not open, the client's own pace does.
func TestReorderedKnocks(t *testing.T) {
	var held atomic.Bool // the latest knock
	w, d := relayWorld(t, relayDoors, func(packet []byte, deliver func([]byte)) {
		knock := packet[0]>>4 == 4 && packet[ipv4OffProto] == uint8(udp) && binary.BigEndian.Uint16(packet[20+portOffDestination:]) != 6000
		if !held.Swap(false) && knock {
			held.Store(true)
			late := slices.Clone(packet)
			time.AfterFunc(25*time.Millisecond, func() { deliver(late) })
			return
		}
		deliver(packet)
	})
	d.knockOver("udp", 0, 1)
	if strings.Contains(d.logged(), "udp: OPEN SESAME") {
		w.Error("it opens though the knocks came in another order")
	}
	held.Store(false)
	d.knockOver("udp", 50, 2)
	d.await("udp: OPEN SESAME")
	d.stop()
}

// TestLostKnocks loses one knock of a sequence, and whoever knocks again at once gets in; then it loses every third
// packet, and whoever goes on knocking gets in.
func TestLostKnocks(t *testing.T) {
	var lose atomic.Int32 // which of the next knocks
	r := rand.New(rand.NewPCG(7, 7))
	w, d := relayWorld(t, relayDoors, func(packet []byte, deliver func([]byte)) {
		if packet[0]>>4 != 4 || packet[ipv4OffProto] == uint8(udp) && binary.BigEndian.Uint16(packet[20+portOffDestination:]) == 6000 {
			deliver(packet)
			return
		}
		if n := lose.Add(-1); n != 0 && (n > -1000 || r.IntN(3) > 0) {
			deliver(packet)
		}
	})
	ends, want := 0, map[string]int{}
	for door, sequence := range relaySequences {
		for n := range sequence {
			lose.Store(int32(n + 1))
			ends++
			d.knockOver(door, 5, ends)
			if got := strings.Count(d.logged(), door+": OPEN SESAME"); got != want[door] {
				w.Errorf("%s: opened without knock %d", door, n+1)
			}
			want[door]++
			ends++
			d.knockOver(door, 5, ends)
			w.eventually("the opening by knocking again", func() bool { return strings.Count(d.logged(), door+": OPEN SESAME") == want[door] })
		}
		lose.Store(-1000)
		w.eventually("an opening of "+door+" in spite of losses", func() bool {
			w.knock(0, append([]string{"-d5", relayAddr}, sequence...)...)
			return strings.Count(d.logged(), door+": OPEN SESAME") > want[door]
		})
		lose.Store(-1)
	}
	d.stop()
}

// TestRetransmittedSYNs knocks by nc at a host that drops everything: the SYNs that nc's kernel sends again, after a
// second, come between the knocks.
func TestRetransmittedSYNs(t *testing.T) {
	w := newWorld(t, 1)
	for _, port := range []string{"7000", "8000", "9000"} {
		w.must(w.host.run("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", port, "-j", "DROP"))
	}
	again := func(times int) bool {
		out, err := w.host.output("iptables", "-w", "-vnxL", "INPUT")
		w.must(err)
		n := 0
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); strings.Contains(line, "dpt:") && f[0] == "2" {
				n++
			}
		}
		return n == times
	}
	d := w.serve("[a]\n sequence = 7000,8000,9000\n command = true\n")
	w.from(0, "nc -w 2 10.9.0.1 7000 & sleep 0.1; nc -w 2 10.9.0.1 8000 & sleep 0.1; true")
	w.eventually("both SYNs once more", func() bool { return again(2) })
	if strings.Contains(d.logged(), "Stage 3") {
		t.Error("the third knock has not been sent, and it is at stage 3")
	}
	w.from(0, "nc -w 1 10.9.0.1 9000; true")
	d.await("10.9.0.2: a: OPEN SESAME")
	d.stop()
}

// TestBusyServiceNearKnock has services listen right beside knocks: their clients are not taken for scanners, and after
// the first packet the kernel's filter keeps theirs back.
func TestBusyServiceNearKnock(t *testing.T) {
	w := newWorld(t, 2)
	socket := t.TempDir() + "/control"
	d := w.serve("[a]\n sequence = 7000,8000:udp,9000\n command = true\n", "-s", socket)
	w.listen("7010")
	w.must(w.host.do(func() error {
		conn, err := net.ListenPacket("udp", ":8010")
		if err == nil {
			w.Cleanup(func() { _ = conn.Close() })
		}
		return err
	}))
	x := w.wire(0)
	datagram := fromClient4.with(func(p *testPacket) { p.knock, p.data = Knock{8010, udp}, 1000 }).bytes()
	last := fromClient4.with(func(p *testPacket) { p.from, p.knock = "10.9.0.9", Knock{7000, tcp} }).bytes()
	// read has the daemon read all that was sent, and is how many packets it has read: a knock comes last.
	read := func() int {
		_, before := w.counters(socket)
		x.send(last)
		var packets, hits int
		w.eventually("the daemon's reading", func() bool {
			packets, hits = w.counters(socket)
			return hits > before
		})
		return packets
	}
	w.eventually("a filter without the services", func() bool {
		before := read()
		w.wantPort(0, hostAddr+":7010", reached)
		x.send(datagram)
		return read() == before+1
	})
	before := read()
	for range 20000 {
		x.send(datagram)
	}
	for range 50 {
		w.wantPort(0, hostAddr+":7010", reached)
	}
	w.must(w.clients[0].do(func() error {
		conn, err := net.Dial("tcp", hostAddr+":7010")
		if err != nil {
			return err
		}
		defer conn.Close()
		go func() {
			_, _ = conn.Write(make([]byte, 10<<20))
		}()
		_, err = io.CopyN(io.Discard, conn, 10<<20)
		return err
	}))
	if n := read() - before - 1; n > 10 {
		t.Errorf("%d packets of the services passed the filter, want none", n)
	}
	w.knock(0, "-d20", hostAddr, "7000", "8000:udp", "9000")
	d.await("10.9.0.2: a: OPEN SESAME")
	if strings.Contains(d.logged(), "barred") {
		t.Error("a client of the services was barred")
	}
	w.knock(1, hostAddr, "7011", "7012")
	d.await("10.9.0.3: a: barred for ")
	d.stop()
}

// TestBarOnTheWire mistypes two knocks: the log, the status and close say so and lift it. A port typed wrong once more is
// none, and an IPv6 /64 of which eight addresses have scanned is barred, and lifted for one of its addresses.
func TestBarOnTheWire(t *testing.T) {
	w := newWorld(t, 2)
	socket := t.TempDir() + "/control"
	d := w.serve("[ssh]\n sequence = 7000,8000,9000\n seq_timeout = 300\n command = true\n", "-s", socket)
	ask := func(args ...string) string {
		out, _ := w.onHost(append(args, "-s", socket)...)
		return out
	}
	knocks := func(i int, host string) {
		w.Helper()
		w.knock(i, "-d5", host, "7000", "8000", "9000")
	}
	w.knock(0, "-d5", hostAddr, "7000", "8008", "9000", "7000", "8008", "9000")
	knocks(0, hostAddr)
	d.await("10.9.0.2: ssh: OPEN SESAME")
	w.knock(0, "-d5", hostAddr, "7000", "8000", "9009")
	const barredLine = "10.9.0.2: ssh: barred for 5m0s: it has hit ports near the knocks\n"
	d.await(barredLine)
	for range 2 {
		knocks(0, hostAddr)
	}
	w.eventually("the last knock", func() bool { return strings.Count(d.logged(), "10.9.0.2: ssh: Stage 2\n") >= 4 })
	const refusedLine = "10.9.0.2: ssh: not opened: it is barred: sesame close \"ssh\" 10.9.0.2 lifts the bar\n"
	d.await(refusedLine)
	knocks(1, hostAddr)
	d.await("10.9.0.3: ssh: OPEN SESAME")
	if n := strings.Count(d.logged(), barredLine); n != 1 {
		t.Errorf("the bar was logged %d times, want once", n)
	}
	if n := strings.Count(d.logged(), refusedLine); n != 1 {
		t.Errorf("a sequence that opens nothing was logged %d times, want once", n)
	}
	// A scan in order hits the port 32 below a knock: the log must not tell which that was.
	if strings.Contains(d.logged(), "9009") {
		t.Error("the log names the port that was hit")
	}
	if got := ask("status"); !strings.Contains(got, "\nbarred, as ports near the knocks were hit:\nssh  10.9.0.2  9009:tcp  ends in 2") ||
		!strings.Contains(got, "\nsequences that have opened nothing, the latest last:\nssh  10.9.0.2  ") {
		t.Errorf("status: got %s", got)
	}
	if got := ask("status", "--json"); !strings.Contains(got, `"bars":[{"door":"ssh","source":"10.9.0.2","link":"","port":"9009:tcp","ends_in_seconds":2`) {
		t.Errorf("status --json: got %s", got)
	}
	for _, tt := range []struct{ args, want string }{
		{"ssh 10.9.0.3", "sesame close: door \"ssh\" is not open for 10.9.0.3: sesame status shows which are\n"},
		{"nosuch 10.9.0.2", "sesame close: door \"nosuch\" is not open for 10.9.0.2: sesame status shows which are\n"},
		{"--all", "no door is open\n"},
		{"ssh 10.9.0.2", "lifted 1 bar\n"},
		{"--all 10.9.0.2", "no door is open\n"},
	} {
		if got := ask(append([]string{"close"}, strings.Fields(tt.args)...)...); got != tt.want {
			t.Errorf("close %s: got %q, want %q", tt.args, got, tt.want)
		}
	}
	d.await("10.9.0.2: ssh: bar lifted by hand\n")
	opened := len(d.opened("10.9.0.2"))
	knocks(0, hostAddr)
	w.eventually("the opening once the bar is lifted", func() bool { return len(d.opened("10.9.0.2")) > opened })

	x, p := w.wire(0), fromClient6
	for i := range 8 {
		for _, port := range []uint16{7001, 7002} {
			p.from, p.knock = fmt.Sprintf("fd00:9::5:%d", i), Knock{port, tcp}
			x.send(p.bytes())
		}
	}
	d.await("fd00:9::/64: ssh: barred for 5m0s: it has hit ports near the knocks\n")
	knocks(1, hostAddr6)
	d.await("fd00:9::3: ssh: not opened: it is barred: ")
	if got := ask("status"); strings.Count(got, "7002:tcp  ends in 2") != 9 || !strings.Contains(got, "\nssh  fd00:9::/64  7002:tcp  ") {
		t.Errorf("status: got %s", got)
	}
	if got, want := ask("close", "ssh", "fd00:9::3"), "lifted 1 bar\n"; got != want {
		t.Errorf("close for an address of the /64: got %q, want %q", got, want)
	}
	knocks(1, hostAddr6)
	d.await("fd00:9::3: ssh: OPEN SESAME")
	d.stop()
}

// TestFloodWhileAllChanges floods knocks and decoys for a second, while somebody knocks, the configuration is read anew,
// and links and addresses come and go. make race looks for data races then.
func TestFloodWhileAllChanges(t *testing.T) {
	w := newWorld(t, 2)
	door := func(seconds int) string {
		return sshDoor("ssh", "7000,8000,9000", seconds) + "[udp]\n sequence = 7000:udp,8000:udp\n command = true\n" +
			"[quiet]\n sequence = 7500:udp,8500:udp\n command = true\n"
	}
	socket := t.TempDir() + "/control"
	d := w.serveOn("any", door(1), "-s", socket)
	x := w.wire(0)
	done, flooded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flooded)
		r := rand.New(rand.NewPCG(1, 1))
		ports := []uint16{7000, 7000, 8000, 9000, 7001, 8031}
		p := fromClient4
		packets := [][]byte{}
		for _, p.knock.Proto = range []Protocol{tcp, udp} {
			for _, p.knock.Port = range ports {
				packets = append(packets, p.bytes())
			}
		}
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			b := packets[r.IntN(len(packets))]
			binary.BigEndian.PutUint32(b[ipv4OffSource:], 0x0b000000+r.Uint32()%100000)
			x.send(b)
		}
	}()
	for i, began := 0, time.Now(); time.Since(began) < time.Second; i++ {
		d.write(door(1 + i%3))
		d.signal(unix.SIGHUP)
		w.must(w.host.run("sh", "-ec", "ip link add d0 type veth peer name d1; ip link set d0 up; ip address add 10.8.0.1/24 dev d0; ip link del d0"))
		w.knock(1, "-d5", hostAddr, "7000", "8000", "9000")
		w.counted(socket)
	}
	close(done)
	<-flooded
	before := len(d.opened("10.9.0.3"))
	w.eventually("an opening after the flood", func() bool {
		w.knock(1, "-d5", hostAddr, "7500:udp", "8500:udp")
		return slices.Contains(d.opened("10.9.0.3")[before:], "quiet")
	})
	d.stop()
}

// captured returns n packets that reach the host's eth0 for its addresses, TCP or UDP, while send runs.
func (w *world) captured(n int, send func()) (packets [][]byte) {
	w.Helper()
	fd := -1
	w.must(w.host.do(func() (err error) {
		// packet(7): the protocol is in network byte order.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(binary.BigEndian.Uint16([]byte{unix.ETH_P_ALL & 0xff, 0})))
		return err
	}))
	defer func() { _ = unix.Close(fd) }()
	w.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	send()
	for len(packets) < n {
		b := make([]byte, 2048)
		size, from, err := unix.Recvfrom(fd, b, 0)
		w.must(err)
		var hit Hit
		if link := from.(*unix.SockaddrLinklayer); link.Pkttype == unix.PACKET_HOST && parsePacket(b[:size], size, &hit) == nil {
			packets = append(packets, b[:size:size])
		}
	}
	return packets
}

// TestCapturedPackets captures knocks of both clients over both families, and gives them to filter and reader with each
// byte changed in all ways: only what is still a TCP or UDP packet to the same address and port is a knock.
func TestCapturedPackets(t *testing.T) {
	w := newWorld(t, 1)
	packets := w.captured(8, func() {
		for _, address := range []string{hostAddr, hostAddr6} {
			w.knock(0, address, "7000", "7000:udp")
			w.from(0, "knock "+address+" 7000 7000:udp")
		}
	})
	var log strings.Builder
	grants := make(chan Grant, 10)
	r := newTestReader(&log, grants)
	r.log.out = io.Discard
	for _, address := range []string{hostAddr, hostAddr6} {
		r.plan.addresses[netip.MustParseAddr(address).As16()] = true
		r.plan.spec.Addresses = append(r.plan.spec.Addresses, netip.MustParseAddr(address))
	}
	prog, err := buildFilter(r.plan.spec, maxFilterLen)
	w.must(err)
	vm, err := bpf.NewVM(prog)
	w.must(err)
	opens := func(b []byte) bool {
		r.batchTime += 2 * copyTime // a copy would not count
		n, err := vm.Run(b)
		f := Frame{Protocol: unix.ETH_P_IP, Link: 1, Len: len(b)}
		if b[0]>>4 == 6 {
			f.Protocol = unix.ETH_P_IPV6
		}
		opened := false
		for _, f.Bytes = range [][]byte{b[:min(n, len(b)):min(n, len(b))], b} { // what the kernel shows of it, and all
			r.receive(&f)
			if len(grants) > 0 {
				<-grants
				opened = true
				if len(f.Bytes) < min(n, len(b)) || n == 0 || err != nil {
					t.Errorf("the filter keeps %x back, and it is a knock", b)
				}
			}
		}
		return opened
	}
	for _, b := range packets {
		must := map[int]bool{0: true} // what may not be changed
		span := func(from, to int) {
			for i := from; i < to; i++ {
				must[i] = true
			}
		}
		transport := ipv4MinLen
		if b[0]>>4 == 4 {
			span(ipv4OffProto, ipv4OffProto+1)
			span(ipv4OffDestination, ipv4MinLen)
		} else {
			transport = ipv6Len
			span(ipv6OffNextHeader, ipv6OffNextHeader+1)
			span(ipv6OffDestination, ipv6Len)
		}
		span(transport+portOffDestination, transport+portOffDestination+2)
		if !opens(b) {
			t.Fatalf("%x does not open", b)
		}
		still := 0
		for i := range b {
			for x := 1; x < 256; x++ {
				changed := slices.Clone(b)
				changed[i] ^= uint8(x)
				if !opens(changed) {
					continue
				}
				still++
				if must[i] && (i > 0 || b[0]>>4 != 6 || changed[0]>>4 != 6) { // the traffic class may change
					t.Errorf("%x with byte %d changed to %#x opens", b, i, changed[i])
				}
			}
		}
		if still < 2000 { // of the source, TTL, checksums and so on
			t.Errorf("%x: got %d changed ones that open, want more: the test shows little", b, still)
		}
		for n := range b {
			opens(b[:max(n, 1)])
		}
	}
}
