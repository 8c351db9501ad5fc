//go:build linux && bench

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// probeEvery is the pause between the SYNs to the hidden port after the last knock, and between the knocks to a new
	// address.
	probeEvery = 200 * time.Microsecond
	// benchSmoke is how many knocks each contestant has in a small run, and benchSmokeOpen how many sources are in
	// beforehand at the full ones. SESAME_BENCH_N is the number of knocks of a real one, which make bench does.
	benchSmoke     = 2
	benchSmokeOpen = 20
	benchOpen      = 999
	// benchMoves is how many changes of the address are measured, and benchNever how long knocks to the new one go on
	// before knockd's answer is taken for never. A small run has benchSmoke of them, and benchSmokeNever.
	// benchPatience is how long a knock that must be recognised may take.
	benchMoves      = 50
	benchNever      = 5 * time.Second
	benchSmokeNever = 500 * time.Millisecond
	benchPatience   = 10 * time.Second
)

const (
	// The article's second configuration.
	articleDoor = `[ssh]
	sequence      = 1941,1942,1945
	seq_timeout   = 5
	start_command = /usr/sbin/iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; /usr/sbin/iptables -I INPUT -s %IP% -p tcp --dport 3389 -j ACCEPT
	cmd_timeout   = 500
	tcpflags      = syn
	stop_command  = /usr/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; /usr/sbin/iptables -D INPUT -s %IP% -p tcp --dport 3389 -j ACCEPT
`
	benchNativeDoor = `[ssh]
	sequence    = 1941,1942,1945
	seq_timeout = 5
	open_ports  = 22, 3389
	cmd_timeout = 500
	tcpflags    = syn
	hide        = yes
`
	// The first knock has a line in the log, and nothing runs. At sesame, more of the same from one source have none.
	benchMoveDoor = `[door]
	sequence    = 2000:udp,2001:udp
	seq_timeout = 60
	tcpflags    = syn
`
)

// contestant is a host of its own with a daemon, behind the article's rules. All hosts are on one bridge with the client.
type contestant struct {
	name     string
	config   string
	knockd   bool   // Debian's, not ours
	tool     string // with which the host's own rules are made
	firewall string // Firewall of the configuration
	full     bool   // many sources are in already
	beside   int    // the contestant that this one's median is divided by

	*world
	address netip.Addr
	mac     net.HardwareAddr
	daemon  *running
	socket  string
	took    []time.Duration
}

func contestants() []*contestant {
	return []*contestant{
		{name: "knockd, the article's commands", config: articleDoor, knockd: true, tool: "iptables"},
		{name: "sesame, the article's commands", config: articleDoor, tool: "iptables", firewall: "iptables"},
		{name: "sesame, native, iptables", config: benchNativeDoor, tool: "iptables", firewall: "iptables"},
		{name: "sesame, native, iptables-legacy", config: benchNativeDoor, tool: "iptables-legacy", firewall: "iptables"},
		{name: "sesame, native, nft", config: benchNativeDoor, tool: "iptables", firewall: "nft"},
		{name: "the same, iptables, 1,000th source", config: benchNativeDoor, tool: "iptables", firewall: "iptables", full: true, beside: 2},
		{name: "the same, iptables-legacy, 1,000th source", config: benchNativeDoor, tool: "iptables-legacy", firewall: "iptables", full: true, beside: 3},
		{name: "the same, nft, 1,000th source", config: benchNativeDoor, tool: "iptables", firewall: "nft", full: true, beside: 4},
	}
}

// TestBench measures the time from a knock to the open port, for each contestant in turn, so that whatever else the
// machine does hits all alike. A small run (make bench BENCH_N=) wants no figure to be below another.
func TestBench(t *testing.T) {
	n, open := int(envNumber(t, "SESAME_BENCH_N", benchSmoke)), benchSmokeOpen
	full := os.Getenv("SESAME_BENCH_N") != ""
	if full {
		open = benchOpen
	}
	all := contestants()
	w := newWorld(t, len(all))
	b := newBencher(w)
	for i, c := range all {
		c.start(t, w, i)
		if c.full {
			c.fill(b, open)
		}
	}
	for i := range n + 1 {
		for j := range all {
			c := all[(i+j)%len(all)]
			source := netip.AddrFrom4([4]byte{10, 9, 1 + byte(i/250), 1 + byte(i%250)})
			took := b.knock(c, source)
			c.clean(source)
			if i > 0 { // the first one finds nothing in any cache
				c.took = append(c.took, took)
			}
		}
	}
	table := benchTable(all)
	if full {
		fmt.Print(table)
	} else {
		t.Logf("a small run, of no meaning:\n%s", table)
	}
	for _, c := range all {
		if len(c.took) != n || !strings.Contains(table, c.name) {
			t.Errorf("%s: got %d knocks, want %d, and a line in the table", c.name, len(c.took), n)
		}
	}
}

// TestBenchAddress measures the time from a change of the host's address to the first knock recognised on the new one.
func TestBenchAddress(t *testing.T) {
	n, never := benchSmoke, benchSmokeNever
	full := os.Getenv("SESAME_BENCH_N") != ""
	if full {
		n, never = benchMoves, benchNever
	}
	all := []*contestant{
		{name: "knockd", config: benchMoveDoor, knockd: true},
		{name: "sesame", config: benchMoveDoor},
	}
	w := newWorld(t, len(all))
	b := newBencher(w)
	for i, c := range all {
		c.join(t, w, i)
		c.run(t)
		b.moves(c, n, never)
	}
	table := moveTable(all, n, never)
	if full {
		fmt.Print("\n", table)
	} else {
		t.Logf("a small run, of no meaning:\n%s", table)
	}
	if got := len(all[0].took); got != 0 {
		t.Errorf("knockd: got %d knocks on a new address, want none", got)
	}
	if got := len(all[1].took); got != n {
		t.Errorf("sesame: got %d knocks on a new address, want %d", got, n)
	}
}

// moves gives the contestant's host one new address after the other, n and one for the caches, and measures. It ends
// with the first one that is never heard: who does not hear that one hears the old one still.
func (b *bencher) moves(c *contestant, n int, never time.Duration) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	source := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 1, byte(i)}) }
	if !b.recognised(c, source(0), benchPatience) {
		b.Fatalf("%s: a knock before any change is not recognised", c.name)
	}
	patience := benchPatience
	if c.knockd {
		patience = never
	}
	for i := range n + 1 {
		time.Sleep(50*time.Millisecond + rand.N(20*time.Millisecond))
		old := c.address
		began := c.move(netip.AddrFrom4([4]byte{10, 9, 0, byte(100 + i)}))
		heard := b.recognised(c, source(i+1), patience)
		took := time.Since(began)
		if !heard {
			c.address = old
			if !b.recognised(c, source(n+2), benchPatience) {
				b.Errorf("%s: a knock is recognised neither on the new address nor on the old one", c.name)
			}
			return
		}
		if i > 0 {
			c.took = append(c.took, took)
		}
	}
}

// recognised knocks until the contestant's log says that a knock from the source has counted.
func (b *bencher) recognised(c *contestant, source netip.Addr, patience time.Duration) bool {
	b.Helper()
	pause := unix.NsecToTimespec(probeEvery.Nanoseconds())
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		b.send(c, source, Knock{2000, udp})
		_ = unix.Nanosleep(&pause, nil)
		if strings.Contains(c.daemon.logged(), source.String()+": door: Stage 1") {
			return true
		}
	}
	return false
}

// move takes the host's address away and gives it another one a little later, as a redial does. began is when the
// kernel is asked for the new one.
func (c *contestant) move(to netip.Addr) (began time.Time) {
	c.Helper()
	c.must(c.host.do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := changeAddress(fd, unix.RTM_DELADDR, 0, link.Index, c.address); err != nil {
			return fmt.Errorf("removing %v: %w", c.address, err)
		}
		// Shorter and longer than linksPause: the new one may come while the daemon waits for more news after the first.
		time.Sleep(rand.N(2 * linksPause))
		began = time.Now()
		if err := changeAddress(fd, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, link.Index, to); err != nil {
			return fmt.Errorf("adding %v: %w", to, err)
		}
		return nil
	}))
	c.address = to
	return began
}

// changeAddress has the kernel add or remove an IPv4 address of a /24, and waits for its word that it is done.
func changeAddress(fd, kind, flags, link int, addr netip.Addr) error {
	// struct ifaddrmsg (rtnetlink(7)): family, prefix length, flags, scope, index (32 bits); then the attribute.
	body := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, 24, 0, unix.RT_SCOPE_UNIVERSE}, uint32(link))
	body = binary.NativeEndian.AppendUint16(body, unix.SizeofRtAttr+4)
	body = binary.NativeEndian.AppendUint16(body, unix.IFA_LOCAL)
	request := netlinkMessage(kind, 0, string(append(body, addr.AsSlice()...)))
	binary.NativeEndian.PutUint16(request[6:], uint16(unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags))
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return err
	}
	_, err = takeAnswers(answer[:n], 0, 0, nil)
	return err
}

// bencher is the client: it sends packets of its own making, and sees what comes back.
type bencher struct {
	*world
	mac      net.HardwareAddr
	link     int
	out, in  int // packet sockets
	fromPort uint16
}

func newBencher(w *world) *bencher {
	w.Helper()
	b := &bencher{world: w, fromPort: 20000}
	// Sources are all of these addresses. The client's kernel answers a SYN-ACK that it does not expect with an RST.
	w.must(w.host.run("ip", "route", "add", "local", "10.9.0.0/18", "dev", "lo"))
	w.must(w.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/eth0/rp_filter"))
	w.must(w.host.do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		b.mac, b.link = link.HardwareAddr, link.Index
		if b.out, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		b.in, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(networkOrder(unix.ETH_P_IP)))
		return err
	}))
	w.Cleanup(func() {
		_ = unix.Close(b.in)
		_ = unix.Close(b.out)
	})
	return b
}

// send sends a packet to the contestant's host. Each is another connection's.
func (b *bencher) send(c *contestant, source netip.Addr, k Knock) {
	if b.fromPort++; b.fromPort > 60000 {
		b.fromPort = 20000
	}
	p := testPacket{from: source.String(), to: c.address.String(), fromPort: b.fromPort, knock: k, flags: flagSYN, seq: rand.Uint32()}
	frame := slices.Concat(c.mac, b.mac, []byte{0x08, 0x00}, withChecksums(p.bytes()))
	if err := unix.Sendto(b.out, frame, 0, &unix.SockaddrLinklayer{Ifindex: b.link}); err != nil {
		b.Fatal(err)
	}
}

// withChecksums puts the checksums into an IPv4 packet without options. Those who only look at packets do not need them,
// and the kernel that is to answer does.
func withChecksums(p []byte) []byte {
	const ipv4OffChecksum, tcpOffChecksum = 10, 16
	sum := func(parts ...[]byte) (total uint16) {
		s := uint32(0)
		for _, part := range parts {
			for i := 0; i < len(part); i += 2 { // all of an even length
				s += uint32(binary.BigEndian.Uint16(part[i:]))
			}
		}
		for s > 0xffff {
			s = s>>16 + s&0xffff
		}
		return ^uint16(s)
	}
	header, rest := p[:ipv4MinLen], p[ipv4MinLen:]
	binary.BigEndian.PutUint16(header[ipv4OffChecksum:], sum(header))
	if header[ipv4OffProto] == byte(tcp) {
		pseudo := []byte{0, byte(tcp), 0, byte(len(rest))} // RFC 9293, section 3.1
		binary.BigEndian.PutUint16(rest[tcpOffChecksum:], sum(header[ipv4OffSource:], pseudo, rest))
	}
	return p
}

// answered waits for a SYN-ACK from the contestant's port 22 to the source.
func (b *bencher) answered(c *contestant, source netip.Addr, patience time.Duration) bool {
	deadline := time.Now().Add(patience)
	packet := make([]byte, 128)
	for {
		for {
			n, _, err := unix.Recvfrom(b.in, packet, 0)
			if err != nil {
				break
			}
			p := packet[:n]
			if n >= ipv4MinLen+tcpMinLen && p[ipv4OffProto] == byte(tcp) && bytes.Equal(p[ipv4OffSource:][:4], c.address.AsSlice()) &&
				bytes.Equal(p[ipv4OffDestination:][:4], source.AsSlice()) && binary.BigEndian.Uint16(p[ipv4MinLen+portOffSource:]) == 22 &&
				p[ipv4MinLen+tcpOffFlags] == flagSYN|flagACK {
				return true
			}
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		timeout := unix.NsecToTimespec(left.Nanoseconds())
		_, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(b.in), Events: unix.POLLIN}}, &timeout, nil)
	}
}

// knock knocks from the source, and tells how long it takes from the last knock until port 22 answers.
func (b *bencher) knock(c *contestant, source netip.Addr) time.Duration {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	hidden := Knock{22, tcp}
	b.send(c, source, hidden)
	if b.answered(c, source, 5*time.Millisecond) {
		b.Fatalf("%s: port 22 is open to %v before it knocks", c.name, source)
	}
	b.send(c, source, Knock{1941, tcp})
	b.send(c, source, Knock{1942, tcp})
	// Never the same pause: nobody's timers shall keep step with it.
	time.Sleep(20*time.Millisecond + rand.N(20*time.Millisecond))
	began := time.Now()
	b.send(c, source, Knock{1945, tcp})
	for {
		b.send(c, source, hidden)
		if b.answered(c, source, probeEvery) {
			return time.Since(began)
		}
		if time.Since(began) > 10*time.Second {
			b.Fatalf("%s: port 22 does not open to %v", c.name, source)
		}
	}
}

// start makes the host and its daemon. Its place among the others gives it its address.
func (c *contestant) start(t *testing.T, w *world, place int) {
	c.join(t, w, place)
	c.must(c.host.run("ip", "route", "add", "10.9.0.0/18", "via", hostAddr))
	c.listen("22")
	for _, port := range []string{"22", "3389"} {
		c.must(c.host.run(c.tool, "-A", "INPUT", "-i", "eth0", "-p", "tcp", "-m", "tcp", "--dport", port, "-j", "DROP"))
	}
	c.run(t)
}

// join makes one of the world's clients the host.
func (c *contestant) join(t *testing.T, w *world, place int) {
	c.world = &world{T: t, host: w.clients[place]}
	c.address = netip.AddrFrom4([4]byte{10, 9, 0, byte(place + 2)})
	c.must(c.host.do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			c.mac = link.HardwareAddr
		}
		return err
	}))
}

// run starts the daemon, and waits until it listens.
func (c *contestant) run(t *testing.T) {
	dir := t.TempDir()
	file, log := filepath.Join(dir, "knockd.conf"), filepath.Join(dir, "log")
	config := "[options]\n\tlogfile = " + log + "\n"
	if !c.knockd {
		config += "\tStateDir = " + dir + "/state\n"
	}
	if c.firewall != "" {
		config += "\tFirewall = " + c.firewall + "\n"
	}
	config += c.config
	for i := range 4 {
		if c.full {
			config += fmt.Sprintf("[full%d]\n\tsequence = %d:udp\n\topen_ports = 22, 3389\n\tcmd_timeout = 5000\n\thide = yes\n", i, 2000+i)
		}
	}
	c.must(os.WriteFile(file, []byte(config), 0o600))
	cmd := exec.Command("/usr/sbin/knockd", "-i", "eth0", "-c", file)
	if !c.knockd {
		c.socket = dir + "/control"
		cmd = c.program("serve", "-c", file, "-i", "eth0", "-s", c.socket)
	}
	c.daemon = c.world.daemon(cmd, file, log)
	if c.knockd {
		t.Cleanup(c.endChildren)
	}
	c.daemon.await("listening on eth0")
}

// program is ours, as it is released if make bench runs this.
func (c *contestant) program(args ...string) *exec.Cmd {
	if path := os.Getenv("SESAME_BENCH_PROGRAM"); path != "" {
		return exec.Command(path, args...)
	}
	return sesame("sesame", args...)
}

// fill lets sources in, at several doors, as one has room for no more than maxOpenings.
func (c *contestant) fill(b *bencher, sources int) {
	for i := 0; i < sources; {
		for range min(50, sources-i) {
			b.send(c, netip.AddrFrom4([4]byte{10, 9, 32 + byte(i/250), 1 + byte(i%250)}), Knock{2000 + uint16(i/250), udp})
			i++
		}
		c.eventually(fmt.Sprint(i, " openings"), func() bool { return strings.Count(c.daemon.logged(), ": open for ") == i })
	}
}

// clean closes the door again, and waits until all is quiet.
func (c *contestant) clean(source netip.Addr) {
	c.Helper()
	if c.knockd {
		// The stop command's work. What it would do itself lies in a process that sleeps until then.
		rule := func(command, port string) error {
			return c.host.run("iptables", command, "INPUT", "-s", source.String(), "-p", "tcp", "--dport", port, "-j", "ACCEPT")
		}
		c.eventually("the second rule of "+c.name, func() bool { return rule("-C", "3389") == nil })
		time.Sleep(10 * time.Millisecond)
		c.endChildren()
		c.must(rule("-D", "22"))
		c.must(rule("-D", "3389"))
	} else {
		took := func() int { return strings.Count(c.daemon.logged(), "command took") }
		opened, closed := source.String()+": ssh: open for", source.String()+": ssh: closed\n"
		commands := took() / 2 * 2
		c.eventually("the end of opening "+c.name, func() bool {
			return strings.Contains(c.daemon.logged(), opened) || took() == commands+1
		})
		time.Sleep(10 * time.Millisecond)
		cmd := c.program("close", "-s", c.socket, "ssh", source.String())
		c.must(c.host.start(cmd))
		c.must(cmd.Wait())
		c.eventually("the closing of "+c.name, func() bool {
			return strings.Contains(c.daemon.logged(), closed) || took() == commands+2
		})
	}
	time.Sleep(20 * time.Millisecond)
}

// endChildren ends the processes that sleep until the time has come for a stop command of knockd's.
func (c *contestant) endChildren() {
	parent := strconv.Itoa(c.daemon.cmd.Process.Pid)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range processes {
		stat, _ := os.ReadFile(name + "/stat")
		// proc_pid_stat(5): the state and the parent follow the name, which ends at the last parenthesis.
		words := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if child, err := strconv.Atoi(filepath.Base(name)); err == nil && len(words) > 1 && words[1] == parent {
			_ = unix.Kill(child, unix.SIGKILL)
		}
	}
}

// benchTable is what was measured.
func benchTable(all []*contestant) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\nKnock to open port, %d knocks each\n\n", measuredOn(), len(all[0].took))
	fmt.Fprintf(&s, "%-42s %9s %9s  %s\n", "", "p50", "p95", "ratio of the p50")
	for _, c := range all {
		beside := all[c.beside]
		to := "knockd's"
		if c.full {
			to = "the first source's"
		}
		fmt.Fprintf(&s, "%-42s %9s %9s  %.2f of %s\n", c.name, milliseconds(quantile(c.took, 50)), milliseconds(quantile(c.took, 95)),
			float64(quantile(c.took, 50))/float64(quantile(beside.took, 50)), to)
	}
	return s.String()
}

// moveTable is what was measured of changes of the address.
func moveTable(all []*contestant, n int, never time.Duration) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\nAddress change to first knock recognised, %d changes\n\n", measuredOn(), n)
	fmt.Fprintf(&s, "%-42s %9s %9s\n", "", "p50", "maximum")
	for _, c := range all {
		if len(c.took) == 0 {
			fmt.Fprintf(&s, "%-42s %9s %9s  not within %v\n", c.name, "never", "never", never)
			continue
		}
		fmt.Fprintf(&s, "%-42s %9s %9s\n", c.name, milliseconds(quantile(c.took, 50)), milliseconds(quantile(c.took, 100)))
	}
	return s.String()
}

// quantile is the value that the given percentage of them do not exceed.
func quantile(of []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }
