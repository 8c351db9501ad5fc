package main

import "net/netip"

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
}
