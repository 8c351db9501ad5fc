//go:build linux

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// Choice is the firewall that hides, and lets in who has knocked.
type Choice struct {
	Firewall
	Reason   string   // in words
	Warnings []string // what will not work as one might think, and the remedy
	idle     bool     // the host's own rules drop nothing, so that a door without Hide protects nothing
	unsure   bool     // something could not be looked at now
}

// String is which firewall it is, and why.
func (c Choice) String() string {
	if c.idle {
		return c.Reason + "; " + nothingDrops
	}
	return c.Reason
}

// nothingDrops is why a door without Hide protects nothing.
const nothingDrops = "no rule of this host drops anything yet"

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

// fit is the choice for a host that has been looked at: with accepts of ours in each of its chains that can drop what we
// let in. What hides does not depend on it.
func (c Choice) fit(in Inspection) Choice {
	c.Warnings, c.unsure = nil, in.Unknown != nil
	_, isNFT := c.Firewall.(nftFirewall)
	if isNFT && in.NFTError != nil {
		c.unsure, in.Unknown = true, in.NFTError
	}
	if c.unsure { // what we have stays
		c.warn("the host's rules could not be read: %v: if they drop what sesame lets in, knocking does not help", in.Unknown)
		return c
	}
	host := newHostRules(in.chains())
	if isNFT {
		return c.fitNFT(in, host)
	}
	return c.fitIptables(in, host)
}

func (c *Choice) warn(format string, a ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, a...))
}

func (c Choice) fitNFT(in Inspection, host hostRules) Choice {
	f := c.Firewall.(nftFirewall)
	f.accepts, c.idle = nil, true
	for _, d := range host.inputs(f.ours) {
		c.idle = c.idle && d.can&(drops|bans) == 0
		switch {
		case d.can&drops == 0: // what stops certain sources alone is to stop them, knock or not
		case d.priority <= ourPriority:
			c.warn("%v comes so early (priority %d) that it can drop what sesame lets in", d, d.priority)
		case d.owned:
			c.warn("%v lets no other program change it (flags owner): who has knocked gets in only where its own rules allow the port: "+
				"with firewalld write NftablesTableOwner=no in /etc/firewalld/firewalld.conf and run firewall-cmd --reload", d)
		case d.tool.name == "" && in.madeByIptables(d.chain):
			c.warn("iptables has made %v, and nft's rules would do harm there: nobody gets in by knocking before iptables is installed", d)
		default:
			f.accepts = append(f.accepts, d.acceptChain)
		}
	}
	f.plain, f.endings = c.idle && !in.NAT, hostEndings(host.chains)
	c.Firewall = f
	return c
}

func (c Choice) fitIptables(in Inspection, host hostRules) Choice {
	f := iptablesFirewall{tools: slices.Clone(c.Firewall.(iptablesFirewall).tools)}
	inputs := host.inputs(func(string) bool { return false })
	inputs = slices.DeleteFunc(inputs, func(d input) bool { return d.can&drops == 0 })
	c.idle = len(inputs) == 0
	for i, t := range f.tools {
		var dropping []iptables // of two kinds of iptables, it is the one whose chain drops
		for _, d := range inputs {
			if d.tool.name != "" && d.tool.is4() == t.is4() {
				dropping = append(dropping, d.tool)
			}
		}
		if len(dropping) > 0 && !slices.Contains(dropping, t) {
			f.tools[i] = dropping[0]
		}
		n := 0
		for _, d := range host.chains {
			if d.input && d.tool == f.tools[i] {
				n = host.bansFirst(d)
			}
		}
		f.behind = append(f.behind, n)
		f.endings = append(f.endings, iptablesEndings(host.chains, f.tools[i]))
	}
	for _, d := range inputs {
		if !slices.Contains(f.tools, d.tool) {
			c.warn("%v can drop what iptables lets in: with nft installed, and without Firewall = iptables, it would get a rule for that", d)
		}
	}
	if len(f.tools) == 1 && !(f.tools[0].is4() && in.NoIPv6) {
		c.warn("only %s works here: the other family's packets are let through", f.tools[0].name)
	}
	c.Firewall = f
	return c
}

// madeByIptables is whether nft says so. It does where a table has matches that are not nft's own.
func (in Inspection) madeByIptables(c chain) bool {
	return strings.Contains(in.NFT, "table "+c.family+" "+c.table+" is managed by iptables-nft") ||
		c.table == "filter" && c.name == "INPUT" && slices.ContainsFunc(c.rules, func(r string) bool { return strings.Contains(unquoted(r), " xt ") })
}

// flush is a list of calls that remove every trace of ours from what was seen, but for those that keep needs. With no
// trace it is empty. keep may be nil.
func flush(in Inspection, keep Firewall) (calls []Call) {
	ipt, _ := keep.(iptablesFirewall)
	nft, _ := keep.(nftFirewall)
	for _, tool := range in.Tools {
		var lines string
		chain, ours := false, slices.Contains(ipt.tools, tool.iptables)
		stays := slices.ContainsFunc(nft.accepts, func(c acceptChain) bool { return c.tool == tool.iptables })
		for _, line := range strings.Split(tool.Rules, "\n") {
			line = strings.TrimSpace(line)
			plain := strings.ReplaceAll(line, `"`, "") // older versions quote each comment
			switch {
			case plain == "-N "+ourChain:
				chain = !ours
			case strings.HasPrefix(plain, "-A ") && strings.HasSuffix(plain, " -j "+ourChain) && !ours,
				strings.HasPrefix(plain, "-A INPUT ") && strings.Contains(plain, "--comment "+acceptComment) && !(stays && nft.ours(plain)):
				lines += "-D" + strings.TrimPrefix(line, "-A") + "\n"
			}
		}
		if chain { // Declared, it is emptied; then it can be removed, as nothing refers to it any more.
			lines = ":" + ourChain + " - [0:0]\n" + lines + "-X " + ourChain + "\n"
		}
		if lines != "" {
			calls = append(calls, Call{Argv: tool.restore(), Input: tableFilter(lines)})
		}
	}
	script, last := "", ""
	if nft.mark == 0 && strings.Contains(in.NFT, "table inet sesame {") {
		script = "delete table inet sesame\n"
	}
	for _, c := range in.chains() {
		if c.origin != "" {
			continue
		}
		if c.name == ourChain && c.unread { // as nft restores it
			last += fmt.Sprintf("flush chain %s %s %s\ndelete chain %[1]s %[2]s %[3]s\n", c.family, c.table, c.name)
		}
		stays := slices.IndexFunc(nft.accepts, func(a acceptChain) bool { return a.table == c.table && a.family == c.family && a.name == c.name })
		before := ""
		for _, rule := range c.rules {
			_, handle, found := strings.Cut(rule, "# handle ")
			accept := strings.Contains(rule, `accept comment "`+acceptComment)
			switch {
			case !found:
			case accept && c.tool.name == "" && !(stays >= 0 && nft.ours(rule) && handleOf(before) == nft.accepts[stays].behind),
				c.unread && strings.HasSuffix(strings.TrimSuffix(rule, " # handle "+handle), "jump "+ourChain):
				script += fmt.Sprintf("delete rule %s %s %s handle %s\n", c.family, c.table, c.name, handle)
			}
			if !accept {
				before = rule
			}
		}
	}
	if script += last; script != "" {
		calls = append(calls, Call{Argv: nftScript, Input: script})
	}
	return calls
}

// answers returns an error if something that a firewall in use is made of has not answered.
func (in Inspection) answers(used Firewall) error {
	var tools []iptables
	switch f := used.(type) {
	case iptablesFirewall:
		tools = f.tools
	case nftFirewall:
		for _, c := range f.accepts {
			if c.tool.name != "" {
				tools = append(tools, c.tool)
			}
		}
		if in.NFTError != nil {
			return fmt.Errorf("nft does not answer: %w", in.NFTError)
		}
	}
	for _, t := range tools {
		answered := func(known Tool) bool { return known.name == t.name }
		// What iptables-nft cannot read, nft can.
		if !slices.ContainsFunc(in.Tools, answered) && !(in.NFTError == nil && slices.ContainsFunc(in.Silent, func(s Tool) bool { return answered(s) && !s.Legacy })) {
			return fmt.Errorf("%s does not answer", t.name)
		}
	}
	return nil
}
