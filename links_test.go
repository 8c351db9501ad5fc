//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNames(t *testing.T) {
	for _, test := range []struct {
		list, link string
		gateway    bool
		want       bool
	}{
		{"eth0", "eth0", false, true}, {"eth0", "eth00", false, false}, {"eth0", "eth", false, false},
		{"ppp*", "ppp0", false, true}, {"ppp*", "ppp", false, true}, {"ppp*", "pp", false, false}, {"ppp*", "xppp0", false, false},
		{"wan,ppp*", "wan", false, true}, {"any", "wan", false, true}, {"any", "lo", false, false}, {"any,lo", "lo", false, true}, {"lo, ALL", "lo", false, true},
		{"lo", "lo", false, true}, {"l*", "lo", false, true},
		{"auto", "wan", false, false}, {"auto", "wan", true, true}, {"auto", "auto", false, true}, {"wan", "eth0", true, false},
	} {
		list, err := parseInterfaces(test.list)
		if err != nil {
			t.Fatal(err)
		}
		if got := names(list, &Link{Name: test.link, Loopback: test.link == "lo", Default: test.gateway}); got != test.want {
			t.Errorf("%s, %s: got %v, want %v", test.list, test.link, got, test.want)
		}
	}
	if names(nil, &Link{Name: "eth0", Default: true}) {
		t.Error("a list that is not in use names a link")
	}
}

// TestOutside says for which lists of interfaces a frame counts, each list being a letter.
func TestOutside(t *testing.T) {
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
		{"to a macvlan's parent, of the same hardware address", []string{"*"}, "eth1", Frame{}, "192.0.2.1", ""},
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
			bits := l.frameOutside(&test.frame, netip.MustParseAddr(test.to).As16())
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
		1: {Index: 1, Name: "lo", Loopback: true, Up: true, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}},
		3: {Index: 3, Name: "ppp0"}, 2: {Index: 2, Name: "wan", Up: true, Default: true},
		4: {Index: 4, Name: "slave", Upper: 5, Master: 5}, 5: {Index: 5, Name: "bond0", Upper: 6, Master: 6}, 6: {Index: 6, Name: "br0"},
		7: {Index: 7, Name: "br0.5", Parent: 6}, 8: {Index: 8, Name: "red", Upper: 9}, 9: {Index: 9, Name: "vrf"},
	}
	port := func(name, of string) string {
		return fmt.Sprintf("%[1]s: down; %[1]s is a port of %[2]s: its packets come in on %[2]s, so ports hidden on %[1]s are hidden on all of %[2]s", name, of)
	}
	for _, test := range []struct{ lists, want string }{
		{"any", "wan: up; ppp0: down; slave: down; bond0: down; br0: down; br0.5: down; red: down; vrf: down"},
		{"any,lo", "lo: up, 127.0.0.1, ::1; wan: up; ppp0: down; slave: down; bond0: down; br0: down; br0.5: down; red: down; vrf: down"},
		{"slave", port("slave", "br0")},
		{"slave,bond0", port("slave", "br0") + "; " + port("bond0", "br0")},
		{"slave,br0", "slave: down; br0: down"},
		{"slave|br0", port("slave", "br0") + "; br0: down"},
		{"re*", port("red", "vrf")},
		{"br0.5,wan", "wan: up; br0.5: down"},
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
	if got := linkStates([][]string{{"*"}}, map[int]*Link{1: links[1]}); got != nil {
		t.Errorf("any, with lo alone: got %v, want nothing", got)
	}
	links[2].Default = false
	if got := linkStates([][]string{{"auto"}}, links); len(got) != 1 || got[0].news("eth0, lo") != "no interface holds a default route yet: waiting for one (there are eth0, lo)" {
		t.Errorf("auto without a default route: got %v", got)
	}
}

// attribute makes one of netlink's, padded.
func attribute(kind int, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, uint16(kind)), data...)
	return append(b, make([]byte, -len(b)&3)...)
}

// TestParseLink reads what the kernel of a machine of this byte order would send.
func TestParseLink(t *testing.T) {
	number := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	body := make([]byte, unix.SizeofIfInfomsg)
	copy(body[4:], number(7))
	copy(body[8:], number(unix.IFF_UP|unix.IFF_RUNNING))
	body = append(body, attribute(unix.IFLA_IFNAME, []byte("eth0.5\x00"))...)
	body = append(body, attribute(unix.IFLA_LINK, number(3))...)
	body = append(body, attribute(unix.IFLA_MASTER, number(9))...)
	vlan := append(body, attribute(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, attribute(unix.IFLA_INFO_KIND, []byte("vlan\x00")))...)
	l, kind := parseLink(vlan)
	if want := (Link{Index: 7, Name: "eth0.5", Upper: 9, Master: 9, Parent: 3, Up: true}); !l.same(&want) || l.Index != 7 || kind != "vlan" {
		t.Errorf("got %+v, kind %s, want %+v, kind vlan", l, kind, want)
	}
	elsewhere, _ := parseLink(append(vlan, attribute(unix.IFLA_LINK_NETNSID, number(1))...))
	if elsewhere.Parent != 0 {
		t.Errorf("got the parent %d, which is in another namespace", elsewhere.Parent)
	}
	if l, kind := parseLink(body[:len(body)-1]); kind != "" || l.Parent != 0 || l.Name != "eth0.5" {
		t.Errorf("cut off: got %+v, kind %q", l, kind)
	}

	address := append([]byte{unix.AF_INET, 24, 0, 0}, number(7)...)
	address = append(address, attribute(unix.IFA_ADDRESS, []byte{10, 0, 0, 2})...)
	if index, addr, _ := parseAddress(address); index != 7 || addr.String() != "10.0.0.2" {
		t.Errorf("got the address %v of link %d", addr, index)
	}
	address = append(address, attribute(unix.IFA_LOCAL, []byte{10, 0, 0, 1})...)
	if _, addr, _ := parseAddress(address); addr.String() != "10.0.0.1" {
		t.Errorf("of a point-to-point link: got the address %v", addr)
	}

	route := make([]byte, unix.SizeofRtMsg)
	route[0], route[7] = unix.AF_INET6, unix.RTN_UNICAST
	var hops []byte
	for _, index := range []uint32{7, 8} {
		hop := append(binary.NativeEndian.AppendUint16(nil, 8), 0, 0)
		hops = append(append(hops, hop...), number(index)...)
	}
	out := parseDefaultRoute(append(route, attribute(unix.RTA_MULTIPATH, hops)...))
	if len(out) != 2 || out[0] != 7 || out[1] != 8 {
		t.Errorf("a route of two hops: got the links %v, want 7 and 8", out)
	}
	if out := parseDefaultRoute(append(route, attribute(unix.RTA_OIF, number(9))...)); len(out) != 1 || out[0] != 9 {
		t.Errorf("a route: got the links %v, want 9", out)
	}
}
