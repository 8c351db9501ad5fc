package main

import (
	"net/netip"
	"slices"
	"strconv"
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

func (t iptables) argv(args ...string) []string { return append([]string{t.name, "-w"}, args...) }

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
	tools []iptables // one for each family that the host has
}

func (f iptablesFirewall) tool(is4 bool) (tool iptables, ok bool) {
	i := slices.IndexFunc(f.tools, func(t iptables) bool { return t.is4() == is4 })
	if i < 0 {
		return iptables{}, false
	}
	return f.tools[i], true
}

func (f iptablesFirewall) build(r Ruleset) (calls []Call) {
	const empty, enter = ":" + ourChain + " - [0:0]\n", "-I INPUT 1 -j " + ourChain + "\n"
	// Taken out and put in, the rule is the first one again, whoever has put something before it.
	const enterAgain = "-D INPUT -j " + ourChain + "\n" + enter
	for _, t := range f.tools {
		calls = append(calls, Call{
			Unless: t.argv("-C", "INPUT", "-j", ourChain),
			Argv:   t.restore(),
			Input:  tableFilter(empty + enter),
		}, Call{
			Argv:      t.restore(),
			Input:     tableFilter(empty + rulesText(t.rules(r, true)) + enterAgain),
			Otherwise: tableFilter(empty + rulesText(t.rules(r, false)) + enterAgain),
		})
	}
	return calls
}

func (f iptablesFirewall) open(p Pass, _ []Pass) []Call {
	return f.change(p, "-I "+ourChain+" 1", true)
}

func (f iptablesFirewall) close(p Pass, _ []Pass) []Call { return f.change(p, "-D "+ourChain, false) }

// change carries out the command for all rules of a pass at once, unless they are there.
func (f iptablesFirewall) change(p Pass, command string, unless bool) []Call {
	t, ok := f.tool(p.source().Is4())
	rules := t.passRules(p)
	if !ok || len(rules) == 0 {
		return nil
	}
	var lines string
	for _, rule := range rules {
		lines += command + " " + strings.Join(quoteWords(rule), " ") + "\n"
	}
	call := Call{Argv: t.restore(), Input: tableFilter(lines)}
	if unless {
		call.Unless = t.argv(append([]string{"-C", ourChain}, rules[0]...)...)
	}
	return []Call{call}
}

func (f iptablesFirewall) present(r Ruleset) (calls []Call) {
	for _, t := range f.tools {
		full, less := essence(rulesText(t.rules(r, true))), essence(rulesText(t.rules(r, false)))
		calls = append(calls, Call{
			Argv: t.argv("-C", "INPUT", "-j", ourChain),
		}, Call{
			Argv: t.argv("-S", ourChain),
			Holds: func(output string) bool {
				got := essence(output)
				return slices.Equal(got, full) || slices.Equal(got, less)
			},
		})
	}
	return calls
}

// rules are all rules of our chain for the tool's family, in the order in which they must stand. Without conntrack
// there is none about connections, and hidden UDP ports are closed for all packets: better a connection that ends than
// a port that is open.
func (t iptables) rules(r Ruleset, conntrack bool) (rules [][]string) {
	for _, p := range r.Open {
		if p.source().Is4() == t.is4() {
			rules = append(rules, t.passRules(p)...)
		}
	}
	for _, k := range r.Kept {
		if conntrack {
			rules = append(rules, rule(nil, k, []string{"-m", "conntrack", "--ctstate", "ESTABLISHED"}, "sesame: established", "ACCEPT"))
		}
	}
	for _, h := range r.Hidden {
		for _, except := range prefixes(h.Except, t.is4()) {
			for _, link := range linkMatches(h.Links) {
				if except.Bits() > 0 { // -S leaves out a prefix that says nothing
					link = append([]string{"-s", except.String()}, link...)
				}
				for _, k := range h.Ports {
					rules = append(rules, rule(link, k, nil, comment(h.Door), "RETURN"))
				}
			}
		}
	}
	for _, h := range r.Hidden {
		for _, link := range linkMatches(h.Links) {
			for _, k := range h.Ports {
				var first []string
				switch {
				case k.Proto == tcp:
					first = []string{"--tcp-flags", "FIN,SYN,RST,ACK", "SYN"}
				case conntrack:
					first = []string{"-m", "conntrack", "--ctstate", "NEW"}
				}
				rules = append(rules, rule(link, k, first, comment(h.Door), "DROP"))
			}
		}
	}
	return rules
}

func (t iptables) passRules(p Pass) (rules [][]string) {
	if !p.usable() {
		return nil
	}
	from := []string{"-s", netip.PrefixFrom(p.source(), p.source().BitLen()).String()}
	if p.link() != "" {
		from = append(from, "-i", p.link())
	}
	for _, k := range p.Ports {
		rules = append(rules, rule(from, k, nil, comment(p.Door), "ACCEPT"))
	}
	return rules
}

// rule is one rule in the form and order of words in which iptables -S prints it.
func rule(from []string, k Knock, more []string, comment, target string) []string {
	proto := k.Proto.String()
	return slices.Concat(from, []string{"-p", proto, "-m", proto, "--dport", strconv.Itoa(int(k.Port))}, more,
		[]string{"-m", "comment", "--comment", comment, "-j", target})
}

func linkMatches(links []string) (matches [][]string) {
	if len(links) == 0 {
		return [][]string{{"!", "-i", "lo"}}
	}
	for _, link := range links {
		matches = append(matches, []string{"-i", link})
	}
	return matches
}

func rulesText(rules [][]string) string {
	var s strings.Builder
	for _, rule := range rules {
		s.WriteString("-A " + ourChain + " " + strings.Join(quoteWords(rule), " ") + "\n")
	}
	return s.String()
}

// essence is what counts of the rules of our chain, sorted: for whom, for which port, and what is done. How iptables
// prints the rest of a rule depends on its version.
func essence(rules string) (lines []string) {
	for line := range strings.Lines(rules) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "-A" {
			continue
		}
		var kept []string
		for i, w := range words[:len(words)-1] {
			next := words[i+1]
			switch w {
			case "-s":
				if p, err := netip.ParsePrefix(next); err == nil { // ::192.0.2.7 can be written in two ways
					next = p.String()
				}
				kept = append(kept, next)
			case "-i", "-p", "--dport", "-j":
				kept = append(kept, next)
			}
		}
		lines = append(lines, strings.Join(kept, " "))
	}
	slices.Sort(lines)
	return lines
}
