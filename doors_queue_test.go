//go:build linux

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// testQueue has commands that only seem to run, and cannot be started if they are called broken.
type testQueue struct {
	commandQueue
	waiting []*opening
}

func newTestQueue() *testQueue {
	return &testQueue{commandQueue: commandQueue{running: map[openKey]*job{}, turn: map[string]time.Duration{}, run: func(c Command, _ func(Outcome)) (Process, error) {
		if c.Line == "broken" {
			return Process{}, errors.New("no memory")
		}
		return Process{pid: noProcess}, nil
	}}}
}

// add has a command of a door wait. Stop commands have a name that begins with stop.
func (q *testQueue) add(door, line string) *opening {
	o := &opening{key: openKey{door: door, start: line, ports: fmt.Sprint(len(q.waiting))}, open: !strings.HasPrefix(line, "stop")}
	q.waiting = append(q.waiting, o)
	return o
}

// startOne starts one that waits.
func (q *testQueue) startOne(t *testing.T, now time.Duration, o *opening) {
	t.Helper()
	q.waiting = slices.DeleteFunc(q.waiting, func(p *opening) bool { return p == o })
	if _, err := q.start(now, o, Command{Line: o.key.start}); err != nil {
		t.Fatal(err)
	}
}

// startAll starts what may start at a time, each after the one before has had its head start, and returns their lines.
func (q *testQueue) startAll(t *testing.T, now time.Duration, closing int) (lines []string) {
	t.Helper()
	for o, _ := q.choose(now, closing, q.waiting); o != nil; o, _ = q.choose(now, closing, q.waiting) {
		q.startOne(t, now, o)
		lines = append(lines, o.key.start)
		now += spread(closing)
	}
	return lines
}

func TestCommandQueueOrder(t *testing.T) {
	q := newTestQueue()
	for _, line := range []string{"a a1", "a a2", "b b1", "b stop b", "c c1"} {
		q.add(line[:1], line[2:])
	}
	first, _ := q.choose(1, 0, q.waiting)
	if first.key.start != "stop b" {
		t.Fatalf("got %q, want the stop command first", first.key.start)
	}
	q.startOne(t, 1, first)
	for _, now := range []time.Duration{1, headStart} {
		if o, at := q.choose(now, 0, q.waiting); o != nil || at != 1+headStart {
			t.Errorf("got %v, and the next at %v, want none before %v", o, at, 1+headStart)
		}
	}
	if got, want := q.startAll(t, 1+headStart, 0), []string{"a1", "c1", "b1", "a2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want the doors in turns: %q", got, want)
	}
	if o, at := q.choose(time.Hour, 0, q.waiting); o != nil || at != never {
		t.Errorf("got %v at %v, want nothing more", o, at)
	}
}

func TestCommandQueueBounds(t *testing.T) {
	for _, test := range []struct {
		line        string
		doors, want int
		next        time.Duration
	}{{"open", 1, maxRunningDoor, never}, {"open", 10, maxRunning, never}, {"stop", 1, maxRunning, slow(3 * maxRunning)}} {
		q := newTestQueue()
		for n := range 3 * maxRunning {
			q.add(fmt.Sprint(n%test.doors), test.line)
		}
		if got := len(q.startAll(t, 0, 3*maxRunning)); got != test.want {
			t.Errorf("%s of %d doors: got %d started, want %d", test.line, test.doors, got, test.want)
		}
		now := time.Duration(maxRunning) * spread(3*maxRunning)
		if o, at := q.choose(now, 3*maxRunning, q.waiting); o != nil || at != test.next {
			t.Errorf("%s of %d doors: got %v, and the next at %v, want none before %v", test.line, test.doors, o, at, test.next)
		}
	}
}

func TestCommandQueueStart(t *testing.T) {
	q := newTestQueue()
	if _, err := q.start(0, q.add("a", "broken"), Command{Line: "broken"}); err == nil || len(q.running)+len(q.gated) > 0 {
		t.Errorf("got %v, and %d run, want an error and none", err, len(q.running))
	}
	open, _ := q.start(0, q.add("a", "open"), Command{Line: "open", Gated: true})
	stop, _ := q.start(0, q.add("b", "stop"), Command{Line: "stop", Gated: true})
	released := 0
	q.release(false, func() { released++ })
	if released != 1 || !open.abandoned || stop.abandoned || q.gated != nil {
		t.Errorf("without a journal: got %d released, want the stop command alone", released)
	}
	q.forget(open)
	q.forget(stop)
	if len(q.running) > 0 {
		t.Errorf("%d run, want none", len(q.running))
	}
}

func TestJobTerminate(t *testing.T) {
	j := &job{proc: Process{pid: noProcess}}
	for n := range 3 {
		now := time.Duration(n) * time.Second
		if next, first := j.terminate(now); next != now+killAfter || first != (n == 0) {
			t.Errorf("got %v and again at %v, want it to be killed after %v", first, next, killAfter)
		}
	}
	j.reaped = true
	if next, first := j.terminate(time.Hour); first || next != never {
		t.Error("what is reaped is signalled")
	}
}
