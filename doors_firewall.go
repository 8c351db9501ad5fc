//go:build linux

package main

import (
	"slices"
	"sync/atomic"
	"time"
)

const (
	// checkEvery is how often the firewall is looked at where nobody tells of its changes, and askEvery how often
	// iptables-legacy is asked, which costs no process.
	checkEvery = 10 * time.Second
	askEvery   = time.Second
	// lookAfter is how long after a change the rules of others are looked at, as changes come in crowds. After a look that
	// took some time there is none for lookRest times as long.
	lookAfter = 200 * time.Millisecond
	lookRest  = 20
	// mendPause is how long it takes at least until what was mended is mended again. The next pauses are longer, so that two
	// programs that do not agree do not keep the machine busy.
	mendPause = 5 * time.Millisecond
	// maxOwn is how many processes of ours are remembered, by their numbers.
	maxOwn = 256
	// maxSingly is how many openings and closings may wait for the firewall before they are done all at once.
	maxSingly = 4
)

// firewallDone is how a task ended.
type firewallDone struct {
	task  firewallTask
	batch []*opening // what it was for
	err   error
}

// firewallQueue says what is to be done with the firewall next: one task at a time, in another goroutine; but a look at
// the rules of others, which can take seconds, goes on beside the tasks.
type firewallQueue struct {
	work     func(task firewallTask, done func(error)) // nil: there are no native doors
	report   func() firewallReport                     // of the work that was done; nil: none is wanted
	said     firewallReport                            // what was last reported
	since    time.Duration                             // when it became so
	done     chan firewallDone
	working  bool
	rebuild  bool          // everything is to be made anew
	watched  bool          // changes of the firewall are told of
	flushing atomic.Bool   // no trace is to be left at the end
	flushed  bool          // and none is
	flushAt  time.Duration // not tried before

	news    []firewallNews // not yet judged: which are of our own changes is known when no task runs
	own     []uint32       // the ports of processes that tasks have run of late
	ownTill time.Duration  // then others can have their numbers
	touched bool           // somebody has changed our table: it is to be made anew
	nat     bool           // somebody has begun to translate: what is hidden may be forwarded now
	checkAt time.Duration  // when to look whether ours is in place; 0: not
	told    bool           // because somebody has changed what may be ours
	calmAt  time.Duration  // what somebody has changed is not mended before
	pause   time.Duration  // from a mending until then
	lookAt  time.Duration  // when the rules of others are to be looked at; 0: not
	restful time.Duration  // not before
	looking bool
	began   time.Duration // the look
	seen    *Inspection   // by the look, and not yet made use of; nil: nothing
	tables  []string      // those that see packets to this host or through it; nil: it is not known which do
}

// choose says what is to be done now, if anything, and for which of those that wait. A few are done one by one, in
// their order; many that wait, or anything that is not as it should be, at once.
func (q *firewallQueue) choose(
	now time.Duration, closing bool, waiting []*opening,
) (task firewallTask, batch []*opening, ok bool) {
	switch {
	case q.work == nil:
		return task, nil, false
	case q.lookAt != 0 && now >= q.lookAt && !q.looking && !closing:
		return firewallTask{kind: taskLook}, nil, true
	case q.working:
		return task, nil, false
	}
	q.judge(now)
	switch {
	case closing && q.flushing.Load():
		return firewallTask{kind: taskFlush}, nil, !q.flushed && now >= q.flushAt
	case q.rebuild || len(waiting) > maxSingly || (q.nat || q.touched && now >= q.calmAt) && !closing:
		return firewallTask{kind: taskBuild, told: q.touched, nat: q.nat}, waiting, true
	case (q.checkAt != 0 && now >= q.checkAt || q.seen != nil) && !closing:
		// Before openings and closings, or many of them would put it off for ever.
		return firewallTask{kind: taskCheck, told: q.told, seen: q.seen}, nil, true
	case len(waiting) == 0:
		return task, nil, false
	case waiting[0].open:
		return firewallTask{kind: taskOpen}, waiting[:1], true
	}
	return firewallTask{kind: taskClose}, waiting[:1], true
}

// begin has a task done.
func (q *firewallQueue) begin(now time.Duration, task firewallTask, batch []*opening) {
	task.found = &firewallFindings{}
	switch task.kind {
	case taskLook:
		q.looking, q.began, q.lookAt = true, now, 0
	case taskCheck:
		q.checkAt, q.told, q.seen = 0, false, nil
	case taskBuild:
		q.checkAt, q.told, q.rebuild, q.touched, q.nat = 0, false, false, false, false
	}
	if task.told {
		q.pause = min(max(2*q.pause, mendPause), checkEvery)
		q.calmAt = now + q.pause
	}
	q.working = q.working || task.kind != taskLook
	q.work(task, func(err error) { q.done <- firewallDone{task, batch, err} })
}

// end takes note of how a task ended.
func (q *firewallQueue) end(now time.Duration, done firewallDone, closing bool) {
	found := done.task.found
	if done.task.kind == taskLook {
		q.looking, q.restful = false, now+lookRest*(now-q.began)
		q.seen, q.tables = &found.seen, found.seen.tables()
		return
	}
	q.working = false
	q.own = append(q.own, found.ports...)
	q.own, q.ownTill = q.own[max(0, len(q.own)-maxOwn):], now+checkEvery
	if found.stir {
		q.look(now)
	}
	if q.said.unsure && q.lookAt == 0 {
		q.lookAt = now + checkEvery
	}
	switch {
	case done.task.kind == taskFlush && done.err != nil:
		q.flushAt = now + retryClosing
	case done.task.kind == taskFlush:
		q.flushed = true
	case closing || q.checkAt != 0:
	case !q.watched || done.err != nil:
		q.checkAt = now + checkEvery
	case q.said.silent && len(done.task.rules.Hidden) > 0:
		q.checkAt = now + askEvery
	case q.said.silent:
		q.checkAt = now + checkEvery
	}
}

// hear takes news of the firewall's changes, our own among them.
func (q *firewallQueue) hear(news []firewallNews) {
	for _, n := range news {
		if q.work != nil && !slices.Contains(q.news, n) {
			q.news = append(q.news, n)
		}
	}
}

// judge says what is to be done for the news.
func (q *firewallQueue) judge(now time.Duration) {
	if now > q.ownTill {
		q.own = nil
	}
	for _, n := range q.news {
		lost := n.table == ""
		if !lost && slices.Contains(q.own, n.port) {
			continue
		}
		if now > q.calmAt+askEvery { // this is another matter than last time
			q.pause, q.calmAt = 0, 0
		}
		if lost || n.table == ourTable {
			q.touched = true
		}
		q.nat = q.nat || lost || n.nat && n.table != ourTable
		if n.ours {
			q.checkAt, q.told = max(now, q.calmAt), true
		}
		if lost || n.table != ourTable && (n.hook || q.tables == nil || slices.Contains(q.tables, n.table)) {
			q.look(now)
		}
	}
	q.news = nil
}

// look has the rules of others looked at soon.
func (q *firewallQueue) look(now time.Duration) {
	if soon := max(now+lookAfter, q.restful); q.lookAt == 0 || q.lookAt > soon {
		q.lookAt = soon
	}
}

// different are lines of the log about what is different of the firewall after a task.
func (q *firewallQueue) different(now time.Duration) (lines []string) {
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

// configure takes up a firewall that is as it must be, or another one.
func (q *firewallQueue) configure(work func(firewallTask, func(error)), report func() firewallReport, watched bool) {
	q.work, q.report, q.watched = work, report, watched
}

// makeAnew has everything made anew.
func (q *firewallQueue) makeAnew() { q.rebuild = q.work != nil }

// watch says whether changes of the firewall are told of, from now on: it is looked at once more, and if they are not,
// again and again.
func (q *firewallQueue) watch(now time.Duration, watched bool) {
	q.watched = watched
	if q.work != nil {
		q.checkAt = now + lookAfter
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
	case q.work == nil:
	case closing && q.flushing.Load():
		if !q.flushed && !q.working {
			next = q.flushAt
		}
	case closing:
	default:
		if q.lookAt != 0 && !q.looking {
			next = q.lookAt
		}
		if q.working {
			break
		}
		if q.checkAt != 0 {
			next = min(next, q.checkAt)
		}
		if q.touched {
			next = min(next, q.calmAt)
		}
	}
	return next
}
