//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
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
	NFT      listing // of the tables that see packets to this host or through it, and of ours
	NFTError error   // nft is not there or does not work
	Tools    []Tool  // each iptables that works, the usual one of a family first
	NoIPv6   bool    // the host has no IPv6
	NAT      int     // of tables in which others translate what comes to this host
	Unknown  error   // of a tool that works the rules could not be read now
	Silent   []Tool  // those that work, but cannot list their rules: nft may have made some that they do not know
}

// Tool is one iptables of a host.
type Tool struct {
	iptables
	Legacy bool // it has tables of its own in the kernel, which nft does not see
	Rules  listing
	NAT    bool // a chain of ours is in table nat
}

// inspectHost looks at the firewall of this host. Each command may take so long.
func inspectHost(limit time.Duration) Inspection {
	return inspect(func(l *listing, argv ...string) error {
		_, stderr, err := (&execution{argv: argv, limit: limit, take: l.take}).run()
		for line := range strings.Lines(stderr) { // nft names iptables' tables there
			l.take(strings.TrimSuffix(line, "\n"))
		}
		return err
	}, func(name string) string {
		text, _ := os.ReadFile(name)
		return string(text)
	})
}

// behindWarnings are why ports of hosts behind this one may not be reached, or not by whom one might think.
func behindWarnings(r Ruleset) (warnings []string) {
	warn := func(format string, a ...any) {
		if w := fmt.Sprintf(format, a...); !slices.Contains(warnings, w) {
			warnings = append(warnings, w)
		}
	}
	for _, b := range r.Behind {
		name := "net.ipv4.ip_forward"
		if !b.is4() {
			name = "net.ipv6.conf.all.forwarding"
		}
		value, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		if err == nil && strings.TrimSpace(string(value)) == "0" {
			warn("the kernel forwards nothing, so no host behind this one can be reached: sysctl -w %s=1", name)
		}
		hosts, port := b.target()
		if hosts.IsSingleIP() { // to connect sends nothing
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(hosts.Addr(), port)))
			switch {
			case err != nil:
				warn("%v: there is no route to %v", b, hosts.Addr())
			case conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap() == hosts.Addr():
				warn("%v: %v is this host itself: write the port alone", b, hosts.Addr())
			}
			if err == nil {
				_ = conn.Close()
			}
		}
		for _, h := range r.Hidden {
			if h.Links == nil && b.forwarded() && (slices.Contains(h.Ports, b.Knock) || slices.Contains(h.Behind, b)) {
				warn("%v is hidden on all interfaces, so from hosts behind this one, too: name the outer interface (Interface = eth0), or write Hide_Except", b)
			}
		}
	}
	return warnings
}

// inspect looks at the firewall by commands that change no rule. ask has a listing take what a command prints; it returns an
// error, if its exit status is not 0. file returns what stands in a file; "", if there is none.
func inspect(ask func(l *listing, argv ...string) error, file func(name string) string) (in Inspection) {
	run := func(argv ...string) (l listing, err error) {
		err = ask(&l, argv...)
		if l.end(); l.tooMuch {
			err = errTooMuch
		}
		// iptables(8): 4 is for a resource that is not to be had, such as the lock.
		if errors.Is(err, errTooLong) || errors.Is(err, errTooMuch) || statusOf(err) == 4 || exhausted(err) {
			in.Unknown = err
		}
		return l, err
	}
	// To list all rules takes nft seconds, and hundreds of megabytes, where kube-proxy has them for 12,000 services.
	chains, err := run("nft", "list", "chains")
	in.NFTError = err
	in.listTables(run, chains)
	in.NAT += strings.Count(file("/proc/net/ip_tables_names")+file("/proc/net/ip6_tables_names"), "nat\n")
	_, err = run("ip6tables", "--version")
	in.NoIPv6 = err != nil && file("/proc/net/if_inet6") == ""
	for _, family := range []string{"ip", "ip6"} {
		nat := map[bool]bool{false: slices.Contains(chains.tables, family+" nat"), true: strings.Contains(file("/proc/net/"+family+"_tables_names"), "nat\n")}
		usual, ok := in.addTool(run, family+"tables", nat)
		// To ask iptables-legacy makes its table, where there is none.
		if (!ok || !usual.Legacy) && strings.Contains(file("/proc/net/"+family+"_tables_names"), "filter") {
			in.addTool(run, family+"tables-legacy", nat)
		}
		if (!ok || usual.Legacy) && slices.Contains(in.NFT.tables, family+" filter") {
			in.addTool(run, family+"tables-nft", nat)
		}
	}
	in.Silent = slices.DeleteFunc(in.Silent, func(t Tool) bool { // as the kernel has no table for it
		return t.Legacy && !strings.Contains(file("/proc/net/"+t.family()+"_tables_names"), "filter")
	})
	return in
}

// listTables lists, of the tables whose chains nft has listed, those that see packets to this host or through it, and ours.
func (in *Inspection) listTables(run func(argv ...string) (listing, error), chains listing) {
	for _, table := range chains.tables {
		family, name, _ := strings.Cut(table, " ")
		counts := table == ourTable
		for _, c := range chains.chains {
			if c.family == family && c.table == name && table != ourTable {
				if c.nat && c.hook == "prerouting" {
					in.NAT++
				}
				counts = counts || c.hook == "input" || c.hook == "forward"
			}
		}
		if !counts {
			continue
		}
		l, err := run("nft", "-a", "-s", "-t", "list", "table", family, name)
		if err != nil { // before 0.9.1; or it has gone meanwhile
			l, _ = run("nft", "-a", "list", "table", family, name)
		}
		in.NFT.join(l)
	}
}

// addTool adds an iptables, if it works. nat is whether there is a table nat of legacy, and of nft.
func (in *Inspection) addTool(run func(argv ...string) (listing, error), name string, nat map[bool]bool) (t Tool, ok bool) {
	version, err := run(name, "--version") // iptables v1.8.9 (nf_tables)
	if err != nil {
		return t, false
	}
	t = Tool{iptables: iptables{name, restoreWaits(version.other)}, Legacy: !strings.Contains(version.other, "(nf_tables)")}
	if t.Rules, err = run(t.argv("-S")...); err != nil {
		in.Silent = append(in.Silent, t)
		return t, false
	}
	if nat[t.Legacy] { // to ask for a table may make it
		_, err = run(t.argv("-t nat -S " + ourChain)...)
		t.NAT = err == nil
	}
	if t.NAT {
		others := func(c *chain) bool {
			return slices.ContainsFunc(c.rules, func(rule string) bool { return !strings.HasSuffix(rule, " -j "+ourChain) })
		}
		if l, err := run(t.argv("-t nat -S PREROUTING")...); err == nil && !slices.ContainsFunc(l.chains, others) {
			in.NAT--
		}
	}
	in.Tools = append(in.Tools, t)
	return t, true
}

func restoreWaits(version string) bool {
	_, number, _ := strings.Cut(version, " v")
	var n [3]int
	for i, part := range strings.SplitN(number, ".", len(n)) { // fmt.Sscanf would make the file 60 KB larger
		n[i], _ = strconv.Atoi(part[:len(part)-len(strings.TrimLeft(part, "0123456789"))])
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

// chains are those of all tools that look at packets to this host, without our own.
func (in Inspection) chains() (all []chain) {
	for _, t := range in.Tools {
		for _, c := range t.Rules.chains {
			c := *c
			c.acceptChain, c.origin = acceptChain{family: t.family(), table: "filter", name: c.name, tool: t.iptables}, t.name
			all = append(all, c)
		}
	}
	for _, c := range in.NFT.chains {
		c := *c
		tool, unread := toolOf(in.Silent, c.acceptChain)
		_, known := toolOf(in.Tools, c.acceptChain)
		base := c.name == strings.ToUpper(c.hook)
		if c.unread = unread; base {
			c.tool = tool
		}
		own := c.family+" "+c.table == ourTable
		if in.NFTError == nil && !own && !(known && base) { // which the tool knows better
			all = append(all, c)
		}
	}
	return all
}

// tables are those of nft's that see packets to this host or through it; nil, if it could not be seen which do.
func (in Inspection) tables() []string {
	if in.NFTError != nil || in.Unknown != nil {
		return nil
	}
	return append([]string{ourTable}, in.NFT.tables...)
}

// toolOf is the iptables that has made, and can change, a chain of nft's list.
func toolOf(tools []Tool, c acceptChain) (t iptables, ok bool) {
	i := slices.IndexFunc(tools, func(t Tool) bool {
		return !t.Legacy && c.family == t.family() && c.table == "filter"
	})
	if i < 0 {
		return t, false
	}
	return tools[i].iptables, true
}

// String names the chain as in: the chain INPUT of table ip filter.
func (c acceptChain) String() string {
	return fmt.Sprintf("the chain %s of table %s %s", c.name, c.family, c.table)
}
