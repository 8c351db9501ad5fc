//go:build linux

package main

import (
	"net/netip"
	"testing"
	"time"
)

// TestOpening says of each opening when it closes, what the next daemon is to make of it, and whether the firewall may
// have it.
func TestOpening(t *testing.T) {
	const since, until = time.Second, time.Minute
	command := &Door{Name: "a", Start: "open", Stop: "close"}
	ports := &Door{Name: "a", OpenPorts: []Knock{{22, tcp}}, Start: "start"}
	waits, runs := &job{}, &job{runs: true, proc: Process{pid: 7, began: 8}}
	for _, test := range []struct {
		name    string
		door    *Door
		as      opening
		closes  time.Duration
		journal OpeningState
		pid     int
		stays   bool
	}{
		{"waits to open", command, opening{job: waits}, never, Starting, 0, false},
		{"opens", command, opening{job: runs, started: true}, never, Starting, 7, false},
		{"opened, and is to be opened again", command, opening{job: waits, started: true}, never, Closing, 0, false},
		{"open", command, opening{state: Open, started: true}, until, Open, 0, false},
		{"failed", command, opening{state: Open, started: true, startError: "status 1"}, until, Closing, 0, false},
		{"closing", command, opening{state: Closing, job: runs}, never, Closing, 7, false},
		{"to be let in", ports, opening{change: &ruleChange{allow: true}}, never, Starting, 0, true},
		{"in, and its command runs", ports, opening{inside: true, job: runs, started: true}, until, Starting, 7, true},
		{"failed, and yet open", ports, opening{state: Open, inside: true, started: true, startError: "status 1"}, until, Open, 0, true},
		{"to be shut out", ports, opening{inside: true, job: runs, started: true, change: &ruleChange{}}, never, Closing, 7, false},
	} {
		o := newOpening(Grant{Door: test.door, Source: netip.MustParseAddr("192.0.2.7"), Link: "eth0"}, since, until)
		test.as.key, test.as.grant, test.as.since, test.as.until = o.key, o.grant, o.since, o.until
		e := test.as.entry()
		if at := test.as.closesAt(); at != test.closes || e.State != test.journal || e.Pid != test.pid || test.as.stays() != test.stays {
			t.Errorf("%s: got closes %v, journal %v, process %d, stays %v, want %v, %v, %d, %v", test.name, at, e.State, e.Pid, test.as.stays(),
				test.closes, test.journal, test.pid, test.stays)
		}
		if back, _ := resumed(until, e, Recovered{}); back.key != o.key || !test.as.journaled() {
			t.Errorf("%s: from the journal: got %+v, want %+v", test.name, back.key, o.key)
		}
	}
}
