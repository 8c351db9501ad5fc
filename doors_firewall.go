//go:build linux

package main

import (
	"slices"
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
	// retryClosing is the pause before a closing that has failed is tried again while the daemon stops.
	retryClosing = 100 * time.Millisecond
)

// ruleChange is what an opening waits for at the firewall.
type ruleChange struct {
	key   openKey
	allow bool          // let the source in, or lengthen its time; else shut it out
	after time.Duration // not tried before
}

// firewallDone is how a task ended.
type firewallDone struct {
	task  firewallTask
	batch []*ruleChange // what it was for
	err   error
}

// firewallQueue says what is to be done with the firewall next: one task at a time, in another goroutine.
type firewallQueue struct {
	work     func(task firewallTask, done func(error)) // nil: there are no native doors
	report   func() firewallReport                     // of the work that was done; nil: none is wanted
	said     firewallReport                            // what was last reported
	since    time.Duration                             // when it became so
	done     chan firewallDone
	working  bool
	waiting  []*ruleChange
	rebuild  bool          // everything is to be made anew
	checkAt  time.Duration // when the firewall is to be looked at; 0: not
	told     bool          // because somebody has changed it
	watched  bool          // changes of the firewall are told of
	flushing atomic.Bool   // no trace is to be left at the end
	flushed  bool          // and none is
	flushAt  time.Duration // not tried before
}

// add has a change wait, in the place of old, if that waits.
func (q *firewallQueue) add(c, old *ruleChange) {
	if i := slices.Index(q.waiting, old); i >= 0 {
		q.waiting[i] = c
	} else {
		q.waiting = append(q.waiting, c)
	}
}

func (q *firewallQueue) remove(c *ruleChange) {
	q.waiting = slices.DeleteFunc(q.waiting, func(other *ruleChange) bool { return other == c })
}

func (c *ruleChange) postpone(until time.Duration) { c.after = until }

// choose says what is to be done now, if anything, and for which changes. A few are done one by one, in the order of their
// grants; many that wait, or anything that is not as it should be, at once. ready is whether a source may be let in.
func (q *firewallQueue) choose(
	now time.Duration, closing bool, ready func(*ruleChange) bool,
) (task firewallTask, batch []*ruleChange, ok bool) {
	if q.work == nil || q.working {
		return task, nil, false
	}
	for _, c := range q.waiting {
		if now >= c.after && (!c.allow || ready(c)) {
			batch = append(batch, c)
		}
	}
	switch {
	case closing && q.flushing.Load():
		return firewallTask{kind: taskFlush}, nil, !q.flushed && now >= q.flushAt
	case q.rebuild || len(batch) > maxSingly:
		return firewallTask{kind: taskBuild}, batch, true
	case q.checkAt != 0 && now >= q.checkAt && !closing:
		// Before openings and closings, or many of them would put it off for ever.
		return firewallTask{kind: taskCheck, told: q.told}, nil, true
	case len(batch) == 0:
		return task, nil, false
	case batch[0].allow:
		return firewallTask{kind: taskOpen}, batch[:1], true
	}
	return firewallTask{kind: taskClose}, batch[:1], true
}

// begin has a task done.
func (q *firewallQueue) begin(task firewallTask, batch []*ruleChange) {
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
	case (!q.watched || q.said.ask || done.err != nil) && !closing && q.checkAt == 0:
		q.checkAt = now + checkEvery
	}
}

// news are lines of the log about what is different of the firewall after a task.
func (q *firewallQueue) news(now time.Duration) (lines []string) {
	if q.report == nil {
		return nil
	}
	before := q.said
	if q.said = q.report(); q.said.choice == "" { // it has failed, and what was before is there still
		q.said = before
	}
	if q.said.choice != before.choice || !slices.Equal(q.said.warnings, before.warnings) {
		q.since = now
	}
	return q.said.news(before)
}

// changed takes note that somebody has changed the firewall.
func (q *firewallQueue) changed(now time.Duration) {
	if soon := now + checkAfter; q.checkAt == 0 || q.checkAt > soon {
		q.checkAt = soon
	}
	q.told = true
}

// configure takes up a firewall that is as it must be, or another one.
func (q *firewallQueue) configure(work func(firewallTask, func(error)), report func() firewallReport, watched bool) {
	q.work, q.report, q.watched = work, report, watched
}

// makeAnew has everything made anew.
func (q *firewallQueue) makeAnew() { q.rebuild = q.work != nil }

// watch says whether changes of the firewall are told of. If not, it is looked at again and again.
func (q *firewallQueue) watch(now time.Duration, watched bool) {
	q.watched = watched
	if q.work != nil && (!watched || q.said.ask) {
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
	default:
		if q.checkAt != 0 && !closing {
			next = q.checkAt
		}
		for _, c := range q.waiting {
			next = min(next, c.after)
		}
	}
	return next
}
