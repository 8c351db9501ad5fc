//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ourChain holds our rules, in table filter. INPUT's first rule leads to it.
const ourChain = "SESAME"

// iptables is a way to run iptables for one family. The zero value is none, and then nft(8) is meant.
type iptables struct {
	name string // iptables, ip6tables, iptables-legacy and so on
	// restoreWaits is whether the restoring program knows -w and takes the lock: since 1.6.2.
	restoreWaits bool
}

// is4 is whether the tool is for IPv4.
func (t iptables) is4() bool { return !strings.HasPrefix(t.name, "ip6") }

// family is nft's word for it.
func (t iptables) family() string {
	if t.is4() {
		return "ip"
	}
	return "ip6"
}

// argv is a command line of the tool as an argv. Its words are split as iptables-restore does it.
func (t iptables) argv(line string) (argv []string) {
	for i, part := range strings.Split(t.name+" -w "+line, `"`) {
		if i%2 == 1 {
			argv = append(argv, part)
		} else {
			argv = append(argv, strings.Fields(part)...)
		}
	}
	return argv
}

// restore is the command that carries out lines on its standard input, all of them or none.
func (t iptables) restore() []string {
	if t.restoreWaits {
		return []string{t.name + "-restore", "-w", "-n"}
	}
	return []string{t.name + "-restore", "-n"}
}

func tableFilter(lines string) string { return "*filter\n" + lines + "COMMIT\n" }

// iptablesFirewall is our part of the firewall in iptables' language. Hosts need xt_comment, and for what is said of
// connections xt_conntrack. Closing needs the daemon: the kernel does not do it by itself.
type iptablesFirewall struct {
	tools     []iptables // one for each family that the host has
	behind    []int      // behind how many rules of INPUT the one comes that leads to ours, for each tool: bans, which are to hold; nil: first
	displaced bool       // it does not
	// endings are what the host has in store for packets that no rule of its own names, for each tool; nil: not known.
	endings [][]ending
	through []Behind // what must be reached behind this host
}

// place is a chain of ours for what is behind this host, and the one that leads to it.
type place struct{ table, chain, from string }

// places are in the order in which something is opened.
var places = []place{{"filter", ourChain + "-FORWARD", "FORWARD"}, {"nat", ourChain + "-OUT", "POSTROUTING"}, {"nat", ourChain, "PREROUTING"}}

// script carries out lines in the place's table.
func (at place) script(lines string) string { return "*" + at.table + "\n" + lines + "COMMIT\n" }

// removeNAT removes our chains of table nat, all of which are there.
func (t iptables) removeNAT() Call {
	out, in := places[1], places[2]
	remove := func(enter string) string {
		return in.script(fmt.Sprintf(":%s - [0:0]\n:%s - [0:0]\n%s-X %[1]s\n-X %[2]s\n", out.chain, in.chain, enter))
	}
	enter := fmt.Sprintf("-D %s -j %s\n-D %s -j %s\n", out.from, out.chain, in.from, in.chain)
	return Call{Argv: t.restore(), Input: remove(enter), Otherwise: slices.Values([]string{remove("")})}
}

// needed is whether something behind this host is reached over the tool's family.
func (t iptables) needed(behind []Behind) bool {
	return slices.ContainsFunc(behind, func(b Behind) bool { return b.is4() == t.is4() })
}

// placeRules are the rules of a pass in a place.
func (t iptables) placeRules(at place, p Pass) (rules []string) {
	if !p.usable() || p.source().Is4() != t.is4() {
		return nil
	}
	from := fmt.Sprintf("-s %v/%d ", p.source(), p.source().BitLen())
	for _, b := range p.Behind {
		hosts, port := b.target()
		to, more := Knock{port, b.Proto}, ""
		if b.forwarded() {
			more = " -m conntrack --ctstate DNAT"
		}
		switch {
		case !b.fits(p.source()):
		case at.table == "filter":
			rules = append(rules, rule(from+"-d "+hosts.String()+" ", to, more, comment(p.Door), "ACCEPT"))
		case at.from == "POSTROUTING" && b.Masquerade:
			rules = append(rules, rule(from+"-d "+hosts.String()+" ", to, more, comment(p.Door), "MASQUERADE"))
		case at.from == "PREROUTING" && b.At.IsValid() && b.forwarded():
			dnat := rule(from+"-d "+b.At.String()+" ", b.Knock, "", comment(p.Door), "DNAT --to-destination "+b.To.String())
			rules = slices.Insert(rules, 0, dnat) // before those about any address of this host
		case at.from == "PREROUTING" && b.forwarded():
			rules = append(rules, rule(from, b.Knock, " -m addrtype --dst-type LOCAL", comment(p.Door), "DNAT --to-destination "+b.To.String()))
		}
	}
	return rules
}

// allAt are all rules of a place.
func (f iptablesFirewall) allAt(tool int, at place, r Ruleset) (rules []string) {
	t := f.tools[tool]
	for _, p := range r.Open {
		rules = append(rules, t.placeRules(at, p)...)
	}
	if at.table != "filter" {
		return rules
	}
	for _, b := range r.behind() {
		hosts, port := b.target()
		if b.is4() == t.is4() {
			to := rule("-d "+hosts.String()+" ", Knock{port, b.Proto}, " -m conntrack --ctstate RELATED,ESTABLISHED", "sesame: established", "ACCEPT")
			rules = append(rules, to, strings.Replace(strings.Replace(to, "-d ", "-s ", 1), "--dport", "--sport", 1))
		}
	}
	return append(rules, f.strangers(tool, r, true, true)...)
}

// passScript are lines for the rules of a pass in all places, but for those that others have too, and one of them.
func (t iptables) passScript(command string, p Pass, others []Pass) (script, one string) {
	for _, at := range places {
		rules := own(p, others, func(p Pass) []string { return t.placeRules(at, p) })
		if len(rules) == 0 {
			continue
		}
		if one == "" {
			one = fmt.Sprintf("-t %s -C %s %s", at.table, at.chain, rules[0])
		}
		slices.Reverse(rules)                                                       // each is inserted before the one before it
		if lines := at.script(inChain(command, at.chain, rules)); command == "-D" { // the way in first
			script = lines + script
		} else {
			script += lines
		}
	}
	return script, one
}

// refusal is the target for what is hidden on a link: what the host's own rules come to there, or else what its kernel
// does; DROP where that is not known.
func (f iptablesFirewall) refusal(tool int, link string, proto Protocol) string {
	if f.endings == nil {
		return "DROP"
	}
	for _, e := range f.endings[tool] { // those of links come first
		if e.proto == proto && (e.link == link || e.link == "") {
			return e.verdict
		}
	}
	switch {
	case proto == tcp:
		return "REJECT --reject-with tcp-reset"
	case f.tools[tool].is4():
		return "REJECT --reject-with icmp-port-unreachable"
	}
	return "REJECT --reject-with icmp6-port-unreachable"
}

func (f iptablesFirewall) build(r Ruleset) (calls []Call) {
	for i, t := range f.tools {
		var scripts []string
		for _, conntrack := range []bool{true, false} {
			chain := ":" + ourChain + " - [0:0]\n" + inChain("-A", ourChain, f.rules(i, r, conntrack))
			// The rule that leads there has a place already, or none; or bans have gone, and there are not so many rules.
			for _, enter := range []string{f.enter(i), iptablesFirewall{}.enter(i), "-I INPUT 1 -j " + ourChain + "\n"} {
				if script := tableFilter(chain + enter); !slices.Contains(scripts, script) {
					scripts = append(scripts, script)
				}
			}
		}
		calls = append(calls, Call{Argv: t.restore(), Input: scripts[0], Otherwise: slices.Values(scripts[1:])})
		for _, at := range places {
			if t.needed(r.behind()) {
				chain := ":" + at.chain + " - [0:0]\n" + inChain("-A", at.chain, f.allAt(i, at, r))
				enter := fmt.Sprintf("-I %s 1 -j %s\n", at.from, at.chain)
				calls = append(calls, Call{Argv: t.restore(), Input: at.script(chain + "-D" + strings.Replace(enter[2:], " 1", "", 1) + enter),
					Otherwise: slices.Values([]string{at.script(chain + enter)})})
			}
		}
	}
	return calls
}

// enter moves the rule that leads to our chain before everything but bans, whoever has put something before it.
func (f iptablesFirewall) enter(tool int) string {
	n := 1
	if f.behind != nil {
		n += f.behind[tool]
	}
	return fmt.Sprintf("-D INPUT -j %s\n-I INPUT %d -j %[1]s\n", ourChain, n)
}

func (f iptablesFirewall) admit() (calls []Call) {
	for i, t := range f.tools {
		if f.displaced {
			calls = append(calls, Call{Argv: t.restore(), Input: tableFilter(f.enter(i))})
		}
	}
	return calls
}

func (f iptablesFirewall) open(p Pass, others []Pass) (calls []Call) {
	for _, t := range f.tools {
		if rules := t.ownRules(p, others); len(rules) > 0 {
			calls = append(calls, Call{
				Unless: t.argv("-C " + ourChain + " " + rules[0]), // it stands for all: they have come together
				Argv:   t.restore(),
				Input:  tableFilter(inChain("-I", ourChain, rules)),
			})
		}
		if script, one := t.passScript("-I", p, others); script != "" {
			calls = append(calls, Call{Unless: t.argv(one), Argv: t.restore(), Input: script})
		}
	}
	return calls
}

func (f iptablesFirewall) close(p Pass, others []Pass) (calls []Call) {
	for _, t := range f.tools {
		if rules := t.ownRules(p, others); len(rules) > 0 {
			calls = append(calls, Call{Argv: t.restore(), Input: tableFilter(inChain("-D", ourChain, rules))})
		}
		if script, _ := t.passScript("-D", p, others); script != "" {
			calls = append(calls, Call{Argv: t.restore(), Input: script})
		}
	}
	return calls
}

// isBuilt is whether our chain, as a tool has listed it, holds what it must.
func (f iptablesFirewall) isBuilt(tool int, r Ruleset, chain string) bool {
	return slices.ContainsFunc([]bool{true, false}, func(able bool) bool {
		return normalForm(chain) == normalForm(inChain("-A", ourChain, f.rules(tool, r, able)))
	})
}

// rules are all rules of our chain for a tool's family, in the order in which they must stand. A kernel that is not able
// has no conntrack, or refuses nothing: there is no rule about connections then, and hidden UDP ports are closed for all
// packets: better a connection that ends than a port that is open.
func (f iptablesFirewall) rules(tool int, r Ruleset, able bool) (rules []string) {
	t := f.tools[tool]
	for _, p := range r.Open {
		rules = append(rules, t.passRules(p)...)
	}
	for _, k := range r.Kept {
		if able {
			rules = append(rules, rule("", k, " -m conntrack --ctstate ESTABLISHED", "sesame: established", "ACCEPT"))
		}
	}
	return append(rules, f.strangers(tool, r, false, able)...)
}

// strangers are the rules for all who are not in. routed says that they are about hosts that are routed here.
func (f iptablesFirewall) strangers(tool int, r Ruleset, routed, able bool) (rules []string) {
	t := f.tools[tool]
	for _, h := range r.Hidden {
		for _, except := range prefixes(h.Except, t.is4()) {
			from := "-s " + except.String() + " "
			if except.Bits() == 0 {
				from = "" // as -S prints it
			}
			rules = append(rules, t.hiddenRules(h, routed, from, "", "", func(string, Protocol) string { return "RETURN" })...)
		}
	}
	stray := " -m conntrack ! --ctstate RELATED,ESTABLISHED"
	if !able {
		stray, f.endings = "", nil
	}
	refusal := func(link string, proto Protocol) string {
		if routed {
			return "DROP"
		}
		return f.refusal(tool, link, proto)
	}
	for _, h := range r.Hidden {
		rules = append(rules, t.hiddenRules(h, routed, "", " --tcp-flags RST,ACK NONE", stray, refusal)...)
	}
	return rules
}

// hiddenRules are rules for each of the hidden ports on each link.
func (t iptables) hiddenRules(h Hidden, routed bool, from, moreTCP, moreUDP string, target func(link string, proto Protocol) string) (rules []string) {
	for _, b := range h.Behind {
		if b.forwarded() != routed && b.is4() == t.is4() {
			at := Hidden{Door: h.Door, Ports: []Knock{b.Knock}, Links: h.Links}
			rules = append(rules, t.hiddenRules(at, false, from+"-d "+b.At.String()+" ", moreTCP, moreUDP, target)...)
		}
	}
	if routed {
		return rules
	}
	links := h.Links
	if len(links) == 0 {
		links = []string{""}
	}
	for _, link := range links {
		match := "! -i lo "
		if prefix, pattern := strings.CutSuffix(link, everyInterface); pattern {
			match = "-i " + prefix + "+ "
		} else if link != "" {
			match = "-i " + link + " "
		}
		for _, k := range h.Ports {
			more := moreTCP
			if k.Proto == udp {
				more = moreUDP
			}
			rules = append(rules, rule(from+match, k, more, comment(h.Door), target(link, k.Proto)))
		}
	}
	return rules
}

// passRules are the rules of a pass, if it is one of the tool's family.
func (t iptables) passRules(p Pass) (rules []string) {
	if !p.usable() || p.source().Is4() != t.is4() {
		return nil
	}
	from := fmt.Sprintf("-s %v/%d ", p.source(), p.source().BitLen())
	if p.link() != "" {
		from += "-i " + p.link() + " "
	}
	for _, k := range p.Ports {
		rules = append(rules, rule(from, k, "", comment(p.Door), "ACCEPT"))
	}
	return rules
}

// ownRules are those rules of a pass that none of the others has too, as another opening of the same door may.
func (t iptables) ownRules(p Pass, others []Pass) []string {
	return own(p, others, t.passRules)
}

func own(p Pass, others []Pass, rulesOf func(Pass) []string) (own []string) {
	for _, rule := range rulesOf(p) {
		if !slices.ContainsFunc(others, func(o Pass) bool { return slices.Contains(rulesOf(o), rule) }) {
			own = append(own, rule)
		}
	}
	return own
}

// rule is a rule in the form and order of words in which iptables -S prints it.
func rule(from string, k Knock, more, comment, target string) string {
	return fmt.Sprintf(`%s-p %v -m %v --dport %d%s -m comment --comment "%s" -j %s`, from, k.Proto, k.Proto, k.Port, more, comment, target)
}

// inChain are lines that add (-A), insert at the first place (-I) or delete (-D) rules of a chain.
func inChain(command, chain string, rules []string) string {
	var s strings.Builder
	for _, rule := range rules {
		s.WriteString(command + " " + chain + " " + rule + "\n")
	}
	return s.String()
}

// normalForm is what counts of the rules of our chain, a line for each, sorted: for whom, for which port, and what is done.
// How iptables prints the rest of a rule depends on its version.
func normalForm(rules string) string {
	var lines []string
	for _, line := range strings.Split(rules, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "-A" {
			continue
		}
		kept := ""
		for i, w := range words[:len(words)-1] {
			next := words[i+1]
			switch w {
			case "-s", "-d":
				if p, err := netip.ParsePrefix(next); err == nil { // ::192.0.2.7 can be written in two ways
					next = p.String()
				}
				kept += w + next + " "
			case "-i", "-p", "--dport", "--sport", "-j", "--to-destination":
				kept += next + " "
			}
		}
		lines = append(lines, kept)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
