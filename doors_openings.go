//go:build linux

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// startGrace is how long beyond Cmd_Timeout a start command may run before it is ended, so that its door can be
	// closed. A stop command has stopLimit.
	startGrace = time.Minute
	stopLimit  = 10 * time.Minute
	// maxGivenUp is how many closings that were given up are remembered, for status.
	maxGivenUp = 100

	notRecorded = "not opened: cannot write the journal"
)

// openings are all of them. What each of them needs next is carried out here, by the commands' queue, the firewall's queue
// and the journal, and how that went is noted in it.
type openings struct {
	open     map[openKey]*opening
	closing  bool    // the daemon stops
	rules    Ruleset // Hidden and Kept
	oneTime  oneTimeUses
	packets  spentPackets
	commands commandQueue
	firewall firewallQueue
	journal  journalWriter
	logs     doorLogs
	crash    func(point string)
	failures uint64 // commands, and tasks of the firewall, that failed
	givenUp  []FailedClose
	refused  Refusals
	built    func() // told when the firewall is as the rules say; nil: nobody is
}

// say logs something about an opening; "": nothing.
func (d *openings) say(now time.Duration, o *opening, what string) {
	if reason, refused := strings.CutPrefix(what, "not opened: "); refused {
		d.refused.add(now, o.key.door, o.key.source, reason)
	}
	if what != "" {
		d.logs.printf(now, o.key.door, "%v: %s: %s", o.key.source, o.key.door, what)
	}
}

// tellPoints has a test told how far things are.
func (d *openings) tellPoints(crash func(point string)) { d.crash = crash }

// setRules takes up what is to be hidden now. reload is whether the configuration is another one; built is then called once,
// when the firewall is as the rules say, and may be nil.
func (d *openings) setRules(rules Ruleset, reload bool, built func()) {
	d.rules = rules
	if reload {
		d.givenUp, d.built = nil, built
	}
}

// grant opens the door for the source, or lengthens its time.
func (d *openings) grant(now time.Duration, g Grant) {
	if d.closing {
		return
	}
	var err error
	if g.Packet != nil {
		d.crash("packet begins")
		err = d.packets.spend(g)
		d.crash("packet written")
	} else {
		err = d.oneTime.useUp(g)
	}
	if err != nil {
		d.say(now, newOpening(g, now, now), fmt.Sprintf("not opened: %v", err))
		return
	}
	if g.Door.hasCode() {
		d.crash("code used")
	}
	d.admit(now, g)
}

// admit opens the door, or lengthens its time, for a source whose right to it is settled.
func (d *openings) admit(now time.Duration, g Grant) {
	o := newOpening(g, now, now+g.Door.CmdTimeout)
	if o.key.start == "" && !o.native() {
		return
	}
	if old := d.open[o.key]; old != nil {
		d.say(now, old, old.again(now, g))
		return
	}
	others := 0
	for key := range d.open {
		if key.door == o.key.door {
			others++
		}
	}
	if others >= cmp.Or(g.Door.MaxOpen, defaultMaxOpen) {
		d.say(now, o, fmt.Sprintf("not opened: it is open for %d sources already", others))
		return
	}
	d.open[o.key] = o
}

// due are the openings for which one of the actions is to be done, in their order.
func (d *openings) due(now time.Duration, actions action) (due []*opening) {
	for _, o := range d.open {
		if do, _ := o.next(now); do&actions != 0 {
			due = append(due, o)
		}
	}
	slices.SortFunc(due, (*opening).before)
	return due
}

// nextDue is when there will be something else to do for one of them.
func (d *openings) nextDue(now time.Duration) time.Duration {
	_, next := d.commands.choose(now, d.toClose(), d.due(now, runStart|runStop))
	for _, o := range d.open {
		_, at := o.next(now)
		next = min(next, at)
	}
	return next
}

// settle does what needs neither disk nor firewall nor a new command.
func (d *openings) settle(now time.Duration) {
	for _, o := range d.due(now, expire|endCommand|forget) {
		do, _ := o.next(now)
		if do&expire != 0 {
			d.say(now, o, "command timeout")
			o.expire()
			do, _ = o.next(now)
		}
		if do&endCommand != 0 {
			d.terminate(now, o)
		}
		if do&forget == 0 {
			continue
		}
		d.forget(now, o)
		if o.entered {
			d.say(now, o, "closed")
		}
		if o.anew {
			d.admit(now, o.grant)
		}
	}
}

func (d *openings) forget(now time.Duration, o *opening) {
	delete(d.open, o.key)
	if o.givenUp != "" && len(d.givenUp) < maxGivenUp {
		d.givenUp = append(d.givenUp, FailedClose{Door: o.key.door, Source: o.key.source, Since: now, Tries: o.tries, Error: o.givenUp})
	}
	if o.disk.there {
		d.journal.touch()
	}
}

// closeAll closes every door at once.
func (d *openings) closeAll() {
	d.closing = true
	for _, o := range d.open {
		o.shut()
		o.hurry()
	}
	d.crash("closing")
}

// toClose is how many openings are still to be closed while the daemon stops; 0: it does not, or there are none but those
// left to the next daemon.
func (d *openings) toClose() (n int) {
	if !d.closing {
		return 0
	}
	for _, o := range d.open {
		if !o.left() {
			n++
		}
	}
	return n
}

// launch starts the commands that may start now.
func (d *openings) launch(now time.Duration) {
	for {
		o, _ := d.commands.choose(now, d.toClose(), d.due(now, runStart|runStop))
		if o == nil {
			return
		}
		d.start(now, o)
		d.settle(now) // where it could not be started
	}
}

func (d *openings) start(now time.Duration, o *opening) {
	line, limit := o.key.stop, now+stopLimit
	if o.open {
		if line, limit = o.key.start, never; o.journaled() {
			limit = now + o.grant.Door.CmdTimeout + startGrace
		}
	}
	c := doorCommand(line, o.grant)
	c.Gated = o.journaled() && d.journal.save != nil
	d.logs.printf(now, o.key.door, "%s: running command: %s", o.key.door, c.Line)
	j, err := d.commands.start(now, o, c)
	o.runs(j.proc, limit)
	if err != nil {
		d.end(now, j, Outcome{Err: err})
	}
}

// terminate ends a command, by force the second time.
func (d *openings) terminate(now time.Duration, o *opening) {
	if o.open { // a start command that runs on and on
		o.shut()
	}
	j := d.commands.running[o.key]
	again, first := j.terminate(now)
	if first {
		d.logs.printf(now, o.key.door, "%s: ending a command that has run for %v", o.key.door, (now - j.began).Round(time.Second))
	}
	o.endsAt(again)
}

// end takes note that a command has ended.
func (d *openings) end(now time.Duration, j *job, out Outcome) {
	d.crash("ended")
	o := d.open[j.key]
	d.commands.forget(j)
	if j.abandoned {
		d.say(now, o, notRecorded)
		o.notRun()
		return
	}
	d.logs.outcome(now, o.key.door, out)
	if out.failure() != "" {
		d.failures++
	}
	d.say(now, o, o.ended(now, out, d.closing))
}

// commit writes the journal if something has changed, and then lets the commands go that wait for it. What cannot be
// written down is not opened; what closes goes on.
func (d *openings) commit(now time.Duration) {
	for _, o := range d.open {
		switch {
		case d.journal.save == nil: // without a journal, nothing waits for it
			o.recorded()
		case o.record() != o.disk:
			d.journal.touch()
		}
	}
	waiting := d.due(now, save)
	var err error
	if d.journal.due(now, len(waiting)+len(d.commands.gated) > 0) {
		var entries []Entry
		for _, o := range d.open {
			if o.record().there {
				entries = append(entries, o.entry())
			}
		}
		d.crash("journal begins")
		if err = d.journal.write(now, entries); err != nil {
			d.logs.printf(now, "journal", "%v", err)
			for _, o := range waiting {
				d.say(now, o, notRecorded)
				d.forget(now, o)
			}
		} else {
			d.crash("journal written")
			for _, o := range d.open {
				o.recorded()
			}
		}
	}
	d.commands.release(err == nil, func() { d.crash("released") })
}

// apply gives the firewall what is to be done next: a task, and a look beside it.
func (d *openings) apply(now time.Duration) {
	for {
		task, batch, ok := d.firewall.choose(now, d.closing, d.due(now, letIn|shutOut))
		if !ok {
			return
		}
		if task.kind != taskFlush && task.kind != taskLook {
			for _, o := range batch {
				o.changing(now)
			}
			task.rules = d.ruleset(now)
			if task.kind == taskOpen || task.kind == taskClose {
				task.pass, task.others = batch[0].pass(now), d.passing(now, batch[0])
			}
			d.crash("work begins")
		}
		d.firewall.begin(now, task, batch)
	}
}

// ruleset is what is to be in force once the firewall has done its task.
func (d *openings) ruleset(now time.Duration) Ruleset {
	return Ruleset{Hidden: d.rules.Hidden, Kept: d.rules.Kept, Behind: d.rules.Behind, Open: d.passing(now, nil)}
}

// passing are the passes of all openings, or those that the source of one has by other ones.
func (d *openings) passing(now time.Duration, than *opening) (passes []Pass) {
	for _, o := range d.open {
		if o.passes() && (than == nil || o != than && o.key.source == than.key.source) {
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
		d.logs.printf(now, "firewall", "firewall: another program changed our rules: restored")
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
			o.flushed()
		}
	}
	for _, o := range done.batch {
		d.say(now, o, o.changed(now, done.err, d.closing))
	}
}
