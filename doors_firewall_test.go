//go:build linux

package main

import (
	"errors"
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
	} {
		test.q.work = func(firewallTask, func(error)) {}
		got := "none"
		if task, batch, ok := test.q.choose(now, test.closing, test.waiting); ok {
			got = []string{"open", "close", "build", "check", "flush"}[task.kind] + " " + string(rune('0'+len(batch)))
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
	q.configure(func(_ firewallTask, d func(error)) { done = d }, true)
	q.makeAnew()
	// do does what is to be done at a time, and reports whether there was something.
	do := func(now time.Duration, closing bool, err error) bool {
		task, batch, ok := q.choose(now, closing, nil)
		if ok {
			q.begin(task, batch)
			done(err)
			q.end(now, <-q.done, closing)
		}
		return ok
	}
	if !do(0, false, nil) || q.rebuild || q.checkAt != 0 {
		t.Errorf("after a build: got %v and a check at %v", q.rebuild, q.checkAt)
	}
	q.changed(time.Second)
	if q.changed(2 * time.Second); q.checkAt != time.Second+checkAfter {
		t.Errorf("after changes: got a check at %v", q.checkAt)
	}
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
