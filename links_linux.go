package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Link is a network interface: what the kernel tells of it, and what the configuration makes of that.
type Link struct {
	Index     int
	Name      string
	Upper     int // index of the bridge, bond, team or VRF that it is a port of, else 0
	Master    int // the same, if that one shows its frames again, else 0
	Parent    int // of a VLAN, macvlan or ipvlan: index of the link whose frames it shows again, else 0
	Takes     taking
	Loopback  bool
	Up        bool                  // and running: a cable is in
	Default   bool                  // a default route leads out of it
	Addresses []netip.Addr          // without zone
	Labels    map[netip.Addr]string // of those that have one, such as eth0:1 (ip-address(8))

	// Outside has bit i set unless the i-th list of interfaces names the link (Config.lists). The others have those
	// lists whose links show frames of this one again, also with links between that no list names: MasterShows each
	// frame, TagShows those with a VLAN's tag, ForeignShows those to another hardware address.
	Outside, MasterShows, TagShows, ForeignShows uint64
	TakesForeign                                 bool    // a link over it takes frames to another hardware address
	ipvlans                                      []*Link // whose Parent it is
	// unlabelled has, for each address, the lists that name others of the link's by their labels, and not the link.
	unlabelled map[[16]byte]uint64
}

// taking is which frames of its parent a link shows again.
type taking uint8

const (
	takesTagged  taking = iota // a VLAN
	takesForeign               // a macvlan, which has a hardware address of its own
	takesToIt                  // an ipvlan: frames to its addresses
	takesAll                   // a macvlan that has its parent's hardware address
)

// listened reports whether a list of interfaces names the link.
func (l *Link) listened() bool { return l.Outside != allLists }

// uppers are the links that it is a port of, one by way of the other.
func (l *Link) uppers(links map[int]*Link) (all []*Link) {
	for upper := links[l.Upper]; upper != nil && len(all) < maxNested; upper = links[upper.Upper] {
		all = append(all, upper)
	}
	return all
}

// input is the link that packets come in on for the firewall: the last of its uppers, and itself if it has none.
func (l *Link) input(links map[int]*Link) *Link {
	if uppers := l.uppers(links); uppers != nil {
		return uppers[len(uppers)-1]
	}
	return l
}

// routed is the link on which the kernel routes a packet that came in on l: the bridge, bond or team, and a VRF's port
// itself.
func (l *Link) routed(links map[int]*Link) *Link {
	for n := 0; n < maxNested && links[l.Master] != nil; n++ {
		l = links[l.Master]
	}
	return l
}

// allLists is what Link.Outside is for a link that no list names.
const allLists = ^uint64(0)

// frameOutside has the bits of the lists of interfaces for which a frame on the link, to that address, does not count:
// those that do not name the link, and those that name another one which shows the frame again.
func (l *Link) frameOutside(f *Frame, to [16]byte) uint64 {
	bits := l.Outside | l.MasterShows | l.unlabelled[to]
	if f.Tagged {
		bits |= l.TagShows
	}
	if f.Foreign {
		bits |= l.ForeignShows
	}
	for _, u := range l.ipvlans {
		if slices.Contains(u.Addresses, netip.AddrFrom16(to).Unmap()) {
			bits |= ^u.Outside | u.MasterShows
		}
	}
	return bits
}

// readLinks asks the kernel for all interfaces, by index, and their addresses (rtnetlink(7)). Only with routes it knows
// which hold a default route.
func readLinks(routes bool) (map[int]*Link, error) {
	links := map[int]*Link{}
	vrf := map[int]bool{}
	err := dump("interfaces", unix.RTM_GETLINK, unix.RTM_NEWLINK, unix.SizeofIfInfomsg, func(body []byte) {
		l, kind := parseLink(body)
		links[l.Index] = l
		vrf[l.Index] = kind == "vrf"
	})
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if vrf[l.Master] { // it does not show its ports' frames again as received (vrf_ip_rcv in drivers/net/vrf.c)
			l.Master = 0
		}
	}
	err = dump("addresses", unix.RTM_GETADDR, unix.RTM_NEWADDR, unix.SizeofIfAddrmsg, func(body []byte) {
		index, addr, label := parseAddress(body)
		if l := links[index]; l != nil && addr.IsValid() {
			l.Addresses = append(l.Addresses, addr)
			if strings.Contains(label, ":") { // else it is the link's name
				l.Labels[addr] = label
			}
		}
	})
	if err != nil || !routes {
		return links, err
	}
	return links, dump("routes", unix.RTM_GETROUTE, unix.RTM_NEWROUTE, unix.SizeofRtMsg, func(body []byte) {
		for _, index := range parseDefaultRoute(body) {
			if l := links[index]; l != nil {
				l.Default = true
			}
		}
	})
}

// parseLink reads struct ifinfomsg (rtnetlink(7)) and the attributes behind it. kind is IFLA_INFO_KIND, such as vlan,
// and "" for hardware.
func parseLink(body []byte) (l *Link, kind string) {
	flags := binary.NativeEndian.Uint32(body[8:])
	l = &Link{
		Labels: map[netip.Addr]string{},
		Index:  int(int32(binary.NativeEndian.Uint32(body[4:]))),
		Up:     flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0, Loopback: flags&unix.IFF_LOOPBACK != 0,
	}
	parent, foreign := 0, false
	var data []byte
	eachAttribute(body[unix.SizeofIfInfomsg:], func(attr uint16, value []byte) {
		switch attr {
		case unix.IFLA_IFNAME:
			l.Name = strings.TrimRight(string(value), "\x00")
		case unix.IFLA_MASTER:
			l.Upper = indexOf(value)
			l.Master = l.Upper
		case unix.IFLA_LINK:
			parent = indexOf(value)
		case unix.IFLA_LINK_NETNSID:
			foreign = true // the parent's index is one of another namespace
		case unix.IFLA_LINKINFO:
			eachAttribute(value, func(attr uint16, value []byte) {
				switch attr {
				case unix.IFLA_INFO_KIND:
					kind = strings.TrimRight(string(value), "\x00")
				case unix.IFLA_INFO_DATA:
					data = value
				}
			})
		}
	})
	takes, known := map[string]taking{
		"vlan": takesTagged, "macvlan": takesForeign, "macvtap": takesForeign, "ipvlan": takesToIt, "ipvtap": takesToIt,
	}[kind]
	eachAttribute(data, func(attr uint16, value []byte) {
		if takes == takesForeign && attr == unix.IFLA_MACVLAN_MODE && indexOf(value) == macvlanPassthru {
			takes = takesAll
		}
	})
	if known && !foreign {
		l.Parent, l.Takes = parent, takes
	}
	return l, kind
}

// macvlanPassthru is a mode of a macvlan (MACVLAN_MODE_PASSTHRU in linux/if_link.h).
const macvlanPassthru = 8

// indexOf reads a number of 32 bits; 0 if there is none.
func indexOf(value []byte) int {
	if len(value) < 4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(value)))
}

// parseAddress reads struct ifaddrmsg (rtnetlink(7)) and the attributes behind it. Without a usable address it returns
// the zero Addr.
func parseAddress(body []byte) (index int, addr netip.Addr, label string) {
	var other netip.Addr
	eachAttribute(body[unix.SizeofIfAddrmsg:], func(attr uint16, value []byte) {
		switch attr {
		case unix.IFA_LOCAL:
			addr, _ = netip.AddrFromSlice(value)
		case unix.IFA_LABEL:
			label = strings.TrimRight(string(value), "\x00")
		case unix.IFA_ADDRESS:
			// On a point-to-point link it is the other end's (linux/if_addr.h); IPv6 without a peer has it alone.
			other, _ = netip.AddrFromSlice(value)
		}
	})
	if !addr.IsValid() {
		addr = other
	}
	if addr.Is4In6() { // no packet is to it: it stands for an IPv4 address that this host need not have
		addr = netip.Addr{}
	}
	return indexOf(body[4:]), addr, label
}

// parseDefaultRoute reads struct rtmsg (rtnetlink(7)) and the attributes behind it, and returns the links that a default
// route leads out of: none for any other route.
func parseDefaultRoute(body []byte) (out []int) {
	if !isDefaultRoute(body) {
		return nil
	}
	eachAttribute(body[unix.SizeofRtMsg:], func(attr uint16, value []byte) {
		switch attr {
		case unix.RTA_OIF:
			out = append(out, indexOf(value))
		case unix.RTA_MULTIPATH:
			// struct rtnexthop: length (16 bits), flags, hops, index (32 bits), then attributes.
			for len(value) >= unix.SizeofRtNexthop {
				out = append(out, indexOf(value[4:]))
				length := int(binary.NativeEndian.Uint16(value))
				if length < unix.SizeofRtNexthop {
					return
				}
				value = value[min((length+3)&^3, len(value)):] // RTNH_ALIGN
			}
		}
	})
	return out
}

// isDefaultRoute reports whether a message is about a unicast route to everywhere, in whatever table.
func isDefaultRoute(body []byte) bool {
	const offFamily, offDstLen, offType = 0, 1, 7
	return len(body) >= unix.SizeofRtMsg && body[offDstLen] == 0 && body[offType] == unix.RTN_UNICAST &&
		(body[offFamily] == unix.AF_INET || body[offFamily] == unix.AF_INET6)
}

// linksPause is how long after a change of the links the next one is told: they come in crowds.
const linksPause = 5 * time.Millisecond

// watchLinks sends on changed, without waiting, when a link, an address or, with routes, a default route has been
// added, changed or removed in the network namespace of the thread that calls. stop ends it, and returns when it has
// ended.
func watchLinks(routes bool, changed chan<- struct{}) (stop func(), err error) {
	socket, err := subscribeLinks(routes)
	if err != nil {
		return nil, fmt.Errorf("following the interfaces: %w", err)
	}
	return watchNetlink(socket, signals(tellsLinks, changed, linksPause)), nil
}

func subscribeLinks(routes bool) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if routes {
		groups |= unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	}
	// A socket that is not bound misses what the kernel does of its own accord (do_one_broadcast in
	// net/netlink/af_netlink.c).
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil // as it does not block, Close ends a Read
}

// tellsLinks reports whether a batch of netlink messages may mean that readLinks would read something else.
func tellsLinks(b []byte) bool {
	return anyMessage(b, func(kind uint16, _ uint32, body []byte) bool {
		switch kind {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
			return true
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			return isDefaultRoute(body)
		}
		return false
	})
}

// maxNested is how many links can stand on each other (MAX_NEST_DEV in linux/netdevice.h).
const maxNested = 8

// apply marks the links by the lists of interfaces; a list that is nil is not in use. on are those that at least one
// of them names, by index.
func apply(lists [][]string, links map[int]*Link) (on []*Link) {
	for _, l := range links {
		l.Outside, l.unlabelled = allLists, map[[16]byte]uint64{}
		for i, list := range lists {
			if !names(list, l) {
				continue
			}
			l.Outside &^= 1 << i
			for _, addr := range l.Addresses {
				if !namesWhole(list, l) && !slices.Contains(list, l.Labels[addr]) {
					l.unlabelled[addr.As16()] |= 1 << i
				}
			}
		}
		if l.listened() {
			on = append(on, l)
		}
	}
	for _, l := range links {
		l.TakesForeign = l.TakesForeign || l.Upper != 0
		if parent := links[l.Parent]; parent != nil {
			switch l.Takes {
			case takesToIt:
				parent.ipvlans = append(parent.ipvlans, l)
			case takesForeign, takesAll:
				parent.TakesForeign = true
			}
		}
	}
	for range maxNested { // from link to link
		for _, l := range links {
			if master := links[l.Master]; master != nil {
				l.MasterShows |= ^master.Outside | master.MasterShows
				l.TagShows |= master.TagShows
				l.ForeignShows |= master.ForeignShows
			}
			parent, above := links[l.Parent], ^l.Outside|l.MasterShows
			switch {
			case parent == nil:
			case l.Takes == takesTagged:
				parent.TagShows |= above
			case l.Takes == takesForeign:
				parent.ForeignShows |= above
			case l.Takes == takesAll:
				parent.MasterShows |= above
			}
		}
	}
	return byIndex(on)
}

func byIndex(links []*Link) []*Link {
	slices.SortFunc(links, func(a, b *Link) int { return a.Index - b.Index })
	return links
}

// names reports whether a list of interfaces, as parseInterfaces returns it, names the link or an address's label on it.
func names(list []string, l *Link) bool {
	label := func(addr netip.Addr) bool { return slices.Contains(list, l.Labels[addr]) }
	return namesWhole(list, l) || slices.ContainsFunc(l.Addresses, label)
}

// namesWhole reports whether it names the link.
func namesWhole(list []string, l *Link) bool {
	return slices.ContainsFunc(list, func(item string) bool {
		prefix, pattern := strings.CutSuffix(item, "*")
		pattern = pattern && (item != everyInterface || !l.Loopback)
		return item == l.Name || pattern && strings.HasPrefix(l.Name, prefix) || item == autoInterface && l.Default
	})
}

// same reports whether the other link is this one, unchanged.
func (l *Link) same(o *Link) bool {
	return l.Name == o.Name && l.Upper == o.Upper && l.Master == o.Master && l.Parent == o.Parent && l.Takes == o.Takes &&
		l.Loopback == o.Loopback && l.Up == o.Up && l.Default == o.Default && slices.Equal(l.Addresses, o.Addresses) && maps.Equal(l.Labels, o.Labels)
}

// linkNames are the names of links, sorted: of all, or of those that hold a default route.
func linkNames(links map[int]*Link, onlyDefault bool) (names []string) {
	for _, l := range links {
		if l.Default || !onlyDefault {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return names
}

// linkStates are the links that lists name, by index, and then the items that no link fits.
func linkStates(lists [][]string, links map[int]*Link) (states []LinkState) {
	items := slices.Concat(lists...)
	var on []*Link
	for _, l := range links {
		if names(items, l) {
			on = append(on, l)
		}
	}
	for _, l := range byIndex(on) {
		s := LinkState{Name: l.Name, State: "down", Addresses: l.Addresses}
		if l.Up {
			s.State = "up"
		}
		in := l.input(links)
		if slices.ContainsFunc(lists, func(list []string) bool { return names(list, l) && !names(list, in) }) {
			s.PortOf = in.Name
		}
		states = append(states, s)
	}
	for _, item := range items {
		if item != everyInterface && !slices.ContainsFunc(on, func(l *Link) bool { return names([]string{item}, l) }) &&
			!slices.ContainsFunc(states, func(s LinkState) bool { return s.Name == item }) {
			states = append(states, LinkState{Name: item, State: absent})
		}
	}
	return states
}
