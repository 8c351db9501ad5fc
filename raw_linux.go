package main

import (
	"errors"
	"net/netip"
)

func sendRaw(netip.Addr, sentKnock, route) error {
	return errors.New("not yet")
}
