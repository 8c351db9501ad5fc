//go:build linux

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// firewallTask is something to do with the firewall.
type firewallTask struct {
	kind   taskKind
	rules  Ruleset           // all that is to be in force afterwards
	pass   Pass              // for taskOpen and taskClose
	others []Pass            // that the same source has
	told   bool              // taskBuild or taskCheck because somebody has changed what is ours
	nat    bool              // taskBuild because somebody may forward now what is hidden
	seen   *Inspection       // for taskCheck: of the rules of others; nil: they are not looked at
	found  *firewallFindings // where what else it has come to is to be noted; nil: nowhere
}

// firewallFindings are what a task has come to, beside its error.
type firewallFindings struct {
	ports []uint32   // the numbers of its processes, by which news of the kernel's name them
	seen  Inspection // by taskLook
	stir  bool       // the rules of others may have changed, and are to be looked at
}

type taskKind uint8

const (
	taskOpen taskKind = iota
	taskClose
	taskBuild // everything anew
	taskCheck // look whether everything is in place, and put it right
	taskFlush // leave no trace
	taskLook  // look at the rules of others; beside other tasks
)

// callLimit bounds each call of the firewall. Who holds its lock for ever must not hold up everything else. Calls about chains
// of the host have hostLimit: where there are 60,000 rules, iptables takes seconds to add one.
const callLimit, hostLimit = 4 * time.Second, 30 * time.Second

// errPutRight is no failure: something was not as it was left, and is so again.
var errPutRight = errors.New("somebody has changed the firewall")

// runner runs a program and returns its standard output.
type runner = func(argv []string, input string) (stdout string, err error)

// pickFirewall says who hides: nft, wherever the kernel takes our table from it, and else iptables; or whom option names. It
// looks at no rule of the host, so that nothing there can keep a port from being hidden, and changes none. Where nft hides,
// but forwards nothing, iptables comes first; and without it some doors stay shut. mark is the bit for nft.
func pickFirewall(option string, mark uint32, r Ruleset, run runner) (c Choice, err error) {
	if err := r.fits(); err != nil {
		return c, err
	}
	reason, instead := "the configuration says", Choice{}
	if option != "iptables" {
		nft := nftFirewall{mark: mark}
		calls := nft.build(r)
		for i := range calls {
			calls[i].Argv = nftCheck
		}
		var taken string
		err := runAll(calls, func(argv []string, input string) (string, error) {
			taken = input
			return run(argv, input)
		})
		picked := Choice{Firewall: nft, Reason: "nft", inputOnly: len(r.Hidden) > 0 && !strings.Contains(taken, "chain away"),
			noForwards: slices.ContainsFunc(r.behind(), Behind.forwarded) && !strings.Contains(taken, " dnat ip")}
		if option == "nft" {
			picked.Reason = "nft, as the configuration says"
		}
		switch {
		case err == nil && (!picked.noForwards || option == "nft"):
			return picked, nil
		case err == nil:
			instead, err = picked, errors.New("nft cannot forward here: it needs nft_fib_inet (opkg install kmod-nft-fib) and Linux 5.2")
		case errors.Is(err, exec.ErrNotFound):
			err = errors.New("nft is not installed")
		default:
			err = fmt.Errorf("nft failed: %w", err)
		}
		if option == "nft" {
			return c, fmt.Errorf("Firewall = nft: %w", err)
		}
		reason = err.Error()
	}
	var f iptablesFirewall
	for _, name := range []string{"iptables", "ip6tables"} {
		version, err := run([]string{name, "--version"}, "")
		if exhausted(err) { // which says nothing of what is installed
			return c, err
		}
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
		return Choice{Firewall: f, Reason: "iptables, as " + reason}, nil
	case instead.Firewall != nil:
		return instead, nil
	case option == "iptables":
		return c, errors.New("Firewall = iptables: iptables does not work here: install it, or write Firewall = auto")
	}
	return c, fmt.Errorf("neither nft nor iptables works here: install one of them (apt install nftables; opkg install nftables): %s", reason)
}

// Applier carries out what is to be done with the firewall. One goroutine at a time uses it.
type Applier struct {
	option  string // Firewall of the configuration
	mark    uint32
	run     runner
	inspect func(limit time.Duration) Inspection
	choice  Choice
	silent  bool               // iptables-legacy is there: nobody tells of its changes
	tables  string             // of legacy, as they were left
	places  string             // what comes before the rule that leads to our chain, as it was left
	asked   int                // how often they have been so, since the last check
	listed  string             // our table as nft lists it, right after it was made; "": not known, as nft before 0.9.1 knows no -t
	keep    func(table string) // keeps a script that makes our table, hidden and with nobody in; "": none hides; or nil
	behind  string             // what is behind the host, when its chains were last looked at for that
	ran     []uint32           // the processes of a task
	limit   time.Duration      // of its next call
}

// firewallReport is what is said of the firewall in force.
type firewallReport struct {
	choice   string // which one and why; "": none yet
	warnings []string
	silent   bool // nobody tells of some changes: it is to be asked for them
	unsure   bool // not all could be seen: it is to be looked at again
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
	return firewallReport{a.choice.String(), a.choice.Warnings, a.silent, a.choice.unsure}
}

// newApplier is the real one, for a configuration.
func newApplier(c *Config) *Applier {
	a := &Applier{option: c.Firewall, mark: c.FirewallMark, inspect: inspectHost, limit: callLimit}
	a.run = func(argv []string, input string) (string, error) {
		p := execution{argv: argv, input: input, limit: a.limit}
		stdout, _, err := p.run()
		a.ran = append(a.ran, uint32(p.pid))
		return stdout, err
	}
	return a
}

// keeping has our table kept, too, whenever it is made.
func (a *Applier) keeping(keep func(table string)) *Applier {
	a.keep = keep
	return a
}

// inBackground does it in another goroutine. Afterwards, what reading the lists has taken goes back to the system: the
// collector would wait until the heap has 4 MB (runtime/debug), which is much for a router.
func (a *Applier) inBackground(task firewallTask, done func(error)) {
	go func() {
		done(a.do(task))
		debug.FreeOSMemory()
	}()
}

// do carries out one task.
func (a *Applier) do(task firewallTask) (err error) {
	if task.kind == taskLook { // beside which another one may run
		task.found.seen = a.inspect(studyLimit)
		return nil
	}
	if a.silent && legacyTables(procNet) == a.tables {
		defer func() { a.tables = legacyTables(procNet) }() // our own changes are no reason to look
	}
	if task.found != nil {
		defer func() { task.found.ports, a.ran = a.ran, nil }()
	}
	switch {
	case task.kind == taskFlush:
		in := a.inspect(studyLimit)
		if err := in.unseen(); err != nil {
			return fmt.Errorf("reading the firewall's rules: %w", err)
		}
		a.limit = hostLimit
		return runAll(flush(in, a.mark, nil), a.run)
	case a.choice.Firewall == nil || task.kind == taskBuild:
	case task.kind == taskOpen && runAll(a.choice.open(task.pass, task.others), a.run) == nil,
		task.kind == taskClose && runAll(a.choice.close(task.pass, task.others), a.run) == nil:
		return nil
	case task.kind == taskCheck:
		return a.check(task)
	}
	if task.nat {
		a.choice.expectForwards()
	}
	if err = a.build(task.rules); err == nil && task.told {
		err = errPutRight
	}
	return err
}

// build hides first, and the first time looks at the host afterwards: what is there may be in the way.
func (a *Applier) build(r Ruleset) (err error) {
	first := a.choice.Firewall == nil
	if first {
		a.choice, err = pickFirewall(a.option, a.mark, r, a.run)
	}
	if err == nil {
		err = a.hide(a.choice.Firewall, r)
	}
	if more := fmt.Sprint(r.behind()); err == nil && (first || more != a.behind) {
		a.behind = more
		_, err = a.look(r, a.inspect(inspectLimit))
	}
	return err
}

// listOurs lists our table without what changes by itself. What it prints is the same, byte for byte, as long as nobody
// changes the table.
var listOurs = []string{"nft", "-s", "-t", "list", "table", "inet", "sesame"}

// hide makes anew what is ours alone.
func (a *Applier) hide(f Firewall, r Ruleset) error {
	a.listed = "not made"
	if err := runAll(f.build(r), a.run); err != nil {
		return err
	}
	switch f := f.(type) {
	case nftFirewall:
		a.listed, _ = a.run(listOurs, "")
	case iptablesFirewall:
		a.listed, a.places = "", a.before(f)
	}
	a.tables = legacyTables(procNet)
	if script := ""; a.keep != nil {
		if a.listed != "" && len(r.Hidden) > 0 {
			script = "add table inet sesame\ndelete table inet sesame\n" + a.listed
			if _, err := a.run(nftCheck, script); err != nil {
				script = "" // a host that includes what nft cannot read back would boot without a firewall
			}
		}
		a.keep(script)
	}
	return nil
}

// present is whether what is ours alone is as it was left.
func (a *Applier) present(r Ruleset) bool {
	if f, ok := a.choice.Firewall.(iptablesFirewall); ok {
		for i, t := range f.tools {
			if _, err := a.run(t.argv("-C INPUT -j "+ourChain), ""); err != nil {
				return false
			}
			if chain, err := a.run(t.argv("-S "+ourChain), ""); err != nil || !f.isBuilt(i, r, chain) {
				return false
			}
			for _, at := range places {
				if !t.needed(r.behind()) {
					continue
				}
				_, err := a.run(t.argv(fmt.Sprintf("-t %s -C %s -j %s", at.table, at.from, at.chain)), "")
				if chain, _ := a.run(t.argv("-t "+at.table+" -S "+at.chain), ""); err != nil || normalForm(chain) != normalForm(inChain("-A", at.chain, f.allAt(i, at, r))) {
					return false
				}
			}
		}
		return a.before(f) == a.places
	}
	if a.listed == "" {
		chain, _ := a.run([]string{"nft", "list", "chain", "inet", "sesame", "input"}, "")
		return strings.Contains(chain, "meta mark")
	}
	listed, err := a.run(listOurs, "")
	return err == nil && listed == a.listed
}

// before is what iptables lists before the rules that lead to our chain.
func (a *Applier) before(f iptablesFirewall) (rules string) {
	for _, t := range f.tools {
		listed, _ := a.run(t.argv("-S INPUT"), "")
		before, _, _ := strings.Cut(listed, "-A INPUT -j "+ourChain+"\n")
		rules += before
	}
	return rules
}

// check mends what is not as it was left. Its error then is errPutRight.
func (a *Applier) check(task firewallTask) error {
	if !task.told && task.seen == nil && a.quiet() {
		return nil
	}
	tables := legacyTables(procNet)
	stir := tables != a.tables
	mended := !a.present(task.rules)
	if mended {
		if err := a.hide(a.choice.Firewall, task.rules); err != nil {
			return err
		}
	}
	if task.seen != nil {
		changed, err := a.look(task.rules, *task.seen)
		if err != nil {
			return err
		}
		mended = mended || changed
	}
	a.tables, a.asked = legacyTables(procNet), 0
	if task.found != nil {
		task.found.stir = stir || mended && task.seen == nil
	}
	if mended {
		return errPutRight
	}
	return nil
}

// asksPerCheck is how often tables of iptables-legacy must be the same until it is looked whether our jump is in its place: a
// rule that is moved does not show. Where nft hides, that need not be looked for.
const asksPerCheck = 5

// quiet is whether only tables of iptables-legacy had to be asked for changes, and they have none.
func (a *Applier) quiet() bool {
	if !a.silent || legacyTables(procNet) != a.tables {
		return false
	}
	_, isNFT := a.choice.Firewall.(nftFirewall)
	a.asked++
	return isNFT && a.tables != "" || a.asked < asksPerCheck
}

// look fits what we have to what the host has, which in tells, and removes what is not ours any more. What cannot be done
// about chains of the host is a warning: what is hidden is hidden.
func (a *Applier) look(r Ruleset, in Inspection) (changed bool, err error) {
	next := a.choice.fit(in, r)
	if next.unsure { // what we have is as it was; where it is, is not known
		a.choice = next
		return false, nil
	}
	a.silent = slices.ContainsFunc(in.Tools, func(t Tool) bool { return t.Legacy })
	if closed := (Ruleset{Hidden: r.Hidden, Kept: r.Kept, Behind: r.Behind}); fmt.Sprint(a.choice.build(closed)) != fmt.Sprint(next.build(closed)) {
		if err := a.hide(next.Firewall, r); err != nil {
			return false, err
		}
	}
	a.limit = hostLimit
	defer func() { a.limit = callLimit }()
	for _, c := range append(next.admit(), flush(in, a.mark, next.Firewall)...) {
		err := c.run(a.run)
		if changed = changed || err == nil; err != nil {
			next.warn("knocking may not help, as a rule of the host's chains could not be changed: %v", err)
			next.unsure = true
		}
	}
	if unseen := in.unseen(); unseen != nil {
		next.warn("rules of ours from before may be left, and keep out who has knocked: %v", unseen)
		next.unsure = true
	}
	next.Warnings = append(next.Warnings, behindWarnings(r)...)
	a.choice = next
	return changed, nil
}

func (c Call) run(run runner) error {
	if c.Unless != nil {
		_, err := run(c.Unless, "")
		// iptables(8): 1 and 2 are for a rule or chain that is not there; 3 and 4, and a time that is up, say nothing.
		if status := statusOf(err); err == nil || status != 1 && status != 2 {
			return err
		}
	}
	_, err := run(c.Argv, c.Input)
	if err != nil && c.Otherwise != nil {
		for less := range c.Otherwise {
			if _, err = run(c.Argv, less); err == nil {
				break
			}
		}
	}
	return err
}

// runAll runs calls in their order, up to the first that fails.
func runAll(calls []Call, run runner) error {
	for _, c := range calls {
		if err := c.run(run); err != nil {
			return err
		}
	}
	return nil
}
