//go:build !linux

package main

import (
	"errors"
	"net/netip"
)

// What the client does on Linux alone.

func sendRaw(netip.Addr, sentKnock, route) error { return errNoRaw }

func (r route) apply(int, bool) error {
	if r != (route{source: r.source}) {
		return errors.New("--interface and --ttl need Linux")
	}
	return nil
}

// icmpErrors are the ICMP errors that a connection gets while it is being made: here the system does not tell them.
type icmpErrors struct{}

func (*icmpErrors) watch(uintptr, netip.Addr) error { return nil }

func (*icmpErrors) close() {}

func (*icmpErrors) words() string { return "" }

func refusedWords() string { return "closed (refused)" }
