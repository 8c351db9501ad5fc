//go:build linux

package main

import (
	"slices"
	"syscall"
	"time"
)

const (
	// headStart is how long a command has the firewall to itself before the next one is started, if it has not ended
	// by then. Commands are mostly iptables calls of milliseconds: one after the other they keep their order and do
	// not fail on each other's lock, and one that hangs holds up nobody.
	headStart = 250 * time.Millisecond
	// stopSpread is the time within which all stop commands have been started when the daemon stops.
	stopSpread = 2 * time.Second
	// slowStop is how long a stop command counts for the bound on those that run. One that hangs holds up nobody.
	slowStop = time.Second

	maxRunning     = 32 // start commands at once, and as many stop commands
	maxRunningDoor = 8  // start commands of one door
)

// job is a command of an opening. Its door and what it is for never change.
type job struct {
	key       openKey
	stop      bool // it is the stop command
	again     bool // a start command that has been run before
	retried   bool // it is the second try of a stop command while all close
	command   Command
	after     time.Duration // not started before
	proc      Process
	runs      bool // else it waits
	began     time.Duration
	limit     time.Duration // when it is ended by force; 0: never
	ending    bool          // SIGTERM has been sent
	reaped    bool          // its process has ended; the outcome is on its way
	abandoned bool          // the journal could not be written: it has not run
}

type endedJob struct {
	job     *job
	outcome Outcome
}

// commandQueue says which command runs next, and knows those that run.
//
// closing, where a method has it, is how many openings are left while the daemon stops; 0: it does not.
type commandQueue struct {
	run     func(c Command, ended func(Outcome)) (Process, error)
	ended   chan endedJob
	waiting []*job
	running map[*job]bool
	gated   []*job                   // started, and waiting for the journal
	last    *job                     // the latest one started
	turn    map[string]time.Duration // when a command of the door was last started
}

func (q *commandQueue) add(j *job) { q.waiting = append(q.waiting, j) }

// remove takes a job out that waits.
func (q *commandQueue) remove(j *job) {
	q.waiting = slices.DeleteFunc(q.waiting, func(other *job) bool { return other == j })
}

// spread is how long a command that has not ended holds up the next one.
func spread(closing int) time.Duration {
	return min(headStart, stopSpread/time.Duration(max(closing, 1)))
}

// slow is how long a stop command counts for maxRunning. While the daemon stops, it is so short that all are started
// within stopSpread even if each of them hangs.
func slow(closing int) time.Duration {
	return min(slowStop, stopSpread*maxRunning/time.Duration(max(closing, 1)))
}

// choose picks the job to start now, or nil: stop commands go first, and then the doors take turns, so that a door which
// anybody can open does not keep the others waiting.
func (q *commandQueue) choose(now time.Duration, closing int) (best *job) {
	if q.running[q.last] && now < q.last.began+spread(closing) {
		return nil
	}
	starts, stops, ofDoor := 0, 0, map[string]int{}
	for j := range q.running {
		switch {
		case !j.stop:
			starts++
			ofDoor[j.key.door]++
		case now < j.began+slow(closing):
			stops++
		}
	}
	for _, j := range q.waiting {
		switch {
		case j.after > now:
		case j.stop:
			if stops < maxRunning {
				return j
			}
		case starts >= maxRunning || ofDoor[j.key.door] >= maxRunningDoor:
		case best == nil || q.turn[j.key.door] < q.turn[best.key.door]:
			best = j
		}
	}
	return best
}

// start runs a job that waits, for at most limit; 0: without one. After an error it has not run.
func (q *commandQueue) start(now time.Duration, j *job, limit time.Duration) (err error) {
	q.remove(j)
	j.began, j.runs = now, true
	if limit > 0 {
		j.limit = now + limit
	}
	q.last, q.turn[j.key.door], q.running[j] = j, now, true
	if j.proc, err = q.run(j.command, func(out Outcome) { q.ended <- endedJob{j, out} }); err != nil {
		delete(q.running, j)
		return err
	}
	if j.command.Gated {
		q.gated = append(q.gated, j)
	}
	return nil
}

// release lets those go that wait for the journal, or, if it could not be written, only those that close something: the
// others end without having run.
func (q *commandQueue) release(written bool, released func()) {
	for _, j := range q.gated {
		if written || j.stop {
			j.proc.release()
			released()
			continue
		}
		j.proc.abandon()
		j.abandoned = true
	}
	q.gated = nil
}

// reap looks which processes have ended.
func (q *commandQueue) reap() {
	for j := range q.running {
		j.reaped = j.reaped || j.proc.reap()
	}
}

// terminate ends a command that runs by SIGTERM, which is the first time, and at the next call by SIGKILL.
func (j *job) terminate(now time.Duration) (first bool) {
	if j.reaped {
		j.limit, j.ending = 0, true
		return false
	}
	sig := syscall.SIGKILL
	if first = !j.ending; first {
		sig = syscall.SIGTERM
	}
	j.ending, j.limit = true, now+killAfter
	j.proc.end(sig)
	return first
}

// forget drops a job that has ended.
func (q *commandQueue) forget(j *job) { delete(q.running, j) }

// forgetDoor drops the turn of a door that is open for nobody.
func (q *commandQueue) forgetDoor(door string) { delete(q.turn, door) }

// next is when a command may be due to start, or to be ended.
func (q *commandQueue) next(now time.Duration, closing int) time.Duration {
	next := never
	for j := range q.running {
		if j.limit != 0 {
			next = min(next, j.limit)
		}
		if end := j.began + slow(closing); len(q.waiting) > 0 && j.stop && end > now {
			next = min(next, end)
		}
	}
	for _, j := range q.waiting {
		if j.after > now {
			next = min(next, j.after)
		}
	}
	if len(q.waiting) > 0 && q.running[q.last] && q.last.began+spread(closing) > now {
		next = min(next, q.last.began+spread(closing))
	}
	return next
}
