package main

import (
	"fmt"
	"net/netip"
)

// icmpError is an ICMP or ICMPv6 error about a packet that was sent. It prints as in "host prohibited, ICMP type 3 code
// 10, from 192.0.2.1".
type icmpError struct {
	v6         bool
	kind, code uint8
	from       netip.Addr // who says so; the zero Addr if that is not known
}

func (e icmpError) String() string {
	name, family := "error", "ICMP"
	kind, names := uint8(3), icmpUnreachable // RFC 792; RFC 1812, section 5.2.7.1
	late := uint8(11)
	if e.v6 {
		family, kind, names, late = "ICMPv6", 1, icmp6Unreachable, 3 // RFC 4443, section 3
	}
	switch {
	case e.kind == kind && int(e.code) < len(names):
		name = names[e.code]
	case e.kind == late:
		name = "too many routers on the way"
	}
	s := fmt.Sprintf("%s, %s type %d code %d", name, family, e.kind, e.code)
	if e.from.IsValid() {
		s += fmt.Sprintf(", from %v", e.from)
	}
	return s
}

// icmpUnreachable are the codes of a destination unreachable, by number.
var icmpUnreachable = []string{
	"network unreachable", "host unreachable", "protocol unreachable", "port unreachable", "packet too big",
	"source route failed", "network unknown", "host unknown", "host isolated", "network prohibited", "host prohibited",
	"network unreachable for this service", "host unreachable for this service", "prohibited by a firewall",
	"host precedence violated", "precedence too low",
}

var icmp6Unreachable = []string{
	"no route", "prohibited by a firewall", "beyond the scope of the source", "address unreachable", "port unreachable",
	"source address refused by policy", "route rejected",
}

// What a connection comes to, in words; there may be more behind them.
const (
	reached     = "open"
	refused     = "closed (RST)"
	filtered    = "filtered (no answer)"
	unreachable = "unreachable"
)
