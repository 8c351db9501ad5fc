//go:build linux && !pure

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReadLinks reads the interfaces of a namespace that the test made.
func TestReadLinks(t *testing.T) {
	needRoot(t)
	w := &world{T: t}
	n, other := w.netns(), w.netns()
	w.must(n.run("ip", "link", "add", "br0", "type", "bridge"))
	w.must(n.link("port", other, "eth0"))
	w.must(n.run("ip", "link", "set", "port", "master", "br0"))
	w.must(n.link("ppp0", other, "ppp0"))
	w.must(n.run("ip", "address", "add", "10.1.0.1/24", "dev", "br0"))
	w.must(n.run("ip", "address", "add", "10.1.0.2/24", "dev", "br0"))
	w.must(n.run("ip", "address", "add", "2001:db8::1/64", "dev", "br0", "nodad"))
	w.must(n.run("ip", "address", "add", "::ffff:10.1.0.3/128", "dev", "br0", "nodad"))
	w.must(n.run("ip", "address", "add", "10.2.0.1", "peer", "10.2.0.2", "dev", "ppp0"))
	var links map[int]*Link
	w.must(n.do(func() (err error) {
		links, err = readLinks(false)
		return err
	}))
	byName := map[string]*Link{}
	for index, l := range links {
		if index != l.Index {
			t.Errorf("link %d has index %d", index, l.Index)
		}
		byName[l.Name] = l
	}
	for _, tt := range []struct {
		name, master string
		loopback     bool
		addresses    string
	}{
		{"lo", "", true, "127.0.0.1 ::1"},
		{"br0", "", false, "10.1.0.1 10.1.0.2 2001:db8::1"},
		{"port", "br0", false, ""},
		{"ppp0", "", false, "10.2.0.1"},
	} {
		l := byName[tt.name]
		if l == nil {
			t.Errorf("there is no %s", tt.name)
			continue
		}
		var addresses []string
		for _, a := range l.Addresses {
			if !a.IsLinkLocalUnicast() {
				addresses = append(addresses, a.String())
			}
		}
		slices.Sort(addresses)
		if got := strings.Join(addresses, " "); got != tt.addresses {
			t.Errorf("%s: addresses: got %s, want %s", tt.name, got, tt.addresses)
		}
		if l.Loopback != tt.loopback {
			t.Errorf("%s: loopback: got %v, want %v", tt.name, l.Loopback, tt.loopback)
		}
		if m := links[l.Master]; (m == nil) != (tt.master == "") || m != nil && m.Name != tt.master {
			t.Errorf("%s: master: got %v, want %q", tt.name, m, tt.master)
		}
	}
}

// TestReadLinksDefault has default routes of several kinds.
func TestReadLinksDefault(t *testing.T) {
	needRoot(t)
	w := &world{T: t}
	n, other := w.netns(), w.netns()
	for i := range 6 {
		w.must(n.link(fmt.Sprint("eth", i), other, fmt.Sprint("eth", i)))
		w.must(n.run("ip", "address", "add", fmt.Sprintf("10.%d.0.1/24", i), "dev", fmt.Sprint("eth", i)))
	}
	for _, route := range []string{
		"route add default via 10.0.0.2 metric 5",
		"route add default dev eth1 metric 7",
		"-6 route add default dev eth2 metric 9",
		"route add 0.0.0.0/1 dev eth3", // a tunnel's trick, and no default route
		"route add default metric 3 nexthop dev eth4 nexthop via 10.5.0.2 dev eth5 onlink",
		"route add unreachable default metric 99",
		"-6 route add unreachable default metric 99",
	} {
		w.must(n.run("ip", strings.Fields(route)...))
	}
	for _, routes := range []bool{false, true} {
		var got []string
		w.must(n.do(func() error {
			links, err := readLinks(routes)
			for _, l := range links {
				if l.Default {
					got = append(got, l.Name)
				}
			}
			return err
		}))
		slices.Sort(got)
		want := ""
		if routes {
			want = "eth0 eth1 eth2 eth4 eth5"
		}
		if strings.Join(got, " ") != want {
			t.Errorf("with routes %v: got %v, want %s", routes, got, want)
		}
	}
}

// TestWatchLinks tells of what counts, and of nothing else.
func TestWatchLinks(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	const up = "ip link add br0 type bridge; ip link set br0 up; ip address add 10.1.0.1/24 dev br0"
	for _, test := range []struct {
		name, setUp, do string
		routes, want    bool
	}{
		{"a link", "", "ip link add br0 type bridge", false, true},
		{"a link gone", up, "ip link delete br0", false, true},
		{"down", up, "ip link set br0 down", false, true},
		{"renamed", "ip link add br0 type bridge", "ip link set br0 name wan", false, true},
		{"an address", up, "ip address add 10.2.0.1/24 dev br0", false, true},
		{"an address gone", up, "ip address del 10.1.0.1/24 dev br0", false, true},
		{"an IPv6 address", up, "ip address add fd00::1/64 dev br0 nodad", false, true},
		{"a route", up, "ip route add 10.9.0.0/24 dev br0", true, false},
		{"a default route", up, "ip route add default dev br0", true, true},
		{"a default route that nobody asks for", up, "ip route add default dev br0", false, false},
		{"a default route gone", up + "; ip route add default dev br0", "ip route del default", true, true},
		{"a default route of another table", up, "ip route add default dev br0 table 7", true, true},
		{"an IPv6 default route", up, "ip -6 route add default dev br0", true, true},
		{"looked at", up, "ip address; ip route; ip link", true, false},
	} {
		n := w.netns()
		w.must(n.run("sh", "-ec", "ip link set lo up; "+test.setUp))
		time.Sleep(quietTime) // for what the kernel tells of its own accord
		changed := make(chan struct{}, 1)
		var stop func()
		w.must(n.do(func() (err error) {
			stop, err = watchLinks(test.routes, changed)
			return err
		}))
		w.must(n.run("sh", "-ec", test.do))
		if got := told(changed, test.want); got != test.want {
			t.Errorf("%s: a change is told: got %v, want %v", test.name, got, test.want)
		}
		stop()
	}
}

// TestWatchLinksLost: more messages come than the socket holds, and that counts as a change.
func TestWatchLinksLost(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	n := w.netns()
	var socket *os.File
	w.must(n.do(func() (err error) {
		socket, err = subscribeLinks(true)
		return err
	}))
	w.must(unix.SetsockoptInt(int(socket.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	w.must(unix.SetNonblock(int(socket.Fd()), true)) // (*os.File).Fd has undone it
	w.must(n.run("sh", "-ec", "ip link set lo up; for i in $(seq 200); do echo route add 10.9.$i.0/24 dev lo; done | ip -batch -"))
	changed, ended := make(chan struct{}, 10), make(chan struct{})
	go func() {
		followNetlink(socket, signals(func([]byte) bool { return false }, changed, 0))
		close(ended)
	}()
	if !told(changed, true) {
		t.Error("lost messages are no change")
	}
	_ = socket.Close()
	<-ended
}

// linkMessages are what this machine's kernel answers, as seeds.
func linkMessages(f *testing.F) {
	for _, kind := range []uint16{unix.RTM_GETLINK, unix.RTM_GETADDR, unix.RTM_GETROUTE} {
		_ = dump("links", kind, kind-2, 0, func(body []byte) { f.Add(slices.Clone(body)) }) // RTM_NEW... is two below RTM_GET...
	}
	multipath := make([]byte, unix.SizeofRtMsg, 64)
	multipath[0], multipath[7] = unix.AF_INET, unix.RTN_UNICAST
	multipath = binary.NativeEndian.AppendUint16(multipath, 4+16)
	multipath = binary.NativeEndian.AppendUint16(multipath, unix.RTA_MULTIPATH)
	for _, index := range []uint32{7, 8} {
		multipath = binary.NativeEndian.AppendUint16(multipath, 8)
		multipath = append(multipath, 0, 0)
		multipath = binary.NativeEndian.AppendUint32(multipath, index)
	}
	f.Add(multipath)
}

// FuzzLinkMessages: no length that lies, at any depth, is read beyond.
func FuzzLinkMessages(f *testing.F) {
	linkMessages(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		body = slices.Clip(body)
		if len(body) >= unix.SizeofIfInfomsg {
			if l, _ := parseLink(body); len(l.Name) > len(body) {
				t.Errorf("a name of %d bytes from %d", len(l.Name), len(body))
			}
		}
		if len(body) >= unix.SizeofIfAddrmsg {
			if _, addr, _ := parseAddress(body); addr.Zone() != "" {
				t.Errorf("a zone: %v", addr)
			}
		}
		if out := parseDefaultRoute(body); len(out) > len(body) {
			t.Errorf("%d links from %d bytes", len(out), len(body))
		}
	})
}
