//go:build linux

package main

import (
	"cmp"
	"slices"
	"time"
)

const (
	// startGrace is how long beyond Cmd_Timeout a start command may run before it is ended, so that its door can be
	// closed. A stop command has stopLimit.
	startGrace = time.Minute
	stopLimit  = 10 * time.Minute

	// maxTries is how often a closing is tried that fails, and maxTrying for how long, with closePauses between the tries:
	// to delete a rule that is not there fails for ever.
	maxTries = 8
	// maxTriesUnopened is the same after a start command that has failed, too.
	maxTriesUnopened = 3
	maxTrying        = time.Hour
	// leastGain is by how much a knock must lengthen a door's time to do so.
	leastGain = time.Second
	// maxGivenUp is how many closings that were given up are remembered, for status.
	maxGivenUp = 100
)

var closePauses = []time.Duration{
	time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute,
}

// opening is a door that is open, or being opened or closed, for one source.
type opening struct {
	key   openKey
	grant Grant // the latest
	state OpeningState
	since time.Duration // when it was granted first
	until time.Duration // when it is to be closed
	again bool          // granted while closing: to be opened anew after that
	more  int           // grants that found the command of a door without Stop_Command still running

	job     *job          // the command that waits or runs; nil: none
	started bool          // the start command has been run, so the stop command has something to do
	change  *ruleChange   // what it waits for at the firewall; nil: nothing
	inside  bool          // the firewall lets it in
	entered bool          // and has told of it
	saved   bool          // the journal has it
	tries   int           // how often its closing has failed
	failed  time.Duration // when it failed first
	// startError is how its start command failed, which may have done half of its work; "": it did not.
	startError string
}

// newOpening is one that nothing has been done for yet.
func newOpening(g Grant, since, until time.Duration) *opening {
	start, stop := g.Door.commands(g.Source)
	key := openKey{door: g.Door.Name, start: start, stop: stop, ports: joinKnocks(g.Door.OpenPorts), source: g.Source}
	if g.Source.IsLinkLocalUnicast() {
		key.link = g.Link
	}
	return &opening{key: key, grant: g, since: since, until: until}
}

// resumed is what an earlier daemon has left open, and whether it is to stay so.
func resumed(now time.Duration, e Entry, r Recovered) (o *opening, still bool) {
	door := &Door{
		Name: e.Door, OpenPorts: e.Ports, CmdTimeout: e.Until - e.Since,
		Start: e.Start, Start6: e.Start, Stop: e.Stop, Stop6: e.Stop,
	}
	o = newOpening(Grant{Door: door, Source: e.Source, Link: e.Link}, e.Since, e.Until)
	o.state, o.tries, o.failed, o.saved = Open, e.Tries, now, true
	if r.Stale {
		o.tries = maxTries - 1
	}
	o.started = e.State != Starting || e.Pid != 0 // a start command that was never forked has nothing to stop
	still = !r.Stale && r.Damage == "" && e.State == Open && e.Until > now
	o.inside, o.entered = still && o.native(), still && o.native()
	return o, still
}

func (o *opening) native() bool { return o.grant.Door.native() }

// journaled is whether it has something to close, which must be on disk before it opens.
func (o *opening) journaled() bool { return o.key.stop != "" || o.native() }

// entering and leaving are whether it waits to be let in, and to be shut out.
func (o *opening) entering() bool { return o.change != nil && o.change.allow }
func (o *opening) leaving() bool  { return o.change != nil && !o.change.allow }

// stays is whether the firewall may let it in.
func (o *opening) stays() bool { return o.native() && o.state != Closing && !o.leaving() }

// overdue is whether the firewall lets it in although it is not open yet, as its start command still waits or runs, and
// nobody has asked to shut it out.
func (o *opening) overdue() bool {
	return o.state == Starting && o.inside && !o.leaving() && o.job != nil
}

// closesAt is when its time is up: also of one whose start command has not ended, or not even begun.
func (o *opening) closesAt() time.Duration {
	if o.state == Open || o.overdue() {
		return o.until
	}
	return never
}

// failedToOpen is whether the only thing that could open it has failed.
func (o *opening) failedToOpen() bool { return o.startError != "" && !o.native() }

// pass is what the firewall is to know of it.
func (o *opening) pass(now time.Duration) Pass {
	return Pass{Door: o.key.door, Source: o.key.source, Link: o.grant.Link, Ports: o.grant.Door.OpenPorts, Left: o.until - now}
}

// entry is what the journal is to have of it.
func (o *opening) entry() Entry {
	state := o.state
	if o.state == Starting && o.started && (o.job == nil || !o.job.runs) || o.leaving() || o.failedToOpen() {
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

// openings are all of them, and the rules by which they open and close. What they need is done by the commands' queue, the
// firewall's queue and the journal.
type openings struct {
	open     map[openKey]*opening
	count    map[string]int // by door name
	closing  bool           // the daemon stops
	rules    Ruleset        // Hidden and Kept
	oneTime  oneTimeUses
	commands commandQueue
	firewall firewallQueue
	journal  journalWriter
	logs     doorLogs
	crash    func(point string)
	failures uint64 // commands, and tasks of the firewall, that failed
	givenUp  []FailedClose
	built    func() // told when the firewall is as the rules say; nil: nobody is
}

// printf logs a line about an opening.
func (d *openings) printf(now time.Duration, o *opening, format string, a ...any) {
	d.logs.printf(now, o.key.door, "%v: %s: "+format, append([]any{o.key.source, o.key.door}, a...)...)
}

// tellPoints has a test told how far things are.
func (d *openings) tellPoints(crash func(point string)) { d.crash = crash }

// whenBuilt has built called once, when the firewall is as the rules say; nil: nobody is told.
func (d *openings) whenBuilt(built func()) { d.built = built }

// setRules takes up what is to be hidden now. reload is whether the configuration is another one.
func (d *openings) setRules(rules Ruleset, reload bool) {
	d.rules = rules
	if reload {
		d.givenUp = nil
	}
}

// grant opens the door for the source, or lengthens its time.
func (d *openings) grant(now time.Duration, g Grant) {
	if d.closing {
		return
	}
	if err := d.oneTime.useUp(g); err != nil {
		d.logs.printf(now, g.Door.Name, "%v: %s: not opened: %v", g.Source, g.Door.Name, err)
		return
	}
	d.admit(now, g)
}

// admit opens the door, or lengthens its time, for a source whose right to it is settled.
func (d *openings) admit(now time.Duration, g Grant) {
	o := newOpening(g, now, now+g.Door.CmdTimeout)
	switch old := d.open[o.key]; {
	case o.key.start == "" && !o.native():
	case old != nil:
		old.grant = g
		d.admitAgain(now, old)
	case d.count[o.key.door] >= cmp.Or(g.Door.MaxOpen, defaultMaxOpen):
		d.printf(now, o, "not opened: it is open for %d sources already", d.count[o.key.door])
	default:
		d.add(o)
		d.begin(o)
	}
}

// admitAgain admits a source that the door is open for, or was: o.grant is new.
func (d *openings) admitAgain(now time.Duration, o *opening) {
	until := now + o.grant.Door.CmdTimeout
	switch {
	case o.state == Open && o.failedToOpen():
		d.printf(now, o, "start command failed (%s): running stop and start command", o.startError)
		o.again = true
		d.close(now, o)
	case o.closesAt() != never && until-o.until < leastGain:
		// A knock every moment is not to wear out a disk.
		d.printf(now, o, "open already: %v from now on", (o.until - now).Round(time.Second))
	case o.closesAt() != never:
		o.until = until
		d.journal.touch()
		if o.native() {
			d.changeRule(o, true)
		}
		if o.state == Open {
			d.printf(now, o, "open already: %v from now on", o.grant.Door.CmdTimeout)
		}
	case o.state == Closing && o.job != nil && !o.job.runs && o.tries > 0 && o.change == nil:
		// Its closing has failed, and waits to be tried again.
		d.dequeue(o)
		o.state, o.again, o.tries, o.since = Starting, false, 0, now
		d.journal.touch()
		d.begin(o)
	case o.state == Closing:
		o.again = true
		if o.change != nil {
			o.change.postpone(0) // a closing that failed is tried again now
		}
	case !o.journaled():
		o.more++
	}
}

func (d *openings) add(o *opening) {
	d.open[o.key] = o
	d.count[o.key.door]++
	d.touch(o)
}

// touch takes note that the journal is to have something else of it.
func (d *openings) touch(o *opening) {
	if o.journaled() {
		d.journal.touch()
	}
}

// begin lets the source in, or runs the start command of a door that does not.
func (d *openings) begin(o *opening) {
	if o.native() {
		d.changeRule(o, true)
	} else {
		d.enqueue(o, o.key.start, false)
	}
}

// changeRule has the firewall let an opening in, or shut it out.
func (d *openings) changeRule(o *opening, allow bool) {
	if d.firewall.flushed {
		return
	}
	c := &ruleChange{key: o.key, allow: allow}
	d.firewall.add(c, o.change)
	o.change = c
}

// dropChange takes note that it waits for nothing at the firewall any more.
func (d *openings) dropChange(o *opening) {
	d.firewall.remove(o.change)
	o.change = nil
}

func (d *openings) enqueue(o *opening, line string, stop bool) {
	c := doorCommand(line, o.grant)
	c.Gated = o.journaled() && d.journal.save != nil
	o.job = &job{key: o.key, stop: stop, again: o.started, command: c}
	d.commands.add(o.job)
}

func (d *openings) dequeue(o *opening) {
	d.commands.remove(o.job)
	o.job = nil
}

// retry queues a stop command once more.
func (d *openings) retry(now time.Duration, o *opening, c Command, pause time.Duration) {
	if d.closing {
		pause = retryClosing
	}
	o.job = &job{key: o.key, stop: true, command: c, after: now + pause, retried: d.closing}
	d.commands.add(o.job)
}

// closeDue closes the doors whose time is up.
func (d *openings) closeDue(now time.Duration) {
	for _, o := range d.open {
		if o.closesAt() <= now {
			d.printf(now, o, "command timeout")
			d.shut(now, o)
		}
	}
}

// nextDue is when closeDue will have something to do.
func (d *openings) nextDue() time.Duration {
	next := never
	for _, o := range d.open {
		next = min(next, o.closesAt())
	}
	return next
}

// unsaved is whether a change is for a new opening that the journal does not have yet.
func (d *openings) unsaved(c *ruleChange) bool {
	o := d.open[c.key]
	return !o.saved && o.state == Starting
}

// commit writes the journal if something has changed, and then lets the commands go that wait for it. What cannot be
// written down is not opened; what closes goes on.
func (d *openings) commit(now time.Duration) {
	opens := d.journal.dirty && (len(d.commands.gated) > 0 || slices.ContainsFunc(d.firewall.waiting, d.unsaved))
	var err error
	if d.journal.due(now, opens) {
		var entries []Entry
		for _, o := range d.open {
			if o.journaled() {
				entries = append(entries, o.entry())
			}
		}
		d.crash("journal begins")
		if err = d.journal.write(now, entries); err != nil {
			d.logs.printf(now, "journal", "%v", err)
		} else {
			d.crash("journal written")
			for _, o := range d.open {
				o.saved = true
			}
		}
	}
	d.commands.release(err == nil, func() { d.crash("released") })
	if err == nil {
		return
	}
	for _, c := range slices.Clone(d.firewall.waiting) {
		if d.unsaved(c) {
			d.printf(now, d.open[c.key], notRecorded)
			d.forget(d.open[c.key])
		}
	}
}

const notRecorded = "not opened: what closes it cannot be written down"

// close begins to close a door.
func (d *openings) close(now time.Duration, o *opening) {
	if o.until > now {
		d.touch(o) // the next daemon must not take its time up again
	}
	o.state = Closing
	if o.native() && (o.inside || o.entering()) {
		d.changeRule(o, false)
	}
	if o.key.stop != "" && o.started {
		d.enqueue(o, o.key.stop, true)
	}
	d.finish(now, o)
}

// finish forgets an opening that is closed, or opens it anew.
func (d *openings) finish(now time.Duration, o *opening) {
	if o.state != Closing || o.change != nil || o.job != nil {
		return
	}
	d.forget(o)
	if o.entered {
		d.printf(now, o, "closed")
	}
	if o.again {
		d.admit(now, o.grant)
	}
}

// shut closes a door before its time, and reports whether there was something to do. A start command that has not begun
// will not; one that runs is ended first.
func (d *openings) shut(now time.Duration, o *opening) bool {
	again := o.again
	o.again = false
	switch {
	case o.state == Closing:
		return again
	case o.state == Open, o.job == nil:
		d.close(now, o)
	case !o.job.runs:
		d.dequeue(o)
		d.drop(now, o)
	case !o.journaled():
		return false
	default:
		if o.inside || o.entering() {
			d.changeRule(o, false)
		}
		d.journal.touch()
		d.terminate(now, o.job)
	}
	return true
}

// drop ends an opening whose start command was not run. It is closed if there is something to close, and else forgotten.
func (d *openings) drop(now time.Duration, o *opening) {
	if o.native() || o.started {
		d.close(now, o)
	} else {
		d.forget(o)
	}
}

func (d *openings) forget(o *opening) {
	delete(d.open, o.key)
	d.touch(o)
	d.dropChange(o)
	if d.count[o.key.door]--; d.count[o.key.door] == 0 {
		delete(d.count, o.key.door)
		d.commands.forgetDoor(o.key.door)
	}
}

// closeAll closes every door at once.
func (d *openings) closeAll(now time.Duration) {
	d.closing = true
	for _, o := range d.open {
		d.shut(now, o)
	}
	d.journal.touch()
	d.crash("closing")
}

// toClose is how many openings are still to be closed while the daemon stops; 0: it does not.
func (d *openings) toClose() int {
	if !d.closing {
		return 0
	}
	return len(d.open)
}

// launch starts what may start now.
func (d *openings) launch(now time.Duration) {
	for j := d.commands.choose(now, d.toClose()); j != nil; j = d.commands.choose(now, d.toClose()) {
		d.start(now, j)
	}
}

func (d *openings) start(now time.Duration, j *job) {
	o := d.open[j.key]
	d.logs.printf(now, o.key.door, "%s: running command: %s", o.key.door, j.command.Line)
	var limit time.Duration
	switch {
	case j.stop:
		limit = stopLimit
	case o.journaled():
		limit = o.grant.Door.CmdTimeout + startGrace
	}
	err := d.commands.start(now, j, limit)
	switch {
	case err == nil:
		o.started = true
		d.touch(o) // it is to have the process
	case j.stop:
		d.logs.outcome(now, o.key.door, Outcome{Err: err})
		d.retry(now, o, j.command, retryAfter)
	default:
		d.end(now, j, Outcome{Err: err})
	}
}

// terminate ends a command, by force at the second call.
func (d *openings) terminate(now time.Duration, j *job) {
	if j.terminate(now) {
		d.logs.printf(now, j.key.door, "%s: ending a command that has run for %v", j.key.door, (now - j.began).Round(time.Second))
	}
}

// end takes note that a command has ended, and goes on with its opening.
func (d *openings) end(now time.Duration, j *job, out Outcome) {
	d.crash("ended")
	d.commands.forget(j)
	o := d.open[j.key]
	o.job = nil
	d.touch(o)
	if j.abandoned {
		d.printf(now, o, notRecorded)
		o.started = j.again
		d.drop(now, o)
		return
	}
	d.logs.outcome(now, o.key.door, out)
	why := out.failure()
	if why != "" {
		d.failures++
	}
	switch {
	case o.state == Starting && o.journaled():
		d.startEnded(now, o, j, why)
	case o.state == Closing:
		d.stopEnded(now, o, j, why)
	default:
		d.forget(o)
		if o.more > 0 {
			d.printf(now, o, "opened %d times more while its command ran: not run again", o.more)
		}
	}
}

// startEnded goes on after a start command. One that has failed, too, may have done half of its work.
func (d *openings) startEnded(now time.Duration, o *opening, j *job, why string) {
	o.started = true
	if d.closing || j.ending {
		d.close(now, o)
		return
	}
	o.startError = why
	d.nowOpen(now, o)
	switch {
	case o.failedToOpen():
		d.printf(now, o, "start command failed (%s): the next knock runs it again", why)
	case why != "":
		d.printf(now, o, "start command failed (%s): the ports are open all the same", why)
	}
}

// stopEnded goes on after a stop command, which is tried again if it has failed.
func (d *openings) stopEnded(now time.Duration, o *opening, j *job, why string) {
	var pause time.Duration
	again := false
	anew := o.startError != "" && o.again // there may have been nothing to stop, and whoever knocks is not to wait
	if why != "" && !anew {
		pause, again = d.failedClosing(now, o, why)
	}
	switch {
	case why == "":
	case d.closing && !j.retried && !j.ending:
		// It may have failed where many ran at once: iptables-nft may not find a rule that another one has just
		// deleted a copy of.
		d.retry(now, o, j.command, retryClosing)
	case d.closing && again:
		d.journal.leave(o.entry())
	case again:
		d.retry(now, o, j.command, pause)
	case anew:
		d.printf(now, o, "stop command failed (%s), as the start command had: starting anew", why)
	}
	d.finish(now, o)
}

// failedClosing takes note that a closing has failed, and says after which pause it is to be tried again, if at all.
func (d *openings) failedClosing(now time.Duration, o *opening, why string) (pause time.Duration, again bool) {
	if o.tries == 0 {
		o.failed = now
	}
	o.tries++
	d.journal.touch()
	limit := maxTries
	if o.startError != "" { // there may be nothing to close
		limit = maxTriesUnopened
	}
	if o.tries >= limit || now-o.failed >= maxTrying {
		d.printf(now, o, "closing it has failed %d times, the last time with %s: given up", o.tries, why)
		if len(d.givenUp) < maxGivenUp {
			d.givenUp = append(d.givenUp, FailedClose{Door: o.key.door, Source: o.key.source, Since: now, Tries: o.tries, Error: why})
		}
		return 0, false
	}
	return closePauses[o.tries-1], true
}

// nowOpen takes note that a door is open.
func (d *openings) nowOpen(now time.Duration, o *opening) {
	o.state = Open
	if !o.native() {
		o.until = now + o.grant.Door.CmdTimeout
	}
	d.journal.touch()
}

// apply gives the firewall the next thing to do. A new opening waits for the journal.
func (d *openings) apply(now time.Duration) {
	saved := func(c *ruleChange) bool { return d.open[c.key].saved || d.journal.save == nil }
	task, batch, ok := d.firewall.choose(now, d.closing, saved)
	if !ok {
		return
	}
	if task.kind != taskFlush {
		for _, c := range batch {
			if o := d.open[c.key]; c.allow && o.state == Starting {
				o.until = now + o.grant.Door.CmdTimeout
			}
		}
		task.rules = d.ruleset(now, batch)
		if task.kind == taskOpen || task.kind == taskClose {
			o := d.open[batch[0].key]
			task.pass, task.others = o.pass(now), d.others(now, o)
		}
		d.crash("work begins")
	}
	d.firewall.begin(now, task, batch)
}

// ruleset is what is to be in force once the batch is done.
func (d *openings) ruleset(now time.Duration, batch []*ruleChange) Ruleset {
	r := Ruleset{Hidden: d.rules.Hidden, Kept: d.rules.Kept}
	for _, o := range d.open {
		if o.stays() && (o.inside || o.change != nil && slices.Contains(batch, o.change)) {
			r.Open = append(r.Open, o.pass(now))
		}
	}
	return r
}

// others are the passes that the source of an opening has by other ones.
func (d *openings) others(now time.Duration, than *opening) (passes []Pass) {
	for _, o := range d.open {
		if o != than && o.key.source == than.key.source && o.stays() && o.inside {
			passes = append(passes, o.pass(now))
		}
	}
	return passes
}

// applied goes on with the openings whose rules were changed, or could not be.
func (d *openings) applied(now time.Duration, done firewallDone) {
	d.crash("work ended")
	switch {
	case done.err == errPutRight:
		d.logs.printf(now, "firewall", "firewall: somebody has changed it: put right")
		done.err = nil
	case done.err != nil && done.task.kind == taskFlush:
		d.logs.printf(now, "firewall", "firewall: removing what is there: %v", done.err)
	case done.err != nil:
		d.failures++
		d.logs.printf(now, "firewall", "firewall: %v", done.err)
	}
	if done.task.kind != taskLook { // beside which another task may run
		for _, line := range d.firewall.different(now) {
			d.logs.printf(now, "firewall", "%s", line)
		}
	}
	d.firewall.end(now, done, d.closing)
	asRules := (done.task.kind == taskBuild || done.task.kind == taskCheck) && !d.firewall.rebuild
	if done.err == nil && asRules && d.built != nil {
		d.built()
		d.built = nil
	}
	if d.firewall.flushed { // there is nothing more to do there
		for _, o := range d.open {
			o.inside = false
			d.dropChange(o)
			d.finish(now, o)
		}
	}
	for _, c := range done.batch {
		if o := d.open[c.key]; o != nil {
			d.ruleChanged(now, o, c, done.err)
		}
	}
}

// ruleChanged goes on with an opening after the firewall has made a change for it, or failed to.
func (d *openings) ruleChanged(now time.Duration, o *opening, c *ruleChange, err error) {
	o.inside = c.allow || o.inside && err != nil // let in, even where that failed: in part, for all we know
	if o.change != c {                           // it waits for something else meanwhile
		return
	}
	if err != nil && !c.allow {
		pause, again := retryClosing, true
		if !d.closing {
			pause, again = d.failedClosing(now, o, err.Error())
		}
		if again {
			c.postpone(now + pause)
			return
		}
	}
	d.dropChange(o)
	if c.allow {
		d.letIn(now, o, err)
	} else {
		d.finish(now, o)
	}
}

// letIn takes an opening further after the firewall has let it in, or, with err, could not.
func (d *openings) letIn(now time.Duration, o *opening, err error) {
	switch {
	case o.job != nil: // its time is longer, while its start command runs
	case err != nil && o.state == Starting:
		d.printf(now, o, "not opened: the firewall does not do it")
		d.close(now, o)
	case o.state == Starting:
		o.entered = true
		d.printf(now, o, "open for %v: %s", o.grant.Door.CmdTimeout, o.key.ports)
		if o.key.start != "" {
			d.enqueue(o, o.key.start, false)
			break
		}
		o.started = true
		d.nowOpen(now, o)
	}
}
