//go:build !linux

package main

import (
	"errors"
	"net/netip"
)

// rawNeeds is what it takes to send TCP packets of any kind.
const rawNeeds = "Linux"

func sendRaw(netip.Addr, sentKnock, route) error { return errNoRaw }

// errNoRaw says what a packet that is no mere SYN takes.
var errNoRaw = errors.New("flags other than syn need " + rawNeeds)
