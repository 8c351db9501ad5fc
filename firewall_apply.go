//go:build linux

package main

import (
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
	run     func(argv []string, input string) (stdout string, err error)
	inspect func() Inspection
	choice  Choice
	before  *Applier // the one before a reload, whose rules are to go when this one's are there; or nil
	silent  bool     // iptables-legacy is there: nobody tells of its changes
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
	if a.choice.Firewall == nil && task.kind != taskFlush {
		return a.build(task.rules)
	}
	switch task.kind {
	case taskOpen:
		if a.calls(a.choice.open(task.pass, task.others)) == nil {
			return nil
		}
	case taskClose:
		if a.calls(a.choice.close(task.pass, task.others)) == nil {
			return nil
		}
	case taskCheck:
		was := fmt.Sprint(a.choice.Firewall)
		if task.told { // there may be chains now that drop what we let in
			if err := a.choose(task.rules); err != nil {
				return err
			}
		}
		if fmt.Sprint(a.choice.Firewall) == was && a.calls(a.choice.present(task.rules)) == nil {
			return nil
		}
		if err := a.build(task.rules); err != nil {
			return err
		}
		return errPutRight
	case taskFlush:
		in := a.inspect()
		if in.Unknown != nil {
			return fmt.Errorf("reading the firewall's rules: %w", in.Unknown)
		}
		if err := in.answers(a.used()); err != nil {
			return err
		}
		return a.calls(flush(in, nil))
	}
	return a.build(task.rules)
}

// choose looks which firewall fits.
func (a *Applier) choose(r Ruleset) error {
	if err := r.fits(); err != nil {
		return err
	}
	in := a.inspect()
	choice, err := chooseFirewall(a.option, in, a.mark)
	if err == nil {
		// What does not answer now may hold rules of ours: they would be forgotten.
		err = in.answers(a.used())
	}
	if err == nil {
		a.choice = choice
		a.silent = slices.ContainsFunc(in.Tools, func(t Tool) bool { return t.Legacy })
	}
	return err
}

// used is the firewall that has our rules now, or nil.
func (a *Applier) used() Firewall {
	if a.choice.Firewall == nil && a.before != nil {
		return a.before.used()
	}
	return a.choice.Firewall
}

// build chooses anew, as chains may have come and gone, and makes everything anew.
func (a *Applier) build(r Ruleset) error {
	if err := a.choose(r); err != nil {
		return err
	}
	if err := a.calls(a.choice.build(r)); err != nil {
		return err
	}
	if err := a.calls(flush(a.inspect(), a.choice.Firewall)); err != nil {
		return err
	}
	a.before = nil
	return nil
}

// calls runs calls in their order, up to the first that fails.
func (a *Applier) calls(calls []Call) error {
	for _, c := range calls {
		if c.Unless != nil {
			out, err := a.run(c.Unless, "")
			if err == nil && (c.Holds == nil || c.Holds(out)) {
				continue
			}
			// iptables(8): 1 and 2 are for a rule or chain that is not there; 3 and 4, and a time that is up, say nothing.
			if status := statusOf(err); err != nil && status != 1 && status != 2 {
				return err
			}
		}
		out, err := a.run(c.Argv, c.Input)
		if err != nil && c.Otherwise != "" {
			out, err = a.run(c.Argv, c.Otherwise)
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
