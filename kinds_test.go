//go:build linux && !pure

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linkKind is a kind of link between the host and its first client, with 10.7.0.1 and fd00:7::1 on the host's link x0.
type linkKind struct {
	name string
	make func(n *nativeTest) error // an error of a kind that the kernel has: the test fails
	// needs is what makes a link of the kind in a namespace to try whether the kernel has it; "": every kernel has.
	needs string
	// otherwise is what tries the kind where the kernel has none.
	otherwise string
	// twice is a link that shows the same frames, too.
	twice string
}

var linkKinds = []linkKind{
	{name: "veth", make: func(n *nativeTest) error { return n.host.link("x0", n.clients[0], "x0") }},
	{name: "bridge", twice: "port0", make: func(n *nativeTest) error {
		if err := n.host.link("port0", n.clients[0], "x0"); err != nil {
			return err
		}
		return n.host.run("sh", "-ec", "ip link add x0 type bridge; ip link set x0 up; ip link set port0 master x0; "+
			"ip link add port1 type veth peer name far1; ip link set port1 master x0 up; ip link set far1 up")
	}},
	{name: "tun", make: func(n *nativeTest) error { return n.relay(unix.IFF_TUN, nil) }},
	{name: "tap", make: func(n *nativeTest) error { return n.relay(unix.IFF_TAP, nil) }},
	{name: "macvlan", needs: "link add x0 link v0 type macvlan mode bridge", otherwise: "nothing", twice: "below", make: func(n *nativeTest) error {
		return n.above("type macvlan mode bridge")
	}},
	{name: "macvlan with its parent's address", needs: "link add x0 link v0 type macvlan mode passthru", otherwise: "nothing", twice: "below",
		make: func(n *nativeTest) error { return n.above("type macvlan mode passthru") }},
	{name: "VLAN", needs: "link add x0 link v0 type vlan id 7", otherwise: "make router-test", twice: "below", make: func(n *nativeTest) error {
		return n.above("type vlan id 7")
	}},
	{name: "wireguard", otherwise: "make router-test"},
	{name: "ppp", otherwise: "make router-test"},
}

// above makes links on top of a veth pair: one on each end.
func (n *nativeTest) above(kind string) error {
	if err := n.host.link("below", n.clients[0], "below"); err != nil {
		return err
	}
	for _, end := range []*Netns{n.host, n.clients[0]} {
		// Else the lower link answers for the upper one's address, too, and some packets take that way.
		if err := end.run("sh", "-ec", "echo 1 > /proc/sys/net/ipv4/conf/below/arp_ignore; "+
			"ip link add link below name x0 "+kind+"; ip link set x0 up"); err != nil {
			return err
		}
	}
	return nil
}

// relay makes a tun or tap link x0 at the host and its first client, and carries what one end sends to the other. What
// comes from the client it hands to carry, if there is one, which delivers it as it likes.
func (n *world) relay(kind uint16, carry func(packet []byte, deliver func([]byte))) error {
	var ends [2]*os.File
	for i, end := range []*Netns{n.host, n.clients[0]} {
		err := end.do(func() (err error) {
			ends[i], err = openTun("x0", kind)
			return err
		})
		if err != nil {
			return err
		}
		if err := end.run("ip", "link", "set", "x0", "up"); err != nil {
			return err
		}
	}
	for i, from := range ends {
		n.Cleanup(func() { _ = from.Close() })
		go func() {
			b := make([]byte, 65536)
			for {
				size, err := from.Read(b)
				if err != nil {
					return
				}
				deliver := func(packet []byte) { _, _ = ends[1-i].Write(packet) } // the other end may be down
				if i == 1 && carry != nil {
					carry(b[:size], deliver)
				} else {
					deliver(b[:size])
				}
			}
		}()
	}
	return nil
}

// openTun makes a link of which the file is the other end (Documentation/networking/tuntap.rst).
func openTun(name string, kind uint16) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	var request [unix.IFNAMSIZ + 24]byte // struct ifreq: name, then the flags
	copy(request[:unix.IFNAMSIZ-1], name)
	binary.NativeEndian.PutUint16(request[unix.IFNAMSIZ:], kind|unix.IFF_NO_PI)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request[0]))); errno != 0 {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("TUNSETIFF: %w", errno)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// TestLinkKinds opens a door over each kind of link that the kernel has, over IPv4 and IPv6, with the link named and
// with all of them listened on. One frame that two links show is one knock.
func TestLinkKinds(t *testing.T) {
	needRoot(t)
	for _, kind := range linkKinds {
		if kind.make == nil || !kind.here(t) {
			continue
		}
		for _, interfaces := range []string{"x0", "any"} {
			t.Run(kind.name+" "+interfaces, func(t *testing.T) {
				n := newLinkTest(t, interfaces)
				n.config += "[thrice]\n\tsequence = 8888:udp,8888:udp,8888:udp\n\tcommand = true\n" +
					"[tcp]\n\tsequence = 8889,8889,8889\n\tcommand = true\n"
				n.must(kind.make(n))
				for i, end := range []*Netns{n.host, n.clients[0]} {
					n.must(end.run("ip", "address", "add", fmt.Sprintf("10.7.0.%d/24", i+1), "dev", "x0"))
					n.must(end.run("ip", "address", "add", fmt.Sprintf("fd00:7::%d/64", i+1), "dev", "x0", "nodad"))
				}
				d := n.serve()
				n.opens(0, "10.7.0.1")
				n.opens(0, "fd00:7::1")
				if kind.twice != "" {
					n.must(n.host.run("ip", "link", "show", kind.twice))
				}
				for _, door := range []struct{ name, knock string }{{"thrice", "8888:udp"}, {"tcp", "8889"}} {
					for _, address := range []string{"10.7.0.1", "fd00:7::1"} {
						n.knock(0, "-d20", address, door.knock, door.knock)
					}
					n.eventually("both at the second stage", func() bool { return strings.Count(d.logged(), door.name+": Stage 2") == 2 })
					if strings.Contains(d.logged(), door.name+": OPEN") {
						t.Errorf("%s: two knocks count as three", door.name)
					}
					for _, address := range []string{"10.7.0.1", "fd00:7::1"} {
						n.knock(0, address, door.knock)
					}
					d.await("10.7.0.2: " + door.name + ": OPEN SESAME")
					d.await("fd00:7::2: " + door.name + ": OPEN SESAME")
				}
				d.stop()
			})
		}
	}
}

// here reports whether the kernel has the kind.
func (k linkKind) here(t *testing.T) bool {
	if k.needs == "" {
		return true
	}
	w := &world{T: t}
	n, other := w.netns(), w.netns()
	w.must(n.link("v0", other, "v0"))
	return n.run("ip", strings.Fields(k.needs)...) == nil
}

// TestCovered lists, for make kinds, where each kind of link is tried.
func TestCovered(t *testing.T) {
	needRoot(t)
	for _, kind := range linkKinds {
		if kind.make != nil && kind.here(t) {
			t.Logf("link kind %s: tried here", kind.name)
		} else {
			t.Logf("link kind %s: not tried here, but by %s", kind.name, kind.otherwise)
		}
	}
}

// TestLinkLocal knocks from and at link-local addresses: what opens is open on that link alone.
func TestLinkLocal(t *testing.T) {
	n := newLinkTest(t, "any")
	n.must(n.host.link("x0", n.clients[1], "x0"))
	// Two clients on two links have the same address, and so has the host on both.
	for _, at := range []struct {
		end  *Netns
		link string
		addr string
	}{{n.host, "eth0", "fe80::1"}, {n.clients[0], "eth0", "fe80::2"}, {n.host, "x0", "fe80::1"}, {n.clients[1], "x0", "fe80::2"}} {
		n.must(at.end.run("ip", "address", "add", at.addr+"/64", "dev", at.link, "nodad"))
	}
	d := n.serve()
	n.wantPort(1, "[fe80::1%x0]:23", hidden)
	n.knock(0, "-d20", "fe80::1%eth0", "7100", "8100")
	n.awaitPort(0, "[fe80::1%eth0]:23", reached)
	n.wantPort(1, "[fe80::1%x0]:23", hidden)
	if out, _ := n.tool("status", "-s", n.socket); !strings.Contains(out, "%eth0") {
		t.Errorf("status does not name the link:\n%s", out)
	}
	n.awaitPort(0, "[fe80::1%eth0]:23", hidden)
	d.stop()
}

// TestLoopback knocks from the host itself.
func TestLoopback(t *testing.T) {
	n := newLinkTest(t, "lo")
	n.clients = []*Netns{n.host}
	n.must(n.host.run("ip", "link", "set", "lo", "up"))
	d := n.serve()
	n.opens(0, "127.0.0.1")
	n.opens(0, "::1")
	d.stop()
}

// TestAnyIsNotLo knocks from the host itself, as a user without rights who looks at /proc: any leaves out lo, so that the
// daemon does not even wake up, and any,lo listens there, too.
func TestAnyIsNotLo(t *testing.T) {
	const nobody, packets = 65534, 40
	n := newLinkTest(t, "any")
	n.must(n.host.run("ip", "link", "set", "lo", "up"))
	d := n.serve()
	d.await("starting up, listening on any (all interfaces but lo: Interface = any,lo adds it)\n")
	n.opens(0, hostAddr)
	d.await("10.9.0.2: ssh: closed")
	// waked is how often the daemon has gone to sleep while a user of this host sends packets to ports.
	waked := func(address string, ports ...string) int {
		n.Helper()
		switches := func() (sum int) {
			n.Helper()
			cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("cat /proc/%d/task/*/status", d.cmd.Process.Pid))
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			out, err := cmd.Output()
			n.must(err)
			for line := range strings.Lines(string(out)) {
				if count, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
					number, err := strconv.Atoi(strings.TrimSpace(count))
					n.must(err)
					sum += number
				}
			}
			return sum
		}
		cmd := sesame("knock", append([]string{"-d10", address}, slices.Repeat(ports, packets/len(ports))...)...)
		n.as(nobody, cmd)
		before := switches()
		n.must(n.host.start(cmd))
		n.must(cmd.Wait())
		return switches() - before
	}
	// If it listened, each knock would wake it each time. Work of its own wakes it now and then: the lowest of three counts.
	for _, address := range []string{"127.0.0.1", "::1", hostAddr, hostAddr6} {
		knocks, others := packets, packets
		for range 3 {
			knocks = min(knocks, waked(address, "7000", "8000", "7100:udp", "8100"))
			others = min(others, waked(address, "17000", "18000", "17100:udp", "18100"))
			if knocks <= others+packets/4 {
				break
			}
		}
		t.Logf("%s: the daemon wakes up %d times for %d knocks, %d for other ports", address, knocks, packets, others)
		if knocks > others+packets/4 {
			t.Errorf("%s: the daemon wakes up %d times for %d knocks, and %d times for as many other packets", address, knocks, packets, others)
		}
	}
	if strings.Contains(d.logged(), "127.0.0.1") || strings.Contains(d.logged(), hostAddr+": ") {
		t.Error("a knock from the host itself counts")
	}
	d.stop()

	n.args = []string{"-i", "any,lo"}
	d = n.serve()
	d.await("starting up, listening on any,lo (all interfaces)\n")
	if out, _ := n.tool("status", "-s", n.socket); !strings.Contains(out, "  lo ") || !strings.Contains(out, "  eth0 ") {
		t.Errorf("status does not name both:\n%s", out)
	}
	n.opens(0, hostAddr)
	for _, address := range []string{"127.0.0.1", "::1"} {
		n.must(n.host.run("knock", "-d20", address, "7000", "8000", "9000"))
		d.await(address + ": ssh: OPEN SESAME")
	}
	d.stop()
}

// TestTaggedRaw sends frames with a VLAN's tag on a link of which no VLAN is made: with all links listened on they count
// once, as others do.
func TestTaggedRaw(t *testing.T) {
	n := newLinkTest(t, "any")
	n.config += "[thrice]\n\tsequence = 8888:udp,8888:udp,8888:udp\n\tcommand = true\n"
	d := n.serve()
	x := n.wire(0)
	p := fromClient4
	p.knock = Knock{8888, udp}
	x.send(p.bytes(), 7)
	x.send(p.bytes(), 7)
	d.await("thrice: Stage 2")
	if strings.Contains(d.logged(), "thrice: Stage 3") {
		t.Error("two frames count as three")
	}
	x.send(p.bytes(), 7)
	d.await("thrice: OPEN SESAME")
	d.stop()
}
