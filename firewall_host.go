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

// inspectLimit is how long one command may take to look at the firewall while others wait: who holds its lock for ever must
// not hold up everything. Where nobody waits it is studyLimit: nft can take seconds for 60,000 rules.
const inspectLimit, studyLimit = 5 * time.Second, 60 * time.Second

// Inspection is what the host's firewall looks like.
type Inspection struct {
	// NFT is what nft has printed of the tables that see packets to this host or through it, and of ours, standard error
	// too, where iptables' tables are named. Of it and of Rules there is what listing keeps.
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

// inspectHost looks at the firewall of this host. Each command may take so long.
func inspectHost(limit time.Duration) Inspection {
	return inspect(func(argv ...string) (string, error) {
		var l listing
		_, stderr, err := (&execution{argv: argv, limit: limit, take: l.take}).run()
		if l.tooMuch {
			err = errTooMuch
		}
		return l.String() + stderr, err
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
		if errors.Is(err, errTooLong) || errors.Is(err, errTooMuch) || statusOf(err) == 4 || exhausted(err) {
			in.Unknown = err
		}
		return out, err
	}
	// To list all rules takes nft seconds, and hundreds of megabytes, where kube-proxy has them for 12,000 services.
	chains, err := run("nft", "list", "chains")
	in.NFTError = err
	in.listTables(run, chains)
	in.NAT = in.NAT || strings.Contains(file("/proc/net/ip_tables_names")+file("/proc/net/ip6_tables_names"), "nat\n")
	_, err = run("ip6tables", "--version")
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

// listTables lists, of the tables whose chains nft has listed, those that see packets to this host or through it, and ours.
func (in *Inspection) listTables(run func(argv ...string) (string, error), chains string) {
	var family, table, listed string
	for line := range strings.Lines(chains) {
		words := append(strings.Fields(line), "", "", "", "") // type filter hook input priority filter; policy accept;
		if words[0] == "table" {
			family, table, listed = words[1], words[2], ""
		}
		ours := family == "inet" && table == "sesame"
		in.NAT = in.NAT || !ours && words[1] == "nat" && words[3] == "prerouting"
		if listed == table || !ours && (!slices.Contains([]string{"ip", "ip6", "inet"}, family) || words[3] != "input" && words[3] != "forward") {
			continue
		}
		listed = table
		text, err := run("nft", "-a", "-s", "-t", "list", "table", family, table)
		if err != nil { // before 0.9.1; or it has gone meanwhile
			text, _ = run("nft", "-a", "list", "table", family, table)
		}
		in.NFT += text
	}
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
	numbers  []int // the place of each rule in the chain; some are left out
	length   int
	policy   string
}

// add adds a rule of a list, or a line that stands for some.
func (c *chain) add(line string) {
	if _, count, _ := strings.Cut(line, "# "); strings.HasSuffix(count, moreRules) {
		n, _ := strconv.Atoi(strings.TrimSuffix(count, moreRules))
		c.length += n
		return
	}
	c.length++
	c.rules, c.numbers = append(c.rules, line), append(c.numbers, c.length)
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
			c.add(line)
		}
	}
	return slices.DeleteFunc(all, func(c chain) bool { // what the tool knows better
		_, known := toolOf(in.Tools, c.acceptChain)
		return known && c.origin == "" && c.input && c.name == "INPUT"
	})
}

// tables are those of nft's that see packets to this host or through it; nil, if it could not be seen which do.
func (in Inspection) tables() []string {
	if in.NFTError != nil || in.Unknown != nil {
		return nil
	}
	tables := []string{ourTable}
	for line := range strings.Lines(in.NFT) {
		if words := strings.Fields(line); len(words) > 2 && words[0] == "table" {
			tables = append(tables, words[1]+" "+words[2])
		}
	}
	return tables
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
			all[i].policy = strings.Join(words[2:], " ")
		case "-A":
			all[i].add(strings.TrimSpace(line))
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

// String names the chain as in: the chain INPUT of table ip filter.
func (c acceptChain) String() string {
	return fmt.Sprintf("the chain %s of table %s %s", c.name, c.family, c.table)
}
