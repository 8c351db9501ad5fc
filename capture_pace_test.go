package main

import (
	"testing"
	"time"
)

// TestPace has packets come at some rate, and counts how often the reader is woken and how long a packet waits.
func TestPace(t *testing.T) {
	const slots = 6400
	for _, test := range []struct {
		name     string
		interval time.Duration // between packets
		wakes    [2]int        // in ten seconds: at least, at most
		longest  time.Duration // a packet waits
	}{
		{"a knock a second", time.Second, [2]int{10, 11}, 0},
		{"20 a second", 50 * time.Millisecond, [2]int{195, 201}, 0},
		{"10,000 a second", 100 * time.Microsecond, [2]int{450, 550}, gatherTime},
		{"300,000 a second", 10 * time.Second / 3e6, [2]int{3000, 4500}, 3 * time.Millisecond},
	} {
		var p pace
		var now, next, longest time.Duration // next: when the next packet comes
		wakes := 0
		for now = 0; now < 10*time.Second; wakes++ {
			now = max(now, next)
			packets := 0
			for longest = max(longest, now-next); next <= now; next += test.interval {
				packets++
			}
			if packets > slots/4 {
				t.Fatalf("%s: %d packets in the ring of %d", test.name, packets, slots)
			}
			now += p.pause(now, packets, slots)
		}
		if wakes < test.wakes[0] || wakes > test.wakes[1] || longest > test.longest {
			t.Errorf("%s: %d wake-ups in ten seconds, a packet waits %v: want %v, at most %v", test.name, wakes, longest, test.wakes, test.longest)
		}
	}

	// After a flood a knock waits no longer than before it.
	var p pace
	now := time.Duration(0)
	for range 1000 {
		now += time.Millisecond + p.pause(now, 100, slots)
	}
	now += 100 * time.Millisecond
	if got := p.pause(now, 1, slots); got != 0 {
		t.Errorf("100 ms after a flood: a pause of %v", got)
	}
}
