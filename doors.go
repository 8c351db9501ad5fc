//go:build linux

package main

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
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
	// startGrace is how long beyond Cmd_Timeout a start command may run before it is ended, so that its door can be
	// closed. A stop command has stopLimit.
	startGrace = time.Minute
	stopLimit  = 10 * time.Minute
	// retryAfter is the pause before a stop command that could not be started (no memory, no process) is tried again, and
	// a journal that could not be written.
	retryAfter = time.Second
	// retryClosing is the same while the daemon stops.
	retryClosing = 100 * time.Millisecond

	// slowStop is how long a stop command counts for the bound on those that run. One that hangs holds up nobody.
	slowStop = time.Second

	// maxTries is how often a closing is tried that fails, and maxTrying for how long, with closePauses between the tries:
	// to delete a rule that is not there fails for ever.
	maxTries  = 8
	maxTrying = time.Hour
	// leastGain is by how much a knock must lengthen a door's time to do so.
	leastGain = time.Second
	// maxGivenUp is how many closings that were given up are remembered, for status.
	maxGivenUp = 100

	// checkEvery is how often the firewall is looked at where nobody tells of its changes, and checkAfter how long after
	// somebody did: changes come in crowds.
	checkEvery = 10 * time.Second
	checkAfter = 200 * time.Millisecond
	// maxSingly is how many openings and closings may wait for the firewall before they are done all at once.
	maxSingly = 4

	maxRunning     = 32 // start commands at once, and as many stop commands
	maxRunningDoor = 8  // start commands of one door

	doorBurst    = 1000 // log lines about the commands of one door
	doorInterval = 200 * time.Millisecond
)

var closePauses = []time.Duration{
	time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute,
}

// Doors is the goroutine that owns what is open: its timers, its commands, its place in the firewall and on the disk.
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
	gated   []*job // started, and waiting for the journal
	last    *job   // the latest one started
	closing bool   // the daemon stops

	save   func([]Entry) error // writes the journal; nil: there is none
	dirty  bool                // it is not what it should be
	saveAt time.Duration       // not written before, after it could not be, except for a new opening
	left   []*opening          // closings that failed when all closed: the next daemon's

	// work does something with the firewall, in another goroutine, and then calls done. There is one at a time. nil:
	// there are no native doors.
	work     func(w wallWork, done func(error))
	worked   chan wallDone
	working  bool
	rules    Ruleset // Hidden and Kept
	wishes   []*opening
	rebuild  bool          // everything is to be made anew
	checkAt  time.Duration // when the firewall is to be looked at; 0: not
	told     bool          // because somebody has changed it
	watched  bool          // changes of the firewall are told of
	flushing atomic.Bool   // no trace is to be left at the end
	flushed  bool          // and none is
	flushAt  time.Duration // not tried before
	crash    func(point string)

	changed  <-chan struct{} // somebody has changed the firewall
	settings <-chan doorSettings
	asks     <-chan Ask
	about    Status // what the daemon says of itself
	began    time.Duration
	counters func() Counters
	failures uint64 // commands that failed
	givenUp  []FailedClose
}

// doorSettings is what a reload, or another set of links, changes for the doors; what is nil stays.
type doorSettings struct {
	reload    bool
	about     Status
	rules     *Ruleset
	work      func(w wallWork, done func(error))
	save      func([]Entry) error
	recovered Recovered
	watched   bool
}

// openKey tells openings apart. It has what is done and not the door, so that a door is still the same one after a
// reload, unless that has changed.
type openKey struct {
	door, start, stop, ports string
	source                   netip.Addr
	link                     string // of a link-local source
}

// openState is how far an opening is.
type openState uint8

const (
	starting openState = iota // let in by the firewall, then the start command
	opened                    // until the time is up
	stopping                  // shut out by the firewall, and the stop command
)

// opening is a door that is open, or being opened or closed, for one source.
type opening struct {
	key   openKey
	grant Grant // the latest
	state openState
	since time.Duration // when it was granted first
	until time.Duration // when it is to be closed
	again bool          // granted while stopping: to be opened anew after that
	more  int           // grants that found the command of a door without Stop_Command still running

	job     *job          // that waits or runs
	started bool          // the start command has been run, so the stop command has something to do
	wished  int           // how often it has wished for something
	wish    wish          // of the firewall
	inside  bool          // the firewall lets it in
	entered bool          // and has told of it
	after   time.Duration // its wish is not tried before
	saved   bool          // the journal has it
	tries   int           // how often its closing has failed
	failed  time.Duration // when it failed first
	// startError is how its start command failed, which may have done half of its work; "": it did not.
	startError string
}

// wish is what an opening waits for at the firewall.
type wish uint8

const (
	settled wish = iota
	letIn        // or its time lengthened
	shutOut
)

// journaled is whether it has something to close, which must be on disk before it opens.
func (o *opening) journaled() bool { return o.key.stop != "" || o.native() }

// overdue is whether the firewall lets it in although it is not open yet, as its start command still waits or runs, and
// nobody has asked to shut it out.
func (o *opening) overdue() bool {
	return o.state == starting && o.inside && o.wish != shutOut && o.job != nil
}

func (o *opening) native() bool { return len(o.grant.Door.OpenPorts) > 0 }

// failedToOpen is whether the only thing that could open it has failed.
func (o *opening) failedToOpen() bool { return o.startError != "" && !o.native() }

// pass is what the firewall is to know of it.
func (o *opening) pass(now time.Duration) Pass {
	return Pass{Door: o.key.door, Source: o.key.source, Link: o.grant.Link, Ports: o.grant.Door.OpenPorts, Left: o.until - now}
}

// entry is what the journal is to have of it.
func (o *opening) entry() Entry {
	state := EntryState(o.state)
	if o.state == starting && o.started && (o.job == nil || !o.job.runs) || o.wish == shutOut || o.failedToOpen() {
		state = Closing // it was open once, is to be open no more, or may not be open at all
	}
	e := Entry{
		Door: o.key.door, Source: o.key.source, Link: o.grant.Link, State: state, Since: o.since, Until: o.until,
		Start: o.key.start, Stop: o.key.stop, Ports: o.grant.Door.OpenPorts, Tries: o.tries,
	}
	if o.job != nil && o.job.runs && !o.job.reaped {
		e.Pid, e.Began = o.job.proc.pid, o.job.proc.began
	}
	return e
}

// job is a command of an opening.
type job struct {
	opening   *opening
	command   Command
	proc      Process
	runs      bool // else it waits
	began     time.Duration
	limit     time.Duration // when it is ended by force; 0: never
	ending    bool          // SIGTERM has been sent
	after     time.Duration // not started before
	reaped    bool          // its process has ended; the outcome is on its way
	retried   bool          // it is the second try of a stop command while all close
	abandoned bool          // the journal could not be written: it has not run
	again     bool          // a start command that has been run before
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
		log:      log,
		logs:     map[string]*Throttle{},
		turn:     map[string]time.Duration{},
		ended:    make(chan endedJob),
		worked:   make(chan wallDone, 1),
		crash:    func(string) {},
		counters: func() Counters { return Counters{} },
		open:     map[openKey]*opening{},
		count:    map[string]int{},
		running:  map[*job]bool{},
		uses:     map[oneTimeUse]bool{},
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
		case done := <-d.worked:
			d.workEnded(d.now(), done)
		case <-d.changed:
			if soon := d.now() + checkAfter; d.checkAt == 0 || d.checkAt > soon {
				d.checkAt = soon
			}
			d.told = true
		case s := <-d.settings:
			d.configure(d.now(), s)
		case ask := <-d.asks:
			ask.answer <- d.answer(d.now(), ask.Request)
		case <-timer.C:
		}
		now := d.now()
		d.tick(now)
		if d.closing && (len(d.open) == 0 && !d.working && (d.flushed || d.work == nil || !d.flushing.Load()) || now >= deadline) {
			d.abandon()
			return
		}
		next := min(d.next(now), deadline)
		if len(d.open) > 0 {
			next = min(next, now+checkEvery) // timers stand still while the machine sleeps, and the time of boot does not
		}
		timer.Reset(max(next-now, 0))
	}
}

// printf logs a line about a door. Whatever the source is in it has completed a sequence.
func (d *Doors) printf(now time.Duration, door, format string, a ...any) {
	t := d.logs[door]
	if t == nil {
		t = &Throttle{log: d.log, burst: doorBurst, interval: doorInterval}
		d.logs[door] = t
	}
	t.printfNamed(now, format, a...)
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
	if start == "" && len(g.Door.OpenPorts) == 0 {
		return
	}
	key := openKey{door: g.Door.Name, start: start, stop: stop, ports: joinKnocks(g.Door.OpenPorts), source: g.Source}
	if g.Source.IsLinkLocalUnicast() {
		key.link = g.Link
	}
	o := d.open[key]
	switch {
	case o != nil:
		o.grant = g
		switch {
		case o.state == opened && o.failedToOpen():
			d.printf(now, key.door, "%v: %s: start command failed (%s): running stop and start command", g.Source, key.door, o.startError)
			o.again = true
			d.close(now, o)
		case now+g.Door.CmdTimeout-o.until < leastGain && (o.state == opened || o.overdue()):
			// A knock every moment is not to wear out a disk.
			d.printf(now, key.door, "%v: %s: open already: %v from now on", g.Source, key.door, (o.until - now).Round(time.Second))
		case o.overdue():
			o.until = now + g.Door.CmdTimeout
			d.dirty = true
			d.want(o, letIn)
		case o.state == opened:
			o.until = now + g.Door.CmdTimeout
			d.dirty = true
			if o.native() {
				d.want(o, letIn)
			}
			d.printf(now, key.door, "%v: %s: open already: %v from now on", g.Source, key.door, g.Door.CmdTimeout)
		case o.state == stopping && o.job != nil && !o.job.runs && o.tries > 0 && o.wish == settled && !d.closing:
			// Its closing has failed, and waits to be tried again.
			d.dequeue(o)
			o.state, o.tries, o.since = starting, 0, now
			d.dirty = true
			d.begin(now, o)
		case o.state == stopping:
			o.again, o.after = true, 0 // a closing that failed is tried again now
		case !o.journaled():
			o.more++
		}
		return
	case d.count[key.door] >= cmp.Or(g.Door.MaxOpen, defaultMaxOpen):
		d.printf(now, key.door, "%v: %s: not opened: it is open for %d sources already", g.Source, key.door, d.count[key.door])
		return
	}
	o = &opening{key: key, grant: g, since: now, until: now + g.Door.CmdTimeout}
	d.add(o)
	d.begin(now, o)
}

func (d *Doors) add(o *opening) {
	d.open[o.key] = o
	d.count[o.key.door]++
	d.dirty = d.dirty || o.journaled()
}

// begin lets the source in, or runs the start command of a door that does not.
func (d *Doors) begin(now time.Duration, o *opening) {
	if o.native() {
		d.want(o, letIn)
	} else {
		d.enqueue(o, o.key.start)
	}
}

// want has the firewall let an opening in, or shut it out.
func (d *Doors) want(o *opening, w wish) {
	if d.flushed {
		return
	}
	if o.wish == settled {
		d.wishes = append(d.wishes, o)
	}
	o.wish, o.after = w, 0
	o.wished++
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
	o.job = &job{opening: o, command: doorCommand(line, o.grant)}
	o.job.command.Gated = o.journaled() && d.save != nil
	d.queue = append(d.queue, o.job)
}

func (d *Doors) dequeue(o *opening) {
	d.unqueue(o.job)
	o.job = nil
}

func (d *Doors) unqueue(j *job) {
	d.queue = slices.DeleteFunc(d.queue, func(other *job) bool { return other == j })
}

// tick does what the time asks for: doors to close, commands to end and to start, the journal, and the firewall.
func (d *Doors) tick(now time.Duration) {
	for _, o := range d.open {
		switch {
		case o.until > now:
		case o.state == opened:
			d.printf(now, o.key.door, "%v: %s: command timeout", o.key.source, o.key.door)
			d.close(now, o)
		case o.overdue():
			// Its start command has not ended, or not even begun. The door closes in time all the same.
			d.printf(now, o.key.door, "%v: %s: command timeout", o.key.source, o.key.door)
			d.shut(now, o)
		}
	}
	for j := range d.running {
		if j.limit != 0 && j.limit <= now {
			d.terminate(now, j)
		}
	}
	d.launch(now)
	d.commit(now)
	d.launchWork(now)
	for _, t := range d.logs {
		t.flush(now)
	}
}

// commit writes the journal if something has changed, and then lets the commands go that wait for it. What cannot be
// written down is not opened; what closes goes on.
func (d *Doors) commit(now time.Duration) {
	if d.save == nil {
		return
	}
	isNew := func(o *opening) bool { return !o.saved && o.journaled() && o.state == starting }
	var err error
	if d.dirty && (now >= d.saveAt || len(d.gated) > 0 || slices.ContainsFunc(d.wishes, isNew)) {
		var entries []Entry
		for _, o := range d.open {
			if o.journaled() {
				entries = append(entries, o.entry())
			}
		}
		for _, o := range d.left {
			entries = append(entries, o.entry())
		}
		d.crash("journal begins")
		if err = d.save(entries); err != nil {
			d.saveAt = now + retryAfter
			d.printf(now, "journal", "%v", err)
		} else {
			d.dirty = false
			d.crash("journal written")
			for _, o := range d.open {
				o.saved = true
			}
		}
	}
	for _, j := range d.gated {
		if err == nil || j.opening.state == stopping {
			j.proc.release()
			d.crash("released")
			continue
		}
		j.proc.abandon()
		j.abandoned = true
	}
	d.gated = nil
	if err == nil {
		return
	}
	for _, o := range slices.Clone(d.wishes) {
		if isNew(o) {
			d.refuse(now, o)
			d.forget(o)
		}
	}
}

func (d *Doors) refuse(now time.Duration, o *opening) {
	d.printf(now, o.key.door, "%v: %s: not opened: what closes it cannot be written down", o.key.source, o.key.door)
}

// next is when tick will have something to do.
func (d *Doors) next(now time.Duration) time.Duration {
	next := time.Duration(math.MaxInt64)
	for _, o := range d.open {
		if o.state == opened || o.overdue() {
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
	if d.dirty && d.save != nil {
		next = min(next, d.saveAt)
	}
	if d.work != nil && !d.working && d.flushing.Load() && d.closing {
		if !d.flushed {
			next = min(next, d.flushAt)
		}
	} else if d.work != nil && !d.working {
		if d.checkAt != 0 {
			next = min(next, d.checkAt)
		}
		for _, o := range d.wishes {
			next = min(next, o.after)
		}
	}
	return next
}

// close begins to close a door.
func (d *Doors) close(now time.Duration, o *opening) {
	if o.until > now {
		d.dirty = d.dirty || o.journaled() // the next daemon must not take its time up again
	}
	o.state = stopping
	if o.native() && (o.inside || o.wish == letIn) {
		d.want(o, shutOut)
	}
	if o.key.stop != "" && o.started {
		d.enqueue(o, o.key.stop)
	}
	d.settle(now, o)
}

// settle forgets an opening that is closed, or opens it anew.
func (d *Doors) settle(now time.Duration, o *opening) {
	if o.state != stopping || o.wish != settled || o.job != nil {
		return
	}
	d.forget(o)
	if o.entered {
		d.printf(now, o.key.door, "%v: %s: closed", o.key.source, o.key.door)
	}
	if o.again {
		d.admit(now, o.grant)
	}
}

// opened takes note that a door is open.
func (d *Doors) nowOpen(now time.Duration, o *opening) {
	o.state = opened
	if !o.native() {
		o.until = now + o.grant.Door.CmdTimeout
	}
	d.dirty = true
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
		d.unqueue(j)
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
	j.began, j.runs = now, true
	d.turn[o.key.door] = now
	switch {
	case o.state == stopping:
		j.limit = now + stopLimit
	case o.journaled():
		j.limit = now + o.grant.Door.CmdTimeout + startGrace
	}
	d.last = j
	d.running[j] = true
	proc, err := d.run(j.command, func(out Outcome) { d.ended <- endedJob{j, out} })
	switch {
	case err == nil:
		j.proc, j.again = proc, o.started
		o.started = true
		if j.command.Gated {
			d.gated = append(d.gated, j)
			d.dirty = true // it is to have the process
		}
	case o.state == stopping:
		delete(d.running, j)
		d.logOutcome(now, o.key.door, Outcome{Err: err})
		d.retry(now, j, retryAfter)
	default:
		d.end(now, j, Outcome{Err: err})
	}
}

// retry queues a stop command once more.
func (d *Doors) retry(now time.Duration, j *job, pause time.Duration) {
	if d.closing {
		pause = retryClosing
	}
	j.opening.job = &job{opening: j.opening, command: j.command, after: now + pause, retried: d.closing}
	d.queue = append(d.queue, j.opening.job)
}

// failedClosing takes note that a closing has failed, and says after which pause it is to be tried again, if at all.
func (d *Doors) failedClosing(now time.Duration, o *opening, why string) (pause time.Duration, again bool) {
	if o.tries == 0 {
		o.failed = now
	}
	o.tries++
	d.dirty = true
	if o.tries >= maxTries || now-o.failed >= maxTrying {
		d.printf(now, o.key.door, "%v: %s: closing it has failed %d times, the last time with %s: given up", o.key.source, o.key.door, o.tries, why)
		if len(d.givenUp) < maxGivenUp {
			d.givenUp = append(d.givenUp, FailedClose{Door: o.key.door, Source: o.key.source, Since: now, Tries: o.tries, Error: why})
		}
		return 0, false
	}
	return closePauses[o.tries-1], true
}

// terminate ends a command by SIGTERM, and at the next call by SIGKILL.
func (d *Doors) terminate(now time.Duration, j *job) {
	if j.reaped {
		j.limit, j.ending = 0, true
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
	d.crash("ended")
	delete(d.running, j)
	o := j.opening
	o.job = nil
	d.dirty = d.dirty || o.journaled()
	if j.abandoned {
		d.refuse(now, o)
		o.started = j.again
		d.drop(now, o)
		return
	}
	d.logOutcome(now, o.key.door, out)
	why := out.failure()
	if why != "" {
		d.failures++
	}
	switch {
	case o.state == starting && o.journaled():
		// Also when it has failed: it may have done half of its work.
		if o.started = true; d.closing || j.ending {
			d.close(now, o)
			return
		}
		o.startError = why
		d.nowOpen(now, o)
		switch {
		case o.failedToOpen():
			d.printf(now, o.key.door, "%v: %s: start command failed (%s): the next knock runs it again", o.key.source, o.key.door, why)
		case why != "":
			d.printf(now, o.key.door, "%v: %s: start command failed (%s): the ports are open all the same", o.key.source, o.key.door, why)
		}
	case o.state == stopping && why != "":
		var pause time.Duration
		again := false
		if o.startError == "" { // else there may be nothing to stop
			pause, again = d.failedClosing(now, o, why)
		}
		switch {
		case d.closing && !j.retried && !j.ending:
			// It may have failed where many ran at once: iptables-nft may not find a rule that another one has just
			// deleted a copy of.
			d.retry(now, j, retryClosing)
		case d.closing && again:
			d.left = append(d.left, o)
			d.settle(now, o)
		case again:
			d.retry(now, j, pause)
		default:
			if o.startError != "" {
				d.printf(now, o.key.door, "%v: %s: stop command failed (%s), as the start command had: not tried again", o.key.source, o.key.door, why)
			}
			d.settle(now, o)
		}
	case o.state == stopping:
		d.settle(now, o)
	default:
		d.forget(o)
		if o.more > 0 {
			d.printf(now, o.key.door, "%v: %s: opened %d times more while its command ran: not run again", o.key.source, o.key.door, o.more)
		}
	}
}

func (d *Doors) forget(o *opening) {
	delete(d.open, o.key)
	d.dirty = d.dirty || o.journaled()
	o.wish = settled
	d.wishes = slices.DeleteFunc(d.wishes, func(w *opening) bool { return w == o })
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

// closeAll closes every door at once.
func (d *Doors) closeAll(now time.Duration) {
	d.closing = true
	for _, o := range d.open {
		d.shut(now, o)
	}
	d.dirty = true
	d.crash("closing")
}

// shut closes a door before its time, and reports whether there was something to do. A start command that has not begun
// will not; one that runs is ended first.
func (d *Doors) shut(now time.Duration, o *opening) bool {
	again := o.again
	o.again = false
	switch {
	case o.state == stopping:
		return again
	case o.state == opened, o.job == nil:
		d.close(now, o)
	case !o.job.runs:
		d.dequeue(o)
		d.drop(now, o)
	case !o.journaled():
		return false
	default:
		if o.inside || o.wish == letIn {
			d.want(o, shutOut)
		}
		d.dirty = true
		d.terminate(now, o.job)
	}
	return true
}

// drop ends an opening whose start command was not run. It is closed if there is something to close, and else forgotten.
func (d *Doors) drop(now time.Duration, o *opening) {
	if o.native() || o.started {
		d.close(now, o)
	} else {
		d.forget(o)
	}
}

// answer tells the state of things, or closes doors before their time.
func (d *Doors) answer(now time.Duration, r Request) Answer {
	if r.Close {
		n := 0
		for _, o := range d.open {
			if r.wants(o.key.door, o.key.source, o.grant.Link) && d.shut(now, o) {
				d.printf(now, o.key.door, "%v: %s: closed by hand", o.key.source, o.key.door)
				n++
			}
		}
		if n == 0 && r.Door != "" {
			return Answer{Err: fmt.Errorf("door %q is not open%s: sesame status shows which are", r.Door, forWhom(r.Source))}
		}
		return Answer{Closing: n}
	}
	s := d.about
	s.Uptime = now - d.began
	for _, o := range d.open {
		open := OpenDoor{Door: o.key.door, Source: o.key.source, Link: o.grant.Link, Ports: o.grant.Door.OpenPorts, Since: now - o.since}
		switch o.state {
		case starting:
			open.State = "opening"
		case stopping:
			open.State = "closing"
		default:
			open.State, open.ClosesIn, open.StartError = "open", max(o.until-now, 0), o.startError
			if o.failedToOpen() {
				open.State = "failed"
			}
		}
		s.Open = append(s.Open, open)
	}
	for _, f := range d.givenUp {
		f.Since = now - f.Since
		s.Failed = append(s.Failed, f)
	}
	s.Counters = d.counters()
	s.Counters.CommandFailures = d.failures
	return Answer{Status: s}
}

func forWhom(source netip.Addr) string {
	if !source.IsValid() {
		return ""
	}
	return " for " + source.String()
}

// configure takes up what a reload has changed.
func (d *Doors) configure(now time.Duration, s doorSettings) {
	d.about = s.about
	if s.rules == nil || d.closing {
		return
	}
	d.rules = *s.rules
	if s.reload {
		d.givenUp = nil
	}
	if s.work != nil {
		d.work, d.watched = s.work, s.watched
	}
	if s.save != nil {
		d.save, d.dirty = s.save, true
		d.resume(now, s.recovered)
	}
	d.rebuild = d.work != nil
}

// resume takes up what an earlier daemon has left open: what is overdue, or not known to be open, is closed now, and so
// is everything from before a reboot, with one try.
func (d *Doors) resume(now time.Duration, r Recovered) {
	if r.Damage != "" {
		d.log.printf("%s", r.Damage)
	}
	if r.Lost != "" {
		d.log.printf("%s", r.Lost)
	}
	for _, e := range r.Entries {
		if !r.Elsewhere && endLeftover(e.Pid, e.Began) {
			d.log.printf("%s: ended a command of an earlier daemon, process %d", e.Door, e.Pid)
		}
		d.crash("resumed")
		door := &Door{
			Name: e.Door, OpenPorts: e.Ports, CmdTimeout: e.Until - e.Since,
			Start: e.Start, Start6: e.Start, Stop: e.Stop, Stop6: e.Stop,
		}
		o := &opening{
			key:   openKey{door: e.Door, start: e.Start, stop: e.Stop, ports: joinKnocks(e.Ports), source: e.Source},
			grant: Grant{Door: door, Source: e.Source, Link: e.Link},
			state: opened, since: e.Since, until: e.Until, tries: e.Tries, failed: now, saved: true,
			started: e.State != Starting || e.Pid != 0, // a start command that was never forked has nothing to stop
		}
		if e.Source.IsLinkLocalUnicast() {
			o.key.link = e.Link
		}
		if d.open[o.key] != nil {
			continue
		}
		d.add(o)
		if !r.Elsewhere && r.Damage == "" && e.State == Open && e.Until > now {
			o.inside, o.entered = o.native(), o.native()
			d.log.printfNamed("%v: %s: still open, for %v", e.Source, e.Door, (e.Until - now).Round(time.Second))
			continue
		}
		if r.Elsewhere {
			o.tries = maxTries - 1
		}
		d.log.printfNamed("%v: %s: left open by an earlier daemon: closing it", e.Source, e.Door)
		d.close(now, o)
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
	for _, o := range d.wishes {
		d.log.printfNamed("%v: %s: not closed within %v: the firewall does not do it", o.key.source, o.key.door, stopDeadline)
	}
}
