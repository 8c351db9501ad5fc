//go:build linux

package main

import (
	"strconv"
	"strings"
)

// base is a base chain for packets to this host, or through it.
type base struct {
	chain
	can    effect
	at     int  // behind what our rule is, as in behind; -1: it is not there
	marked bool // rules before its place change the mark
}

// hostRules are the chains of a host, and what each can do.
type hostRules struct {
	chains  []chain
	mark    uint32 // ours
	named   map[[4]string]*chain
	effects map[*chain]effect
}

func newHostRules(chains []chain, mark uint32) hostRules {
	h := hostRules{chains, mark, map[[4]string]*chain{}, map[*chain]effect{}}
	for i, c := range chains {
		h.named[[4]string{c.origin, c.family, c.table, c.name}] = &chains[i]
	}
	return h
}

// ofChain is what the chain's rules can do, with the chains that they lead to. The kernel allows no circles.
func (h hostRules) ofChain(c *chain) (e effect) {
	if known, ok := h.effects[c]; ok || c.name == ourChain {
		return known
	}
	h.effects[c] = 0
	for _, rule := range c.rules {
		e |= h.ofRule(*c, rule)
	}
	h.effects[c] = e
	return e
}

// ofRule is what a rule can do, with the chains that it leads to.
func (h hostRules) ofRule(c chain, rule string) effect {
	r := readRule(rule)
	e := r.can
	if r.mark&h.mark != 0 {
		e |= marks
	}
	for _, name := range r.leads {
		if to := h.beside(c, name); to != nil {
			e |= jumps | h.ofChain(to)
		}
	}
	switch { // nothing behind it is reached
	case !r.leaves || c.hook == "":
	case c.drops():
		e |= drops
	default:
		e |= accepts
	}
	if e&(accepts|drops) == drops && r.sources { // a zone accepts, too
		e = e&^drops | bans
	}
	return e
}

// beside is the chain of the same table with that name, or nil.
func (h hostRules) beside(c chain, name string) *chain {
	return h.named[[4]string{c.origin, c.family, c.table, name}]
}

// drops is whether the chain's policy does.
func (c chain) drops() bool { return strings.EqualFold(c.policy, "drop") }

// bases are the base chains for packets to this host or through it, with what they can do. In behind stands where a rule of
// ours must be, so that those bans hold which come before everything else that drops: behind the rule with this handle, or
// behind so many rules of iptables'. first has only bans come before it: an accept there would open what we hide. ours tells
// the rule, which does not count; it is placed between those bans and whatever else drops, or changes its mark.
func (h hostRules) bases(ours func(rule string) bool, first bool) (found []base) {
	for _, c := range h.chains {
		if c.hook != "input" && c.hook != "forward" {
			continue
		}
		in, place, n, late, marked := base{chain: c, at: -1}, 0, 0, false, false
		for i, rule := range c.rules {
			if ours(rule) {
				in.at, in.placed = place, in.placed || !late && !marked
				n++
				continue
			}
			if first && strings.Contains(rule, acceptComment) { // it goes
				continue
			}
			if place = c.numbers[i] - n; c.tool.name == "" {
				place = handleOf(rule)
			}
			e := h.ofRule(c, rule)
			in.can, marked = in.can|e, marked || e&marks != 0
			ban := e&(bans|jumps) != 0
			if late = late || e&drops != 0 || first && (e&accepts != 0 || !ban); ban && !late {
				in.behind, in.placed, in.marked, marked = place, false, in.marked || marked, false
			}
		}
		in.placed = in.placed && (n == 1 || c.tool.name != "") // of two by nft, none stays
		if c.drops() {
			in.can |= drops
		}
		found = append(found, in)
	}
	return found
}

// handleOf is the handle that nft has printed behind a rule, or 0.
func handleOf(rule string) int {
	_, handle, _ := strings.Cut(rule, "# handle ")
	n, _ := strconv.Atoi(handle)
	return n
}
