//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// firewallTask is something to do with the firewall.
type firewallTask struct {
	kind   taskKind
	rules  Ruleset // all that is to be in force afterwards
	pass   Pass    // for taskOpen and taskClose
	others []Pass  // that the same source has
	told   bool    // taskCheck because somebody has changed the firewall
}

type taskKind uint8

const (
	taskOpen taskKind = iota
	taskClose
	taskBuild // everything anew
	taskCheck // look whether everything is in place, and put it right
	taskFlush // leave no trace
)

// callLimit bounds each call of the firewall. Who holds its lock for ever must not hold up everything else.
const callLimit = 4 * time.Second

// errPutRight is no failure: something was not as it was left, and is so again.
var errPutRight = errors.New("somebody has changed the firewall")

// Applier carries out what is to be done with the firewall. One goroutine at a time uses it.
type Applier struct {
	option  string // Firewall of the configuration
	mark    uint32
	run     runner
	inspect func() Inspection
	choice  Choice
	before  *Applier // the one before a reload, whose rules are to go when this one's are there; or nil
	silent  bool     // iptables-legacy is there: nobody tells of its changes
}

// firewallReport is what is said of the firewall in force.
type firewallReport struct {
	choice   string // which one and why; "": none yet
	warnings []string
	ask      bool // it is to be looked at again and again: nobody tells of all changes, or not all could be seen
}

// news are lines about what is different from before.
func (r firewallReport) news(before firewallReport) (lines []string) {
	if r.choice != before.choice {
		lines = append(lines, "firewall: "+r.choice)
	}
	for _, w := range r.warnings {
		if !slices.Contains(before.warnings, w) {
			lines = append(lines, "warning: firewall: "+w)
		}
	}
	return lines
}

// report is that of the task that was done last.
func (a *Applier) report() firewallReport {
	if a.choice.Firewall == nil {
		return firewallReport{}
	}
	return firewallReport{a.choice.String(), a.choice.Warnings, a.silent || a.choice.unsure}
}

// newApplier is the real one, for a configuration.
func newApplier(c *Config) *Applier {
	return &Applier{option: c.Firewall, mark: c.FirewallMark, inspect: inspectHost, run: func(argv []string, input string) (string, error) {
		stdout, _, err := execute(argv, input, callLimit)
		return stdout, err
	}}
}

// after makes a the one that follows another after a reload.
func (a *Applier) after(before *Applier) *Applier {
	a.before = before
	return a
}

// inBackground does it in another goroutine.
func (a *Applier) inBackground(task firewallTask, done func(error)) { go func() { done(a.do(task)) }() }

// do carries out one task.
func (a *Applier) do(task firewallTask) error {
	switch {
	case task.kind == taskFlush:
		in := a.inspect()
		if err := cmp.Or(in.Unknown, in.answers(a.used())); err != nil {
			return fmt.Errorf("reading the firewall's rules: %w", err)
		}
		return runAll(flush(in, nil), a.run)
	case a.choice.Firewall == nil || task.kind == taskBuild:
	case task.kind == taskOpen && runAll(a.choice.open(task.pass, task.others), a.run) == nil,
		task.kind == taskClose && runAll(a.choice.close(task.pass, task.others), a.run) == nil:
		return nil
	case task.kind == taskCheck:
		return a.check(task)
	}
	return a.build(task.rules)
}

// build hides first, and looks at the host afterwards, as its chains may have come and gone.
func (a *Applier) build(r Ruleset) (err error) {
	if a.choice.Firewall == nil {
		a.choice, err = pickFirewall(a.option, a.mark, r, a.run)
	}
	if err == nil {
		err = runAll(a.choice.build(r), a.run)
	}
	if err == nil {
		_, err = a.look(r, a.inspect())
	}
	return err
}

// check mends what is not as it was left. Its error then is errPutRight.
func (a *Applier) check(task firewallTask) error {
	mended := runAll(a.choice.present(task.rules), a.run) != nil
	if mended {
		if err := runAll(a.choice.build(task.rules), a.run); err != nil {
			return err
		}
	}
	if mended || task.told || a.choice.unsure {
		changed, err := a.look(task.rules, a.inspect())
		if err == nil && !mended && task.told {
			err = runAll(a.choice.renew(task.rules), a.run)
		}
		if err != nil {
			return err
		}
		mended = mended || changed
	}
	if mended {
		return errPutRight
	}
	return nil
}

// look fits what we have to what the host has, which in tells, and removes what is not ours any more. What cannot be done
// about chains of the host is a warning: what is hidden is hidden.
func (a *Applier) look(r Ruleset, in Inspection) (changed bool, err error) {
	next := a.choice.fit(in)
	a.silent = slices.ContainsFunc(in.Tools, func(t Tool) bool { return t.Legacy })
	if closed := (Ruleset{Hidden: r.Hidden, Kept: r.Kept}); fmt.Sprint(a.choice.build(closed)) != fmt.Sprint(next.build(closed)) {
		if err := runAll(next.build(r), a.run); err != nil {
			return false, err
		}
	}
	var placed []acceptChain
	f, isNFT := next.Firewall.(nftFirewall)
	for i, c := range next.admit() {
		did, err := c.run(a.run)
		changed = changed || did
		switch {
		case err != nil && isNFT:
			next.warn("%v can drop what sesame lets in, and no rule could be put there: %v", f.accepts[i], err)
			next.unsure = true
		case err != nil:
			next.warn("the rules of others may come before ours: %v", err)
			next.unsure = true
		case isNFT:
			placed = append(placed, f.accepts[i])
		}
	}
	if isNFT { // another look tries the others again
		f.accepts = placed
		next.Firewall = f
	}
	unseen := cmp.Or(in.Unknown, in.answers(a.used()))
	a.choice = next
	leftovers := flush(in, a.choice.Firewall)
	if unseen == nil {
		unseen = runAll(leftovers, a.run)
	}
	if unseen == nil {
		a.before = nil
		return changed || leftovers != nil, nil
	}
	if a.choice.unsure = true; in.Unknown == nil {
		a.choice.warn("rules of ours from before may be left, and keep out who has knocked: %v", unseen)
	}
	return changed, nil
}

// used is the firewall that has our rules now, or nil.
func (a *Applier) used() Firewall {
	if a.before != nil {
		return a.before.used()
	}
	return a.choice.Firewall
}

// run runs a call, and says whether it was more than a look.
func (c Call) run(run runner) (did bool, err error) {
	if c.Unless != nil {
		out, err := run(c.Unless, "")
		if err == nil && (c.Holds == nil || c.Holds(out)) {
			return false, nil
		}
		// iptables(8): 1 and 2 are for a rule or chain that is not there; 3 and 4, and a time that is up, say nothing.
		if status := statusOf(err); err != nil && status != 1 && status != 2 {
			return false, err
		}
	}
	out, err := run(c.Argv, c.Input)
	for _, less := range c.Otherwise {
		if err != nil {
			out, err = run(c.Argv, less)
		}
	}
	if err == nil && c.Unless == nil && c.Holds != nil && !c.Holds(out) {
		err = fmt.Errorf("%s: it is not as it was left", strings.Join(c.Argv, " "))
	}
	return true, err
}

// runAll runs calls in their order, up to the first that fails.
func runAll(calls []Call, run runner) error {
	for _, c := range calls {
		if _, err := c.run(run); err != nil {
			return err
		}
	}
	return nil
}
