//go:build linux

package main

import (
	"math"
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
	marks          // changes the bit of a packet's mark by which ours accept
)

// hostRule is what counts of a rule of the host's, be it nft's or iptables'.
type hostRule struct {
	links, protos []string // that it is about; nil: any
	more          bool     // and it asks for more
	sources       bool     // it is about certain sources
	verdict       string   // "": none
	to            string   // the chain that it leads to
	leaves        bool     // for good
	translated    bool     // it lets in what was translated
	can           effect   // by itself; of a map of verdicts, by any of them
	leads         []string // chains that it leads to; of a map, all
	mark          uint32   // bits of a packet's mark that it changes
}

// ruleWords splits a rule into words. What stands in quotes is one, with its first quote: so it is no word of a rule.
func ruleWords(rule string) (words []string) {
	rule, _, _ = strings.Cut(rule, "# handle ")
	for i, part := range strings.Split(rule, `"`) {
		if i%2 == 1 {
			words = append(words, `"`+part)
		} else {
			words = append(words, strings.FieldsFunc(part, func(r rune) bool { return strings.ContainsRune(" \t,;", r) })...)
		}
	}
	return words
}

// readRule reads a rule up to its verdict, or to the end of a map of verdicts, in which the first one counts.
func readRule(line string) (r hostRule) {
	words := append(ruleWords(line), "")
	r.sources = aboutSources(words)
	var list *[]string // where the next word belongs, or all up to a brace
	set := false
	for i := 0; i < len(words)-1 && (set || r.verdict == "" && r.to == ""); i++ {
		switch w, next := words[i], words[i+1]; w {
		case "-A", "packets", "bytes", "comment", "--comment": // what is named may be called as a verdict is
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
			r.decide(w)
		case "reject":
			reason := words[i : len(words)-1]
			if end := slices.Index(reason, "comment"); end >= 0 {
				reason = reason[:end]
			}
			r.decide(strings.Join(reason, " "))
		case "queue": // a program says which
			r.can, r.more = r.can|accepts|drops, true
		case "jump", "goto", "-j", "-g":
			r.leaves = r.leaves || w == "goto" || w == "-g"
			switch next {
			case "ACCEPT", "DROP", "RETURN", "REJECT":
				r.decide(strings.Join(words[i+1:len(words)-1], " "))
				continue
			case "TARPIT":
				r.can |= drops
			case "NFQUEUE":
				r.can |= accepts | drops
			case "MARK", "CONNMARK":
				r.mark |= changedMark(words[i+1:])
			}
			r.leads = append(r.leads, next)
			if i++; r.verdict == "" && r.to == "" {
				r.to = next
			}
		case "vmap": // of a map by name we do not see the contents
			if r.more = true; strings.HasPrefix(next, "@") {
				r.can |= accepts | drops | jumps
			}
		case "-m":
			if next == "comment" {
				i++
			} else {
				r.more = true
			}
		default:
			if w == "mark" && next == "set" && i > 0 && words[i-1] == "meta" {
				r.mark |= changedMark(words[i+2:])
			}
			if r.more = r.more || list == nil || w == "!" || w == "!="; r.more {
				continue
			}
			if *list = append(*list, strings.TrimPrefix(w, `"`)); !set {
				list = nil
			}
		}
	}
	translated := strings.Contains(line, "ct status dnat") || strings.Contains(line, "--ctst") && strings.Contains(line, "DNAT")
	r.translated = translated && strings.EqualFold(r.verdict, "accept")
	return r
}

// decide notes a verdict.
func (r *hostRule) decide(verdict string) {
	switch word, _, _ := strings.Cut(strings.ToLower(verdict), " "); word {
	case "accept":
		r.can |= accepts
	case "drop", "reject":
		r.can |= drops
	}
	if r.verdict == "" && r.to == "" {
		r.verdict = verdict
	}
}

// changedMark are the bits of a packet's mark that change by what nft prints after "set", or iptables after "-j". Where that
// is not made of the mark itself, or has no mask, it is all of them.
//
//	0x1; ct mark & 0xff; meta mark & 0xffff00ff | 0x100; or, in older words, mark and 0xff
//	MARK --set-xmark 0x100/0x3f00; CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00
func changedMark(words []string) (bits uint32) {
	number := func(s string) uint32 {
		if n, err := strconv.ParseUint(s, 0, 32); err == nil {
			return uint32(n)
		}
		return math.MaxUint32
	}
	switch words[0] {
	case "MARK", "mark":
	case "meta":
		return changedMark(words[1:])
	case "CONNMARK":
		if !slices.Contains(words, "--restore-mark") {
			return 0
		}
	default:
		return math.MaxUint32
	}
	masked := words[0] == "mark"
	for i, w := range words[:len(words)-1] {
		switch next := words[i+1]; w {
		case "--set-xmark", "--set-mark":
			value, mask, _ := strings.Cut(next, "/")
			bits, masked = number(value)|number(mask), words[0] == "MARK"
		case "--nfmask", "--ctmask", "|", "or", "^", "xor":
			bits, masked = bits|number(next), true
		case "&", "and":
			bits |= ^number(next)
		default:
			if words[0] == "mark" && i%2 == 1 { // another statement
				return bits
			}
		}
	}
	if !masked {
		return math.MaxUint32
	}
	return bits
}

// aboutSources is whether a rule, in words, is about certain sources, or counts each one's packets. One that is about all
// others is not.
func aboutSources(words []string) bool {
	words = append(slices.Clip(words), "", "", "")
	for i, w := range words[:len(words)-3] {
		negated := i > 0 && words[i-1] == "!"
		switch w {
		case "-s", "--src-range", "--mac-source", "--source-country", "--update", "--rcheck", "--connlimit-above":
			if !negated && !everybody(words[i+1]) {
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
			if words[value] == "{" {
				value++
			}
			if words[value] != "!=" && !everybody(words[value]) {
				return true
			}
		}
	}
	return false
}

// everybody is whether sources are all there are.
func everybody(sources string) bool {
	return strings.HasSuffix(sources, "/0") || sources == "0.0.0.0-255.255.255.255" || sources == "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
}
