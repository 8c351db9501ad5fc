//go:build linux

package main

import (
	"slices"
	"strconv"
	"strings"
)

// effect is what a rule or a chain can do to packets to this host.
type effect uint8

const (
	accepts effect = 1 << iota
	bans           // drops what comes from certain sources: fail2ban, CrowdSec, too many connections of one source
	drops          // drops something else
	jumps          // leads to another chain
)

// input is a base chain for packets to this host.
type input struct {
	chain
	can effect
}

// hostRules are the chains of a host, and what each can do.
type hostRules struct {
	chains  []chain
	at      map[[4]string]int
	effects map[int]effect
}

func newHostRules(chains []chain) hostRules {
	h := hostRules{chains, map[[4]string]int{}, map[int]effect{}}
	for i, c := range chains {
		h.at[[4]string{c.origin, c.family, c.table, c.name}] = i
	}
	return h
}

// ofChain is what the chain's rules can do, with the chains that they lead to. The kernel allows no circles.
func (h hostRules) ofChain(i int) (e effect) {
	if known, ok := h.effects[i]; ok {
		return known
	}
	h.effects[i] = 0
	if h.chains[i].name != ourChain {
		for _, rule := range h.chains[i].rules {
			e |= h.ofRule(h.chains[i], rule)
		}
	}
	h.effects[i] = e
	return e
}

// ofRule is what a rule can do, with the chains that it leads to.
func (h hostRules) ofRule(c chain, rule string) (e effect) {
	words := ruleWords(rule)
	for i, w := range words {
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		switch w {
		case "accept", "ACCEPT":
			e |= accepts
		case "drop", "reject", "DROP", "REJECT", "TARPIT", "NFQUEUE", "queue":
			e |= drops
		case "vmap": // of a map by name we do not see the contents
			if strings.HasPrefix(next, "@") {
				e |= accepts | drops | jumps
			}
		case "jump", "goto", "-j", "-g":
			if to, there := h.at[[4]string{c.origin, c.family, c.table, next}]; there {
				e |= jumps | h.ofChain(to)
			}
			if (w == "goto" || w == "-g") && c.drops() { // nothing behind it is reached
				e |= drops
			}
		}
	}
	if e&(accepts|drops) == drops && aboutSources(words) { // a zone accepts, too
		e = e&^drops | bans
	}
	return e
}

func ruleWords(rule string) []string {
	return strings.FieldsFunc(unquoted(rule), func(r rune) bool { return strings.ContainsRune(" \t,;{}", r) })
}

// aboutSources is whether a rule, in words, is about certain sources, or counts each one's packets. One that is about all
// others is not.
func aboutSources(words []string) bool {
	words = append(slices.Clip(words), "", "", "")
	for i, w := range words[:len(words)-3] {
		negated := i > 0 && words[i-1] == "!"
		switch w {
		case "-s", "--src-range", "--mac-source", "--source-country", "--update", "--rcheck", "--connlimit-above":
			if !negated {
				return true
			}
		case "--match-set":
			if !negated && words[i+2] == "src" {
				return true
			}
		case "--hashlimit-mode":
			if words[i+1] == "srcip" {
				return true
			}
		case "saddr":
			value := i + 1
			if words[value] == "." { // ip saddr . tcp dport @set
				value += slices.IndexFunc(words[value:], func(w string) bool { return w == "" || strings.ContainsAny(w[:1], "!@0123456789") })
			}
			if words[value] != "!=" {
				return true
			}
		}
	}
	return false
}

// drops is whether the chain's policy does.
func (c chain) drops() bool { return strings.EqualFold(c.policy, "drop") }

// inputs are the base chains for packets to this host, with what they can do. In behind stands where an accept of ours must
// be, so that those bans hold which come before everything else that drops: behind the rule with this handle, or behind
// so many rules of iptables'. ours tells the accept, which does not count; it may be nil.
func (h hostRules) inputs(ours func(rule string) bool) (found []input) {
	for _, c := range h.chains {
		if !c.input {
			continue
		}
		in, place, at, n := input{chain: c}, 0, -1, 0
		for i, rule := range c.rules {
			if ours != nil && ours(rule) {
				at = place
				n++
				continue
			}
			if place = c.numbers[i] - n; c.tool.name == "" {
				place = handleOf(rule)
			}
			e := h.ofRule(c, rule)
			if in.can |= e; in.can&drops == 0 && e&(bans|jumps) != 0 {
				in.behind = place
			}
		}
		in.placed = at == in.behind && (n == 1 || c.tool.name != "") // of two by nft, none stays
		if c.drops() {
			in.can |= drops
		}
		found = append(found, in)
	}
	return found
}

// ourPlace is behind how many rules of an iptables chain the one must come that leads to ours, and behind how many it
// comes: those before it do no more than stop certain sources. An accept there would open what we hide.
func (h hostRules) ourPlace(c chain) (n, at int) {
	bansOnly, ours := true, 0
	for i, rule := range c.rules {
		e := h.ofRule(c, rule)
		switch {
		case strings.HasSuffix(rule, "-j "+ourChain):
			at = c.numbers[i] - 1
			ours++
			continue
		case strings.Contains(rule, acceptComment): // it goes
		case e&(accepts|drops) != 0, e&(bans|jumps) == 0:
			bansOnly = false
		}
		if bansOnly {
			n = c.numbers[i] - ours
		}
	}
	return n, at
}

// handleOf is the handle that nft has printed behind a rule, or 0.
func handleOf(rule string) int {
	_, handle, _ := strings.Cut(rule, "# handle ")
	n, _ := strconv.Atoi(handle)
	return n
}
