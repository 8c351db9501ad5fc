package main

import "time"

// How often the reader is woken: a lone packet at once, and a flood's packets together.
const (
	wakeInterval = 20 * time.Millisecond // one wake-up in that time on average,
	wakeBurst    = 32                    // and so many at once
	gatherTime   = 20 * time.Millisecond // what a knock in a flood waits at most
)

// pace is the budget of wake-ups. Each costs far more than to look at a packet.
type pace struct {
	paid time.Duration // the time up to which wake-ups are accounted for (GCRA, as in ITU-T I.371, appendix I)
	last time.Duration // the batch before
}

// pause is how long packets shall gather after a batch at now, in which the fullest ring had that part of its slots in
// use. It is 0 while there are wake-ups to spare, and at most what fills an eighth of the ring at the rate of this batch.
func (p *pace) pause(now time.Duration, packets, slots int) time.Duration {
	gap := now - p.last
	p.last = now
	p.paid = max(p.paid, now) + wakeInterval
	if p.paid < now+wakeBurst*wakeInterval {
		return 0
	}
	p.paid = now + wakeBurst*wakeInterval
	if packets == 0 {
		return gatherTime
	}
	return min(gap*time.Duration(slots)/time.Duration(8*packets), gatherTime)
}
