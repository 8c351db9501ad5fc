//go:build linux && !pure

package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestADay has reader, matcher and doors live through a day, in seconds: knocks, scans, floods and mistakes of thousands
// of sources, doors that open and close, commands that take their time and sometimes fail. Each timer that is due has
// something to do; no table grows beyond its bound; and a while later nothing is left.
func TestADay(t *testing.T) {
	const bound = 2000
	doors := testDoors(t, `
		[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10 | Command = a %IP% | Cmd_Timeout = 30 | Stop_Command = shut %IP%
		[b] Sequence = 7100:udp,8100 | Command = b %IP% | Cmd_Timeout = 3600 | Stop_Command = shut %IP% | Max_Open = 20
		[c] Sequence = 9100 | Seq_Cooldown = 60 | Command = c %IP%
		[d] Sequence = 7200,8200 | Seq_Timeout = 3600 | TCPFlags = syn | Command = d %IP% | Cmd_Timeout = 1 | Stop_Command = shut %IP%
		[e] Sequence = 7300,8300 | Seq_Timeout = 64 | Strict = yes | Allow = 10.0.0.0/12 | Command = e %IP%`)
	grants := make(chan Grant, 100)
	r := newTestReader(&strings.Builder{}, grants)
	r.log.out = io.Discard
	r.meter = &Meter{}
	r.plan.matcher, r.plan.spec = newMatcher(doors, bound), filterSpec(doors, nil, false)
	m := r.plan.matcher
	d := &doorsTest{t: t}
	d.Doors = newDoors(r.now, &Log{out: io.Discard}, func(Command, func(Outcome)) (Process, error) { return Process{pid: noProcess}, nil })

	random := rand.New(rand.NewPCG(24, 60))
	counts := map[string]int{}
	now := time.Duration(0)
	work := func() {
		r.batchTime = now
		r.report(m.Expire(now))
		r.tell()
		for ; len(grants) > 0; counts["grants"]++ {
			d.grant(now, <-grants)
		}
		for _, j := range d.commands.running {
			if took := now - j.began; took >= time.Second {
				outcome := Outcome{}
				if random.IntN(50) == 0 {
					outcome.Status = 1
					counts["failures"]++
				}
				d.end(now, j, outcome)
				counts["commands"]++
			}
		}
		d.tick(now)
	}
	// until lets the timers run out one by one. A command ends after a second.
	until := func(end time.Duration) {
		for {
			at := min(d.next(now), m.NextEnd())
			for _, j := range d.commands.running {
				at = min(at, j.began+time.Second)
			}
			if at > end || at == math.MaxInt64 {
				return
			}
			if at <= now {
				t.Fatalf("at %v something is to be done at %v: a busy loop", now, at)
			}
			now = at
			work()
			counts["timers"]++
		}
	}
	send := func(from int, k Knock, flags uint8) {
		p := testSYN4
		p.from = netip.AddrFrom4([4]byte{10, byte(from >> 16), byte(from >> 8), byte(from)}).String()
		p.knock, p.flags, p.seq, p.fromPort = k, flags, random.Uint32(), uint16(random.Uint32())
		b := p.bytes()
		r.receive(&Frame{Bytes: b, Len: len(b), Protocol: unix.ETH_P_IP, Link: 1})
		counts["packets"]++
	}
	ofB := func() (n int) {
		for key := range d.open {
			if key.door == "b" {
				n++
			}
		}
		return n
	}
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	const day = 24 * time.Hour
	atNoon := uint64(0)
	for now < day {
		if atNoon == 0 && now > day/2 {
			atNoon = heap()
		}
		next := now + time.Duration(random.ExpFloat64()*float64(2*time.Second))
		until(next)
		now = next
		r.batchTime = now
		door := doors[random.IntN(len(doors))]
		switch from := random.IntN(1 << 21); random.IntN(8) {
		case 0, 1: // a knocker, who may come again
			from %= 100
			for i, k := range door.Sequence {
				if random.IntN(20) > 0 {
					send(from, k, flagSYN)
				}
				if i < len(door.Sequence)-1 {
					next := now + time.Duration(random.IntN(4000))*time.Millisecond
					until(next)
					now = next
					r.batchTime = now
				}
			}
		case 2: // a scan
			first := door.Sequence[0]
			for i := range 10 {
				send(from, Knock{first.Port - 5 + uint16(i), first.Proto}, flagSYN)
			}
		case 3: // a burst from many sources
			if random.IntN(200) == 0 {
				for i := range 2 * bound {
					send(from+i, door.Sequence[0], flagSYN)
				}
			}
		default:
			k := door.Sequence[random.IntN(len(door.Sequence))]
			k.Port += uint16(random.IntN(4)/3) * uint16(random.IntN(100))
			send(from, k, []uint8{flagSYN, flagACK, flagFIN}[random.IntN(3)])
		}
		work()
		if m.live > bound || len(d.open) > len(doors)*defaultMaxOpen || ofB() > 20 || len(r.opened.byDoor) > len(doors) {
			t.Fatalf("at %v: %d attempts, %d openings", now, m.live, len(d.open))
		}
		counts["attempts"] = max(counts["attempts"], m.live)
		counts["open"] = max(counts["open"], len(d.open))
		if random.IntN(1000) == 0 {
			checkMatcher(t, m)
			d.check(now)
		}
	}
	grown := int64(heap()) - int64(atNoon)
	until(now + 2*day)
	checkMatcher(t, m)
	d.check(now)
	if left := fmt.Sprint(m.live, len(d.open), len(d.commands.running)); left != "0 0 0" {
		t.Errorf("attempts, openings and commands left: got %s, want none", left)
	}
	if r.timeout() != -1 {
		t.Errorf("nothing is left, and the reader wakes up in %d ms", r.timeout())
	}
	t.Logf("%v, the heap has grown by %d KB since noon", counts, grown>>10)
	if grown > 1<<20 {
		t.Errorf("the heap has grown by %d KB from noon to midnight", grown>>10)
	}
	for what, least := range map[string]int{"packets": 100000, "grants": 5000, "commands": 5000, "failures": 100, "timers": 10000, "attempts": bound, "open": 20} {
		if counts[what] < least {
			t.Errorf("%s: got %d, want at least %d: the day was too quiet", what, counts[what], least)
		}
	}
}
