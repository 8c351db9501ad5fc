//go:build !linux

package main

import (
	"errors"
	"net/netip"
)

func (r route) apply(int, bool) error {
	if r != (route{source: r.source}) {
		return errors.New("--interface and --ttl need Linux")
	}
	return nil
}

// rawNeeds is what it takes to send TCP packets of any kind.
const rawNeeds = "Linux"

func sendRaw(netip.Addr, sentKnock, route) error { return errNoRaw }

func (*pinging) openRaw() error { return errNoRaw }
