//go:build linux

package main

import (
	"context"
	"net/netip"
	"strings"
	"time"
)

const (
	nameTime   = 2 * time.Second // how long an address is looked up at most
	nameMemory = 5 * time.Minute // how long an answer is good, also that there is none
	maxNames   = 256
)

// Names looks up the host names of addresses for the log (-l). The log's goroutine owns it.
type Names struct {
	lookup func(ctx context.Context, addr string) (names []string, err error)
	now    func() time.Duration
	ctx    context.Context
	cancel context.CancelFunc // from then on nothing is looked up
	known  map[netip.Addr]knownName
}

type knownName struct {
	name  string // "": none
	until time.Duration
}

func newNames(now func() time.Duration, lookup func(context.Context, string) ([]string, error)) *Names {
	n := &Names{lookup: lookup, now: now, known: map[netip.Addr]knownName{}}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// of returns the host name of an address, or "". If ask, it is looked up where it is not known; that takes nameTime at
// most, and ends with cancel.
func (n *Names) of(addr netip.Addr, ask bool) string {
	now := n.now()
	if k, ok := n.known[addr]; ok && now < k.until {
		return k.name
	}
	if !ask || n.ctx.Err() != nil {
		return ""
	}
	if len(n.known) >= maxNames {
		clear(n.known)
	}
	ctx, cancel := context.WithTimeout(n.ctx, nameTime)
	defer cancel()
	// A Go resolver that reads from a name server notices cancel only when its time is up.
	answer := make(chan string, 1)
	go func() {
		name := ""
		if found, err := n.lookup(ctx, addr.String()); err == nil && len(found) > 0 {
			// It comes from whoever owns the address: no more of it than a name has (RFC 1035, section 2.3.4).
			name = printable(strings.TrimSuffix(found[0], "."))
			name = name[:min(len(name), 255)]
		}
		answer <- name
	}()
	name := ""
	select {
	case name = <-answer:
	case <-ctx.Done():
	}
	n.known[addr] = knownName{name, n.now() + nameMemory}
	return name
}
