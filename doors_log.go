//go:build linux

package main

import (
	"strings"
	"time"
)

const (
	doorBurst    = 1000 // log lines about one door
	doorInterval = 200 * time.Millisecond
)

// doorLogs are the lines about doors.
type doorLogs struct{ Throttles }

// printf logs a line about a door. Whatever the source is in it has completed a sequence.
func (l *doorLogs) printf(now time.Duration, door, format string, a ...any) {
	l.of(door).printfNamed(now, format, a...)
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
