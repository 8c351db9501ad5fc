//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestFirewallQueue(t *testing.T) {
	const now = time.Minute
	in, out := &opening{open: true}, &opening{}
	many := []*opening{in, out, {}, {}, {}}
	for _, test := range []struct {
		name    string
		q       *firewallQueue
		waiting []*opening
		closing bool
		want    string // none, or the first letters of what is done, and for how many
		next    time.Duration
	}{
		{"nothing", &firewallQueue{}, nil, false, "none", never},
		{"let in", &firewallQueue{}, []*opening{in, out}, false, "open 1", never},
		{"shut out", &firewallQueue{}, []*opening{out, in}, false, "close 1", never},
		{"many", &firewallQueue{}, many, false, "build 5", never},
		{"rebuilt", &firewallQueue{rebuild: true}, many[:1], false, "build 1", never},
		{"checked", &firewallQueue{checkAt: now}, many[:1], false, "check 0", now},
		{"not yet", &firewallQueue{checkAt: now + 1}, nil, false, "none", now + 1},
		{"not checked while all close", &firewallQueue{checkAt: now}, nil, true, "none", never},
		{"busy", &firewallQueue{working: true}, many, false, "none", never},
		{"looked while busy", &firewallQueue{working: true, lookAt: now}, nil, false, "look 0", now},
		{"not looked at twice", &firewallQueue{looking: true, lookAt: now}, nil, false, "none", never},
		{"not looked at while all close", &firewallQueue{lookAt: now}, nil, true, "none", never},
		{"what was seen", &firewallQueue{looking: true, seen: &Inspection{}}, nil, false, "check 0", never},
		{"touched", &firewallQueue{touched: true}, many[:2], false, "build 2", 0},
		{"forwarded, maybe", &firewallQueue{nat: true, calmAt: now + 1}, many[:1], false, "build 1", never},
		{"touched again and again", &firewallQueue{touched: true, calmAt: now + 1}, nil, false, "none", now + 1},
	} {
		test.q.work = func(firewallTask, func(error)) {}
		got := "none"
		if task, batch, ok := test.q.choose(now, test.closing, test.waiting); ok {
			got = []string{"open", "close", "build", "check", "flush", "look"}[task.kind] + " " + string(rune('0'+len(batch)))
		}
		if next := test.q.next(test.closing); got != test.want || next != test.next {
			t.Errorf("%s: got %s, and next %v, want %s, %v", test.name, got, next, test.want, test.next)
		}
	}
}

// A flush is tried until it is done, and a failure has the firewall looked at again.
func TestFirewallQueueEnd(t *testing.T) {
	failed := errors.New("no such chain")
	var done func(error)
	q := firewallQueue{watched: true, done: make(chan firewallDone, 1)}
	q.configure(func(_ firewallTask, d func(error)) { done = d }, nil, true)
	q.makeAnew()
	// do does what is to be done at a time, and reports whether there was something.
	do := func(now time.Duration, closing bool, err error) bool {
		task, batch, ok := q.choose(now, closing, nil)
		if ok {
			q.begin(now, task, batch)
			done(err)
			q.end(now, <-q.done, closing)
		}
		return ok
	}
	if !do(0, false, nil) || q.rebuild || q.checkAt != 0 {
		t.Errorf("after a build: got %v and a check at %v", q.rebuild, q.checkAt)
	}
	q.hear([]firewallNews{{table: "ip filter", ours: true}})
	if !do(2*time.Second, false, failed) || q.told || q.checkAt != 2*time.Second+checkEvery {
		t.Errorf("after a check that failed: got one at %v", q.checkAt)
	}
	q.flushing.Store(true)
	if !do(time.Minute, true, failed) || q.finished() || q.next(true) != time.Minute+retryClosing || do(time.Minute, true, nil) {
		t.Errorf("a flush that failed is tried again at %v", q.next(true))
	}
	if !do(time.Hour, true, nil) || !q.finished() || q.next(true) != never {
		t.Error("flushed, and there is more to do")
	}
}

// TestFirewallQueueNews has news of all kinds, and wants to know what is done for them.
func TestFirewallQueueNews(t *testing.T) {
	const now = time.Hour
	for _, test := range []struct {
		name   string
		tables []string // that are known to see packets to this host
		news   firewallNews
		want   string
	}{
		{"ours, by us", nil, firewallNews{port: 7, table: ourTable, hook: true}, ""},
		{"theirs, by us", nil, firewallNews{port: 7, table: "inet fw4"}, ""},
		{"ours", nil, firewallNews{port: 8, table: ourTable, hook: true}, "touched"},
		{"by the kernel itself", nil, firewallNews{table: ourTable}, "touched"},
		{"lost", []string{"inet fw4"}, firewallNews{}, "touched look"},
		{"theirs, of which nothing is known", nil, firewallNews{port: 8, table: "inet fw4"}, "look"},
		{"theirs", []string{"ip filter", "inet fw4"}, firewallNews{port: 8, table: "inet fw4"}, "look"},
		{"one that sees no packet to us", []string{"ip filter"}, firewallNews{port: 8, table: "ip nat"}, ""},
		{"one that sees some from now on", []string{"ip filter"}, firewallNews{port: 8, table: "ip nat", hook: true}, "look"},
		{"the jump", []string{"ip filter"}, firewallNews{port: 8, table: "ip filter", ours: true}, "check look"},
	} {
		q := firewallQueue{own: []uint32{6, 7}, ownTill: now, tables: test.tables, work: func(firewallTask, func(error)) {}}
		q.hear([]firewallNews{test.news})
		q.judge(now)
		got := ""
		if q.touched {
			got += " touched"
		}
		if q.checkAt == now && q.told {
			got += " check"
		}
		if q.lookAt == now+lookAfter {
			got += " look"
		}
		if got = strings.TrimSpace(got); got != test.want || len(q.news) != 0 {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		q.hear([]firewallNews{{port: 7, table: ourTable}})
		if q.judge(now + 1); !q.touched {
			t.Errorf("%s: the number of a process of long ago counts as ours", test.name)
		}
	}
}

// TestFirewallQueueCalm has a program that takes away what is ours whenever it is mended: the pauses grow, and are forgotten
// after a while.
func TestFirewallQueueCalm(t *testing.T) {
	now, end := time.Hour, time.Hour+10*time.Minute
	q := firewallQueue{watched: true, done: make(chan firewallDone, 1), work: func(_ firewallTask, done func(error)) { done(errPutRight) }}
	mended := 0
	for now < end {
		q.hear([]firewallNews{{port: 1, table: ourTable}})
		task, batch, ok := q.choose(now, false, nil)
		if ok {
			q.begin(now, task, batch)
			q.end(now, <-q.done, false)
			mended++
			continue
		}
		now = max(q.next(false), now+1)
	}
	if mended < 60 || mended > 80 {
		t.Errorf("mended %d times in %v, want 12 times in 10 s and then every %v", mended, end-time.Hour, checkEvery)
	}
	now += 3 * checkEvery
	q.hear([]firewallNews{{port: 1, table: ourTable}})
	if task, _, ok := q.choose(now, false, nil); !ok || task.kind != taskBuild || q.pause != 0 {
		t.Errorf("after a while: got a task %v of kind %v, and a pause of %v", ok, task.kind, q.pause)
	}
}

// TestFirewallQueueCron has a program that takes away what is ours every few seconds: each time it is mended at once.
func TestFirewallQueueCron(t *testing.T) {
	q := firewallQueue{watched: true, done: make(chan firewallDone, 1), work: func(_ firewallTask, done func(error)) { done(errPutRight) }}
	for now := time.Hour; now < 2*time.Hour; now += 4 * time.Second {
		q.hear([]firewallNews{{port: 1, table: ourTable}})
		task, batch, ok := q.choose(now, false, nil)
		if !ok || task.kind != taskBuild {
			t.Fatalf("after %v: it is to wait for %v", now-time.Hour, q.next(false)-now)
		}
		q.begin(now, task, batch)
		q.end(now, <-q.done, false)
	}
}

// TestFirewallQueueRest: looking takes no more than its share of the time.
func TestFirewallQueueRest(t *testing.T) {
	now := time.Hour
	q := firewallQueue{watched: true, done: make(chan firewallDone, 1), work: func(_ firewallTask, done func(error)) { done(nil) }}
	var looked time.Duration
	for now < 2*time.Hour {
		q.hear([]firewallNews{{port: 1, table: "inet fw4"}})
		task, batch, ok := q.choose(now, false, nil)
		if !ok {
			now = max(q.next(false), now+time.Millisecond)
			continue
		}
		q.begin(now, task, batch)
		if task.kind == taskLook {
			looked, now = looked+3*time.Second, now+3*time.Second
		}
		done := <-q.done
		done.task.found.seen.NFT = listed("table inet fw4 {\n}\n")
		q.end(now, done, false)
	}
	if looked < time.Hour/25 || looked > time.Hour/20 {
		t.Errorf("in an hour it was looked for %v, want a twentieth of it", looked)
	}
}
