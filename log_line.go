//go:build linux

package main

import (
	"net/netip"
	"time"
)

type logLine struct {
	at   time.Time
	text string
	who  netip.Addr // whose host name it shows, if anybody's
}
