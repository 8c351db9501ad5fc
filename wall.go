//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// wallWork is something to do with the firewall.
type wallWork struct {
	kind   wallKind
	rules  Ruleset // all that is to be in force afterwards
	pass   Pass    // for workOpen and workClose
	others []Pass  // that the same source has
	told   bool    // workCheck because somebody has changed the firewall
}

type wallKind uint8

const (
	workOpen wallKind = iota
	workClose
	workBuild // everything anew
	workCheck // look whether everything is in place, and put it right
	workFlush // leave no trace
)

// wallDone is how it ended. batch are the openings whose wishes it fulfils.
type wallDone struct {
	work  wallWork
	batch []fulfilled
	err   error
}

// fulfilled is an opening's wish as it was when the work began.
type fulfilled struct {
	opening *opening
	wish    wish
	wished  int
}

// launchWork gives the firewall the next thing to do. A few openings are done one by one, in the order of their
// grants; many that wait, or anything that is not as it should be, at once.
func (d *Doors) launchWork(now time.Duration) {
	if d.work == nil || d.working {
		return
	}
	if d.closing && d.flushing.Load() {
		if !d.flushed && now >= d.flushAt {
			d.working = true
			d.work(wallWork{kind: workFlush}, func(err error) { d.worked <- wallDone{wallWork{kind: workFlush}, nil, err} })
		}
		return
	}
	var batch []fulfilled
	for _, o := range d.wishes {
		// A new opening waits for the journal.
		if now >= o.after && (o.wish == shutOut || o.saved || d.save == nil) {
			batch = append(batch, fulfilled{o, o.wish, o.wished})
		}
	}
	var w wallWork
	switch {
	case d.rebuild || len(batch) > maxSingly:
		w.kind = workBuild
	case d.checkAt != 0 && now >= d.checkAt && !d.closing:
		// Before openings and closings, or many of them would put it off for ever.
		w.kind, w.told = workCheck, d.told
		batch = nil
	case len(batch) > 0:
		batch = batch[:1]
		o := batch[0].opening
		w.kind = workOpen
		if o.wish == shutOut {
			w.kind = workClose
		}
		w.pass = o.pass(now)
	default:
		return
	}
	if w.kind == workBuild || w.kind == workCheck {
		d.rebuild, d.checkAt, d.told = false, 0, false
	}
	for _, f := range batch {
		if f.wish == letIn && f.opening.state == starting {
			f.opening.until = now + f.opening.grant.Door.CmdTimeout
		}
	}
	if w.kind == workOpen {
		w.pass = batch[0].opening.pass(now)
	}
	w.rules = d.ruleset(now, batch)
	for _, o := range d.open {
		if o.native() && o.inside && o.key.source == w.pass.Source && o.state != stopping && o.wish != shutOut && (len(batch) == 0 || o != batch[0].opening) {
			w.others = append(w.others, o.pass(now))
		}
	}
	d.crash("work begins")
	d.working = true
	d.work(w, func(err error) { d.worked <- wallDone{w, batch, err} })
}

// ruleset is what is to be in force once the batch is done.
func (d *Doors) ruleset(now time.Duration, batch []fulfilled) Ruleset {
	r := Ruleset{Hidden: d.rules.Hidden, Kept: d.rules.Kept}
	for _, o := range d.open {
		coming := slices.ContainsFunc(batch, func(f fulfilled) bool { return f.opening == o && f.wish == letIn })
		if o.native() && o.state != stopping && o.wish != shutOut && (o.inside || coming) {
			r.Open = append(r.Open, o.pass(now))
		}
	}
	return r
}

// workEnded goes on with the openings whose wishes were fulfilled, or were not.
func (d *Doors) workEnded(now time.Duration, done wallDone) {
	d.crash("work ended")
	d.working = false
	if done.err == errPutRight {
		d.printf(now, "firewall", "firewall: somebody has changed it: put right")
		done.err = nil
	}
	if done.work.kind == workFlush {
		d.workFlushed(now, done.err)
		return
	}
	if done.err != nil {
		d.failures++
		d.printf(now, "firewall", "firewall: %v", done.err)
	}
	if (!d.watched || done.err != nil) && !d.closing && d.checkAt == 0 {
		d.checkAt = now + checkEvery
	}
	for _, f := range done.batch {
		o := f.opening
		if d.open[o.key] != o {
			continue
		}
		if done.err == nil {
			o.inside = f.wish == letIn
		} else if f.wish == letIn {
			o.inside = true // in part, for all we know
		}
		switch {
		case o.wished != f.wished: // it has wished for something else meanwhile
		case done.err == nil || f.wish == letIn:
			d.fulfil(o)
			d.goOn(now, o, f.wish, done.err)
		case d.closing:
			o.after = now + retryClosing
		default:
			pause, again := d.failedClosing(now, o, done.err.Error())
			if o.after = now + pause; !again {
				d.fulfil(o)
				d.settle(now, o)
			}
		}
	}
}

// workFlushed takes note that no trace is left in the firewall, so that there is nothing more to do there.
func (d *Doors) workFlushed(now time.Duration, err error) {
	if err != nil {
		d.printf(now, "firewall", "firewall: removing what is there: %v", err)
		d.flushAt = now + retryClosing
		return
	}
	d.flushed = true
	for _, o := range d.open {
		o.inside = false
		d.fulfil(o)
		d.settle(now, o)
	}
}

func (d *Doors) fulfil(o *opening) {
	o.wish = settled
	d.wishes = slices.DeleteFunc(d.wishes, func(w *opening) bool { return w == o })
}

// goOn takes an opening further after the firewall has done what it wished for, or, with err, could not let it in.
func (d *Doors) goOn(now time.Duration, o *opening, w wish, err error) {
	switch {
	case w == shutOut:
		d.settle(now, o)
	case o.job != nil: // its time is longer, while its start command runs
	case err != nil && o.state == starting:
		d.printf(now, o.key.door, "%v: %s: not opened: the firewall does not do it", o.key.source, o.key.door)
		d.close(now, o)
	case o.state == starting:
		o.entered = true
		d.printf(now, o.key.door, "%v: %s: open for %v: %s", o.key.source, o.key.door, o.grant.Door.CmdTimeout, o.key.ports)
		if o.key.start != "" {
			d.enqueue(o, o.key.start)
			break
		}
		o.started = true
		d.nowOpen(now, o)
	}
}

// callLimit bounds each call of the firewall. Who holds its lock for ever must not hold up everything else.
const callLimit = 4 * time.Second

// lockFirewall keeps a second daemon of this network namespace off the firewall, as each would take the other's rules
// for somebody's mistake. folder is where the sockets are.
func lockFirewall(folder string) (*PidFile, error) {
	at, err := presentPlace()
	if err == nil {
		err = os.MkdirAll(folder, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("locking the firewall: %w", err)
	}
	lock, err := lockPidFile(filepath.Join(folder, fmt.Sprintf("firewall-%d", at.netns)), endTime)
	if err != nil {
		return nil, fmt.Errorf("locking the firewall: %w: one daemon alone can have doors with Open_Ports", err)
	}
	return lock, lock.write()
}

// errPutRight is no failure: something was not as it was left, and is so again.
var errPutRight = errors.New("somebody has changed the firewall")

// Wall carries out what is to be done with the firewall. One goroutine at a time uses it.
type Wall struct {
	option  string // Firewall of the configuration
	mark    uint32
	run     func(argv []string, input string) (stdout string, err error)
	inspect func() Inspection
	choice  Choice
	before  *Wall // the one before a reload, whose rules are to go when this one's are there; or nil
	silent  bool  // iptables-legacy is there: nobody tells of its changes
}

// newWall is the real one, for a configuration.
func newWall(c *Config) *Wall {
	return &Wall{option: c.Firewall, mark: c.FirewallMark, inspect: inspectHost, run: func(argv []string, input string) (string, error) {
		stdout, _, err := execute(argv, input, callLimit)
		return stdout, err
	}}
}

// after makes w the one that follows another after a reload.
func (w *Wall) after(before *Wall) *Wall {
	w.before = before
	return w
}

// inBackground does it in another goroutine.
func (w *Wall) inBackground(work wallWork, done func(error)) { go func() { done(w.do(work)) }() }

// do carries out one piece of work.
func (w *Wall) do(work wallWork) error {
	if w.choice.Firewall == nil && work.kind != workFlush {
		return w.build(work.rules)
	}
	switch work.kind {
	case workOpen:
		if w.calls(w.choice.open(work.pass, work.others)) == nil {
			return nil
		}
	case workClose:
		if w.calls(w.choice.close(work.pass, work.others)) == nil {
			return nil
		}
	case workCheck:
		was := fmt.Sprint(w.choice.Firewall)
		if work.told { // there may be chains now that drop what we let in
			if err := w.choose(work.rules); err != nil {
				return err
			}
		}
		if fmt.Sprint(w.choice.Firewall) == was && w.calls(w.choice.present(work.rules)) == nil {
			return nil
		}
		if err := w.build(work.rules); err != nil {
			return err
		}
		return errPutRight
	case workFlush:
		in := w.inspect()
		if in.Unknown != nil {
			return fmt.Errorf("reading the firewall's rules: %w", in.Unknown)
		}
		if err := in.answers(w.used()); err != nil {
			return err
		}
		return w.calls(flush(in, nil))
	}
	return w.build(work.rules)
}

// choose looks which firewall fits.
func (w *Wall) choose(r Ruleset) error {
	if err := r.fits(); err != nil {
		return err
	}
	in := w.inspect()
	choice, err := chooseFirewall(w.option, in, w.mark)
	if err == nil {
		// What does not answer now may hold rules of ours: they would be forgotten.
		err = in.answers(w.used())
	}
	if err == nil {
		w.choice = choice
		w.silent = slices.ContainsFunc(in.Tools, func(t Tool) bool { return t.Legacy })
	}
	return err
}

// used is the firewall that has our rules now, or nil.
func (w *Wall) used() Firewall {
	if w.choice.Firewall == nil && w.before != nil {
		return w.before.used()
	}
	return w.choice.Firewall
}

// build chooses anew, as chains may have come and gone, and makes everything anew.
func (w *Wall) build(r Ruleset) error {
	if err := w.choose(r); err != nil {
		return err
	}
	if err := w.calls(w.choice.build(r)); err != nil {
		return err
	}
	if err := w.calls(flush(w.inspect(), w.choice.Firewall)); err != nil {
		return err
	}
	w.before = nil
	return nil
}

// calls runs calls in their order, up to the first that fails.
func (w *Wall) calls(calls []Call) error {
	for _, c := range calls {
		if c.Unless != nil {
			out, err := w.run(c.Unless, "")
			if err == nil && (c.Holds == nil || c.Holds(out)) {
				continue
			}
			// iptables(8): 1 and 2 are for a rule or chain that is not there; 3 and 4, and a time that is up, say nothing.
			if status := statusOf(err); err != nil && status != 1 && status != 2 {
				return err
			}
		}
		out, err := w.run(c.Argv, c.Input)
		if err != nil && c.Otherwise != "" {
			out, err = w.run(c.Argv, c.Otherwise)
		}
		if err != nil {
			return err
		}
		if c.Unless == nil && c.Holds != nil && !c.Holds(out) {
			return fmt.Errorf("%s: it is not as it was left", strings.Join(c.Argv, " "))
		}
	}
	return nil
}
