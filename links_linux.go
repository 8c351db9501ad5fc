package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Link is a network interface.
type Link struct {
	Index     int
	Name      string
	Master    int // index of the bridge or bond it is a port of, else 0
	Loopback  bool
	Addresses []netip.Addr // without zone
}

// readLinks asks the kernel for all interfaces and their addresses (rtnetlink(7)).
func readLinks() (map[int]*Link, error) {
	links := map[int]*Link{}
	err := dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, unix.SizeofIfInfomsg, func(header []byte, attrs []syscall.NetlinkRouteAttr) {
		l := &Link{Index: int(int32(binary.NativeEndian.Uint32(header[4:])))}
		l.Loopback = binary.NativeEndian.Uint32(header[8:])&unix.IFF_LOOPBACK != 0
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.IFLA_IFNAME:
				l.Name = strings.TrimRight(string(a.Value), "\x00")
			case unix.IFLA_MASTER:
				if len(a.Value) >= 4 {
					l.Master = int(binary.NativeEndian.Uint32(a.Value))
				}
			}
		}
		links[l.Index] = l
	})
	if err != nil {
		return nil, fmt.Errorf("reading the list of interfaces: %w", err)
	}
	err = dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, unix.SizeofIfAddrmsg, func(header []byte, attrs []syscall.NetlinkRouteAttr) {
		l := links[int(binary.NativeEndian.Uint32(header[4:]))]
		var address, local netip.Addr
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.IFA_ADDRESS:
				address, _ = netip.AddrFromSlice(a.Value)
			case unix.IFA_LOCAL:
				// On a point-to-point link IFA_ADDRESS is the other end's (linux/if_addr.h).
				local, _ = netip.AddrFromSlice(a.Value)
			}
		}
		if local.IsValid() {
			address = local
		}
		if l != nil && address.IsValid() {
			l.Addresses = append(l.Addresses, address)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading the list of addresses: %w", err)
	}
	return links, nil
}

// dump sends one rtnetlink request for everything and gives each answer's fixed header and attributes to take.
func dump(request, answer, headerLen int, take func(header []byte, attrs []syscall.NetlinkRouteAttr)) error {
	table, err := syscall.NetlinkRIB(request, unix.AF_UNSPEC)
	if err != nil {
		return os.NewSyscallError("netlink", err)
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return os.NewSyscallError("netlink", err)
	}
	for i := range messages {
		if int(messages[i].Header.Type) != answer || len(messages[i].Data) < headerLen {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&messages[i])
		if err != nil {
			return os.NewSyscallError("netlink", err)
		}
		take(messages[i].Data, attrs)
	}
	return nil
}

// listenedOn picks the links with the given names, or all of them for no name. A name that does not exist is an error.
func listenedOn(links map[int]*Link, names []string) (on []*Link, err error) {
	var exist []string
	for _, l := range links {
		if names == nil || slices.Contains(names, l.Name) {
			on = append(on, l)
		}
		exist = append(exist, l.Name)
	}
	sort.Slice(exist, func(i, j int) bool { return exist[i] < exist[j] })
	for _, name := range names {
		if !slices.Contains(exist, name) {
			return nil, fmt.Errorf("there is no interface %q: there are %s", name, strings.Join(exist, ", "))
		}
	}
	sort.Slice(on, func(i, j int) bool { return on[i].Index < on[j].Index })
	return on, nil
}
