//go:build linux

package main

import (
	"math"
	"strings"
	"time"
)

const (
	doorBurst    = 1000 // log lines about one door
	doorInterval = 200 * time.Millisecond
)

// never is when something is due that is not.
const never = time.Duration(math.MaxInt64)

// doorLogs bounds the log by door name, so that one door's lines do not push out another's.
type doorLogs struct {
	log    *Log
	byDoor map[string]*Throttle
}

// printf logs a line about a door. Whatever the source is in it has completed a sequence.
func (l *doorLogs) printf(now time.Duration, door, format string, a ...any) {
	t := l.byDoor[door]
	if t == nil {
		t = &Throttle{log: l.log, burst: doorBurst, interval: doorInterval}
		l.byDoor[door] = t
	}
	t.printfNamed(now, format, a...)
}

// outcome logs how a command of a door has ended, and what it has printed.
func (l *doorLogs) outcome(now time.Duration, door string, out Outcome) {
	for line := range strings.Lines(out.Output) {
		l.printf(now, door, "%s: command output: %s", door, strings.TrimRight(line, "\n"))
	}
	if out.More > 0 {
		l.printf(now, door, "%s: command output: %d bytes more", door, out.More)
	}
	switch {
	case out.Err != nil:
		l.printf(now, door, "%s: command not run: %v", door, out.Err)
		return
	case out.Signal != 0:
		l.printf(now, door, "%s: command ended by signal %d (%v)", door, out.Signal, out.Signal)
	case out.Status != 0:
		l.printf(now, door, "%s: command returned non-zero status code (%d)", door, out.Status)
	}
	l.printf(now, door, "%s: command took %v", door, out.Took.Round(time.Millisecond))
}

// flush says how many lines were left out, once there is room for that.
func (l *doorLogs) flush(now time.Duration) {
	for _, t := range l.byDoor {
		t.flush(now)
	}
}

// next is when flush will have something to say.
func (l *doorLogs) next() time.Duration {
	next := never
	for _, t := range l.byDoor {
		if at, ok := t.next(); ok {
			next = min(next, at)
		}
	}
	return next
}

// finish says it now: no line follows.
func (l *doorLogs) finish() {
	for _, t := range l.byDoor {
		t.finish()
	}
}
