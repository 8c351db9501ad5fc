//go:build linux

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// listing reads what nft or iptables -S prints, line by line, as that can be far more than what counts: the chains for
// packets to this host or through it with those that they lead to, and of rules in a row which are read as the same the
// first one and the last one. In long chains it does so with those that are not in a row, too. Of chains before routing,
// and of ours, it keeps that there are any.
type listing struct {
	tables  []string // as nft names them: inet fw4
	chains  []*chain
	other   string // what is no list
	begun   int    // how many chains are of tables that are read to their ends
	owned   bool   // flags owner of the table that is being printed
	foreign bool   // it sees no packets of IP
	chain   *chain // whose rules are being printed; nil: none
	named   map[string]*chain
	kinds   map[string]bool // of the chain's rules
	kind    string          // of the one before
	last    bool            // that one is kept as the last of a row
	bytes   int             // of what is kept
	tooMuch bool            // that was more than maxPrinted
}

// chain is a chain of the host's.
type chain struct {
	acceptChain
	origin   string // "": nft's list, else the iptables that has printed it
	hook     string // of a base chain: input and so on
	nat      bool
	priority int
	owned    bool // one program alone may change it (flags owner)
	rules    []string
	numbers  []int // the place of each rule in the chain; some are left out
	length   int
	policy   string
	leads    []string // names of chains that it leads to
	bytes    int
}

// take takes the next line.
func (l *listing) take(line string) {
	words := append(strings.Fields(line), "", "", "", "")
	switch indent := len(line) - len(strings.TrimLeft(line, "\t")); {
	case l.tooMuch || words[1] == "" && line != "}":
	case words[0] == "-P" || words[0] == "-N" || words[0] == "-A":
		l.open(words[1])
		if words[1] == "INPUT" || words[1] == "FORWARD" {
			l.chain.hook = strings.ToLower(words[1])
		}
		if words[0] == "-P" {
			l.chain.policy = words[2]
		} else if words[0] == "-A" {
			l.rule(strings.TrimSpace(line))
		}
	case indent == 1 && words[0] == "chain" && !l.foreign:
		l.open(words[1])
	case indent == 1:
		l.chain = nil
		l.owned = l.owned || words[0] == "flags" && strings.Contains(line, "owner")
	case indent > 1 && l.chain == nil: // of a set
	case indent > 1 && words[0] == "type" && words[2] == "hook": // type filter hook input priority filter - 10; policy drop;
		_, priority, _ := strings.Cut(line, " priority ")
		priority, policy, _ := strings.Cut(priority, ";")
		l.chain.nat, l.chain.hook, l.chain.priority = words[1] == "nat", words[3], parsePriority(priority)
		l.chain.policy, _, _ = strings.Cut(strings.TrimPrefix(policy, " policy "), ";")
	case indent > 1:
		l.rule(strings.TrimSpace(line))
	default: // a table begins or ends, or it is another kind of output
		l.end()
		if words[0] == "table" {
			l.tables = append(l.tables, words[1]+" "+words[2])
			l.foreign = !slices.Contains([]string{"ip", "ip6", "inet"}, words[1])
		} else if l.grow(len(line)); !l.tooMuch && line != "}" {
			l.other += line + "\n"
		}
	}
}

// open goes on with a chain of the table.
func (l *listing) open(name string) {
	c := l.named[name]
	if c == nil {
		c = &chain{acceptChain: acceptChain{name: name}, owned: l.owned}
		if l.named == nil {
			l.named = map[string]*chain{}
		}
		if len(l.tables) > 0 {
			c.family, c.table, _ = strings.Cut(l.tables[len(l.tables)-1], " ")
		}
		l.named[name], c.bytes = c, len(name)
		l.chains = append(l.chains, c)
		l.grow(c.bytes)
	}
	if c != l.chain {
		l.chain, l.kinds, l.kind, l.last = c, map[string]bool{}, "", false
	}
}

// grow counts bytes that are kept.
func (l *listing) grow(n int) {
	l.bytes += n
	l.tooMuch = l.bytes > maxPrinted
}

// maxKept is how many rules of a chain are kept, before those that are like any other before are left out.
const maxKept = 1000

// rule takes a rule of the chain.
func (l *listing) rule(line string) {
	c, r := l.chain, readRule(line)
	c.length++
	// xt tells that iptables has made the chain, and a mark may be what is left of ours.
	kind := fmt.Sprint(r, strings.Contains(line, "xt "), strings.Contains(line, "mark "))
	again := kind == l.kind || len(c.rules) > maxKept && l.kinds[kind]
	again = again && r.to != ourChain && !strings.Contains(line, acceptComment)
	if l.kind = kind; again && l.last {
		c.rules[len(c.rules)-1], c.numbers[len(c.rules)-1] = line, c.length
		return
	}
	l.last = again
	if l.grow(len(line)); l.tooMuch {
		return
	}
	c.bytes += len(line)
	c.rules, c.numbers = append(c.rules, line), append(c.numbers, c.length)
	if !again {
		l.kinds[kind] = true
		c.leads = append(c.leads, r.leads...)
	}
}

// end ends a table: what counts of its chains is kept.
func (l *listing) end() {
	kept := map[*chain]bool{}
	var follow func(c *chain)
	follow = func(c *chain) {
		if c != nil && !kept[c] {
			kept[c] = true
			for _, name := range c.leads {
				follow(l.named[name])
			}
		}
	}
	for _, c := range l.chains[l.begun:] {
		if c.hook == "input" || c.hook == "forward" {
			follow(c)
		}
	}
	l.chains = append(l.chains[:l.begun], slices.DeleteFunc(l.chains[l.begun:], func(c *chain) bool {
		if kept[c] {
			return false
		}
		l.bytes -= c.bytes
		c.rules, c.numbers, c.leads = nil, nil, nil
		return c.hook != "prerouting" && c.name != ourChain && c.name != places[0].chain
	})...)
	l.begun, l.named, l.chain, l.owned = len(l.chains), nil, nil, false
}

// join adds what another listing has.
func (l *listing) join(m listing) {
	l.tables, l.chains, l.other = append(l.tables, m.tables...), append(l.chains, m.chains...), l.other+m.other
}

// parsePriority reads nft's "filter - 10", "mangle" or "-150".
func parsePriority(s string) int {
	base, offset, _ := strings.Cut(s, " ")
	n, named := map[string]int{"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}[base]
	if !named {
		n, _ = strconv.Atoi(base)
	}
	m, _ := strconv.Atoi(strings.ReplaceAll(offset, " ", ""))
	return n + m
}
