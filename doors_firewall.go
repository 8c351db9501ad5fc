//go:build linux

package main

import (
	"slices"
	"time"
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
