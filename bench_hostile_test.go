//go:build linux && bench

package main

import (
	"encoding/binary"
	"errors"
	"flag"
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
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// hostileSize is how much is measured: what the names say, or little with BENCH_N=.
type hostileSize struct {
	flood    time.Duration // how long each flood lasts at least
	knocks   int           // real ones during each flood
	runs     int           // of unrelated traffic, each over all lanes in turn
	batches  int           // of a run
	starts   int
	doors    []int // of the daemons that are started
	measured int   // the most doors of a knockd for which the kernel takes the filter
	goTime   string
}

var (
	hostileFull  = hostileSize{6 * time.Second, 20, 21, 300, 5, []int{1, 100, 400, 1000}, 200, "300ms"}
	hostileSmoke = hostileSize{100 * time.Millisecond, 2, 1, 3, 1, []int{1, 100}, 1, "1x"}
)

const (
	floodSources = 60000
	floodDoor    = "[ssh]\n\tsequence = 7000,8000,9000\n\tseq_timeout = 10\n\ttcpflags = syn\n"
	// floodPause is between a client's knocks, and floodGap from one sequence to the next.
	floodPause = 10 * time.Millisecond
	floodGap   = 200 * time.Millisecond
	// batch is how many packets a system call sends.
	batch = 64
	// startPatience is how long a daemon has until it listens.
	startPatience = 20 * time.Second
	// unrelatedPort is no door's knock.
	unrelatedPort = 443
)

// hostile is one run: who sends and who listens have a processor each, as far as there are two.
type hostile struct {
	*world
	hostileSize
	full               bool
	senderCPU, hostCPU int
}

// TestBenchHostile measures what a hostile network costs, of knockd and of ours in one run. A small run
// (make bench BENCH_N=) wants no figure to be below another.
func TestBenchHostile(t *testing.T) {
	needRoot(t)
	t.Parallel()
	h := hostile{hostileSize: hostileSmoke, full: os.Getenv("SESAME_BENCH_N") != "", senderCPU: -1}
	if h.full {
		h.hostileSize = hostileFull
		fmt.Printf("\n%s\n", measuredOn())
		h.goFirst(t)
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for cpu := range 1024 {
		if set.IsSet(cpu) {
			if h.senderCPU < 0 {
				h.senderCPU = cpu
			}
			h.hostCPU = cpu
		}
	}
	for _, part := range []struct {
		name    string
		measure func(h *hostile, table *strings.Builder)
	}{{"floods", (*hostile).floods}, {"unrelated", (*hostile).unrelated}, {"hiding", (*hostile).hiding}, {"start", (*hostile).startUps},
		{"idle", (*hostile).idle}, {"Go", (*hostile).goBenchmarks}} {
		t.Run(part.name, func(t *testing.T) {
			h := h
			h.world = &world{T: t}
			var table strings.Builder
			part.measure(&h, &table)
			if h.full {
				fmt.Print(table.String())
			} else {
				t.Logf("a small run, of no meaning:\n%s", table.String())
			}
		})
	}
}

// goFirst lets this session's processes go before those of others, where the kernel shares processors out by session
// (sched(7), autogroup): nice values count only within one.
func (h *hostile) goFirst(t *testing.T) {
	const file = "/proc/self/autogroup"
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	_, before, _ := strings.Cut(strings.TrimSpace(string(text)), "nice ")
	if err := os.WriteFile(file, []byte("-20"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(file, []byte(before), 0) })
}

// pinned runs fn on a thread of its own that stays on that processor, in the namespace. In a full run it goes before
// what else the machine does. Processes that fn starts are the same.
func (h *hostile) pinned(n *Netns, cpu int, fn func() error) error {
	return n.do(func() error {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("staying on processor %d: %w", cpu, err)
		}
		if h.full {
			if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
				return fmt.Errorf("asking for priority: %w", err)
			}
		}
		return fn()
	})
}

// lane is a sender's network and a host's, with a wire between them that nobody else is on.
type lane struct {
	sender, host       *Netns
	senderMAC, hostMAC net.HardwareAddr
}

// lane makes one. The sender has an address for each knock of a client.
func (h *hostile) lane() *lane {
	h.Helper()
	l := &lane{sender: h.netns(), host: h.netns()}
	h.must(l.sender.link("eth0", l.host, "eth0"))
	mac := func(n *Netns) (mac net.HardwareAddr) {
		h.must(n.do(func() error {
			link, err := net.InterfaceByName("eth0")
			if err == nil {
				mac = link.HardwareAddr
			}
			return err
		}))
		return mac
	}
	l.senderMAC, l.hostMAC = mac(l.sender), mac(l.host)
	h.must(l.host.run("ip", "address", "add", hostAddr+"/24", "dev", "eth0"))
	for i := range h.knocks {
		h.must(l.sender.run("ip", "address", "add", floodClient(i).String()+"/24", "dev", "eth0"))
	}
	h.must(l.sender.run("ip", "neighbour", "add", hostAddr, "lladdr", l.hostMAC.String(), "dev", "eth0"))
	return l
}

func floodClient(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(100 + i)}) }

// frame is a packet on the way to the host, or away from it.
func (l *lane) frame(p testPacket, away bool) []byte {
	to, from := l.hostMAC, l.senderMAC
	if away {
		to, from = from, to
	}
	return slices.Concat(to, from, []byte{0x08, 0x00}, withChecksums(p.bytes()))
}

// floodFrames are first knocks, each a connection of its own.
func (l *lane) floodFrames(sources int) (frames [][]byte) {
	for i := range floodSources {
		var from [4]byte
		binary.BigEndian.PutUint32(from[:], 0x0b000001+uint32(i%sources)) // 11.0.0.1
		p := testPacket{from: netip.AddrFrom4(from).String(), to: hostAddr, fromPort: 1024 + uint16(i), knock: Knock{7000, tcp}, flags: flagSYN, seq: rand.Uint32()}
		frames = append(frames, l.frame(p, false))
	}
	return frames
}

// unrelatedFrames are of other connections, and no first packets. Their checksums are wrong, as the host would answer.
func (l *lane) unrelatedFrames(away bool) (frames [][]byte) {
	return l.unrelatedFramesTo(hostAddr, away)
}

func (l *lane) unrelatedFramesTo(to string, away bool) (frames [][]byte) {
	for i := range batch {
		p := testPacket{from: "11.0.0.1", to: to, fromPort: uint16(1024 + i), knock: Knock{unrelatedPort, tcp}, flags: flagACK, seq: rand.Uint32()}
		if away {
			p.from, p.to = p.to, floodClient(0).String()
		}
		f := l.frame(p, away)
		f[len(f)-1]++ // the urgent pointer
		frames = append(frames, f)
	}
	return frames
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	sent   uint32
}

// blaster sends frames over a link, in turn.
type blaster struct {
	fd       int
	messages []mmsghdr
	next     int
}

// blaster is made in the network that it sends from.
func (h *hostile) blaster(n *Netns, frames [][]byte) *blaster {
	h.Helper()
	b := &blaster{}
	h.must(n.do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if b.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(b.fd, &unix.SockaddrLinklayer{Ifindex: link.Index})
	}))
	h.Cleanup(func() { _ = unix.Close(b.fd) })
	iovecs := make([]unix.Iovec, len(frames))
	b.messages = make([]mmsghdr, len(frames))
	for i, f := range frames {
		iovecs[i].Base = &f[0]
		iovecs[i].SetLen(len(f))
		b.messages[i].header.Iov = &iovecs[i]
		b.messages[i].header.SetIovlen(1)
	}
	return b
}

// send sends n frames, or fewer where the list ends, and says how many.
func (b *blaster) send(n int) (int, error) {
	n = min(n, len(b.messages)-b.next)
	sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(b.fd), uintptr(unsafe.Pointer(&b.messages[b.next])), uintptr(n), 0, 0, 0)
	switch {
	case errno == unix.EINTR || errno == unix.ENOBUFS:
		return 0, nil
	case errno != 0:
		return 0, fmt.Errorf("sending packets: %w", errno)
	}
	b.next = (b.next + int(sent)) % len(b.messages)
	return int(sent), nil
}

// flood sends until it is told to stop, at so many packets a second, or as many as it can for 0.
func (b *blaster) flood(rate int, stop <-chan struct{}) (sent int, err error) {
	for began := time.Now(); ; {
		select {
		case <-stop:
			return sent, nil
		default:
		}
		n := batch
		if rate > 0 {
			n = min(batch, int(time.Since(began).Seconds()*float64(rate))-sent)
			if n < min(batch, rate/1000) { // what a millisecond brings
				pause := unix.NsecToTimespec(int64(50 * time.Microsecond))
				_ = unix.Nanosleep(&pause, nil)
				continue
			}
		}
		n, err = b.send(n)
		if err != nil {
			return sent, err
		}
		sent += n
	}
}

// start starts knockd, or ours, on the lane's host. ready is how long it took until it listened, at most startPatience.
func (h *hostile) start(l *lane, knockd bool, doors string) (d *running, socket string, ready time.Duration) {
	h.Helper()
	dir := h.TempDir()
	file, log := filepath.Join(dir, "knockd.conf"), filepath.Join(dir, "log")
	socket = dir + "/control"
	config, cmd := "[options]\n\tlogfile = "+log+"\n", exec.Command("/usr/sbin/knockd", "-i", "eth0", "-c", file)
	if !knockd {
		config += "\tStateDir = " + dir + "/state\n"
		cmd = (&contestant{}).program("serve", "-c", file, "-i", "eth0", "-s", socket)
	}
	h.must(os.WriteFile(file, []byte(config+doors), 0o600))
	began := time.Now()
	w := &world{T: h.T, host: l.host}
	d = w.daemonBy(func(cmd *exec.Cmd) error { return h.pinned(l.host, h.hostCPU, cmd.Start) }, cmd, file, log)
	for ready < startPatience && !strings.Contains(d.logged(), "listening on eth0") {
		time.Sleep(200 * time.Microsecond)
		ready = time.Since(began)
	}
	return d, socket, min(ready, startPatience)
}

// end ends a daemon by its process, and waits for it.
func (h *hostile) end(d *running) {
	h.Helper()
	h.must(d.cmd.Process.Kill())
	<-d.ended
}

// usedCPU is how long the daemon's threads have run, to the nanosecond (/proc/PID/schedstat in
// Documentation/scheduler/sched-stats.rst).
func (h *hostile) usedCPU(d *running) (total time.Duration) {
	h.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", d.cmd.Process.Pid))
	h.must(err)
	for _, name := range threads {
		text, err := os.ReadFile(name)
		h.must(err)
		n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		h.must(err)
		total += time.Duration(n)
	}
	return total
}

// idle measures what a daemon costs for which nothing comes: how often its threads run, for how long, and the machine's
// timer interrupts (/proc/softirqs), of which the kernel's timer for the ring is a part. The latter are others', too.
func (h *hostile) idle(table *strings.Builder) {
	h.Helper()
	lasts := 50 * time.Millisecond
	if h.full {
		lasts = 5 * time.Second
	}
	fmt.Fprintf(table, "\n    %-24s  %16s  %16s  %s\n", "Nothing comes, a second", "timer interrupts", "runs of a thread", "CPU")
	for _, name := range []string{"nobody listens", "knockd", "sesame", "nobody listens, again"} {
		var d *running
		if !strings.HasPrefix(name, "nobody") {
			d, _, _ = h.start(h.lane(), name == "knockd", floodDoor+"\tcommand = true\n")
			time.Sleep(lasts) // for its start to be over
		}
		timers, runs, cpu := h.timers(), 0, time.Duration(0)
		if d != nil {
			runs, cpu = h.timesRun(d), h.usedCPU(d)
		}
		time.Sleep(lasts)
		timers = h.timers() - timers
		if d != nil {
			runs, cpu = h.timesRun(d)-runs, h.usedCPU(d)-cpu
			h.end(d)
		}
		second := lasts.Seconds()
		fmt.Fprintf(table, "    %-24s  %16.0f  %16.1f  %s\n", name, float64(timers)/second, float64(runs)/second,
			microseconds(time.Duration(float64(cpu)/second)))
	}
}

// timers counts the timer interrupts of all processors.
func (h *hostile) timers() (sum int) {
	h.Helper()
	text, err := os.ReadFile("/proc/softirqs")
	h.must(err)
	for line := range strings.Lines(string(text)) {
		kind, counts, _ := strings.Cut(line, ":")
		if !strings.HasSuffix(kind, "TIMER") { // TIMER and HRTIMER: which one the ring has depends on the kernel
			continue
		}
		for _, n := range strings.Fields(counts) {
			sum += h.number(n)
		}
	}
	return sum
}

// timesRun counts how often the daemon's threads have been given a processor (the third number of schedstat).
func (h *hostile) timesRun(d *running) (sum int) {
	h.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", d.cmd.Process.Pid))
	h.must(err)
	for _, name := range threads {
		text, err := os.ReadFile(name)
		h.must(err)
		sum += h.number(strings.Fields(string(text))[2])
	}
	return sum
}

// resident is the memory that the daemon has, in kilobytes (proc_pid_status(5)).
func (h *hostile) resident(d *running) int {
	h.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	h.must(err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	return h.number(strings.Fields(rest)[0])
}

// counted is one of the counters of sesame status --json.
func (h *hostile) counted(socket, name string) int {
	h.Helper()
	out, err := (&contestant{}).program("status", "--json", "-s", socket).Output()
	h.must(err)
	_, rest, _ := strings.Cut(string(out), `"`+name+`":`)
	return h.number(rest[:strings.IndexAny(rest, ",}")])
}

func (h *hostile) number(text string) int {
	h.Helper()
	n, err := strconv.Atoi(text)
	h.must(err)
	return n
}

// flooded is what a flood did to a daemon.
type flooded struct {
	sent, rate  int           // packets, and those a second
	cpu         time.Duration // a packet sent
	recognised  int           // knocks of a client
	drops       int           // packets for which the ring had no room; not known of knockd
	rest, after int           // resident memory, KB
}

// floods measures the daemons in turn, each with a fresh start.
func (h *hostile) floods(table *strings.Builder) {
	h.Helper()
	l := h.lane()
	fmt.Fprintf(table, "\nFloods of first knocks\n\n%-34s %21s %31s\n", "", "sent a second", "CPU a packet sent")
	fmt.Fprintf(table, "%-34s %10s %10s %11s %11s %7s\n", "", "knockd", "sesame", "knockd", "sesame", "ratio")
	var rest strings.Builder
	fmt.Fprintf(&rest, "\n%-34s %17s %9s %29s\n", "", fmt.Sprintf("recognised of %d", h.knocks), "lost", "resident KB, at rest and after")
	fmt.Fprintf(&rest, "%-34s %8s %8s %9s %16s %16s\n", "", "knockd", "sesame", "sesame", "knockd", "sesame")
	all := []struct {
		name    string
		sources int
		rate    int
	}{
		{"1 source, 10,000/s", 1, 10000},
		{"60,000 sources, 10,000/s", floodSources, 10000},
		{"1 source, 300,000/s", 1, 300000},
		{"60,000 sources, 300,000/s", floodSources, 300000},
		{"60,000 sources, as fast as can be", floodSources, 0},
	}
	if !h.full {
		all = all[1:2]
	}
	for _, f := range all {
		b := h.blaster(l.sender, l.floodFrames(f.sources))
		k := h.flood(l, b, true, f.rate)
		s := h.flood(l, b, false, f.rate)
		fmt.Fprintf(table, "%-34s %10d %10d %11s %11s %7.3f\n", f.name, k.rate, s.rate, microseconds(k.cpu), microseconds(s.cpu), float64(s.cpu)/float64(k.cpu))
		fmt.Fprintf(&rest, "%-34s %8d %8d %9d %9d %6d %9d %6d\n", f.name, k.recognised, s.recognised, s.drops, k.rest, k.after, s.rest, s.after)
		if s.sent == 0 || s.cpu == 0 || f.rate == 10000 && s.recognised == 0 {
			h.Errorf("%s: got %+v, want packets sent, CPU used and knocks recognised", f.name, s)
		}
	}
	table.WriteString(rest.String())
}

// flood floods one daemon, while a client knocks.
func (h *hostile) flood(l *lane, b *blaster, knockd bool, rate int) (f flooded) {
	h.Helper()
	d, socket, _ := h.start(l, knockd, floodDoor)
	defer h.end(d)
	time.Sleep(200 * time.Millisecond) // at rest
	f.rest = h.resident(d)
	before := h.usedCPU(d)
	stop, done := make(chan struct{}), make(chan error, 1)
	began := time.Now()
	go func() {
		done <- h.pinned(l.sender, h.senderCPU, func() (err error) {
			f.sent, err = b.flood(rate, stop)
			return err
		})
	}()
	time.Sleep(h.hostileSize.flood / 10)
	err := h.client(l)
	time.Sleep(h.hostileSize.flood - time.Since(began))
	close(stop)
	h.must(<-done)
	h.must(err)
	f.rate = int(float64(f.sent) / time.Since(began).Seconds())
	// What waits in the ring counts too.
	for last := time.Duration(-1); last != h.usedCPU(d) && time.Since(began) < 3*h.hostileSize.flood+time.Second; time.Sleep(200 * time.Millisecond) {
		last = h.usedCPU(d)
	}
	f.cpu = (h.usedCPU(d) - before) / time.Duration(max(f.sent, 1))
	f.after = h.resident(d)
	for i := range h.knocks {
		if strings.Contains(d.logged(), floodClient(i).String()+": ssh: OPEN SESAME\n") {
			f.recognised++
		}
	}
	if !knockd {
		f.drops = h.counted(socket, "kernel_drops")
	}
	return f
}

// client knocks from each of its addresses, by the kernel's own connections.
func (h *hostile) client(l *lane) error {
	gap := floodGap
	if !h.full {
		gap = 0
	}
	return l.sender.do(func() error {
		if h.full {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
		}
		for i := range h.knocks {
			for _, port := range []int{7000, 8000, 9000} {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
				if err == nil {
					err = unix.Bind(fd, &unix.SockaddrInet4{Addr: floodClient(i).As4()})
				}
				if err == nil {
					err = unix.Connect(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(hostAddr).As4(), Port: port})
				}
				if err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.ECONNREFUSED) {
					return fmt.Errorf("knocking on %d: %w", port, err)
				}
				_ = unix.Close(fd)
				time.Sleep(floodPause)
			}
			time.Sleep(gap)
		}
		return nil
	})
}

// hiding measures what our rules cost each packet to a port that is no door's: beside a host without rules where what is
// hidden is refused, and beside one with conntrack, as it has with any firewall, where strangers are sent away.
func (h *hostile) hiding(table *strings.Builder) {
	h.Helper()
	const tracks = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0; policy accept;\n\t\tct state established accept\n\t}\n}\n"
	rules := func(f nftFirewall, doors int) string {
		var r Ruleset
		for i := range doors {
			port := Knock{uint16(10000 + i), tcp}
			r.Kept = append(r.Kept, port)
			r.Hidden = append(r.Hidden, Hidden{Door: fmt.Sprint("door", i), Ports: []Knock{port}, Links: []string{"eth0"}})
		}
		return f.tableText(r, ableToFind)
	}
	behind := func(doors int) string {
		var r Ruleset
		for i := range doors {
			r.Behind = append(r.Behind, Behind{Knock: Knock{uint16(10000 + i), tcp}, To: netip.MustParseAddrPort(inner + ":8443")})
			r.Hidden = append(r.Hidden, Hidden{Door: fmt.Sprint("door", i), Ports: []Knock{{uint16(10000 + i), tcp}}, Links: []string{"eth0"}})
		}
		return strings.ReplaceAll(tracks, "input", "forward") + nftFirewall{mark: defaultMark}.tableText(r, ableToFind)
	}
	plain, away := nftFirewall{mark: defaultMark, plain: true}, nftFirewall{mark: defaultMark}
	all := []*struct {
		name, rules string
		beside      int  // the lane that it is compared with
		through     bool // packets are for a host behind this one
		received    *blaster
		took        []time.Duration
	}{
		{name: "no rules"},
		{name: "no rules, 1 door hidden", rules: rules(plain, 1)},
		{name: "no rules, 100 doors hidden", rules: rules(plain, 100)},
		{name: "conntrack", rules: tracks, beside: 0},
		{name: "conntrack, 1 door hidden", rules: tracks + rules(away, 1), beside: 3},
		{name: "conntrack, 100 doors hidden", rules: tracks + rules(away, 100), beside: 3},
		{name: "forwarded", beside: 6, through: true},
		{name: "forwarded, conntrack", rules: strings.ReplaceAll(tracks, "input", "forward"), beside: 6, through: true},
		{name: "forwarded, conntrack, 1 door", rules: behind(1), beside: 7, through: true},
		{name: "forwarded, conntrack, 100 doors", rules: behind(100), beside: 7, through: true},
	}
	for _, l := range all {
		lane := h.lane()
		if l.rules != "" {
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader(l.rules)
			h.must(lane.host.start(cmd))
			h.must(cmd.Wait())
			// The checksums are wrong, so that the host does not answer, and conntrack is to take no notice.
			h.must(lane.host.run("sh", "-c", "[ ! -e /proc/sys/net/netfilter/nf_conntrack_checksum ] || echo 0 > /proc/sys/net/netfilter/nf_conntrack_checksum"))
		}
		frames := lane.unrelatedFrames(false)
		if l.through {
			frames = lane.unrelatedFramesTo(inner, false)
			h.must(lane.host.link("sink", h.netns(), "eth0"))
			h.must(lane.host.run("sh", "-ec", "ip address add 192.168.77.1/24 dev sink; ip neighbour add "+inner+
				" lladdr 02:00:00:00:00:01 dev sink; ip route add 11.0.0.0/8 dev eth0; cd /proc/sys/net/ipv4; echo 1 > ip_forward; for f in conf/*/rp_filter; do echo 0 > $f; done"))
		}
		l.received = h.blaster(lane.sender, frames)
		if l.through {
			_, err := l.received.send(batch)
			h.must(err)
			out, err := lane.host.output("awk", "$1 == \"sink:\" { print $11 }", "/proc/net/dev")
			if h.must(err); strings.TrimSpace(out) == "0" {
				h.Fatal("nothing is forwarded")
			}
		}
	}
	h.must(h.pinned(h.netns(), h.senderCPU, func() error {
		for i := range h.runs + 1 {
			for j := range all {
				l := all[(i+j)%len(all)]
				took, err := l.received.cost(h.batches)
				if err != nil {
					return err
				}
				if i > 0 { // the first one finds nothing in any cache
					l.took = append(l.took, took)
				}
			}
		}
		return nil
	}))
	fmt.Fprintf(table, "\nA packet of another connection on a host that hides ports, received, ns: medians of %d runs, in turn\n\n", h.runs)
	fmt.Fprintf(table, "%-36s %8s %12s\n", "", "received", "of that more")
	for _, l := range all {
		fmt.Fprintf(table, "%-36s %8d %+12d\n", l.name, quantile(l.took, 50), moreThan(l.took, all[l.beside].took))
	}
}

// benchDoors are doors of three TCP knocks on ports that look random. None is unrelatedPort.
func benchDoors(n int, more string) string {
	r := rand.New(rand.NewPCG(7, 7))
	ports := r.Perm(60000)
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "[door%d]\n\tsequence = %d,%d,%d\n\tseq_timeout = 10\n\tcommand = true\n%s", i, 1024+ports[3*i], 1024+ports[3*i+1], 1024+ports[3*i+2], more)
	}
	return s.String()
}

const synOnly = "\ttcpflags = syn\n"

// listener is who listens while unrelated traffic passes.
type listener struct {
	name           string
	knockd         bool
	doors          string // "": no daemon
	rejects        bool   // a socket whose filter lets nothing through
	received, sent *blaster
	took           [2][]time.Duration // received and sent, a packet, of each run
}

// unrelated measures what each packet costs that is nobody's knock. All lanes are there at once and take turns; only
// the packets of one go through it.
func (h *hostile) unrelated(table *strings.Builder) {
	h.Helper()
	all := []*listener{{name: "nobody listens"}, {name: "a socket that rejects everything", rejects: true}}
	for _, n := range append(slices.Clone(h.doors), 200) {
		if n <= h.measured {
			all = append(all, &listener{name: fmt.Sprintf("knockd, doors: %d", n), knockd: true, doors: benchDoors(n, synOnly)})
		}
	}
	for _, n := range h.doors {
		all = append(all, &listener{name: fmt.Sprintf("sesame, doors: %d", n), doors: benchDoors(n, synOnly)})
	}
	most := h.doors[len(h.doors)-1]
	all = append(all, &listener{name: fmt.Sprintf("sesame, doors without TCPFlags: %d", most), doors: benchDoors(most, "")})
	for _, l := range all {
		lane := h.lane()
		if l.rejects {
			h.rejectAll(lane.host)
		}
		if l.doors != "" {
			d, _, _ := h.start(lane, l.knockd, l.doors)
			defer h.end(d)
		}
		l.received = h.blaster(lane.sender, lane.unrelatedFrames(false))
		l.sent = h.blaster(lane.host, lane.unrelatedFrames(true))
	}
	h.must(h.pinned(h.netns(), h.senderCPU, func() error {
		for i := range h.runs + 1 {
			for j := range all {
				l := all[(i+j)%len(all)]
				for k, b := range []*blaster{l.received, l.sent} {
					took, err := b.cost(h.batches)
					if err != nil {
						return err
					}
					if i > 0 { // the first one finds nothing in any cache
						l.took[k] = append(l.took[k], took)
					}
				}
			}
		}
		return nil
	}))
	fmt.Fprintf(table, "\nA packet that is no knock (TCP without SYN), one way, ns: medians of %d runs, in turn\n\n", h.runs)
	fmt.Fprintf(table, "%-36s %8s %8s %9s   %8s %8s %9s\n", "", "received", "more", "of reject", "sent", "more", "of reject")
	for _, l := range all {
		fmt.Fprintf(table, "%-36s", l.name)
		for k := range l.took {
			more, reject := moreThan(l.took[k], all[0].took[k]), moreThan(all[1].took[k], all[0].took[k])
			fmt.Fprintf(table, " %8d %+8d %9.1f  ", quantile(l.took[k], 50), more, float64(more)/float64(reject))
		}
		fmt.Fprintln(table)
	}
}

// moreThan is the median of the differences between runs at the same time.
func moreThan(took, others []time.Duration) time.Duration {
	more := slices.Clone(took)
	for i := range more {
		more[i] -= others[i]
	}
	return quantile(more, 50)
}

// cost is the median time that a packet takes. The kernel does all of the other end's work within the call; what else
// the machine does meanwhile hits few of the batches.
func (b *blaster) cost(batches int) (time.Duration, error) {
	var took []time.Duration
	for range batches {
		began := time.Now()
		n, err := b.send(batch)
		if err != nil {
			return 0, err
		}
		took = append(took, time.Since(began)/time.Duration(max(n, 1)))
	}
	return quantile(took, 50), nil
}

// rejectAll opens a packet socket on eth0 that no packet reaches.
func (h *hostile) rejectAll(n *Netns) {
	h.Helper()
	h.must(n.do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		h.Cleanup(func() { _ = unix.Close(fd) })
		reject := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &reject); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: link.Index})
	}))
}

// startUps measures the time from a daemon's start until it says that it listens, and the length of its filter.
func (h *hostile) startUps(table *strings.Builder) {
	h.Helper()
	fmt.Fprintf(table, "\nStart-up, until it listens: medians of %d (one for what takes seconds); instructions of the filter in the kernel\n\n", h.starts)
	fmt.Fprintf(table, "%-10s %24s %24s %8s\n", "doors", "knockd", "sesame", "ratio")
	l := h.lane()
	for _, n := range h.doors {
		var took [2][]time.Duration
		var length [2]string
		for run := range h.starts {
			for i, knockd := range []bool{true, false} {
				if knockd && run > 0 && n > h.measured {
					continue // it takes too long
				}
				d, _, ready := h.start(l, knockd, benchDoors(n, synOnly))
				took[i] = append(took[i], ready)
				if length[i] = "-"; ready < startPatience {
					length[i] = h.filterLength(d)
				}
				h.end(d)
			}
		}
		k, s := quantile(took[0], 50), quantile(took[1], 50)
		more := ""
		if k == startPatience {
			more = "> "
		}
		fmt.Fprintf(table, "%-10d %14s, %8s %14s, %8s %8.3f\n", n, more+milliseconds(k), length[0], milliseconds(s), length[1], float64(s)/float64(k))
		if s == startPatience || length[1] == "refused" {
			h.Errorf("%d doors: ours does not listen, or the kernel has no filter of it", n)
		}
	}
}

// filterLength is how many instructions the filter of the daemon's packet socket has (SO_GET_FILTER in socket(7), of a
// copy of the socket), or "refused": a library whose filter the kernel refuses leaves none or one of a single instruction.
func (h *hostile) filterLength(d *running) string {
	h.Helper()
	pid := d.cmd.Process.Pid
	process, err := unix.PidfdOpen(pid, 0)
	h.must(err)
	defer unix.Close(process)
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	h.must(err)
	for _, name := range names {
		fd, err := unix.PidfdGetfd(process, h.number(filepath.Base(name)), 0)
		if err != nil {
			continue // closed meanwhile
		}
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		length := uint32(0) // with no room for the filter, sk_get_filter in net/core/filter.c only tells its length
		var errno unix.Errno
		if err == nil && domain == unix.AF_PACKET {
			_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_GET_FILTER, 0, uintptr(unsafe.Pointer(&length)), 0)
		}
		_ = unix.Close(fd)
		switch {
		case errno != 0:
			h.Fatalf("asking for the filter: %v", errno)
		case length > 1:
			return fmt.Sprint(length)
		}
	}
	return "refused"
}

// goBenchmarks measures the parts that a packet goes through.
func (h *hostile) goBenchmarks(table *strings.Builder) {
	h.Helper()
	benchtime := flag.Lookup("test.benchtime")
	old := benchtime.Value.String()
	h.must(benchtime.Value.Set(h.goTime))
	defer func() { _ = benchtime.Value.Set(old) }()
	fmt.Fprintf(table, "\nGo code on a packet, as go test builds it\n\n%-52s %9s %12s\n", "", "ns", "allocations")
	one := testDoors(h.T, floodDoor)
	thousand := testDoors(h.T, benchDoors(999, synOnly)+floodDoor)
	for _, bench := range []struct {
		name string
		fn   func(b *testing.B)
	}{
		{"parse, IPv4", benchParse(testSYN4)},
		{"parse, IPv6", benchParse(testSYN6)},
		{"filter in bpf.VM, 1 door, no knock", benchFilter(one)},
		{"filter in bpf.VM, 1,000 doors, no knock", benchFilter(thousand)},
		{"match, first knocks, 1 source", benchMatch(one, 1)},
		{"match, first knocks, 60,000 sources", benchMatch(one, floodSources)},
		{"reader, first knocks, 1 source", benchTake(one, 1, 7000)},
		{"reader, first knocks, 60,000 sources", benchTake(one, floodSources, 7000)},
		{"reader, decoys, 60,000 sources", benchTake(one, floodSources, 7001)},
		{"reader, 1,000 doors, first knocks, 60,000 sources", benchTake(thousand, floodSources, 7000)},
	} {
		r := testing.Benchmark(bench.fn)
		if r.N == 0 {
			h.Errorf("%s: the benchmark failed", bench.name)
			continue
		}
		fmt.Fprintf(table, "%-52s %9.1f %12.3f\n", bench.name, float64(r.T.Nanoseconds())/float64(r.N), float64(r.MemAllocs)/float64(r.N))
		if h.full && r.AllocsPerOp() > 0 {
			h.Errorf("%s: got %d allocations a packet, want 0", bench.name, r.AllocsPerOp())
		}
	}
	runtime.GC()
}

// benchTake gives the reader first knocks, or decoys, from many sources as the ring does.
func benchTake(doors []*Door, sources int, port uint16) func(b *testing.B) {
	return func(b *testing.B) {
		b.ReportAllocs()
		r := newTestReader(new(strings.Builder), make(chan Grant))
		r.plan.spec, r.plan.matcher = filterSpec(doors, nil, false), newMatcher(doors, maxAttempts)
		r.plan.matcher.onlyChanges = true
		r.steps.spent = 1 << 60 // no line is left
		p := testSYN4.with(func(p *testPacket) { p.knock.Port = port })
		f := Frame{Bytes: p.bytes(), Len: 1000, Protocol: unix.ETH_P_IP, Link: 1}
		for n := 0; b.Loop(); n++ {
			r.batchTime += 100 * time.Microsecond // 10,000 a second
			binary.BigEndian.PutUint32(f.Bytes[ipv4OffSource:], 0x0b000001+uint32(n%sources))
			binary.BigEndian.PutUint32(f.Bytes[ipv4MinLen+tcpOffSeq:], uint32(n))
			r.receive(&f)
		}
	}
}

// benchFilter runs the filter over a SYN that is neither a knock nor a decoy, if there is room for one.
func benchFilter(doors []*Door) func(b *testing.B) {
	return func(b *testing.B) {
		b.ReportAllocs()
		prog, err := buildFilter(filterSpec(doors, []netip.Addr{netip.MustParseAddr(testSYN4.to)}, false), maxFilterLen)
		if err != nil {
			b.Fatal(err)
		}
		vm, err := bpf.NewVM(prog)
		if err != nil {
			b.Fatal(err)
		}
		packet := testSYN4.with(func(p *testPacket) { p.knock.Port = unrelatedPort }).bytes()
		for b.Loop() {
			if n, _ := vm.Run(packet); n != 0 {
				b.Fatalf("got %d bytes of no knock, want 0", n)
			}
		}
	}
}

// BenchmarkTake is what the reader does with a packet, from the ring on.
func BenchmarkTake(b *testing.B) {
	doors := testDoors(b, floodDoor)
	b.Run("1 source", benchTake(doors, 1, 7000))
	b.Run("60,000 sources", benchTake(doors, floodSources, 7000))
	b.Run("60,000 sources, decoys", benchTake(doors, floodSources, 7001))
}

// BenchmarkParseConfig reads many doors, which a start waits for.
func BenchmarkParseConfig(b *testing.B) {
	text := benchDoors(1000, synOnly)
	for b.Loop() {
		if _, err := parseConfig("doors", strings.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}

func microseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f µs", float64(d.Nanoseconds())/1000)
}
