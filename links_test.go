//go:build !pure

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
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

func TestNames(t *testing.T) {
	for _, test := range []struct {
		list, link string
		gateway    bool
		want       bool
	}{
		{"eth0", "eth0", false, true}, {"eth0", "eth00", false, false}, {"eth0", "eth", false, false},
		{"ppp*", "ppp0", false, true}, {"ppp*", "ppp", false, true}, {"ppp*", "pp", false, false}, {"ppp*", "xppp0", false, false},
		{"wan,ppp*", "wan", false, true}, {"any", "lo", false, true},
		{"auto", "wan", false, false}, {"auto", "wan", true, true}, {"auto", "auto", false, true}, {"wan", "eth0", true, false},
	} {
		list, err := parseInterfaces(test.list)
		if err != nil {
			t.Fatal(err)
		}
		if got := names(list, &Link{Name: test.link, Default: test.gateway}); got != test.want {
			t.Errorf("%s, %s: got %v, want %v", test.list, test.link, got, test.want)
		}
	}
	if names(nil, &Link{Name: "eth0", Default: true}) {
		t.Error("a list that is not in use names a link")
	}
}

// TestElsewhere says for which lists of interfaces a frame counts, each list being a letter.
func TestElsewhere(t *testing.T) {
	tagged, foreign := Frame{Tagged: true}, Frame{Foreign: true}
	for _, test := range []struct {
		name  string
		lists []string // a, b and so on; "" is not in use
		link  string
		frame Frame
		to    string
		want  string
	}{
		{"all", []string{"*"}, "eth0", Frame{}, "192.0.2.1", "a"},
		{"a port, with the bridge in the same list", []string{"*"}, "port", Frame{}, "192.0.2.1", ""},
		{"a port, with the bridge in no list", []string{"port"}, "port", Frame{}, "192.0.2.1", "a"},
		{"a port and a bridge in two lists", []string{"port", "br0"}, "port", Frame{}, "192.0.2.1", "a"},
		{"that bridge", []string{"port", "br0"}, "br0", Frame{}, "192.0.2.1", "b"},
		{"a port in two lists, and its bridge in one", []string{"port,br0", "p*"}, "port", Frame{}, "192.0.2.1", "b"},
		{"tagged, with the VLAN", []string{"*"}, "eth0", tagged, "192.0.2.1", ""},
		{"tagged, without the VLAN", []string{"eth0,lo"}, "eth0", tagged, "192.0.2.1", "a"},
		{"tagged, the VLAN in another list", []string{"eth0", "eth0.5"}, "eth0", tagged, "192.0.2.1", "a"},
		{"the VLAN", []string{"*"}, "eth0.5", Frame{}, "192.0.2.1", "a"},
		{"to a macvlan", []string{"*"}, "eth0", foreign, "192.0.2.1", ""},
		{"to a macvlan, which is not listened on", []string{"eth0"}, "eth0", foreign, "192.0.2.1", "a"},
		{"to an ipvlan's address", []string{"*"}, "eth0", Frame{}, "192.0.2.5", ""},
		{"to an ipvlan's address, which is not listened on", []string{"eth0"}, "eth0", Frame{}, "192.0.2.5", "a"},
		{"a bond's port, with the bridge over the bond", []string{"slave,over"}, "slave", Frame{}, "192.0.2.1", ""},
		{"that bridge", []string{"slave,over"}, "over", Frame{}, "192.0.2.1", "a"},
		{"tagged, with the bridge that the VLAN is a port of", []string{"trunk,over"}, "trunk", tagged, "192.0.2.1", ""},
		{"not tagged, with that bridge", []string{"trunk,over"}, "trunk", Frame{}, "192.0.2.1", "a"},
		{"tagged, with a VLAN of the bridge", []string{"port,br0.5"}, "port", tagged, "192.0.2.1", ""},
		{"a list that is not in use", []string{"", "eth0"}, "eth0", Frame{}, "192.0.2.1", "b"},
		{"in no list", []string{"lo", "port"}, "eth0", Frame{}, "192.0.2.1", ""},
	} {
		links := map[int]*Link{
			1: {Index: 1, Name: "lo"}, 2: {Index: 2, Name: "eth0"}, 3: {Index: 3, Name: "eth0.5", Parent: 2},
			4: {Index: 4, Name: "br0"}, 5: {Index: 5, Name: "port", Master: 4},
			6:  {Index: 6, Name: "mac", Parent: 2, Takes: takesForeign},
			7:  {Index: 7, Name: "ip", Parent: 2, Takes: takesToIt, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.5")}},
			10: {Index: 10, Name: "slave", Master: 11}, 11: {Index: 11, Name: "bond", Master: 12}, 12: {Index: 12, Name: "over"},
			13: {Index: 13, Name: "trunk"}, 14: {Index: 14, Name: "trunk.7", Parent: 13, Master: 12}, 15: {Index: 15, Name: "br0.5", Parent: 4},
		}
		var lists [][]string
		for _, text := range test.lists {
			var list []string
			if text != "" {
				list, _ = parseInterfaces(text)
			}
			lists = append(lists, list)
		}
		apply(lists, links)
		got := ""
		for _, l := range links {
			if l.Name != test.link {
				continue
			}
			bits := l.elsewhere(&test.frame, netip.MustParseAddr(test.to).As16())
			for i := range 64 {
				if bits>>i&1 == 0 {
					got += string(rune('a' + i))
				}
			}
		}
		if got != test.want {
			t.Errorf("%s: counts for lists %q, want %q", test.name, got, test.want)
		}
	}
}

func TestLinkStates(t *testing.T) {
	links := map[int]*Link{
		1: {Index: 1, Name: "lo", Up: true, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}},
		3: {Index: 3, Name: "ppp0"}, 2: {Index: 2, Name: "wan", Up: true, Default: true},
	}
	for _, test := range []struct{ lists, want string }{
		{"any", "lo: up, 127.0.0.1, ::1; wan: up; ppp0: down"},
		{"ppp*,eth0", "ppp0: down; eth0: absent"},
		{"eth0|eth0,wlan*", "eth0: absent; wlan*: absent"},
		{"auto|wan", "wan: up"},
	} {
		var lists [][]string
		for _, text := range strings.Split(test.lists, "|") {
			list, err := parseInterfaces(text)
			if err != nil {
				t.Fatal(err)
			}
			lists = append(lists, list)
		}
		var got []string
		for _, s := range linkStates(lists, links) {
			got = append(got, s.Name+": "+s.String())
		}
		if strings.Join(got, "; ") != test.want {
			t.Errorf("%s: got %s, want %s", test.lists, strings.Join(got, "; "), test.want)
		}
	}
	links[2].Default = false
	if got := linkStates([][]string{{"auto"}}, links); len(got) != 1 || got[0].news() != "no interface holds a default route yet: one is waited for" {
		t.Errorf("auto without a default route: got %v", got)
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
		select {
		case <-changed:
			if !test.want {
				t.Errorf("%s: a change is told", test.name)
			}
		case <-time.After(quietTime):
			if test.want {
				t.Errorf("%s: no change is told", test.name)
			}
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
		followNetlink(socket, func([]byte) bool { return false }, changed, 0)
		close(ended)
	}()
	select {
	case <-changed:
	case <-time.After(5 * time.Second):
		t.Error("lost messages are no change")
	}
	_ = socket.Close()
	<-ended
}

// linkMessages are what this machine's kernel answers, as seeds.
func linkMessages(f *testing.F) {
	for _, kind := range []uint16{unix.RTM_GETLINK, unix.RTM_GETADDR, unix.RTM_GETROUTE} {
		_ = dump(kind, kind-2, 0, func(body []byte) { f.Add(slices.Clone(body)) }) // RTM_NEW... is two below RTM_GET...
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
			if _, addr := parseAddress(body); addr.Zone() != "" {
				t.Errorf("a zone: %v", addr)
			}
		}
		if out := parseDefaultRoute(body); len(out) > len(body) {
			t.Errorf("%d links from %d bytes", len(out), len(body))
		}
	})
}

// FuzzNetlinkBatch: a batch ends, whatever its lengths say.
func FuzzNetlinkBatch(f *testing.F) {
	for _, b := range [][]byte{
		nil, netlinkMessage(unix.RTM_NEWLINK, 1, "123"), netlinkMessage(unix.NLMSG_DONE, 0, "\x00\x00\x00\x00"),
		netlinkMessage(unix.NLMSG_ERROR, 0, "\xff\xff\xff\xff"), append(netlinkMessage(1, 0, ""), netlinkMessage(unix.RTM_NEWADDR, 0, "12345678")...),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clip(b)
		tellsLinks(b)
		tellsFirewall(b)
		n := 0
		_, _ = takeAnswers(b, unix.RTM_NEWLINK, unix.SizeofIfInfomsg, func(body []byte) {
			n++
			parseLink(body)
		})
		if n > len(b)/unix.SizeofNlMsghdr {
			t.Errorf("%d messages in %d bytes", n, len(b))
		}
	})
}

// TestTakeAnswers has what the kernel may answer to a dump.
func TestTakeAnswers(t *testing.T) {
	link := netlinkMessage(unix.RTM_NEWLINK, 0, strings.Repeat("\x00", unix.SizeofIfInfomsg))
	errno := binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EBUSY-1))
	zero := string(make([]byte, 4))
	for _, test := range []struct {
		name  string
		batch []byte
		taken int
		done  bool
		err   error
	}{
		{"two links", append(slices.Clone(link), link...), 2, false, nil},
		{"a link and the end", append(slices.Clone(link), netlinkMessage(unix.NLMSG_DONE, 0, zero)...), 1, true, nil},
		{"the end with an error", netlinkMessage(unix.NLMSG_DONE, 0, string(errno)), 0, true, unix.EBUSY},
		{"an error", netlinkMessage(unix.NLMSG_ERROR, 0, string(errno)), 0, true, unix.EBUSY},
		{"an error without a number", netlinkMessage(unix.NLMSG_ERROR, 0, ""), 0, true, unix.EBADMSG},
		{"another kind", netlinkMessage(unix.RTM_NEWADDR, 0, zero), 0, false, nil},
		{"too short", netlinkMessage(unix.RTM_NEWLINK, 0, zero), 0, false, unix.EBADMSG},
		{"cut off", link[:len(link)-1], 0, false, unix.EBADMSG},
	} {
		taken := 0
		done, err := takeAnswers(test.batch, unix.RTM_NEWLINK, unix.SizeofIfInfomsg, func([]byte) { taken++ })
		if taken != test.taken || done != test.done || err != test.err {
			t.Errorf("%s: got %d messages, done %v, error %v, want %d, %v, %v", test.name, taken, done, err, test.taken, test.done, test.err)
		}
	}
}
