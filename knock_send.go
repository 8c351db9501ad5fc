package main

import (
	"errors"
	"net/netip"
)

// errNoRaw says what a packet that is no mere SYN takes.
var errNoRaw = errors.New("flags other than syn need " + rawNeeds)

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
