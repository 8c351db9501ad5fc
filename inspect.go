//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// inspectLimit is how long one command may take to look at the firewall. Who holds its lock for ever must not hold up
// everything.
const inspectLimit = 5 * time.Second

// Inspection is what the host's firewall looks like.
type Inspection struct {
	// NFT is what nft -a -s -t list ruleset has printed, standard error too, where iptables' tables are named.
	NFT      string
	NFTError error  // nft is not there or does not work
	Tools    []Tool // each iptables that works, the usual one of a family first
	NoIPv6   bool   // the host has no IPv6
	Unknown  error  // of a tool that works the rules could not be read now
}

// Tool is one iptables of a host.
type Tool struct {
	iptables
	Legacy bool   // it has tables of its own in the kernel, which nft does not see
	Rules  string // of iptables -S
}

// inspectHost looks at the firewall of this host.
func inspectHost() Inspection {
	return inspect(func(argv ...string) (string, error) {
		stdout, stderr, err := execute(argv, "", inspectLimit)
		return stdout + stderr, err
	}, func(name string) string {
		text, _ := os.ReadFile(name)
		return string(text)
	})
}

// inspect looks at the firewall by commands that change no rule. run returns what a command has printed, on standard
// error too; an error, if its exit status is not 0. file returns what stands in a file; "", if there is none.
func inspect(ask func(argv ...string) (string, error), file func(name string) string) (in Inspection) {
	run := func(argv ...string) (string, error) {
		out, err := ask(argv...)
		// iptables(8): 4 is for a resource that is not to be had, such as the lock.
		if errors.Is(err, errTooLong) || errors.Is(err, errTooMuch) || statusOf(err) == 4 {
			in.Unknown = err
		}
		return out, err
	}
	if in.NFT, in.NFTError = run("nft", "-a", "-s", "-t", "list", "ruleset"); in.NFTError != nil {
		in.NFT, in.NFTError = run("nft", "-a", "list", "ruleset") // before 0.9.1
	}
	_, err := run("ip6tables", "--version")
	in.NoIPv6 = err != nil && file("/proc/net/if_inet6") == ""
	for _, family := range []string{"ip", "ip6"} {
		usual, ok := inspectTool(run, family+"tables")
		if ok {
			in.Tools = append(in.Tools, usual)
		}
		// To ask iptables-legacy makes its table, where there is none.
		if (!ok || !usual.Legacy) && strings.Contains(file("/proc/net/"+family+"_tables_names"), "filter") {
			if t, ok := inspectTool(run, family+"tables-legacy"); ok {
				in.Tools = append(in.Tools, t)
			}
		}
		if (!ok || usual.Legacy) && strings.Contains(in.NFT, "table "+family+" filter {") {
			if t, ok := inspectTool(run, family+"tables-nft"); ok {
				in.Tools = append(in.Tools, t)
			}
		}
	}
	return in
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

func inspectTool(run func(argv ...string) (string, error), name string) (t Tool, ok bool) {
	version, err := run(name, "--version") // iptables v1.8.9 (nf_tables)
	if err != nil {
		return t, false
	}
	t.iptables = iptables{name, restoreWaits(version)}
	t.Legacy = !strings.Contains(version, "(nf_tables)")
	t.Rules, err = run(t.argv("-S")...)
	return t, err == nil
}

func restoreWaits(version string) bool {
	_, number, _ := strings.Cut(version, " v")
	number, _, _ = strings.Cut(strings.TrimSpace(number), " ")
	var n [3]int
	for i, s := range strings.SplitN(number, ".", 3) {
		n[i], _ = strconv.Atoi(s)
	}
	return slices.Compare(n[:], []int{1, 6, 2}) >= 0
}

// chain is a chain of the host's.
type chain struct {
	acceptChain
	origin   string // "": nft's list, else the iptables that has printed it
	input    bool   // a base chain for packets to this host
	priority int
	owned    bool // one program alone may change it (flags owner)
	rules    []string
	policy   string
}

// chains are those of all tools that look at packets to this host, without our own.
func (in Inspection) chains() (all []chain) {
	for _, t := range in.Tools {
		if t.Legacy || in.NFTError != nil { // nft lists the others
			all = append(all, t.chains()...)
		}
	}
	if in.NFTError != nil {
		return all
	}
	var table acceptChain
	owned := false
	var c *chain
	for _, line := range strings.Split(in.NFT, "\n") {
		indent := len(line) - len(strings.TrimLeft(line, "\t"))
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case line == "":
		case indent == 0 && words[0] == "table" && len(words) > 2:
			table, owned = acceptChain{family: words[1], table: words[2]}, false
		case indent == 1 && strings.HasPrefix(line, "flags ") && strings.Contains(line, "owner"):
			owned = true
		case indent == 1 && words[0] == "chain" && len(words) > 1 &&
			slices.Contains([]string{"ip", "ip6", "inet"}, table.family) && table != acceptChain{family: "inet", table: "sesame"}:
			all = append(all, chain{acceptChain: table, owned: owned})
			c = &all[len(all)-1]
			c.name = words[1]
		case indent <= 1:
			c = nil
		case c != nil && words[0] == "type" && len(words) > 3 && words[2] == "hook":
			c.input = words[3] == "input"
			_, priority, _ := strings.Cut(line, " priority ")
			priority, _, _ = strings.Cut(priority, ";")
			c.priority = parsePriority(priority)
			if strings.Contains(line, "policy drop") {
				c.policy = "drop"
			}
			if c.input && c.table == "filter" && c.name == "INPUT" {
				c.tool = in.tool(c.family)
			}
		case c != nil:
			c.rules = append(c.rules, line)
		}
	}
	return all
}

// tool is the iptables that has made, and can change, table filter of an nft family; none if there is no such.
func (in Inspection) tool(family string) iptables {
	for _, t := range in.Tools {
		if !t.Legacy && t.is4() == (family == "ip") && family != "inet" {
			return t.iptables
		}
	}
	return iptables{}
}

// chains reads what iptables -S has printed.
func (t Tool) chains() (all []chain) {
	family := "ip6"
	if t.is4() {
		family = "ip"
	}
	for _, line := range strings.Split(t.Rules, "\n") {
		words := strings.Fields(line)
		if len(words) < 2 || !slices.Contains([]string{"-P", "-N", "-A"}, words[0]) {
			continue
		}
		i := slices.IndexFunc(all, func(c chain) bool { return c.name == words[1] })
		if i < 0 {
			i = len(all)
			all = append(all, chain{acceptChain: acceptChain{family, "filter", words[1], t.iptables}, origin: t.name, input: words[1] == "INPUT"})
		}
		switch words[0] {
		case "-P":
			all[i].policy = words[2]
		case "-A":
			all[i].rules = append(all[i].rules, strings.TrimSpace(line))
		}
	}
	return all
}

// parsePriority reads nft's "filter - 10", "mangle" or "-150".
func parsePriority(s string) (n int) {
	names := map[string]int{"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
	words := strings.Fields(s)
	for i, w := range words {
		m, named := names[w]
		if !named {
			m, _ = strconv.Atoi(w)
		}
		if i > 0 && words[i-1] == "-" {
			m = -m
		}
		n += m
	}
	return n
}

// deciding are the input chains that can drop: by their policy, by a rule, or in a chain that a rule leads to.
func deciding(all []chain) (found []chain) {
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

// unquoted leaves out what stands in double quotes: comments, log prefixes, interfaces.
func unquoted(s string) string {
	var kept []string
	for i, part := range strings.Split(s, `"`) {
		if i%2 == 0 {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, " ")
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
	for _, d := range deciding(in.chains()) {
		switch {
		case d.priority <= ourPriority:
			c.Warnings = append(c.Warnings, fmt.Sprintf("%v comes so early (priority %d) that it can drop what sesame lets in", d, d.priority))
		case d.tool.name != "":
			ipt = append(ipt, d)
		default:
			nft = append(nft, d)
		}
	}
	both := append(append([]chain(nil), nft...), ipt...)
	tools, agree := in.toolsFor(ipt)
	switch {
	case in.Unknown != nil:
		return c, fmt.Errorf("reading the firewall's rules: %w", in.Unknown)
	case in.NFTError != nil && len(tools) == 0:
		return c, errors.New("neither nft nor iptables works here: install one of them (apt install nftables; opkg install nftables)")
	case option == "nft" && in.NFTError != nil:
		return c, fmt.Errorf("Firewall = nft: nft does not work here: %w", in.NFTError)
	case option == "iptables" && len(tools) == 0:
		return c, errors.New("Firewall = iptables: iptables does not work here: install it, or write Firewall = auto")
	case option == "nft", option == "iptables":
		c.Reason = "the configuration says so"
	case in.NFTError != nil:
		option, c.Reason = "iptables", "nft does not work here"
	case len(ipt)+len(nft) == 0:
		option, c.Reason = "nft", nothingDrops
	case len(nft) == 0 && agree:
		option, c.Reason = "iptables", describeChains(ipt)+" can drop, and its rules are iptables'"
	case len(ipt) == 0:
		option, c.Reason = "nft", describeChains(nft)+" can drop, and its rules are nft's"
	default:
		option, c.Reason = "nft", describeChains(both)+" can drop, in rules of different kinds"
	}
	c.Reason = option + ": " + c.Reason
	if option == "iptables" {
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
	var accepts []acceptChain
	for _, d := range both {
		switch {
		case d.owned:
			return c, fmt.Errorf("%v lets no other program change it (flags owner): with firewalld write NftablesTableOwner=no in "+
				"/etc/firewalld/firewalld.conf and run firewall-cmd --reload, or open by firewall-cmd in Start_Command", d)
		case d.tool.name == "" && in.madeByIptables(d):
			return c, fmt.Errorf("iptables has made %v, and nft's rules would do harm there: install iptables", d)
		}
		accepts = append(accepts, d.acceptChain)
	}
	c.Firewall = nftFirewall{mark, accepts}
	return c, nil
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

// String names the chain as in: the chain INPUT of table ip filter.
func (c chain) String() string {
	return fmt.Sprintf("the chain %s of table %s %s", c.name, c.family, c.table)
}

func describeChains(chains []chain) string {
	var s []string
	for _, c := range chains {
		s = append(s, c.String())
	}
	return strings.Join(s, " and ")
}
