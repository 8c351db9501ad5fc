//go:build !linux

package main

import "net/netip"

// icmpErrors are the ICMP errors that a connection gets while it is being made: here the system does not tell them.
type icmpErrors struct{}

func (*icmpErrors) watch(uintptr, netip.Addr) error { return nil }

func (*icmpErrors) close() {}

func (*icmpErrors) words() string { return "" }

func refusedWords() string { return "closed (refused)" }
