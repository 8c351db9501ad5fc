package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
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
	w.must(n.run("ip", "address", "add", "10.2.0.1", "peer", "10.2.0.2", "dev", "ppp0"))
	var links map[int]*Link
	w.must(n.do(func() (err error) {
		links, err = readLinks()
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

func TestListenedOn(t *testing.T) {
	links := map[int]*Link{1: {Index: 1, Name: "lo"}, 2: {Index: 2, Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, 3: {Index: 3, Name: "eth1"}}
	for _, tt := range []struct {
		names []string
		want  string
		err   string
	}{
		{nil, "lo eth0 eth1", ""},
		{[]string{"eth1", "eth0"}, "eth0 eth1", ""},
		{[]string{"eth0", "wan"}, "", `there is no interface "wan": there are eth0, eth1, lo`},
	} {
		on, err := listenedOn(links, tt.names)
		var got []string
		for _, l := range on {
			got = append(got, l.Name)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%v: got %v, want %s", tt.names, got, tt.want)
		}
		if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("%v: got error %v, want %q", tt.names, err, tt.err)
		}
	}
}
