//go:build !linux

package main

import "net/netip"

// rawNeeds is what it takes to send TCP packets of any kind.
const rawNeeds = "Linux"

func sendRaw(netip.Addr, sentKnock, route) error { return errNoRaw }
