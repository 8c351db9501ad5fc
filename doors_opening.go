//go:build linux

package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

const (
	// maxTries is how often a closing is tried that fails, and maxTrying for how long, with closePauses between the tries:
	// to delete a rule that is not there fails for ever.
	maxTries = 8
	// maxTriesUnopened is the same after a start command that has failed, too.
	maxTriesUnopened = 3
	maxTrying        = time.Hour
	// retryClosing is the pause while the daemon stops.
	retryClosing = 100 * time.Millisecond
	// leastGain is by how much a knock must lengthen a door's time to do so: a knock every moment is not to wear out a disk.
	leastGain = time.Second
)

var closePauses = []time.Duration{
	time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute,
}

// opening is a door that is open for one source, or is being opened or closed. It has what is wanted and what is so, and
// next says from these alone what is to be done. Grants, timers, sesame close, reloads, the daemon's end, a crash and
// failures change what is wanted or what is so, and nothing else. An opening has two sides, its rule in the firewall and
// its commands, and either is out, entering, in (perhaps in part) or leaving:
//
//	wanted   and so it is        next, for the rule    next, for the commands       and then it is
//	open     out, not on disk    save                                               on disk; or, with a full disk, closed
//	open     out                 let in                run start, once the rule     entering, and then in
//	                                                   is in, and held until on disk
//	open     in, but stale       let in, for longer    run start, as the stop       entering, and then in
//	                                                   command has failed
//	open     in                  wait until its time is up                          closed
//	closed   in                  shut out              run stop                     leaving, and then out; or, after a
//	                                                                                failure, in, to try again at T
//	closed   entering            wait                  end the command              in
//	either   leaving             wait                  wait, but end it at T        out or in
//	closed   out, both           forget                                             gone; or, if it was granted meanwhile
//	                                                                                (anew), another one
//
// A door without Open_Ports has no rule. A closing goes on to its end; only one that failed and waits can be opened again.
// A stop command that could not even be started has not been tried: that goes on every retryAfter until it can be.
//
// If the daemon is killed between any two of these, the next one finds on disk all that was let in and every command that
// ran. It leaves open what was open and has time left, and wants all else closed: it ends the command that runs, makes the
// firewall without the rule, and runs the stop command if the start command had begun. What is not on disk was not let
// in, and its start command, still held, ends without having run.
type opening struct {
	key   openKey
	grant Grant         // the latest
	since time.Duration // when it was granted first

	// What is wanted.
	open  bool          // else closed
	until time.Duration // when it is to be closed; 0: before its time
	anew  bool          // granted after closed was wanted

	// What is so.
	disk          record
	rule, command side
	process       Process       // of the command that runs
	limit         time.Duration // when the command is to be ended by force
	startError    string        // how the start command failed, which may have done half of its work; "": it did not
	tries         int           // how often closing it has failed
	failed        time.Duration // when that failed first
	lastTry       bool          // while all close, its stop command has failed once
	givenUp       string        // how its closing failed the last time; "": it was not given up

	entered bool // the log has that it is let in
	more    int  // grants that found the command of a door without Stop_Command still running
}

// side is one of the two that an opening has.
type side struct {
	in    bool // the firewall lets it in; or the start command has begun
	doing doing
	stale bool          // in, and yet to enter once more
	after time.Duration // not tried to leave before; never: that is left to the next daemon
}

type doing uint8

const (
	nothing doing = iota
	entering
	leaving
)

// action is a set of things to do.
type action uint8

const (
	save action = 1 << iota
	letIn
	shutOut
	runStart
	runStop
	endCommand
	expire
	forget
)

// record is what the journal has of an opening, of all that changes.
type record struct {
	there bool
	state OpeningState
	until time.Duration // of an open one
	tries int
	pid   int
	began uint64
}

// newOpening is one that nothing has been done for yet.
func newOpening(g Grant, since, until time.Duration) *opening {
	start, stop := g.Door.commands(g.Source)
	key := openKey{door: g.Door.Name, start: start, stop: stop, ports: strings.Join(g.Door.opens(), ","), source: g.Source}
	if g.Source.IsLinkLocalUnicast() {
		key.link = g.Link
	}
	return &opening{key: key, grant: g, since: since, until: until, open: true, limit: never}
}

// resumed is what an earlier daemon has left open. What is overdue, or not known to be open, is to be closed, and so is
// everything from before a reboot, with one try.
func resumed(now time.Duration, e Entry, r Recovered) *opening {
	door := &Door{
		Name: e.Door, OpenPorts: e.Ports, Behind: e.Behind, CmdTimeout: e.Until - e.Since,
		Start: e.Start, Start6: e.Start, Stop: e.Stop, Stop6: e.Stop,
	}
	o := newOpening(Grant{Door: door, Source: e.Source, Link: e.Link}, e.Since, e.Until)
	o.disk, o.tries, o.failed = record{true, e.State, e.Until, e.Tries, e.Pid, e.Began}, e.Tries, now
	o.command.in = e.State != Starting || e.Pid != 0 // a start command that was never forked has nothing to stop
	if r.Stale {
		o.tries = maxTries - 1
	}
	if r.Stale || r.Damage != "" || e.State != Open || e.Until <= now {
		o.shut()
	}
	o.rule.in, o.entered = o.open && o.native(), o.open && o.native()
	return o
}

func (o *opening) native() bool { return o.grant.Door.native() }

// journaled is whether it has something to close, which must be on disk before it opens.
func (o *opening) journaled() bool { return o.key.stop != "" || o.native() }

// up is whether its start command has ended, or there is none to run.
func (o *opening) up() bool { return o.command.in && o.command.doing == nothing && !o.command.stale }

// failedToOpen is whether the only thing that could open it has failed.
func (o *opening) failedToOpen() bool { return o.up() && o.startError != "" && !o.native() }

// passes is whether the firewall is to let it in with the rules that it is given.
func (o *opening) passes() bool { return o.open && (o.rule.in || o.rule.doing == entering) }

// closesAt is when its time is up, which begins when it is in.
func (o *opening) closesAt() time.Duration {
	if o.open && (o.rule.in || o.up() && !o.native()) {
		return o.until
	}
	return never
}

// next is what is to be done, and when there will be something else to do.
func (o *opening) next(now time.Duration) (do action, at time.Duration) {
	at = never
	from := func(t time.Duration, what action) {
		if t <= now {
			do |= what
		} else if what != 0 {
			at = min(at, t)
		}
	}
	if from(o.closesAt(), expire); do != 0 {
		return do, at
	}
	if o.native() {
		from(o.rule.next(o.open, letIn, shutOut))
	}
	if do&letIn != 0 && !o.disk.there {
		do = save
	}
	stops := o.key.stop != "" && o.command.in
	switch {
	case o.command.doing != nothing:
		from(o.limit, endCommand)
	case o.open && (o.rule.in || !o.native()), !o.open && stops:
		from(o.command.next(o.open, runStart, runStop))
	case !o.open && !stops && o.rule.out():
		do = forget
	}
	return do, at
}

// next is what is to be done for a side, and when.
func (s side) next(open bool, enter, leave action) (at time.Duration, do action) {
	switch {
	case s.doing != nothing:
	case open && (!s.in || s.stale):
		return 0, enter
	case !open && s.in:
		return s.after, leave
	}
	return 0, 0
}

// out is whether it is out for good, or has not begun to enter.
func (s side) out() bool { return !s.in && s.doing == nothing }

// begin takes note that it is entering, or leaving.
func (s *side) begin(open bool) {
	s.stale, s.after, s.doing = false, 0, leaving
	if open {
		s.doing = entering
	}
}

// end takes note that it has entered, perhaps in part, or has left, if that is done.
func (s *side) end(done bool) { s.in, s.doing = s.doing == entering || !done, nothing }

// before has those that wait for the same thing take turns, in the order of their first grants.
func (o *opening) before(p *opening) int {
	return cmp.Or(cmp.Compare(o.since, p.since), o.key.source.Compare(p.key.source), cmp.Compare(o.key.door, p.key.door))
}

// state is how far it is.
func (o *opening) state() OpeningState {
	switch {
	case !o.open:
		return Closing
	case o.up():
		return Open
	}
	return Starting
}

// record is what the journal is to have of it. Of a start command that only waits it has nothing yet; and that the time of
// something open is up, the next daemon sees by itself.
func (o *opening) record() record {
	if !o.journaled() || !o.native() && o.command.out() {
		return record{}
	}
	r := record{there: true, state: o.state(), tries: o.tries, pid: o.process.pid, began: o.process.began}
	switch {
	case o.failedToOpen() || o.command.stale: // it may not be open at all, or was once, and is to be again
		r.state = Closing
	case o.up() && o.until != 0 && o.tries == 0:
		r.state, r.until = Open, o.until
	}
	return r
}

// recorded takes note that the journal has it.
func (o *opening) recorded() { o.disk = o.record() }

// entry is its line in the journal.
func (o *opening) entry() Entry {
	r := o.record()
	return Entry{
		Door: o.key.door, Source: o.key.source, Link: o.grant.Link, State: r.state, Since: o.since, Until: o.until,
		Start: o.key.start, Stop: o.key.stop, Ports: o.grant.Door.OpenPorts, Behind: o.grant.Door.Behind, Tries: r.tries, Pid: r.pid, Began: r.began,
	}
}

// pass is what the firewall is to know of it.
func (o *opening) pass(now time.Duration) Pass {
	return Pass{Door: o.key.door, Source: o.key.source, Link: o.grant.Link, Ports: o.grant.Door.OpenPorts, Behind: o.grant.Door.Behind, Left: o.until - now}
}

// again takes note that it was granted once more, and returns what is to be said of that.
func (o *opening) again(now time.Duration, g Grant) (say string) {
	o.grant = g
	until := now + g.Door.CmdTimeout
	switch opened := o.closesAt() != never; {
	case o.open && o.failedToOpen():
		o.shut()
		o.anew = true
		return fmt.Sprintf("start command failed (%s): running stop and start command", o.startError)
	case opened && until-o.until < leastGain:
		return fmt.Sprintf("open already: %v from now on", (o.until - now).Round(time.Second))
	case opened:
		o.until, o.rule.stale = until, o.native()
		if o.up() {
			return fmt.Sprintf("open already: %v from now on", g.Door.CmdTimeout)
		}
	case o.open && !o.journaled():
		o.more++
	case o.open:
	case o.tries > 0 && o.rule.doing == nothing && o.command.doing == nothing:
		if o.reopen(now); o.rule.in && o.up() {
			return fmt.Sprintf("open still: %v from now on", g.Door.CmdTimeout)
		}
	default:
		o.anew = true
	}
	return ""
}

// reopen has it opened once more although closing it has failed, and waits to be tried again: it is let in for longer, and
// the start command is run again over what is there.
func (o *opening) reopen(now time.Duration) {
	o.open, o.anew, o.since, o.until = true, false, now, now+o.grant.Door.CmdTimeout
	o.rule.stale, o.rule.after, o.command.stale, o.command.after, o.tries, o.givenUp = o.rule.in, 0, o.command.in, 0, 0, ""
	if o.key.start == "" {
		o.command = side{in: true}
	}
}

// shut has it closed before its time, and reports whether it was to be open. A start command that runs is ended, unless
// there is nothing to stop it.
func (o *opening) shut() bool {
	wanted := o.open || o.anew
	switch o.anew = false; {
	case !o.open:
	case !o.journaled() && o.command.doing == entering:
		return false
	default:
		o.until = 0
		o.expire()
	}
	return wanted
}

// expire has it closed as its time is up.
func (o *opening) expire() {
	if o.open = false; o.command.doing == entering {
		o.limit = 0
	}
}

// left is whether it is left to the next daemon.
func (o *opening) left() bool { return o.command.after == never && o.rule.out() }

// hurry has a closing that has failed tried again now.
func (o *opening) hurry() { o.rule.after, o.command.after = 0, 0 }

// changing takes note that the firewall is at it. Its time begins when it is let in.
func (o *opening) changing(now time.Duration) {
	if o.rule.begin(o.open); o.open && !o.rule.in {
		o.until = now + o.grant.Door.CmdTimeout
	}
}

// changed takes note of how that ended, and returns what is to be said of it. allClose is whether the daemon stops.
func (o *opening) changed(now time.Duration, err error, allClose bool) (say string) {
	leaves, waits := o.rule.doing == leaving, o.open && !o.rule.in
	switch o.rule.end(err == nil); {
	case waits && err != nil:
		o.shut()
		return "not opened: the firewall refused the change"
	case waits:
		if o.entered = true; o.key.start == "" {
			o.command = side{in: true}
		}
		return fmt.Sprintf("open for %v: %s", o.grant.Door.CmdTimeout, o.key.ports)
	case leaves && err != nil && allClose:
		o.rule.after = now + retryClosing
	case leaves && err != nil:
		return o.closingFailed(now, &o.rule, err.Error())
	}
	return ""
}

// flushed takes note that nothing of ours is in the firewall.
func (o *opening) flushed() { o.rule = side{} }

// runs takes note of the process of a command, and when it is to be ended.
func (o *opening) runs(p Process, limit time.Duration) {
	o.command.begin(o.open)
	o.process, o.limit = p, limit
}

// endsAt takes note when a command that was told to end is to be told again.
func (o *opening) endsAt(limit time.Duration) { o.limit = limit }

// ended takes note of how a command ended, and returns what is to be said of that.
func (o *opening) ended(now time.Duration, out Outcome, allClose bool) (say string) {
	starts, why := o.command.doing == entering, out.failure()
	o.process, o.limit = Process{}, never
	switch o.command.end(why == ""); {
	case starts && !o.open: // it was told to end
	case starts && !o.journaled():
		if o.open = false; o.more > 0 {
			return fmt.Sprintf("opened %d times more while its command ran: not run again", o.more)
		}
	case starts:
		if o.startError = why; !o.native() {
			o.until = now + o.grant.Door.CmdTimeout
		}
		switch {
		case o.failedToOpen():
			return fmt.Sprintf("start command failed (%s): the next knock runs it again", why)
		case why != "":
			return fmt.Sprintf("start command failed (%s): the ports are open all the same", why)
		}
	case why == "":
	case out.Err != nil && allClose:
		o.command.after = now + retryClosing
	case out.Err != nil:
		o.command.after = now + retryAfter
	case o.anew && o.startError != "": // there may have been nothing to stop, and whoever knocks is not to wait
		o.reopen(now)
		return fmt.Sprintf("stop command failed (%s), as the start command had: starting anew", why)
	default:
		say = o.closingFailed(now, &o.command, why)
		switch {
		case allClose && !o.lastTry:
			// Many ran at once, and iptables-nft may not find a rule that another one has just deleted a copy of.
			o.command.after, o.lastTry = now+retryClosing, true
		case allClose:
			o.command.after = never
		}
	}
	return say
}

// notRun takes note that a start command ended while it was held.
func (o *opening) notRun() {
	o.process, o.limit, o.command.doing = Process{}, never, nothing
	o.shut()
}

// closingFailed says when a side that could not leave is to try that again, if at all, and returns what is to be said.
func (o *opening) closingFailed(now time.Duration, s *side, why string) (say string) {
	if o.tries == 0 {
		o.failed = now
	}
	o.tries++
	limit := maxTries
	if o.startError != "" { // there may be nothing to close
		limit = maxTriesUnopened
	}
	if o.tries < limit && now-o.failed < maxTrying {
		s.after = now + closePauses[o.tries-1]
		return ""
	}
	s.in, o.givenUp = false, why
	return fmt.Sprintf("closing it has failed %d times, the last time with %s: given up", o.tries, why)
}
