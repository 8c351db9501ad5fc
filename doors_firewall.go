//go:build linux

package main

import (
	"sync/atomic"
	"time"
)

const (
	// checkEvery is how often the firewall is looked at where nobody tells of its changes, and checkAfter how long after
	// somebody did: changes come in crowds.
	checkEvery = 10 * time.Second
	checkAfter = 200 * time.Millisecond
	// maxSingly is how many openings and closings may wait for the firewall before they are done all at once.
	maxSingly = 4
)

// firewallDone is how a task ended.
type firewallDone struct {
	task  firewallTask
	batch []*opening // what it was for
	err   error
}

// firewallQueue says what is to be done with the firewall next: one task at a time, in another goroutine.
type firewallQueue struct {
	work     func(task firewallTask, done func(error)) // nil: there are no native doors
	done     chan firewallDone
	working  bool
	rebuild  bool          // everything is to be made anew
	checkAt  time.Duration // when the firewall is to be looked at; 0: not
	told     bool          // because somebody has changed it
	watched  bool          // changes of the firewall are told of
	flushing atomic.Bool   // no trace is to be left at the end
	flushed  bool          // and none is
	flushAt  time.Duration // not tried before
}

// choose says what is to be done now, if anything, and for which of those that wait. A few are done one by one, in
// their order; many that wait, or anything that is not as it should be, at once.
func (q *firewallQueue) choose(
	now time.Duration, closing bool, waiting []*opening,
) (task firewallTask, batch []*opening, ok bool) {
	if q.work == nil || q.working {
		return task, nil, false
	}
	switch {
	case closing && q.flushing.Load():
		return firewallTask{kind: taskFlush}, nil, !q.flushed && now >= q.flushAt
	case q.rebuild || len(waiting) > maxSingly:
		return firewallTask{kind: taskBuild}, waiting, true
	case q.checkAt != 0 && now >= q.checkAt && !closing:
		// Before openings and closings, or many of them would put it off for ever.
		return firewallTask{kind: taskCheck, told: q.told}, nil, true
	case len(waiting) == 0:
		return task, nil, false
	case waiting[0].open:
		return firewallTask{kind: taskOpen}, waiting[:1], true
	}
	return firewallTask{kind: taskClose}, waiting[:1], true
}

// begin has a task done.
func (q *firewallQueue) begin(task firewallTask, batch []*opening) {
	if task.kind == taskBuild || task.kind == taskCheck {
		q.rebuild, q.checkAt, q.told = false, 0, false
	}
	q.working = true
	q.work(task, func(err error) { q.done <- firewallDone{task, batch, err} })
}

// end takes note of how a task ended.
func (q *firewallQueue) end(now time.Duration, done firewallDone, closing bool) {
	q.working = false
	switch {
	case done.task.kind == taskFlush && done.err != nil:
		q.flushAt = now + retryClosing
	case done.task.kind == taskFlush:
		q.flushed = true
	case (!q.watched || done.err != nil) && !closing && q.checkAt == 0:
		q.checkAt = now + checkEvery
	}
}

// changed takes note that somebody has changed the firewall.
func (q *firewallQueue) changed(now time.Duration) {
	if soon := now + checkAfter; q.checkAt == 0 || q.checkAt > soon {
		q.checkAt = soon
	}
	q.told = true
}

// configure takes up a firewall that is as it must be, or another one.
func (q *firewallQueue) configure(work func(firewallTask, func(error)), watched bool) {
	q.work, q.watched = work, watched
}

// makeAnew has everything made anew.
func (q *firewallQueue) makeAnew() { q.rebuild = q.work != nil }

// watch says whether changes of the firewall are told of. If not, it is looked at again and again.
func (q *firewallQueue) watch(now time.Duration, watched bool) {
	q.watched = watched
	if q.work != nil && !watched {
		q.checkAt = now + checkEvery
	}
}

// finished is whether there is no more to wait for when all doors are closed.
func (q *firewallQueue) finished() bool {
	return !q.working && (q.flushed || q.work == nil || !q.flushing.Load())
}

// next is when choose will have something to say.
func (q *firewallQueue) next(closing bool) time.Duration {
	next := never
	switch {
	case q.work == nil || q.working:
	case closing && q.flushing.Load():
		if !q.flushed {
			next = q.flushAt
		}
	case q.checkAt != 0 && !closing:
		next = q.checkAt
	}
	return next
}
