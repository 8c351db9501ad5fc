//go:build linux

package main

import (
	"slices"
	"strings"
)

// hostEndings are what input chains have in store for packets that none of their rules names, for each link that they tell
// apart. wanted says of which chains, and may ask whether a chain lets in whatever was translated, as firewalld's does and
// fw4's with a redirect: that one does not get to its end for strangers who are sent to another port, and late is to
// answer as it would. Other chains of nft's speak for themselves.
func hostEndings(all []chain, wanted func(c chain, translated bool) bool) (endings []ending) {
	for _, c := range all {
		if !c.input {
			continue
		}
		links, translated := c.survey(all)
		if !wanted(c, translated) {
			continue
		}
		for _, link := range append(links, "") {
			for _, proto := range []Protocol{tcp, udp} {
				verdict := c.ending(all, link, proto)
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
func (c chain) survey(all []chain) (links []string, translated bool) {
	seen := []string{c.name}
	for i := 0; i < len(seen); i++ {
		at, _ := c.named(all, seen[i])
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

// named is the chain of the same table with that name.
func (c chain) named(all []chain, name string) (to chain, ok bool) {
	i := slices.IndexFunc(all, func(d chain) bool {
		return name != "" && d.name == name && d.family == c.family && d.table == c.table && d.origin == c.origin
	})
	if i < 0 {
		return to, false
	}
	return all[i], true
}

// ending is what becomes of a packet that only rules about links and protocols can match, in the words of who made the
// chain; "" where it goes back to the one that leads to it.
func (c chain) ending(all []chain, link string, proto Protocol) (verdict string) {
	for _, r := range c.read() {
		if r.more || r.links != nil && !slices.Contains(r.links, link) || r.protos != nil && !slices.Contains(r.protos, proto.String()) {
			continue
		}
		verdict = r.verdict
		if to, ok := c.named(all, r.to); ok {
			verdict = to.ending(all, link, proto)
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

// hostRule is what counts here of a rule, be it nft's or iptables'.
type hostRule struct {
	links, protos []string // that it is about; nil: any
	more          bool     // and it asks for more
	verdict       string   // "": none
	to            string   // the chain that it leads to
	leaves        bool     // for good
	translated    bool     // it lets in what was translated
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

func readRule(line string) (r hostRule) {
	r.translated = strings.Contains(line, "ct status dnat") || strings.Contains(line, "--ctst") && strings.Contains(line, "DNAT")
	if before, rest, ok := strings.Cut(line, `comment "`); ok {
		_, after, _ := strings.Cut(rest, `"`)
		line = before + "comment -" + after
	}
	words := strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune(` ,"`, c) })
	var list *[]string // where the next word belongs, or all up to a brace
	set := false
	for i := 0; i < len(words) && r.verdict == "" && r.to == ""; i++ {
		switch w, after := words[i], words[i+1:]; w {
		case "-A", "packets", "bytes", "--comment": // what is named may be called as a verdict is
			i++
		case "iifname", "iif", "-i":
			list = &r.links
		case "l4proto", "-p":
			list = &r.protos
		case "meta", "counter":
		case "{":
			set = true
		case "}":
			set, list = false, nil
		case "accept", "drop", "return":
			r.verdict = w
		case "reject":
			reason, _, _ := strings.Cut(strings.Join(words[i:], " "), " comment ")
			r.verdict, _, _ = strings.Cut(reason, " #")
		case "jump", "goto", "-j", "-g":
			r.leaves = w == "goto" || w == "-g"
			switch to := strings.Join(after[:min(len(after), 1)], ""); to {
			case "ACCEPT", "DROP", "RETURN", "REJECT":
				r.verdict = strings.Join(after, " ")
			default:
				r.to = to
			}
		case "-m":
			if r.more = r.more || len(after) == 0 || after[0] != "comment"; !r.more {
				i++
			}
		default:
			if r.more = r.more || list == nil || w == "!" || w == "!=" || w == "vmap"; r.more {
				continue
			}
			if *list = append(*list, w); !set {
				list = nil
			}
		}
	}
	r.translated = r.translated && strings.EqualFold(r.verdict, "accept")
	return r
}
