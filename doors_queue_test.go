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

// newTestQueue has commands that only seem to run, and cannot be started if they are called broken.
func newTestQueue() *commandQueue {
	return &commandQueue{running: map[*job]bool{}, turn: map[string]time.Duration{}, run: func(c Command, _ func(Outcome)) (Process, error) {
		if c.Line == "broken" {
			return Process{}, errors.New("no memory")
		}
		return Process{pid: noProcess}, nil
	}}
}

// testJob is one of a door; stop commands have a name that begins with stop.
func testJob(door, line string) *job {
	return &job{key: openKey{door: door}, stop: strings.HasPrefix(line, "stop"), command: Command{Line: line}}
}

// startAll starts what may start at a time, each after the one before has had its head start, and returns their lines.
func (q *commandQueue) startAll(t *testing.T, now time.Duration, closing int) (lines []string) {
	for j := q.choose(now, closing); j != nil; j = q.choose(now, closing) {
		if err := q.start(now, j, 0); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, j.command.Line)
		now += spread(closing)
	}
	return lines
}

func TestCommandQueueOrder(t *testing.T) {
	q := newTestQueue()
	later := testJob("a", "stop later")
	later.after = time.Hour
	for _, j := range []*job{later, testJob("a", "a1"), testJob("a", "a2"), testJob("b", "b1"), testJob("b", "stop b"), testJob("c", "c1")} {
		q.add(j)
	}
	first := q.choose(1, 0)
	if err := q.start(1, first, time.Minute); err != nil || first.command.Line != "stop b" {
		t.Fatalf("got %q, %v, want the stop command first", first.command.Line, err)
	}
	if j := q.choose(headStart-1, 0); j != nil {
		t.Errorf("%q does not wait for the one before", j.command.Line)
	}
	if at := q.next(1, 0); at != 1+headStart {
		t.Errorf("next: got %v, want %v", at, 1+headStart)
	}
	if got, want := q.startAll(t, 1+headStart, 0), []string{"a1", "c1", "b1", "a2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want the doors in turns: %q", got, want)
	}
	q.remove(later)
	if at := q.next(time.Second, 0); at != 1+time.Minute || len(q.waiting) > 0 {
		t.Errorf("next: got %v, want the one limit of %d commands", at, len(q.running))
	}
}

func TestCommandQueueBounds(t *testing.T) {
	for _, test := range []struct {
		line        string
		doors, want int
	}{{"open", 1, maxRunningDoor}, {"open", 10, maxRunning}, {"stop", 1, maxRunning}} {
		q := newTestQueue()
		for n := range 3 * maxRunning {
			q.add(testJob(fmt.Sprint(n%test.doors), test.line))
		}
		if got := len(q.startAll(t, 0, 3*maxRunning)); got != test.want {
			t.Errorf("%s of %d doors: got %d started, want %d", test.line, test.doors, got, test.want)
		}
	}
}

func TestCommandQueueStart(t *testing.T) {
	q := newTestQueue()
	broken, open, stop := testJob("a", "broken"), testJob("a", "open"), testJob("b", "stop")
	open.command.Gated, stop.command.Gated = true, true
	q.add(broken)
	if err := q.start(0, broken, 0); err == nil || len(q.running)+len(q.waiting)+len(q.gated) > 0 {
		t.Errorf("got %v, and %d run, want an error and none", err, len(q.running))
	}
	for _, j := range []*job{open, stop} {
		q.add(j)
		if err := q.start(0, j, 0); err != nil {
			t.Fatal(err)
		}
	}
	released := 0
	q.release(false, func() { released++ })
	if released != 1 || !open.abandoned || stop.abandoned || q.gated != nil {
		t.Errorf("without a journal: got %d released, want the stop command alone", released)
	}
	q.forget(open)
	q.forget(stop)
	if at := q.next(0, 0); at != never {
		t.Errorf("next: got %v, want never", at)
	}
}

func TestJobTerminate(t *testing.T) {
	j := &job{proc: Process{pid: noProcess}}
	if !j.terminate(time.Second) || j.limit != time.Second+killAfter || j.terminate(2*time.Second) || j.limit != 2*time.Second+killAfter {
		t.Errorf("got limit %v, want it to be killed after %v", j.limit, killAfter)
	}
	j.reaped = true
	if j.terminate(3*time.Second) || j.limit != 0 {
		t.Error("what is reaped is signalled")
	}
}
