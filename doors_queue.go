//go:build linux

package main

import (
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

// job is a command of an opening that runs.
type job struct {
	key       openKey
	stop      bool // it is the stop command
	command   Command
	proc      Process
	began     time.Duration
	ending    bool // SIGTERM has been sent
	reaped    bool // its process has ended; the outcome is on its way
	abandoned bool // the journal could not be written: it has not run
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
	running map[openKey]*job
	gated   []*job                   // started, and waiting for the journal
	last    *job                     // the latest one started
	turn    map[string]time.Duration // when a command of the door was last started
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

// choose picks one of those that wait, in their order, whose command is to be started now, or nil, and says when another
// may be: stop commands go first, and then the doors take turns, so that a door which anybody can open does not keep the
// others waiting.
func (q *commandQueue) choose(now time.Duration, closing int, waiting []*opening) (best *opening, at time.Duration) {
	if at = never; len(waiting) == 0 {
		return nil, at
	}
	starts, stops, ofDoor := 0, 0, map[string]int{}
	for _, j := range q.running {
		switch {
		case j == q.last && now < j.began+spread(closing):
			return nil, j.began + spread(closing)
		case !j.stop:
			starts++
			ofDoor[j.key.door]++
		case now < j.began+slow(closing):
			stops++
			at = min(at, j.began+slow(closing))
		}
	}
	for _, o := range waiting {
		switch {
		case !o.open && stops < maxRunning:
			return o, at
		case !o.open || starts >= maxRunning || ofDoor[o.key.door] >= maxRunningDoor:
		case best == nil || q.turn[o.key.door] < q.turn[best.key.door]:
			best = o
		}
	}
	return best, at
}

// start runs the command of an opening. After an error it has not run.
func (q *commandQueue) start(now time.Duration, o *opening, c Command) (j *job, err error) {
	j = &job{key: o.key, stop: !o.open, command: c, began: now}
	q.turn[o.key.door] = now
	if j.proc, err = q.run(c, func(out Outcome) { q.ended <- endedJob{j, out} }); err != nil {
		return j, err
	}
	if q.last, q.running[o.key] = j, j; c.Gated {
		q.gated = append(q.gated, j)
	}
	return j, nil
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
	for _, j := range q.running {
		j.reaped = j.reaped || j.proc.reap()
	}
}

// terminate ends a command that runs by SIGTERM, which is the first time, and at the next call by SIGKILL. It returns when
// that is to be.
func (j *job) terminate(now time.Duration) (next time.Duration, first bool) {
	if j.reaped {
		return never, false
	}
	sig := syscall.SIGKILL
	if first = !j.ending; first {
		sig = syscall.SIGTERM
	}
	j.ending = true
	j.proc.end(sig)
	return now + killAfter, first
}

// forget drops a job that has ended.
func (q *commandQueue) forget(j *job) { delete(q.running, j.key) }
