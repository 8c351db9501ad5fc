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

func sendRaw(netip.Addr, sentKnock, route) error {
	return errors.New("flags other than syn need Linux")
}
