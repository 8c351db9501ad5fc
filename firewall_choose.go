//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// Choice is the firewall that hides, and lets in who has knocked.
type Choice struct {
	Firewall
	Reason   string   // in words
	Warnings []string // what will not work as one might think, and the remedy
	idle     bool     // the host's own rules stop nobody, but for bans, so that a door without Hide protects nothing
	unsure   bool     // something could not be looked at now
	// inputOnly is that nft hides nothing of what is forwarded, as the kernel cannot do that.
	inputOnly bool
	// noForwards is that it forwards nothing, for the same reason.
	noForwards bool
}

// String is which firewall it is, and why.
func (c Choice) String() string {
	if c.idle {
		return c.Reason + "; " + nothingDrops
	}
	return c.Reason
}

// nothingDrops is why a door without Hide protects nothing.
const nothingDrops = "no rule of this host closes a port"

// fit is the choice for a host that has been looked at: with accepts of ours in each of its chains that can drop what we
// let in. What hides does not depend on it.
func (c Choice) fit(in Inspection, r Ruleset) Choice {
	f, isNFT := c.Firewall.(nftFirewall)
	if isNFT && in.Unknown == nil {
		in.Unknown = in.NFTError
	}
	c.Warnings, c.unsure = nil, in.Unknown != nil
	switch {
	case c.unsure: // what we have stays
		c.warn("the host's rules could not be read: %v: if they drop what sesame lets in, knocking does not help", in.Unknown)
	case isNFT:
		c.fitNFT(f, in, r.behind())
	default:
		c.fitIptables(c.Firewall.(iptablesFirewall), in, r)
	}
	return c
}

// expectForwards has what is hidden be so although others may forward it, until the host is looked at.
func (c *Choice) expectForwards() {
	if f, isNFT := c.Firewall.(nftFirewall); isNFT {
		f.plain = false
		c.Firewall = f
	}
}

func (c *Choice) warn(format string, a ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, a...))
}

func (c *Choice) fitNFT(f nftFirewall, in Inspection, behind []Behind) {
	host, quiet := newHostRules(in.chains(), f.mark), true
	bases, asking := host.bases(f.ours, false), []base(nil)
	f.accepts, f.passes, c.idle = nil, len(behind) > 0, true
	routes := slices.ContainsFunc(behind, func(b Behind) bool { return !b.forwarded() })
	for _, d := range bases {
		if d.hook == "input" {
			c.idle, quiet = c.idle && d.can&drops == 0, quiet && d.can&(drops|bans) == 0
		} else if f.passes = f.passes && d.can&drops == 0; len(behind) == 0 || d.owned && !routes && slices.ContainsFunc(d.rules, letsTranslated) {
			continue // firewalld lets nobody change its chain, which lets in what we forward
		}
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
			asking = append(asking, d)
		}
	}
	for _, d := range bases {
		if i := slices.IndexFunc(asking, d.changesMark); i >= 0 {
			c.warn("%v changes the bit 0x%08x of packets' marks before %v asks for it: who has knocked may stay out, and others may get in: "+
				"choose a bit by Firewall_Mark that its rules leave alone", d, f.mark, asking[i])
		}
	}
	if c.inputOnly && in.NAT > 0 {
		c.warn("hidden ports that this host forwards (docker -p, a redirect) are open, as the kernel cannot tell its own addresses: it needs the " +
			"module nft_fib_inet (opkg install kmod-nft-fib), and sesame a reload")
	}
	if c.noForwards {
		c.warn("nobody gets in by doors with ->, as the kernel cannot translate addresses for nft: it needs the module nft_fib_inet " +
			"(opkg install kmod-nft-fib) and Linux 5.2, and sesame a reload; or install iptables")
	}
	f.plain, f.endings = quiet && in.NAT == 0, host.endings(func(_ chain, translated bool) bool { return translated })
	c.Firewall = f
}

// changesMark is whether rules of a chain change the mark after our chain of its hook has set it, and before asking, which
// may be the same chain, asks for it.
func (d base) changesMark(asking base) bool {
	if d.String() == asking.String() {
		return d.marked
	}
	alike := d.hook == asking.hook && (d.family == asking.family || d.family == "inet" || asking.family == "inet")
	return alike && d.can&marks != 0 && d.priority >= ourPriority && d.priority <= asking.priority
}

// letsTranslated is whether a rule lets in all that was translated, on any link.
func letsTranslated(rule string) bool {
	r := readRule(rule)
	return r.translated && r.links == nil
}

func (c *Choice) fitIptables(f iptablesFirewall, in Inspection, r Ruleset) {
	host := newHostRules(in.chains(), 0)
	all := host.bases(func(rule string) bool { return strings.HasSuffix(rule, "-j "+ourChain) }, true)
	all = slices.DeleteFunc(all, func(d base) bool { return d.hook != "input" })
	inputs := slices.DeleteFunc(slices.Clone(all), func(d base) bool { return d.can&drops == 0 })
	f, c.idle = iptablesFirewall{tools: slices.Clone(f.tools), through: r.behind()}, len(inputs) == 0
	for i, t := range f.tools {
		// Of two kinds of iptables it is the one whose chain drops.
		same := func(d base) bool { return d.tool.name != "" && d.tool.is4() == t.is4() }
		if other := slices.IndexFunc(inputs, same); other >= 0 && !slices.ContainsFunc(inputs, func(d base) bool { return d.tool == t }) {
			f.tools[i] = inputs[other].tool
		}
		behind := 0
		for _, d := range all {
			if d.tool == f.tools[i] {
				behind, f.displaced = d.behind, f.displaced || max(d.at, 0) != d.behind
			}
		}
		f.behind = append(f.behind, behind)
		f.endings = append(f.endings, host.endings(func(c chain, _ bool) bool { return c.origin == f.tools[i].name }))
	}
	for _, d := range inputs {
		if !slices.Contains(f.tools, d.tool) {
			c.warn("%v can drop what iptables lets in: with nft installed, and without Firewall = iptables, it would get a rule for that", d)
		}
	}
	if len(f.tools) == 1 && !(f.tools[0].is4() && in.NoIPv6) {
		c.warn("only %s works here: the other family's packets are let through", f.tools[0].name)
	}
	if in.NAT > 0 && len(r.Hidden) > 0 {
		c.warn("hidden ports that others forward (docker -p, a redirect) are open, as iptables hides only what comes to this host itself: " +
			"with nft installed, and without Firewall = iptables, they would be hidden")
	}
	for _, t := range in.Silent {
		if slices.Contains(f.tools, t.iptables) {
			c.warn("%s cannot read its table, as nft has changed it: what is hidden may be open: install nft, and write Firewall = auto", t.name)
		}
	}
	c.Firewall = f
}

// madeByIptables is whether nft says so. It does where a table has matches that are not nft's own.
func (in Inspection) madeByIptables(c chain) bool {
	return strings.Contains(in.NFT.other, "table "+c.family+" "+c.table+" is managed by iptables-nft") ||
		c.table == "filter" && c.name == strings.ToUpper(c.hook) && slices.ContainsFunc(c.rules, func(r string) bool { return slices.Contains(ruleWords(r), "xt") })
}

// flush is a list of calls that remove every trace of ours from what was seen, but for those that keep needs. With no
// trace it is empty. keep may be nil. mark is our bit: where nft has restored our accept of iptables', the comment is gone.
func flush(in Inspection, mark uint32, keep Firewall) (calls []Call) {
	ipt, _ := keep.(iptablesFirewall)
	nft, _ := keep.(nftFirewall)
	bare := fmt.Sprintf(" -m mark --mark 0x%x/0x%x -j ACCEPT", mark, mark)
	for _, tool := range in.Tools {
		lines, ours, declared, forward := "", slices.Contains(ipt.tools, tool.iptables), false, false
		through := places[0].chain
		forwards := ours && tool.needed(ipt.through)
		for _, c := range tool.Rules.chains {
			stays := slices.ContainsFunc(nft.accepts, func(a acceptChain) bool { return a.tool == tool.iptables && a.name == c.name })
			declared, forward = declared || c.name == ourChain, forward || c.name == through
			for _, line := range c.rules {
				plain := strings.ReplaceAll(line, `"`, "") // older versions quote each comment
				if c.hook != "" && plain == "-A "+c.name+bare || !ours && strings.HasSuffix(plain, " -j "+ourChain) || !forwards && strings.HasSuffix(plain, " -j "+through) ||
					c.hook != "" && strings.Contains(plain, "--comment "+acceptComment) && !(stays && nft.ours(plain)) {
					lines += "-D" + strings.TrimPrefix(line, "-A") + "\n"
				}
			}
		}
		if declared && !ours { // Declared, it is emptied; then it can be removed, as nothing refers to it any more.
			lines = ":" + ourChain + " - [0:0]\n" + lines + "-X " + ourChain + "\n"
		}
		if forward && !forwards {
			lines = ":" + through + " - [0:0]\n" + lines + "-X " + through + "\n"
		}
		if tool.NAT && !forwards {
			calls = append(calls, tool.removeNAT())
		}
		if lines != "" {
			calls = append(calls, Call{Argv: tool.restore(), Input: tableFilter(lines)})
		}
	}
	script, last := "", ""
	if nft.mark == 0 && slices.Contains(in.NFT.tables, ourTable) {
		script = "delete table inet sesame\n"
	}
	for _, c := range in.chains() {
		if c.origin != "" {
			continue
		}
		tool, _ := toolOf(in.Silent, c.acceptChain)
		unread := c.unread && !slices.Contains(ipt.tools, tool)
		if c.name == places[0].chain && unread {
			calls = append(calls, tool.removeNAT())
		}
		if (c.name == ourChain || c.name == places[0].chain) && unread { // as nft restores it
			last += fmt.Sprintf("flush chain %s %s %s\ndelete chain %[1]s %[2]s %[3]s\n", c.family, c.table, c.name)
		}
		stays := slices.IndexFunc(nft.accepts, func(a acceptChain) bool { return a.table == c.table && a.family == c.family && a.name == c.name })
		for _, rule := range c.rules {
			_, handle, found := strings.Cut(rule, "# handle ")
			accept := strings.Contains(rule, `accept comment "`+acceptComment) || c.unread && nftFirewall{mark: mark}.ours(rule)
			switch {
			case !found:
			case accept && (c.tool.name == "" || stays < 0) && !(stays >= 0 && nft.ours(rule) && nft.accepts[stays].placed),
				unread && (readRule(rule).to == ourChain || readRule(rule).to == places[0].chain):
				script += fmt.Sprintf("delete rule %s %s %s handle %s\n", c.family, c.table, c.name, handle)
			}
		}
	}
	if script += last; script != "" {
		calls = append(calls, Call{Argv: nftScript, Input: script})
	}
	return calls
}
