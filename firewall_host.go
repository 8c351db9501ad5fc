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
	NAT      bool   // somebody translates what comes to this host
	Unknown  error  // of a tool that works the rules could not be read now
	Silent   []Tool // those that work, but cannot list their rules: nft may have made some that they do not know
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
	if in.NFT, in.NFTError = run("nft", "-a", "-s", "-t", "list", "ruleset"); in.NFTError != nil && in.Unknown == nil {
		in.NFT, in.NFTError = run("nft", "-a", "list", "ruleset") // before 0.9.1
	}
	in.NAT = in.translates() || strings.Contains(file("/proc/net/ip_tables_names")+file("/proc/net/ip6_tables_names"), "nat\n")
	_, err := run("ip6tables", "--version")
	in.NoIPv6 = err != nil && file("/proc/net/if_inet6") == ""
	for _, family := range []string{"ip", "ip6"} {
		usual, ok := in.addTool(run, family+"tables")
		// To ask iptables-legacy makes its table, where there is none.
		if (!ok || !usual.Legacy) && strings.Contains(file("/proc/net/"+family+"_tables_names"), "filter") {
			in.addTool(run, family+"tables-legacy")
		}
		if (!ok || usual.Legacy) && strings.Contains(in.NFT, "table "+family+" filter {") {
			in.addTool(run, family+"tables-nft")
		}
	}
	in.Silent = slices.DeleteFunc(in.Silent, func(t Tool) bool { // as the kernel has no table for it
		return t.Legacy && !strings.Contains(file(map[bool]string{true: "/proc/net/ip_tables_names", false: "/proc/net/ip6_tables_names"}[t.is4()]), "filter")
	})
	return in
}

// addTool adds an iptables, if it works.
func (in *Inspection) addTool(run func(argv ...string) (string, error), name string) (t Tool, ok bool) {
	version, err := run(name, "--version") // iptables v1.8.9 (nf_tables)
	if err != nil {
		return t, false
	}
	t = Tool{iptables: iptables{name, restoreWaits(version)}, Legacy: !strings.Contains(version, "(nf_tables)")}
	if t.Rules, err = run(t.argv("-S")...); err != nil {
		in.Silent = append(in.Silent, t)
		return t, false
	}
	in.Tools = append(in.Tools, t)
	return t, true
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

// unseen is why there may be rules that were not seen.
func (in Inspection) unseen() error {
	if in.Unknown == nil && len(in.Silent) > 0 && (in.NFTError != nil || slices.ContainsFunc(in.Silent, func(t Tool) bool { return t.Legacy })) {
		return fmt.Errorf("%s does not answer", in.Silent[0].name)
	}
	return in.Unknown
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
		all = append(all, t.chains()...)
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
			_, c.unread = toolOf(in.Silent, c.acceptChain)
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
			if c.unread && c.input && c.name == "INPUT" {
				c.tool, _ = toolOf(in.Silent, c.acceptChain)
			}
		case c != nil:
			c.rules = append(c.rules, line)
		}
	}
	return slices.DeleteFunc(all, func(c chain) bool { // what the tool knows better
		_, known := toolOf(in.Tools, c.acceptChain)
		return known && c.origin == "" && c.input && c.name == "INPUT"
	})
}

// translates is whether nft lists a chain of somebody else's that can send on what comes in.
func (in Inspection) translates() bool {
	table := ""
	for line := range strings.Lines(in.NFT) {
		if strings.HasPrefix(line, "table ") {
			table = line
		}
		if strings.Contains(line, "type nat hook prerouting") && !strings.HasPrefix(table, "table inet sesame ") {
			return true
		}
	}
	return false
}

// toolOf is the iptables that has made, and can change, a chain of nft's list.
func toolOf(tools []Tool, c acceptChain) (t iptables, ok bool) {
	i := slices.IndexFunc(tools, func(t Tool) bool {
		return !t.Legacy && t.is4() == (c.family == "ip") && c.family != "inet" && c.table == "filter"
	})
	if i < 0 {
		return t, false
	}
	return tools[i].iptables, true
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
			all = append(all, chain{acceptChain: acceptChain{family: family, table: "filter", name: words[1], tool: t.iptables}, origin: t.name, input: words[1] == "INPUT"})
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

// String names the chain as in: the chain INPUT of table ip filter.
func (c acceptChain) String() string {
	return fmt.Sprintf("the chain %s of table %s %s", c.name, c.family, c.table)
}
