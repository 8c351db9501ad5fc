//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// listing keeps what counts of what nft or iptables -S prints, line by line, as that can be far more than what counts:
// the chains for packets to this host or through it with those that they lead to, and of rules in a row that differ in
// nothing but addresses, ports, other numbers and comments the first one and the last one. A line says how many are left
// out in between. In long chains it does so with those that are not in a row, too. Of chains before routing it keeps that
// there are any.
type listing struct {
	kept    strings.Builder
	chains  map[string]*listedChain // of the table that is being printed
	order   []*listedChain          // the same
	chain   *listedChain            // whose rules are being printed; nil: none
	bytes   int                     // of lines in chains
	tooMuch bool                    // what counts, too, was more than maxPrinted
}

type listedChain struct {
	lines []string
	kinds map[string]bool // of its rules
	kind  string          // of the one before
	leads []string        // names of chains that it leads to
	last  string          // its last rule, if that is not kept
	more  int             // how many before last are not kept
	base  bool            // it sees packets to this host, or through it
	shown bool            // that it is there is worth to be kept
}

// take takes the next line.
func (l *listing) take(line string) {
	words := strings.Fields(line)
	switch {
	case l.tooMuch || len(words) < 2 && line != "}":
	case words[0] == "-P" || words[0] == "-N":
		l.open(words[1], line)
		l.chain.base = words[0] == "-P" && (words[1] == "INPUT" || words[1] == "FORWARD")
		l.chain.shown = words[1] == ourChain
	case words[0] == "-A":
		l.open(words[1], "")
		l.rule(line)
	case strings.HasPrefix(line, "\tchain "):
		l.open(words[1], line)
		l.chain.shown = words[1] == ourChain // a restored one
	case strings.HasPrefix(line, "\t\ttype ") && l.chain != nil && slices.Contains(words, "hook"):
		l.keep(line)
		l.chain.base = slices.Contains(words, "input") || slices.Contains(words, "forward")
		l.chain.shown = slices.Contains(words, "prerouting")
	case strings.HasPrefix(line, "\t\t"):
		if l.chain != nil {
			l.rule(line)
		}
	case strings.HasPrefix(line, "\t"):
		l.close()
		if words[0] == "flags" {
			l.kept.WriteString(line + "\n")
		}
	default: // a table begins or ends, or it is another kind of output
		l.flush()
		l.kept.WriteString(line + "\n")
	}
}

// open goes on with a chain, whose first line it is.
func (l *listing) open(name, line string) {
	c := l.chains[name]
	if c != l.chain || c == nil {
		l.close()
	}
	if c == nil {
		c = &listedChain{}
		if l.chains == nil {
			l.chains = map[string]*listedChain{}
		}
		l.chains[name] = c
		l.order = append(l.order, c)
	}
	l.chain = c
	if line != "" {
		l.keep(line)
	}
}

// close ends a chain, of which no more rules come.
func (l *listing) close() {
	if l.chain != nil {
		l.keepLast()
		l.chain.kinds = nil
	}
	l.chain = nil
}

// keep keeps a line of the chain.
func (l *listing) keep(line string) {
	if l.bytes += len(line); l.bytes+l.kept.Len() > maxPrinted {
		l.tooMuch = true
		return
	}
	l.chain.lines = append(l.chain.lines, line)
}

// keepLast keeps the chain's last rule, and how many are left out before it.
func (l *listing) keepLast() {
	c := l.chain
	if c.more > 0 {
		first := "\t\t"
		if words := strings.Fields(c.last); words[0] == "-A" {
			first = "-A " + words[1] + " "
		}
		l.keep(fmt.Sprintf("%s# %d%s", first, c.more, moreRules))
	}
	if c.last != "" {
		l.keep(c.last)
	}
	c.last, c.more = "", 0
}

// maxKept is how many rules of a chain are kept, before those that are like any other before are left out.
const maxKept = 1000

// moreRules ends a line that stands for so many rules.
const moreRules = " more"

// rule takes a rule of the chain.
func (l *listing) rule(line string) {
	r := readRule(line)
	words := ruleWords(line) // a few are looked for by who made the chain, and in what is left of ours
	kind := fmt.Sprint(r, slices.Contains(words, "xt"), slices.Contains(words, "mark"))
	again := kind == l.chain.kind || len(l.chain.lines) > maxKept && l.chain.kinds[kind]
	if l.chain.kind = kind; again && r.to != ourChain && !strings.Contains(line, acceptComment) {
		if l.chain.last != "" {
			l.chain.more++
		}
		l.chain.last = line
		return
	}
	l.keepLast()
	if l.chain.kinds == nil {
		l.chain.kinds = map[string]bool{}
	}
	l.chain.kinds[kind] = true
	l.chain.leads = append(l.chain.leads, r.leads...)
	l.keep(line)
}

// flush ends a table: what counts of its chains is kept.
func (l *listing) flush() {
	l.close()
	var follow func(c *listedChain)
	follow = func(c *listedChain) {
		for _, name := range c.leads {
			if to := l.chains[name]; to != nil && !to.base {
				to.base = true
				follow(to)
			}
		}
	}
	for _, c := range slices.Clone(l.order) {
		if c.base {
			follow(c)
		}
	}
	for _, c := range l.order {
		switch {
		case c.base:
			for _, line := range c.lines {
				l.kept.WriteString(line + "\n")
			}
		case c.shown:
			for _, line := range c.lines[:min(2, len(c.lines))] {
				l.kept.WriteString(line + "\n")
			}
		}
	}
	l.chains, l.order, l.bytes = nil, nil, 0
}

// String is what counts.
func (l *listing) String() string {
	l.flush()
	return l.kept.String()
}
