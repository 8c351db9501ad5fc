//go:build linux && !pure

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// wire sends packets of the test's own making from a client to the host.
type wire struct {
	w       *world
	fd      int
	to      unix.SockaddrLinklayer
	hardest net.HardwareAddr // the host's
	source  net.HardwareAddr
}

// wire opens a packet socket at client i.
func (w *world) wire(i int) *wire {
	w.Helper()
	x := &wire{w: w}
	w.must(w.host.do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			x.hardest = link.HardwareAddr
		}
		return err
	}))
	w.must(w.clients[i].do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		x.source = link.HardwareAddr
		x.to = unix.SockaddrLinklayer{Ifindex: link.Index}
		x.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	w.Cleanup(func() { _ = unix.Close(x.fd) })
	return x
}

// send sends IP packets in Ethernet frames, with 802.1Q tags if there are any.
func (x *wire) send(packet []byte, tags ...uint16) {
	x.w.Helper()
	frame := append(append([]byte{}, x.hardest...), x.source...)
	for _, tag := range tags {
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_8021Q)
		frame = binary.BigEndian.AppendUint16(frame, tag)
	}
	etherType := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		etherType = unix.ETH_P_IPV6
	}
	frame = append(binary.BigEndian.AppendUint16(frame, etherType), packet...)
	x.w.must(unix.Sendto(x.fd, frame, 0, &x.to))
}

var (
	fromClient4 = testPacket{from: "10.9.0.2", to: hostAddr, fromPort: 40000, flags: flagSYN}
	fromClient6 = testPacket{from: "fd00:9::2", to: hostAddr6, fromPort: 40000, flags: flagSYN}
)

// TestShapesOfPackets knocks with packets of unusual shapes, through the real kernel, filter and ring.
func TestShapesOfPackets(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[a]\n sequence = 7000,8000:udp\n command = echo opened for %IP%\n")
	x := w.wire(0)
	opened := 0
	for _, tt := range []struct {
		name   string
		packet testPacket
		tags   []uint16
		opens  bool
	}{
		{"IPv4", fromClient4, nil, true},
		{"IPv4, tag in the frame", fromClient4, []uint16{5}, true},
		{"IPv4, priority tag", fromClient4, []uint16{0}, true},
		{"IPv4 options", fromClient4.with(func(p *testPacket) { p.options = 40 }), nil, true},
		{"first fragment", fromClient4.with(func(p *testPacket) { p.fragment = 0x2000 }), nil, true},
		{"later fragment", fromClient4.with(func(p *testPacket) { p.fragment = 1 }), nil, false},
		{"IPv4 from 0.0.0.0", fromClient4.with(func(p *testPacket) { p.from = "0.0.0.0" }), nil, false},
		{"IPv4 from 127.0.0.1", fromClient4.with(func(p *testPacket) { p.from = "127.0.0.1" }), nil, false},
		{"to another host", fromClient4.with(func(p *testPacket) { p.to = "10.9.0.77" }), nil, false},
		{"IPv6", fromClient6, nil, true},
		{"IPv6 hop-by-hop options", fromClient6.with(func(p *testPacket) { p.extensions = []extension{ext(ipv6HopByHop, 8)} }), nil, true},
		{"IPv6, four headers", fromClient6.with(func(p *testPacket) {
			p.extensions = []extension{ext(ipv6HopByHop, 16), ext(ipv6DestOptions, 64), ext(ipv6AH, 24), fragment(0, true)}
		}), nil, true},
		{"IPv6, later fragment", fromClient6.with(func(p *testPacket) { p.extensions = []extension{fragment(1, false)} }), nil, false},
		{"IPv6 from ::", fromClient6.with(func(p *testPacket) { p.from = "::" }), nil, false},
		{"two tags", fromClient4, []uint16{5, 6}, false},
	} {
		for i, k := range []Knock{{7000, tcp}, {8000, udp}} {
			p := tt.packet
			p.knock, p.seq = k, uint32(1000*opened+i)
			x.send(p.bytes(), tt.tags...)
		}
		// A sequence that certainly opens, by another address, comes after it through the same queue.
		for _, k := range []Knock{{7000, tcp}, {8000, udp}} {
			p := fromClient4
			p.from, p.knock, p.seq = "10.9.0.99", k, uint32(opened)
			x.send(p.bytes())
		}
		want := opened + 1
		if tt.opens {
			want++
		}
		w.eventually("the opening behind "+tt.name, func() bool {
			return strings.Count(d.logged(), "OPEN SESAME") >= want
		})
		if got := strings.Count(d.logged(), "OPEN SESAME"); got != want {
			t.Fatalf("%s: openings: got %d, want %d", tt.name, got-opened, want-opened)
		}
		opened = want
		w.eventually("the end of the commands", func() bool {
			return strings.Count(d.logged(), "command took") == opened
		})
	}
	d.stop()
}

// TestCopiesOfOneSYN sends 8,8,8 as one SYN three times, and then as three.
func TestCopiesOfOneSYN(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[a]\n sequence = 8,8,8\n tcpflags = syn\n command = true\n[b]\n sequence = 9\n command = true\n")
	x := w.wire(0)
	p := fromClient4
	for range 3 {
		p.knock = Knock{8, tcp}
		x.send(p.bytes())
		p.knock = Knock{9, tcp}
		x.send(p.bytes())
	}
	d.await("b: OPEN SESAME")
	for p.seq = range 3 {
		p.from, p.knock = "10.9.0.3", Knock{8, tcp}
		x.send(p.bytes())
	}
	d.await("10.9.0.3: a: OPEN SESAME")
	for _, name := range []string{"a", "b"} {
		if n := strings.Count(d.logged(), name+": OPEN SESAME"); n != 1 {
			t.Errorf("openings of %s: got %d, want 1", name, n)
		}
	}
	d.stop()
}

// TestDamagedPackets flips every bit of a knock in turn. The daemon neither ends nor opens, and an honest knock still does.
func TestDamagedPackets(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[a]\n sequence = 7000,8000,9000\n command = true\n decoys = no\n")
	x := w.wire(0)
	for _, p := range []testPacket{
		fromClient4.with(func(p *testPacket) { p.knock, p.options = Knock{7000, tcp}, 8 }),
		fromClient6.with(func(p *testPacket) { p.knock, p.extensions = Knock{7000, udp}, []extension{ext(ipv6HopByHop, 8)} }),
	} {
		whole := p.bytes()
		for i := range len(whole) * 8 {
			b := append([]byte{}, whole...)
			b[i/8] ^= 1 << (i % 8)
			x.send(b)
		}
		for n := range whole[1:] {
			x.send(whole[:n+1])
		}
	}
	w.knock(0, hostAddr, "7000", "8000", "9000")
	d.await("OPEN SESAME")
	if n := strings.Count(d.logged(), "OPEN SESAME"); n != 1 {
		t.Errorf("openings: got %d, want 1", n)
	}
	d.stop()
}

// TestFloodOfFirstKnocks sends more sources than the table holds while somebody knocks: he gets in, and the log has
// few lines about the others.
func TestFloodOfFirstKnocks(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := w.serve(sshDoor("ssh", "7000,8000,9000", 60, "tcpflags = syn"))
	x := w.wire(0)
	p := fromClient4
	p.knock = Knock{7000, tcp}
	b := p.bytes()
	flood := func(n, at int) {
		for i := at; i < at+n; i++ {
			binary.BigEndian.PutUint32(b[ipv4OffSource:], 0x0b000000+uint32(i)) // 11.0.0.0
			x.send(b)
		}
	}
	flood(20000, 0)
	w.knock(0, hostAddr, "7000")
	w.knock(0, hostAddr, "8000")
	flood(20000, 20000)
	w.knock(0, hostAddr, "9000")
	w.awaitPort(0, hostSSH, reached)
	d.stop()
	if n := strings.Count(d.logged(), "\n"); n > 200 {
		t.Errorf("log lines: got %d, want few", n)
	}
	if !strings.Contains(d.logged(), "lines left out, as there were too many") {
		t.Error("the log does not say that lines were left out")
	}
}

// TestLinkDownAndUp takes the interface down while the daemon listens.
func TestLinkDownAndUp(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[a]\n sequence = 7000,8000\n command = true\n")
	w.must(w.host.run("ip", "link", "set", "eth0", "down"))
	w.must(w.host.run("ip", "link", "set", "eth0", "up"))
	w.eventually("an opening", func() bool {
		_ = w.knockError(0, hostAddr, "7000", "8000")
		return strings.Contains(d.logged(), "OPEN SESAME")
	})
	d.stop()
}

// TestDebug runs with -D: it tells of what the kernel's filter would have kept back, and counts no more than without.
func TestDebug(t *testing.T) {
	w := newWorld(t, 1)
	config := t.TempDir() + "/c"
	w.must(os.WriteFile(config, []byte("[a]\n sequence = 7000,8000:udp\n tcpflags = syn\n command = true\n"), 0o600))
	debug, err := os.Create(t.TempDir() + "/debug")
	w.must(err)
	defer debug.Close()
	cmd := sesame("knockd", "-Dieth0", "-c", config, "-g/dev/null")
	cmd.Stderr = debug
	d := w.daemon(cmd, config, debug.Name())
	d.await("packets to ports that are no door's knock or decoy are not seen, and not shown here")
	w.from(0, "knock -d 5 10.9.0.1 7000 7000:udp 8000; hping3 -q -c 1 -F -p 7000 10.9.0.1; knock 10.9.0.1 8000:udp")
	for _, want := range []string{
		"-> 7000:tcp (syn): a: 10.9.0.2: stage 1 of 2\n",
		"packet from 10.9.0.2 on link ", " does not count: 7000:udp is no door's knock, or not for its source, at this address or interface, or with these flags ()\n",
		"does not count: 8000:tcp is no door's knock, or not for its source, at this address or interface, or with these flags (syn)\n",
		"does not count: 7000:tcp is no door's knock, or not for its source, at this address or interface, or with these flags (fin)\n",
		"-> 8000:udp: a: 10.9.0.2: the sequence is complete\n",
	} {
		d.await(want)
	}
	d.stop()
}

// TestOnlyIPv4 gives -4 and knocks over both families.
func TestOnlyIPv4(t *testing.T) {
	w := newWorld(t, 1)
	d := w.serve("[a]\n sequence = 7000,8000\n command = true\n", "-4")
	w.knock(0, hostAddr6, "7000", "8000")
	w.knock(0, hostAddr, "7000", "8000")
	d.await("10.9.0.2: a: OPEN SESAME")
	if strings.Contains(d.logged(), "fd00:9") {
		t.Error("a knock over IPv6 counted")
	}
	d.stop()
}

// TestCaptureWithLittleMemory attaches filters for many doors where the kernel has room for few instructions only, and
// swaps them.
func TestCaptureWithLittleMemory(t *testing.T) {
	needRoot(t)
	n, err := newNetns()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	const setting = "/proc/sys/net/core/optmem_max"
	err = n.do(func() error {
		doors := randomDoors(1000)
		for _, bytes := range []int{131072, 20480, 10240} {
			// Before Linux 6.8 it is the whole machine's, and stays as it is.
			if err := os.WriteFile(setting, fmt.Append(nil, bytes), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			began := time.Now()
			c, err := openCapture(1, filterSpec(doors, nil, false), ringSize)
			if err != nil {
				return fmt.Errorf("with %d bytes: %w", bytes, err)
			}
			t.Logf("%d bytes: 1,000 doors listen after %v", bytes, time.Since(began))
			err = c.attach(filterSpec(doors[:900], nil, false))
			c.close()
			if err != nil {
				return fmt.Errorf("swapping with %d bytes: %w", bytes, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// randomDoors makes doors of three knocks that are spread over all ports.
func randomDoors(n int) (doors []*Door) {
	for i := range n {
		d := &Door{Name: fmt.Sprint(i), SeqTimeout: time.Second}
		for j := range 3 {
			d.Sequence = append(d.Sequence, Knock{uint16(1 + (i*3+j)*21%65535), tcp})
		}
		doors = append(doors, d)
	}
	return doors
}

// TestCaptureLong sends a flood of packets that no slot holds, and knocks among them: what comes whole is in order, and
// ordinary knocks are read whatever becomes of the others.
func TestCaptureLong(t *testing.T) {
	w := newWorld(t, 1)
	x := w.wire(0)
	w.must(w.host.do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, err := openCapture(link.Index, filterSpec([]*Door{{Sequence: []Knock{{7000, tcp}}}}, nil, false), ringSize)
		if err != nil {
			return err
		}
		defer c.close()
		long := func(seq uint32, length int) []byte {
			p := fromClient6
			p.knock, p.seq, p.extensions = Knock{7000, tcp}, seq, []extension{ext(ipv6HopByHop, length)}
			return p.bytes()
		}
		next := uint32(0)
		var hit Hit
		take := func(f *Frame) {
			if parsePacket(f.Bytes, f.Len, &hit) != nil || hit.Knock.Port != 7000 || f.Protocol != unix.ETH_P_IPV6 {
				return // IPv6 on a new link
			}
			if hit.Seq != next {
				t.Errorf("got packet %d, want %d", hit.Seq, next)
			}
			next++
		}
		for _, length := range []int{8, 16, 24, 64, 128, 248} {
			x.send(long(next, length))
			want := next + 1
			w.eventually("a packet with a header of "+fmt.Sprint(length), func() bool { c.read(take); return next == want })
		}
		// The error of a link that goes down stands before the next copy.
		w.must(w.host.run("sh", "-c", "ip link set eth0 down && ip link set eth0 up"))
		p := fromClient4
		p.knock = Knock{7000, tcp}
		back := false
		w.eventually("the link", func() bool {
			x.send(p.bytes())
			c.read(func(f *Frame) { back = back || f.Protocol == unix.ETH_P_IP })
			return back
		})
		for range 3 {
			x.send(long(next, 64))
			want := next + 1
			w.eventually("a packet after that", func() bool { c.read(take); return next == want })
		}
		// Nobody reads: the queue has no room for all copies.
		knocks := 0
		for i := range 2000 {
			x.send(long(1e6, 248))
			if i%100 == 99 {
				p.seq = uint32(i)
				x.send(p.bytes())
				knocks++
			}
		}
		whole, short := 0, 0
		w.eventually("all knocks", func() bool {
			c.read(func(f *Frame) {
				switch err := parsePacket(f.Bytes, f.Len, &hit); {
				case hit.Knock.Port != 7000:
				case err == nil && f.Protocol == unix.ETH_P_IP:
					short++
				case err == nil:
					whole++
				}
			})
			return short == knocks
		})
		if whole == 0 || whole == 2000 || c.drops() > 0 {
			t.Errorf("%d of 2,000 long packets are whole, %d are lost: the test shows nothing", whole, c.drops())
		}
		return nil
	}))
}

// TestCaptureRefused opens a capture on an interface that is not there: an error, and no socket is left.
func TestCaptureRefused(t *testing.T) {
	w := newWorld(t, 1)
	w.must(w.host.do(func() error {
		doors := []*Door{{Name: "a", Sequence: []Knock{{7000, tcp}}}}
		before := packetSockets(t)
		if c, err := openCapture(1<<30, filterSpec(doors, nil, false), ringSize); c != nil || !errors.Is(err, unix.ENODEV) {
			t.Errorf("got %v, %v, want %v", c, err, unix.ENODEV)
		}
		// A command that another test starts has it, too, until its execve.
		w.eventually("no packet socket is left", func() bool { return packetSockets(t) == before })
		return nil
	}))
}

// TestNoPacketSockets runs the daemon where the kernel has none for it: a filter of system calls refuses the family, as a
// kernel without CONFIG_PACKET does.
func TestNoPacketSockets(t *testing.T) {
	w := newWorld(t, 0)
	config := t.TempDir() + "/c"
	w.must(os.WriteFile(config, []byte("[a]\n sequence = 7000,8000\n command = true\n"), 0o600))
	err := w.host.do(func() error {
		// Of this thread, and of what it starts (seccomp(2)). The number of the call, and the low half of its first argument.
		half := uint32(16)
		if networkOrder(1) == 1 {
			half = 20
		}
		raw, err := bpf.Assemble([]bpf.Instruction{
			bpf.LoadAbsolute{Off: 0, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: 3},
			bpf.LoadAbsolute{Off: half, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_PACKET, SkipTrue: 1},
			bpf.RetConstant{Val: 0x00050000 | uint32(unix.EAFNOSUPPORT)}, // SECCOMP_RET_ERRNO
			bpf.RetConstant{Val: 0x7fff0000},                             // SECCOMP_RET_ALLOW
		})
		if err != nil {
			return err
		}
		prog := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
		if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
			return err
		}
		out, err := sesame("sesame", "serve", "-i", "eth0", "-c", config).CombinedOutput()
		want := "sesame serve: opening a packet socket: address family not supported by protocol: " +
			"the kernel needs CONFIG_PACKET, and a service manager must allow AF_PACKET\n"
		if exitStatus(err) != 1 || string(out) != want {
			t.Errorf("got %v, %q, want exit status 1, %q", err, out, want)
		}
		return nil
	})
	w.must(err)
}

// packetSockets lists the packet sockets of this thread's network namespace.
func packetSockets(t *testing.T) string {
	text, err := os.ReadFile("/proc/thread-self/net/packet")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The kernel and bpf.VM agree. A unix socket runs the filter over the datagram from its first byte, and cuts it to the
// length that the filter returns, as a packet socket does.
func TestFilterInKernel(t *testing.T) {
	tests := []struct{ limit, doors, flags, addresses int }{
		{minFilterLen, 1000, 16, 48}, {397, 20, 3, 3}, {823, 100, 1, 24}, {maxFilterLen, 2, 2, 2}, {maxFilterLen, 1000, 16, 48},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			c := newFilterCase(uint64(test.doors), test.doors, test.flags, test.addresses)
			prog, err := buildFilter(filterSpec(c.doors, c.addresses, false), test.limit)
			if err != nil {
				t.Fatal(err)
			}
			vm, vmErr := bpf.NewVM(prog)
			raw, rawErr := bpf.Assemble(prog)
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err := errors.Join(vmErr, rawErr, err); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fds[0])
			defer unix.Close(fds[1])
			fprog := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
			switch err := unix.SetsockoptSockFprog(fds[1], unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); {
			case err == unix.ENOMEM:
				t.Skipf("the kernel has no room for %d instructions: sysctl net.core.optmem_max=131072", len(raw))
			case err != nil:
				t.Fatalf("attaching %d instructions: %v", len(raw), err)
			}
			var packets [][]byte
			for range 2000 {
				packets = append(packets, c.packet().bytes())
			}
			for _, test := range invalidPackets {
				packets = append(packets, test.in.bytes())
			}
			for n := range len(packets[0]) {
				packets = append(packets, packets[0][:n])
			}
			passed := 0
			buf := make([]byte, 1<<16)
			for _, b := range packets {
				want, err := vm.Run(b)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := unix.Write(fds[0], b); err != nil {
					t.Fatal(err)
				}
				got, _, err := unix.Recvfrom(fds[1], buf, unix.MSG_DONTWAIT)
				switch {
				case err != nil && err != unix.EAGAIN:
					t.Fatal(err)
				case err == unix.EAGAIN && want > 0:
					t.Errorf("the kernel drops what the VM cuts to %d bytes: %x", want, b)
				case err == nil && got != min(want, len(b)):
					t.Errorf("the kernel cuts to %d bytes what the VM cuts to %d: %x", got, want, b)
				}
				if err == nil {
					passed++
				}
			}
			if passed < 300 || passed > len(packets)-300 {
				t.Errorf("got %d of %d packets passed, want some of each", passed, len(packets))
			}
		})
	}
}

// TestReadAllocatesNothing has the reader look at a ring, and tell its counts, as it does with each batch of packets.
func TestReadAllocatesNothing(t *testing.T) {
	c, m := &Capture{ring: make([]byte, ringSize)}, &Meter{}
	take := func(*Frame) { t.Error("a frame out of an empty ring") }
	if n := testing.AllocsPerRun(100, func() {
		c.read(take)
		m.set(Counters{Packets: 1})
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}
