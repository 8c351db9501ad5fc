//go:build linux

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// flush is a list of calls that remove every trace of ours from what was seen, but for those that keep needs. With no
// trace it is empty. keep may be nil.
func flush(in Inspection, keep Firewall) (calls []Call) {
	ipt, _ := keep.(iptablesFirewall)
	nft, _ := keep.(nftFirewall)
	stays := func(rule string) bool { return nft.mark != 0 && strings.Contains(rule, nft.acceptComment()) }
	for _, tool := range in.Tools {
		var lines string
		chain := false
		for _, line := range strings.Split(tool.Rules, "\n") {
			line = strings.TrimSpace(line)
			plain := strings.ReplaceAll(line, `"`, "") // older versions quote each comment
			switch {
			case plain == "-N "+ourChain:
				chain = !slices.Contains(ipt.tools, tool.iptables)
			case strings.HasPrefix(plain, "-A ") && strings.HasSuffix(plain, " -j "+ourChain) && !slices.Contains(ipt.tools, tool.iptables),
				strings.HasPrefix(plain, "-A INPUT ") && strings.Contains(plain, "--comment "+acceptComment) && !stays(plain):
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
	script := ""
	if nft.mark == 0 && strings.Contains(in.NFT, "table inet sesame {") {
		script = "delete table inet sesame\n"
	}
	for _, c := range in.chains() {
		for _, rule := range c.rules {
			_, handle, found := strings.Cut(rule, "# handle ")
			if found && c.tool.name == "" && strings.Contains(rule, `accept comment "`+acceptComment) && !stays(rule) {
				script += fmt.Sprintf("delete rule %s %s %s handle %s\n", c.family, c.table, c.name, handle)
			}
		}
	}
	if script != "" {
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
		if !slices.ContainsFunc(in.Tools, func(known Tool) bool { return known.name == t.name }) {
			return fmt.Errorf("%s does not answer", t.name)
		}
	}
	return nil
}

// chainsThatDrop are the input chains that can drop: by their policy, by a rule, or in a chain that a rule leads to.
func chainsThatDrop(all []chain) (found []chain) {
	for _, c := range all {
		if c.input && canDrop(c, all, map[string]bool{ourChain: true}) {
			found = append(found, c)
		}
	}
	return found
}

func canDrop(c chain, all []chain, seen map[string]bool) bool {
	seen[c.name] = true
	if strings.EqualFold(c.policy, "drop") {
		return true
	}
	for _, rule := range c.rules {
		words := strings.FieldsFunc(unquoted(rule), func(r rune) bool { return strings.ContainsRune(" \t,;{}", r) })
		for i, w := range words {
			switch w {
			case "drop", "reject", "DROP", "REJECT", "TARPIT", "NFQUEUE", "queue":
				return true
			case "vmap": // of a map by name we do not see the contents
				if i+1 < len(words) && strings.HasPrefix(words[i+1], "@") {
					return true
				}
			case "jump", "goto", "-j", "-g":
				for _, to := range all {
					if i+1 < len(words) && to.name == words[i+1] && to.family == c.family && to.table == c.table &&
						to.origin == c.origin && !seen[to.name] && canDrop(to, all, seen) {
						return true
					}
				}
			}
		}
	}
	return false
}

// Choice is the firewall that fits the host.
type Choice struct {
	Firewall
	Reason   string   // in words
	Warnings []string // what will not work as one might think
}

// nothingDrops is why it does not matter which firewall is taken, and why a door without Hide protects nothing.
const nothingDrops = "no chain can drop packets to this host"

// chooseFirewall takes the tool that the chains which can drop are written in, or the one that option (auto, iptables or
// nft) names. mark is the bit for nft.
func chooseFirewall(option string, in Inspection, mark uint32) (c Choice, err error) {
	var nft, ipt []chain
	for _, d := range chainsThatDrop(in.chains()) {
		switch {
		case d.priority <= ourPriority:
			c.Warnings = append(c.Warnings, fmt.Sprintf("%v comes so early (priority %d) that it can drop what sesame lets in", d, d.priority))
		case d.tool.name != "":
			ipt = append(ipt, d)
		default:
			nft = append(nft, d)
		}
	}
	tools, agree := in.toolsFor(ipt)
	if err := in.lacks(option, tools); err != nil {
		return c, err
	}
	reason := "the configuration says so"
	if option != "nft" && option != "iptables" {
		option, reason = in.preferred(nft, ipt, agree)
	}
	c.Reason = option + ": " + reason
	if option == "nft" {
		c.Firewall, err = in.nftFirewall(mark, slices.Concat(nft, ipt))
		return c, err
	}
	c.Firewall = iptablesFirewall{tools}
	for _, d := range nft {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%v can drop what iptables lets in: Firewall = nft would put a rule there", d))
	}
	if !agree {
		c.Warnings = append(c.Warnings, "two kinds of iptables can drop here, and only one is used")
	}
	if len(tools) == 1 && !(tools[0].is4() && in.NoIPv6) {
		c.Warnings = append(c.Warnings, fmt.Sprintf("only %s works here: the other family's packets are let through", tools[0].name))
	}
	return c, nil
}

// lacks is why nothing can be chosen here, if that is so.
func (in Inspection) lacks(option string, tools []iptables) error {
	switch {
	case in.Unknown != nil:
		return fmt.Errorf("reading the firewall's rules: %w", in.Unknown)
	case in.NFTError != nil && len(tools) == 0:
		return errors.New("neither nft nor iptables works here: install one of them (apt install nftables; opkg install nftables)")
	case option == "nft" && in.NFTError != nil:
		return fmt.Errorf("Firewall = nft: nft does not work here: %w", in.NFTError)
	case option == "iptables" && len(tools) == 0:
		return errors.New("Firewall = iptables: iptables does not work here: install it, or write Firewall = auto")
	}
	return nil
}

// preferred is the option that auto stands for, and why. nft and ipt are the chains that can drop; agree is that of
// toolsFor.
func (in Inspection) preferred(nft, ipt []chain, agree bool) (option, reason string) {
	switch {
	case in.NFTError != nil:
		return "iptables", "nft does not work here"
	case len(ipt)+len(nft) == 0:
		return "nft", nothingDrops
	case len(nft) == 0 && agree:
		return "iptables", describeChains(ipt) + " can drop, and its rules are iptables'"
	case len(ipt) == 0:
		return "nft", describeChains(nft) + " can drop, and its rules are nft's"
	}
	return "nft", describeChains(slices.Concat(nft, ipt)) + " can drop, in rules of different kinds"
}

// nftFirewall is the one that has a rule in each chain that can drop.
func (in Inspection) nftFirewall(mark uint32, drop []chain) (Firewall, error) {
	f := nftFirewall{mark: mark}
	for _, d := range drop {
		switch {
		case d.owned:
			return nil, fmt.Errorf("%v lets no other program change it (flags owner): with firewalld write NftablesTableOwner=no in "+
				"/etc/firewalld/firewalld.conf and run firewall-cmd --reload, or open by firewall-cmd in Start_Command", d)
		case d.tool.name == "" && in.madeByIptables(d):
			return nil, fmt.Errorf("iptables has made %v, and nft's rules would do harm there: install iptables", d)
		}
		f.accepts = append(f.accepts, d.acceptChain)
	}
	return f, nil
}

// madeByIptables is whether nft says so. It does where a table has matches that are not nft's own.
func (in Inspection) madeByIptables(c chain) bool {
	return strings.Contains(in.NFT, "table "+c.family+" "+c.table+" is managed by iptables-nft") ||
		c.table == "filter" && c.name == "INPUT" && slices.ContainsFunc(c.rules, func(r string) bool { return strings.Contains(unquoted(r), " xt ") })
}

// toolsFor is one tool for each family that has any: that of the chains, or else the usual one, but rather one of the
// same kind as the chains of the other family. agree is false where the chains of a family are of two kinds.
func (in Inspection) toolsFor(chains []chain) (tools []iptables, agree bool) {
	agree = true
	for _, is4 := range []bool{true, false} {
		best, merit := iptables{}, 0
		for _, t := range in.Tools {
			m := 0
			switch made := func(c chain) bool { return c.tool == t.iptables }; {
			case t.is4() != is4:
				continue
			case slices.ContainsFunc(chains, made):
				m = 3
			case slices.ContainsFunc(chains, func(c chain) bool { return c.tool.is4() != is4 && in.legacy(c.tool) == t.Legacy }):
				m = 2
			default:
				m = 1
			}
			agree = agree && !(m == 3 && merit == 3)
			if m > merit {
				best, merit = t.iptables, m
			}
		}
		if merit > 0 {
			tools = append(tools, best)
		}
	}
	return tools, agree
}

func (in Inspection) legacy(tool iptables) bool {
	return slices.ContainsFunc(in.Tools, func(t Tool) bool { return t.iptables == tool && t.Legacy })
}

func describeChains(chains []chain) string {
	var s []string
	for _, c := range chains {
		s = append(s, c.String())
	}
	return strings.Join(s, " and ")
}
