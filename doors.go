package main

import (
	"math"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
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
	// stopDeadline is how long the daemon waits for commands when it stops.
	stopDeadline = 10 * time.Second
	// startGrace is how long beyond Cmd_Timeout a start command may run before it is ended, so that its door can be
	// closed. A stop command has stopLimit.
	startGrace = time.Minute
	stopLimit  = 10 * time.Minute
	// retryAfter is the pause before a stop command that could not be started (no memory, no process) is tried again.
	retryAfter = time.Second
	// retryClosing is the same while the daemon stops.
	retryClosing = 100 * time.Millisecond
	// killAfter is how long a command has between SIGTERM and SIGKILL.
	killAfter = time.Second

	// slowStop is how long a stop command counts for the bound on those that run. One that hangs holds up nobody.
	slowStop = time.Second

	maxRunning     = 32  // start commands at once, and as many stop commands
	maxRunningDoor = 8   // start commands of one door
	maxOpenings    = 256 // sources of one door at once

	doorBurst    = 1000 // log lines about the commands of one door
	doorInterval = 200 * time.Millisecond
)

// Doors is the goroutine that owns what is open: its timers and its commands.
type Doors struct {
	now     func() time.Duration
	log     *Log
	logs    map[string]*Throttle // by door name, so that one door's lines do not push out another's
	run     func(c Command, ended func(Outcome)) (Process, error)
	use     func(file string, sequence []Knock) error // marks a one-time sequence as used
	used    chan<- struct{}                           // told that one was
	uses    map[oneTimeUse]bool                       // by the latest hit that used any
	usedBy  uint64                                    // the number of that hit
	ended   chan endedJob
	open    map[openKey]*opening
	count   map[string]int           // openings by door name
	turn    map[string]time.Duration // when a command of the door was last started
	queue   []*job                   // not yet started
	running map[*job]bool
	last    *job // the latest one started
	closing bool // the daemon stops
}

// openKey tells openings apart. It has the commands and not the door, so that a door is still the same one after a
// reload, unless its commands have changed.
type openKey struct {
	door, start, stop string
	source            netip.Addr
}

// openState is how far an opening is.
type openState uint8

const (
	starting openState = iota // the start command waits or runs
	opened                    // until the time is up
	stopping                  // the stop command waits or runs
)

// opening is a door that is open, or being opened or closed, for one source.
type opening struct {
	key   openKey
	grant Grant // the latest
	state openState
	until time.Duration // when opened: when it is to be closed
	again bool          // granted while stopping: to be opened anew after that
	more  int           // grants that found the command of a door without Stop_Command still running
}

// job is a command of an opening.
type job struct {
	opening *opening
	command Command
	proc    Process
	began   time.Duration
	limit   time.Duration // when it is ended by force; 0: never
	ending  bool          // SIGTERM has been sent
	after   time.Duration // not started before
	reaped  bool          // its process has ended; the outcome is on its way
	retried bool          // it is the second try of a stop command
}

// oneTimeUse is a one-time sequence that a hit has used: the hit opens every door that has the same file.
type oneTimeUse struct {
	file, sequence string // the file without symbolic links, as doors may name it by different ones
}

type endedJob struct {
	job     *job
	outcome Outcome
}

func newDoors(now func() time.Duration, log *Log, run func(Command, func(Outcome)) (Process, error)) *Doors {
	return &Doors{
		now: now, run: run,
		log:     log,
		logs:    map[string]*Throttle{},
		turn:    map[string]time.Duration{},
		ended:   make(chan endedJob),
		open:    map[openKey]*opening{},
		count:   map[string]int{},
		running: map[*job]bool{},
		uses:    map[oneTimeUse]bool{},
	}
}

// serve opens doors for the grants until their channel is closed. Then it closes all doors, side by side, waits for
// their commands for stopDeadline, and returns.
func (d *Doors) serve(grants <-chan Grant) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	defer signal.Stop(children)
	timer := time.NewTimer(0)
	deadline := time.Duration(math.MaxInt64)
	for {
		select {
		case g, ok := <-grants:
			if ok {
				d.grant(d.now(), g)
				for range len(grants) { // more of them, before the rest is looked at
					if g, ok := <-grants; ok {
						d.grant(d.now(), g)
					}
				}
				break
			}
			grants = nil
			deadline = d.now() + stopDeadline
			d.closeAll(d.now())
		case <-children:
			for j := range d.running {
				j.reaped = j.reaped || j.proc.reap()
			}
		case e := <-d.ended:
			d.end(d.now(), e.job, e.outcome)
		case <-timer.C:
		}
		now := d.now()
		d.tick(now)
		if d.closing && (len(d.open) == 0 || now >= deadline) {
			d.abandon()
			return
		}
		timer.Reset(max(min(d.next(now), deadline)-now, 0))
	}
}

// printf logs a line about a door.
func (d *Doors) printf(now time.Duration, door, format string, a ...any) {
	t := d.logs[door]
	if t == nil {
		t = &Throttle{log: d.log, burst: doorBurst, interval: doorInterval}
		d.logs[door] = t
	}
	t.printf(now, format, a...)
}

// grant opens the door for the source, or lengthens its time.
func (d *Doors) grant(now time.Duration, g Grant) {
	if d.closing {
		return
	}
	if g.Door.OneTime != "" && !d.useUp(now, g) {
		return
	}
	d.admit(now, g)
}

// admit opens the door, or lengthens its time, for a source whose right to it is settled.
func (d *Doors) admit(now time.Duration, g Grant) {
	start, stop := g.Door.commands(g.Source)
	if start == "" {
		return
	}
	key := openKey{g.Door.Name, start, stop, g.Source}
	o := d.open[key]
	switch {
	case o != nil:
		o.grant = g
		switch {
		case o.state == opened:
			o.until = now + g.Door.CmdTimeout
			d.printf(now, key.door, "%v: %s: open already: %v from now on", g.Source, key.door, g.Door.CmdTimeout)
		case o.state == stopping:
			o.again = true
		case stop == "":
			o.more++
		}
		return
	case d.count[key.door] >= maxOpenings:
		d.printf(now, key.door, "%v: %s: not opened: it is open for %d sources already", g.Source, key.door, maxOpenings)
		return
	}
	o = &opening{key: key, grant: g}
	d.open[key] = o
	d.count[key.door]++
	d.enqueue(o, start)
}

// useUp marks the one-time sequence that was knocked as used, and reports whether it is: what cannot be marked opens
// nothing. It tells of sequences that are no longer the one in force.
func (d *Doors) useUp(now time.Duration, g Grant) bool {
	use := oneTimeUse{g.Door.OneTime, g.Door.sequence()}
	if file, err := filepath.EvalSymlinks(use.file); err == nil {
		use.file = file
	}
	if g.Hit != d.usedBy {
		d.usedBy = g.Hit
		clear(d.uses)
	}
	if d.uses[use] {
		return true
	}
	switch err := d.use(g.Door.OneTime, g.Door.Sequence); err {
	case nil:
		d.uses[use] = true
	case errUsed:
		d.printf(now, g.Door.Name, "%v: %s: not opened: %v: %s", g.Source, g.Door.Name, err, g.Door.OneTime)
	default:
		d.printf(now, g.Door.Name, "%v: %s: not opened: its sequence cannot be marked as used: %v", g.Source, g.Door.Name, err)
		return false
	}
	select {
	case d.used <- struct{}{}:
	default: // the one before has not been looked at yet
	}
	return d.uses[use]
}

func (d *Doors) enqueue(o *opening, line string) {
	d.queue = append(d.queue, &job{opening: o, command: doorCommand(line, o.grant)})
}

// tick does what the time asks for: doors to close, commands to end, and commands to start.
func (d *Doors) tick(now time.Duration) {
	for _, o := range d.open {
		if o.state == opened && o.until <= now {
			d.printf(now, o.key.door, "%v: %s: command timeout", o.key.source, o.key.door)
			d.close(o)
		}
	}
	for j := range d.running {
		if j.limit != 0 && j.limit <= now {
			d.terminate(now, j)
		}
	}
	d.launch(now)
	for _, t := range d.logs {
		t.flush(now)
	}
}

// next is when tick will have something to do.
func (d *Doors) next(now time.Duration) time.Duration {
	next := time.Duration(math.MaxInt64)
	for _, o := range d.open {
		if o.state == opened {
			next = min(next, o.until)
		}
	}
	for j := range d.running {
		if j.limit != 0 {
			next = min(next, j.limit)
		}
		if end := j.began + d.slow(); len(d.queue) > 0 && j.opening.state == stopping && end > now {
			next = min(next, end)
		}
	}
	for _, j := range d.queue {
		if j.after > now {
			next = min(next, j.after)
		}
	}
	if len(d.queue) > 0 && d.running[d.last] && d.last.began+d.spread() > now {
		next = min(next, d.last.began+d.spread())
	}
	for _, t := range d.logs {
		if at, ok := t.next(); ok {
			next = min(next, at)
		}
	}
	return next
}

func (d *Doors) close(o *opening) {
	o.state = stopping
	d.enqueue(o, o.key.stop)
}

// spread is how long a command that has not ended holds up the next one.
func (d *Doors) spread() time.Duration {
	if d.closing {
		return min(headStart, stopSpread/time.Duration(max(len(d.open), 1)))
	}
	return headStart
}

// slow is how long a stop command counts for maxRunning. While the daemon stops, it is so short that all are started
// within stopSpread even if each of them hangs.
func (d *Doors) slow() time.Duration {
	if d.closing {
		return min(slowStop, stopSpread*maxRunning/time.Duration(max(len(d.open), 1)))
	}
	return slowStop
}

// launch starts what may start now.
func (d *Doors) launch(now time.Duration) {
	for {
		if d.last != nil && d.running[d.last] && now < d.last.began+d.spread() {
			return
		}
		i := d.choose(now)
		if i < 0 {
			return
		}
		j := d.queue[i]
		d.queue = slices.Delete(d.queue, i, i+1)
		d.start(now, j)
	}
}

// choose picks the next job, or -1: stop commands go first, and then the doors take turns, so that a door which anybody
// can open does not keep the others waiting.
func (d *Doors) choose(now time.Duration) int {
	starts, stops, ofDoor := 0, 0, map[string]int{}
	for r := range d.running {
		switch {
		case r.opening.state == starting:
			starts++
			ofDoor[r.opening.key.door]++
		case now < r.began+d.slow():
			stops++
		}
	}
	best := -1
	for i, j := range d.queue {
		door := j.opening.key.door
		switch {
		case j.after > now:
		case j.opening.state == stopping:
			if stops < maxRunning {
				return i
			}
		case starts >= maxRunning || ofDoor[door] >= maxRunningDoor:
		case best < 0 || d.turn[door] < d.turn[d.queue[best].opening.key.door]:
			best = i
		}
	}
	return best
}

func (d *Doors) start(now time.Duration, j *job) {
	o := j.opening
	d.printf(now, o.key.door, "%s: running command: %s", o.key.door, j.command.Line)
	j.began = now
	d.turn[o.key.door] = now
	switch {
	case o.state == stopping:
		j.limit = now + stopLimit
	case o.key.stop != "":
		j.limit = now + o.grant.Door.CmdTimeout + startGrace
	}
	d.last = j
	d.running[j] = true
	proc, err := d.run(j.command, func(out Outcome) { d.ended <- endedJob{j, out} })
	switch {
	case err == nil:
		j.proc = proc
	case o.state == stopping:
		delete(d.running, j)
		d.logOutcome(now, o.key.door, Outcome{Err: err})
		d.retry(now, j)
	default:
		d.end(now, j, Outcome{Err: err})
	}
}

// retry queues a stop command once more.
func (d *Doors) retry(now time.Duration, j *job) {
	pause := retryAfter
	if d.closing {
		pause = retryClosing
	}
	d.queue = append(d.queue, &job{opening: j.opening, command: j.command, after: now + pause, retried: true})
}

// terminate ends a command by SIGTERM, and at the next call by SIGKILL.
func (d *Doors) terminate(now time.Duration, j *job) {
	if j.reaped {
		j.limit = 0
		return
	}
	sig := syscall.SIGTERM
	if j.ending {
		sig = syscall.SIGKILL
	} else {
		d.printf(now, j.opening.key.door, "%s: ending a command that has run for %v", j.opening.key.door, (now - j.began).Round(time.Second))
	}
	j.ending = true
	j.limit = now + killAfter
	j.proc.end(sig)
}

// end takes note that a command has ended, and goes on with its opening.
func (d *Doors) end(now time.Duration, j *job, out Outcome) {
	delete(d.running, j)
	o := j.opening
	d.logOutcome(now, o.key.door, out)
	switch {
	case o.state == starting && o.key.stop != "":
		// Also when it has failed: it may have done half of its work.
		if d.closing || j.ending {
			d.close(o)
			return
		}
		o.state = opened
		o.until = now + o.grant.Door.CmdTimeout
	case o.state == stopping && !j.retried && (out.Signal != 0 && !j.ending || out.Status != 0 && d.closing):
		// Somebody else ended it; or it failed where many ran at once: iptables-nft may not find a rule that another
		// one has just deleted a copy of.
		d.retry(now, j)
	default:
		d.forget(o)
		if o.more > 0 {
			d.printf(now, o.key.door, "%v: %s: opened %d times more while its command ran: not run again", o.key.source, o.key.door, o.more)
		}
		if o.again {
			d.admit(now, o.grant)
		}
	}
}

func (d *Doors) forget(o *opening) {
	delete(d.open, o.key)
	if d.count[o.key.door]--; d.count[o.key.door] == 0 {
		delete(d.count, o.key.door)
		delete(d.turn, o.key.door)
	}
}

func (d *Doors) logOutcome(now time.Duration, door string, out Outcome) {
	for line := range strings.Lines(out.Output) {
		d.printf(now, door, "%s: command output: %s", door, strings.TrimRight(line, "\n"))
	}
	if out.More > 0 {
		d.printf(now, door, "%s: command output: %d bytes more", door, out.More)
	}
	switch {
	case out.Err != nil:
		d.printf(now, door, "%s: command not run: %v", door, out.Err)
		return
	case out.Signal != 0:
		d.printf(now, door, "%s: command ended by signal %d (%v)", door, out.Signal, out.Signal)
	case out.Status != 0:
		d.printf(now, door, "%s: command returned non-zero status code (%d)", door, out.Status)
	}
	d.printf(now, door, "%s: command took %v", door, out.Took.Round(time.Millisecond))
}

// closeAll closes every door at once. A start command that has not begun will not; one that runs is ended first.
func (d *Doors) closeAll(now time.Duration) {
	d.closing = true
	d.queue = slices.DeleteFunc(d.queue, func(j *job) bool {
		if j.opening.state == starting {
			d.forget(j.opening)
			return true
		}
		return false
	})
	for _, o := range d.open {
		o.again = false
		if o.state == opened {
			d.close(o)
		}
	}
	for j := range d.running {
		if j.opening.state == starting && j.opening.key.stop != "" {
			d.terminate(now, j)
		}
	}
}

// abandon says which commands have not ended.
func (d *Doors) abandon() {
	for _, t := range d.logs {
		t.finish()
	}
	for j := range d.running {
		d.log.printf("%s: command did not end within %v: %s", j.opening.key.door, stopDeadline, j.command.Line)
	}
	for _, j := range d.queue {
		d.log.printf("%s: command not run: no time was left: %s", j.opening.key.door, j.command.Line)
	}
}
