//go:build linux

package main

import (
	"errors"
	"fmt"
	"os/exec"
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

// runner runs a program and returns its standard output.
type runner = func(argv []string, input string) (stdout string, err error)

// pickFirewall says who hides: nft, wherever the kernel takes our table from it, and else iptables; or whom option names. It
// looks at no rule of the host, so that nothing there can keep a port from being hidden, and changes none. mark is the
// bit for nft.
func pickFirewall(option string, mark uint32, r Ruleset, run runner) (c Choice, err error) {
	if err := r.fits(); err != nil {
		return c, err
	}
	reason := "iptables, as the configuration says"
	if option != "iptables" {
		nft := nftFirewall{mark: mark}
		calls := nft.build(r)
		for i := range calls {
			calls[i].Argv = nftCheck
		}
		err := runAll(calls, run)
		switch {
		case err == nil && option == "nft":
			return Choice{Firewall: nft, Reason: "nft, as the configuration says"}, nil
		case err == nil:
			return Choice{Firewall: nft, Reason: "nft"}, nil
		case errors.Is(err, exec.ErrNotFound):
			err = errors.New("nft is not installed")
		default:
			err = fmt.Errorf("nft does not work here: %w", err)
		}
		if option == "nft" {
			return c, fmt.Errorf("Firewall = nft: %w", err)
		}
		reason = "iptables, as " + err.Error()
	}
	var f iptablesFirewall
	for _, name := range []string{"iptables", "ip6tables"} {
		version, err := run([]string{name, "--version"}, "")
		t := iptables{name, restoreWaits(version)}
		if err == nil {
			_, err = run(t.argv("-S INPUT 1"), "") // the kernel may know nothing of IPv6
		}
		if err == nil {
			f.tools = append(f.tools, t)
		}
	}
	switch {
	case f.tools != nil:
		return Choice{Firewall: f, Reason: reason}, nil
	case option == "iptables":
		return c, errors.New("Firewall = iptables: iptables does not work here: install it, or write Firewall = auto")
	}
	return c, errors.New("neither nft nor iptables works here: install one of them (apt install nftables; opkg install nftables)")
}

// Applier carries out what is to be done with the firewall. One goroutine at a time uses it.
type Applier struct {
	option  string // Firewall of the configuration
	mark    uint32
	run     runner
	inspect func() Inspection
	choice  Choice
	silent  bool // iptables-legacy is there: nobody tells of its changes
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

// inBackground does it in another goroutine.
func (a *Applier) inBackground(task firewallTask, done func(error)) { go func() { done(a.do(task)) }() }

// do carries out one task.
func (a *Applier) do(task firewallTask) error {
	switch {
	case task.kind == taskFlush:
		in := a.inspect()
		if err := in.unseen(); err != nil {
			return fmt.Errorf("reading the firewall's rules: %w", err)
		}
		return runAll(flush(in, a.mark, nil), a.run)
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
	if next.unsure { // what we have is as it was; where it is, is not known
		a.choice = next
		return false, nil
	}
	a.silent = slices.ContainsFunc(in.Tools, func(t Tool) bool { return t.Legacy })
	if closed := (Ruleset{Hidden: r.Hidden, Kept: r.Kept}); fmt.Sprint(a.choice.build(closed)) != fmt.Sprint(next.build(closed)) {
		if err := runAll(next.build(r), a.run); err != nil {
			return false, err
		}
	}
	for _, c := range append(next.admit(), flush(in, a.mark, next.Firewall)...) {
		_, err := c.run(a.run)
		if changed = changed || err == nil; err != nil {
			next.warn("knocking may not help, as a rule of the host's chains could not be changed: %v", err)
			next.unsure = true
		}
	}
	if unseen := in.unseen(); unseen != nil {
		next.warn("rules of ours from before may be left, and keep out who has knocked: %v", unseen)
		next.unsure = true
	}
	a.choice = next
	return changed, nil
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
	if err != nil && c.Otherwise != nil {
		for less := range c.Otherwise {
			if out, err = run(c.Argv, less); err == nil {
				break
			}
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
