//go:build linux

package main

import (
	"slices"
	"strings"
)

// endings are what input chains have in store for packets that none of their rules names, for each link that they tell
// apart. wanted says of which chains, and may ask whether a chain lets in whatever was translated, as firewalld's does and
// fw4's with a redirect: that one does not get to its end for strangers who are sent to another port, and late is to
// answer as it would. Other chains of nft's speak for themselves.
func (h hostRules) endings(wanted func(c chain, translated bool) bool) (endings []ending) {
	for _, c := range h.chains {
		if c.hook != "input" {
			continue
		}
		links, translated := h.survey(c)
		if !wanted(c, translated) {
			continue
		}
		for _, link := range append(links, "") {
			for _, proto := range []Protocol{tcp, udp} {
				verdict := h.ending(c, link, proto)
				if word, _, _ := strings.Cut(strings.ToLower(verdict), " "); word == "drop" || word == "reject" {
					endings = append(endings, ending{c.family, link, proto, verdict})
				}
			}
		}
	}
	return endings
}

// survey finds the links that rules of the chain and of those that it leads to name, and whether one of them lets in what
// was translated.
func (h hostRules) survey(c chain) (links []string, translated bool) {
	seen := []string{c.name}
	for i := 0; i < len(seen); i++ {
		at := h.beside(c, seen[i])
		if at == nil {
			continue
		}
		for _, r := range at.read() {
			translated = translated || r.translated
			for _, link := range r.links {
				if link != "lo" && plainLink(link) && !slices.Contains(links, link) {
					links = append(links, link)
				}
			}
			if !slices.Contains(seen, r.to) {
				seen = append(seen, r.to)
			}
		}
	}
	return links, translated
}

// ending is what becomes of a packet that only rules about links and protocols can match, in the words of who made the
// chain; "" where it goes back to the one that leads to it.
func (h hostRules) ending(c chain, link string, proto Protocol) (verdict string) {
	for _, r := range c.read() {
		if r.more || r.links != nil && !slices.Contains(r.links, link) || r.protos != nil && !slices.Contains(r.protos, proto.String()) {
			continue
		}
		verdict = r.verdict
		if to := h.beside(c, r.to); to != nil {
			verdict = h.ending(*to, link, proto)
		}
		if strings.EqualFold(r.verdict, "return") {
			break
		}
		if verdict != "" || r.leaves {
			return verdict
		}
	}
	return c.policy
}

// read reads the chain's rules; a map of links to verdicts is as many of them.
func (c chain) read() (rules []hostRule) {
	for _, line := range c.rules {
		before, list, found := strings.Cut(line, "iifname vmap { ")
		list, _, _ = strings.Cut(list, " }")
		if !found || before != "" {
			rules = append(rules, readRule(line))
			continue
		}
		for _, pair := range strings.Split(list, ", ") {
			rules = append(rules, readRule("iifname "+strings.Replace(pair, " : ", " ", 1)))
		}
	}
	return rules
}
