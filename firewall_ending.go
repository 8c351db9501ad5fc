//go:build linux

package main

import (
	"slices"
	"strings"
)

// hostEndings are what the host's input chains have in store for a packet that none of their rules names, for each link
// that they tell apart, where one of them lets in whatever was translated (firewalld's; fw4's with a redirect): such a
// chain does not get to its end for strangers that are sent to another port. Elsewhere the chains speak for themselves.
func hostEndings(all []chain) (endings []ending) {
	for _, c := range all {
		links, translated := []string{}, false
		if c.input {
			c.survey(all, &links, &translated, 0)
		}
		if !translated {
			continue
		}
		for _, link := range append(links, "") {
			for _, proto := range []Protocol{tcp, udp} {
				match := "meta l4proto " + proto.String()
				if link != "" {
					match = `iifname "` + link + `" ` + match
				}
				if c.family != "inet" {
					match = "meta nfproto " + map[string]string{"ip": "ipv4", "ip6": "ipv6"}[c.family] + " " + match
				}
				if verdict := c.ending(all, link, proto, 0); strings.HasPrefix(verdict, "drop") || strings.HasPrefix(verdict, "reject") {
					endings = append(endings, ending{match, verdict})
				}
			}
		}
	}
	return endings
}

// maxDepth is how deep chains can lead to others (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// survey finds the links that rules name, and whether one lets in what was translated.
func (c chain) survey(all []chain, links *[]string, translated *bool, depth int) {
	for _, line := range c.rules {
		r := readRule(line)
		*translated = *translated || r.translated
		for _, link := range r.links {
			if link != "lo" && plainLink(link) && !slices.Contains(*links, link) {
				*links = append(*links, link)
			}
		}
		if to, ok := c.named(all, r.to); ok && depth < maxDepth {
			to.survey(all, links, translated, depth+1)
		}
	}
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

// ending is what becomes of a packet that only rules about links and protocols can match, as "" where a chain goes back to
// the one that leads to it.
func (c chain) ending(all []chain, link string, proto Protocol, depth int) (verdict string) {
	for _, line := range c.rules {
		r := readRule(line)
		if r.more || r.links != nil && !slices.Contains(r.links, link) || r.protos != nil && !slices.Contains(r.protos, proto.String()) {
			continue
		}
		verdict = r.verdict
		if to, ok := c.named(all, r.to); ok && depth < maxDepth {
			verdict = to.ending(all, link, proto, depth+1)
		}
		if r.verdict == "return" {
			break
		}
		if verdict != "" || r.leaves {
			return verdict
		}
	}
	return strings.ToLower(c.policy)
}

// hostRule is what counts here of a rule, be it nft's or iptables'.
type hostRule struct {
	links, protos []string // that it is about; nil: any
	more          bool     // and it asks for more
	verdict       string   // in nft's words; "": none
	to            string   // the chain that it leads to
	leaves        bool     // for good
	translated    bool     // it lets in what was translated
}

func readRule(line string) (r hostRule) {
	r.translated = strings.Contains(line, "ct status dnat") || strings.Contains(line, "--ctst") && strings.Contains(line, "DNAT")
	if before, rest, ok := strings.Cut(line, `comment "`); ok {
		_, after, _ := strings.Cut(rest, `"`)
		line = before + "comment -" + after
	}
	words := strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune(` ,"`, c) })
	var ignored []string
	var list *[]string // where the next word belongs, or all up to a brace
	set := false
	for i := 0; i < len(words) && r.verdict == "" && r.to == ""; i++ {
		switch w, after := words[i], words[i+1:]; w {
		case "-A", "packets", "bytes", "--comment":
			list = &ignored
		case "iifname", "iif", "-i":
			list = &r.links
		case "l4proto", "-p":
			list = &r.protos
		case "meta", "counter":
		case "{", "}":
			set = w == "{"
		case "accept", "drop", "return":
			r.verdict = w
		case "reject":
			reason, _, _ := strings.Cut(strings.Join(words[i:], " "), " comment ")
			r.verdict, _, _ = strings.Cut(reason, " #")
		case "jump", "goto", "-j", "-g":
			r.leaves = w == "goto" || w == "-g"
			if r.verdict = iptablesVerdict(after); r.verdict == "" && len(after) > 0 {
				r.to = after[0]
			}
		case "-m":
			if r.more = r.more || len(after) == 0 || after[0] != "comment"; !r.more {
				list = &ignored
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
	r.translated = r.translated && r.verdict == "accept"
	return r
}

// iptablesVerdict is one of iptables' targets in nft's words; "" for chains, and targets that end nothing.
func iptablesVerdict(target []string) string {
	switch strings.Join(target[:min(len(target), 1)], "") {
	case "ACCEPT", "DROP", "RETURN":
		return strings.ToLower(target[0])
	case "REJECT":
	default:
		return ""
	}
	if len(target) < 3 {
		return "reject"
	}
	family, code, _ := strings.Cut(target[2], "-") // icmp6-adm-prohibited
	switch {
	case family == "tcp":
		return "reject with tcp reset"
	case family == "icmp6":
		family = "icmpv6"
	}
	code = strings.NewReplacer("adm-p", "admin-p", "proto-", "prot-").Replace(code)
	return "reject with " + family + " type " + code
}
