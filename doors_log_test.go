//go:build linux

package main

import (
	"strings"
	"testing"
	"time"
)

// One door's lines do not push out another's, and how many were left out is said in time.
func TestDoorLogs(t *testing.T) {
	var out strings.Builder
	l := doorLogs{newThrottles(&Log{out: &out}, doorBurst, doorInterval)}
	for range doorBurst + 5 {
		l.printf(0, "a", "a: line")
	}
	l.printf(0, "b", "b: line")
	if a, b := strings.Count(out.String(), "a: line\n"), strings.Count(out.String(), "b: line\n"); a != doorBurst || b != 1 {
		t.Errorf("got %d and %d lines, want %d and 1", a, b, doorBurst)
	}
	at := l.next()
	if l.flush(at - 1); strings.Contains(out.String(), "left out") || at > time.Minute {
		t.Errorf("told before %v", at)
	}
	if l.flush(at); !strings.Contains(out.String(), "5 lines left out") || l.next() != never {
		t.Error("not told what was left out")
	}
}
