package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strconv"
)

// errNoRaw says what a packet that is no mere SYN takes.
var errNoRaw = errors.New("flags other than syn need " + rawNeeds())

// rawNeeds is what it takes to send TCP packets of any kind (raw(7)).
func rawNeeds() string {
	if runtime.GOOS == "linux" {
		return "CAP_NET_RAW: run as root"
	}
	return "Linux"
}

// route is where packets leave from. Its zero value leaves that to the system.
type route struct {
	source netip.Addr
	link   string
	ttl    int // of IPv4, and the hop limit of IPv6
}

// sentKnock is a knock as it is sent: with the flags of its TCP packet. A mere SYN needs no root.
type sentKnock struct {
	Knock
	Flags uint8
	data  string // of a UDP knock; "": one byte
}

// zoneID is the index of an interface, by its name or, as Windows has people write it, by its number.
func zoneID(zone string) (uint32, error) {
	if n, err := strconv.ParseUint(zone, 10, 32); zone == "" || err == nil {
		return uint32(n), nil
	}
	link, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("interface %q: %w", zone, err)
	}
	return uint32(link.Index), nil
}
