//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// ourPriority has our chain come before those of the host, which have 0 (filter) mostly.
	ourPriority = -10
	// awayPriority comes before everybody's translations, which have -100 (dstnat), and latePriority after all that judges.
	awayPriority, latePriority = -110, 1000
	// leavingPriority comes before everybody's masquerading, which has 100 (srcnat).
	leavingPriority = 90
	// maxSet is how many elements a set can have. A full one refuses more.
	maxSet = 65536
	// maxLeft is the longest time in a set: nft 1.0.6 refuses 68 years.
	maxLeft = 365 * 24 * time.Hour
	// acceptComment begins the comment of the rule that we put into chains of others; the mark follows.
	acceptComment = "sesame 0x"
)

// nftScript runs an nft script from standard input, as one transaction; nftCheck has the kernel say whether it would.
var nftScript, nftCheck = []string{"nft", "-f", "-"}, []string{"nft", "-c", "-f", "-"}

// nftFirewall is our part of the firewall in nft's language: table inet sesame has sets of who may come in, which the
// kernel empties by itself, and chains before all others that keep strangers from what is hidden. An accept there does
// not help against another chain's drop. So it sets a bit of the packet's mark, and each chain that can drop begins with
// one rule that accepts by that bit.
//
// How a hidden port answers is left to the host. Where none of its chains can drop, we refuse as its kernel does. Else a
// stranger's packet is sent on to a port that no rule names (chain away, before everybody's translations, so that what is
// forwarded is hidden, too); the host's chains judge that one; and what they let in is refused last of all (chain late).
// The zero value knows nothing of the host: it hides everywhere.
type nftFirewall struct {
	mark    uint32        // the bit
	accepts []acceptChain // where the rule must stand
	plain   bool          // no chain of others can drop what comes to this host, and none translates it
	endings []ending      // how late refuses, where the host lets in whatever was translated
	passes  bool          // no chain of others can drop what is forwarded
}

// acceptChain is a base chain of others.
type acceptChain struct {
	family, table, name string   // inet, fw4, input
	tool                iptables // which has made it; the zero value: nft
	unread              bool     // the tool cannot list it, but nft can
	behind              int      // where: behind a rule with this handle, or behind so many rules of the tool's; 0: first
	placed              bool     // it is there
}

// rule is the ending as one of nft's rules.
func (e ending) rule() string {
	match := "meta l4proto " + e.proto.String() + " "
	if e.link != "" {
		match = `iifname "` + e.link + `" ` + match
	}
	switch e.family {
	case "ip":
		match = "meta nfproto ipv4 " + match
	case "ip6":
		match = "meta nfproto ipv6 " + match
	}
	reason, ok := strings.CutPrefix(e.verdict, "REJECT --reject-with ") // icmp6-adm-prohibited
	family, code, _ := strings.Cut(reason, "-")
	switch {
	case !ok:
		return match + strings.ToLower(e.verdict)
	case family == "tcp":
		return match + "reject with tcp reset"
	}
	code = strings.NewReplacer("adm-p", "admin-p", "proto-", "prot-").Replace(code)
	return match + "reject with " + strings.Replace(family, "6", "v6", 1) + " type " + code
}

// ability is what a kernel can do for us. Each has what those before it have.
type ability uint8

const (
	ableToDrop     ability = iota
	ableToTrack            // connections
	ableToLocate           // addresses of this host (fib)
	ableToRedirect         // nat in family inet: Linux 5.2
	ableToFind             // sockets by wildcard: Linux 5.11, and a module
)

func (f nftFirewall) acceptComment() string { return fmt.Sprintf("sesame 0x%08x", f.mark) }

// build makes table and rules in one transaction. A table that is added first can be deleted whether it was there or not.
// What is asked of the kernel becomes less until it is able to do it.
func (f nftFirewall) build(r Ruleset) []Call {
	script := func(able ability) string {
		return "add table inet sesame\ndelete table inet sesame\n" + f.tableText(r, able)
	}
	least := ableToDrop
	if len(r.behind()) > 0 {
		least = ableToTrack
	}
	return []Call{{Argv: nftScript, Input: script(ableToFind), Otherwise: func(try func(string) bool) {
		for able := ableToFind; able > least && try(script(able-1)); able-- {
		}
	}}}
}

func (f nftFirewall) admit() (calls []Call) {
	for _, c := range f.accepts {
		if !c.placed {
			calls = append(calls, f.accept(c))
		}
	}
	return calls
}

// accept puts the rule into its place in a chain. One in another place is left there by nft, for flush.
func (f nftFirewall) accept(c acceptChain) Call {
	if c.tool.name != "" {
		insert := fmt.Sprintf("-I %s %d%s\n", c.name, c.behind+1, f.iptablesAccept())
		return Call{Argv: c.tool.restore(), Input: tableFilter("-D " + c.name + f.iptablesAccept() + "\n" + insert), Otherwise: slices.Values([]string{tableFilter(insert)})}
	}
	command, position := "insert", ""
	if c.behind != 0 {
		command, position = "add", fmt.Sprintf("position %d ", c.behind)
	}
	return Call{Argv: nftScript, Input: fmt.Sprintf("%s rule %s %s %s %smeta mark & 0x%08x == 0x%08x accept comment \"%s\"\n",
		command, c.family, c.table, c.name, position, f.mark, f.mark, f.acceptComment())}
}

// ours is whether our accept is a rule, or one of several. Where nft has restored one of iptables', the comment is gone.
func (f nftFirewall) ours(rule string) bool {
	return strings.Contains(rule, f.acceptComment()) ||
		strings.Contains(rule, fmt.Sprintf("meta mark & 0x%08x == 0x%08x ", f.mark, f.mark)) && strings.Contains(rule, " accept")
}

// iptablesAccept is the rule for a chain that iptables has made. A rule of nft's there is read by iptables-save as one
// that accepts everything.
func (f nftFirewall) iptablesAccept() string {
	return fmt.Sprintf(` -m mark --mark 0x%x/0x%x -m comment --comment "%s" -j ACCEPT`, f.mark, f.mark, f.acceptComment())
}

// open adds, deletes and adds the elements: that is the one way to lengthen the time of an element which may or may
// not be there still, on every kernel.
func (f nftFirewall) open(p Pass, others []Pass) []Call {
	return f.replace(p, append(slices.Clip(others), p))
}

func (f nftFirewall) close(p Pass, others []Pass) []Call {
	return f.replace(p, others)
}

// replace takes the elements of p out and puts in those which passes still have a right to.
func (f nftFirewall) replace(p Pass, passes []Pass) []Call {
	var script string
	for _, set := range setsOf(p.Behind) {
		keys := set.keys(p)
		if len(keys) == 0 {
			continue
		}
		all := strings.Join(keys, ", ")
		script += fmt.Sprintf("add element inet sesame %s { %s }\n", set.name, all)
		script += fmt.Sprintf("delete element inet sesame %s { %s }\n", set.name, all)
		if again := set.elements(passes, keys); again != "" {
			script += fmt.Sprintf("add element inet sesame %s { %s }\n", set.name, again)
		}
	}
	if script == "" {
		return nil
	}
	return []Call{{Argv: nftScript, Input: script}}
}

// openSet is a set of open sources and ports; or of sources alone, for what is behind this host.
type openSet struct {
	name, types, match string
	holds              func(Pass) bool
	behind             bool
}

var openSets = []openSet{
	{"open4", "ipv4_addr . inet_proto . inet_service", "ip saddr", func(p Pass) bool { return p.source().Is4() }, false},
	{"open6", "ipv6_addr . inet_proto . inet_service", "ip6 saddr", func(p Pass) bool { return p.source().Is6() && p.link() == "" }, false},
	{"link6", "ifname . ipv6_addr . inet_proto . inet_service", "iifname . ip6 saddr", func(p Pass) bool { return p.link() != "" }, false},
	{"away6", "ipv6_addr . inet_proto . inet_service", "ip6 saddr", func(p Pass) bool { return p.link() != "" }, false},
}

// setsOf are all sets, with those for what is behind this host: a name has 15 bytes at most before Linux 4.12.
func setsOf(behind []Behind) []openSet {
	sets := slices.Clip(openSets)
	for _, b := range behind {
		set := openSet{"behind_" + fingerprint(b.String()), "ipv6_addr", "ip6 saddr", func(p Pass) bool {
			return slices.Contains(p.Behind, b) && b.fits(p.source())
		}, true}
		if b.is4() {
			set.types, set.match = "ipv4_addr", "ip saddr"
		}
		sets = append(sets, set)
	}
	return sets
}

// inputSets are those for chain input, and awaySets those before routing. There, packets for a port of a VRF come in on the
// port, and behind it on the VRF, which passes name: link-local sources are let through on any link (away6), and chain input
// judges them.
var inputSets, awaySets = openSets[:3], []openSet{openSets[0], openSets[1], openSets[3]}

// keys are the elements that a pass has in the set, without their time.
func (s openSet) keys(p Pass) (keys []string) {
	if !p.usable() || !s.holds(p) {
		return nil
	}
	if s.behind {
		return []string{p.source().String()}
	}
	for _, k := range p.Ports {
		key := fmt.Sprintf("%v . %v . %d", p.source(), k.Proto, k.Port)
		if strings.HasPrefix(s.types, "ifname") {
			key = `"` + p.link() + `" . ` + key
		}
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// elements are those that passes have in the set. Where several have the same one, it is the longest one's. only
// restricts them, unless it is nil.
func (s openSet) elements(passes []Pass, only []string) string {
	longest := map[string]Pass{}
	var order []string
	for _, p := range passes {
		for _, key := range s.keys(p) {
			old, there := longest[key]
			switch {
			case only != nil && !slices.Contains(only, key):
			case !there:
				order = append(order, key)
				longest[key] = p
			case p.Left > old.Left:
				longest[key] = p
			}
		}
	}
	for i, key := range order {
		// Rounded up: a timeout of 0 means for ever.
		seconds := max(1, (min(longest[key].Left, maxLeft)+time.Second-1)/time.Second)
		order[i] = fmt.Sprintf("%s timeout %ds comment \"%s\"", key, seconds, comment(longest[key].Door))
	}
	return strings.Join(order, ", ")
}

func (f nftFirewall) tableText(r Ruleset, able ability) string {
	var s strings.Builder
	s.WriteString("table inet sesame {\n")
	for _, set := range setsOf(r.behind()) {
		fmt.Fprintf(&s, "\tset %s {\n\t\ttype %s\n\t\tsize %d\n\t\tflags timeout\n", set.name, set.types, maxSet)
		if elements := set.elements(r.Open, nil); elements != "" {
			fmt.Fprintf(&s, "\t\telements = { %s }\n", elements)
		}
		s.WriteString("\t}\n")
	}
	return s.String() + f.chainsText(r, able) + "}\n"
}

// chainsText are the chains of our table. Each asks for the port first, so that packets to other ports are soon done
// with. What is said of conntrack at iptables.rules holds here.
func (f nftFirewall) chainsText(r Ruleset, able ability) string {
	var s strings.Builder
	chain := func(name, hook string, rules ...string) {
		fmt.Fprintf(&s, "\tchain %s {\n", name)
		if hook != "" {
			fmt.Fprintf(&s, "\t\ttype %s; policy accept;\n", hook)
		}
		for _, rule := range rules {
			s.WriteString("\t\t" + rule + "\n")
		}
		s.WriteString("\t}\n")
	}
	ports, hidden := slices.Clone(r.Kept), []Knock(nil)
	for _, h := range r.Hidden {
		hidden = append(hidden, h.Ports...)
		for _, b := range h.Behind {
			if b.forwarded() {
				hidden = append(hidden, b.Knock)
			}
		}
	}
	for _, p := range r.Open { // of doors that a reload has done away with, too
		ports = append(ports, p.Ports...)
	}
	ports = append(ports, hidden...)

	letIn := fmt.Sprintf("meta mark set meta mark | 0x%08x accept", f.mark)
	established, stray, reset, unreachable := "", "", "drop", "drop"
	if f.plain && able >= ableToLocate { // and to refuse
		reset, unreachable = "reject with tcp reset", "reject"
	}
	if able >= ableToTrack {
		stray = "ct state != { established, related } "
		if !f.plain { // what nobody drops needs no way through
			established = "ct state established " + letIn
		}
	}
	// Behind everybody's translations: where strangers are sent away before, it is for packets that are not tracked, or
	// invalid.
	doors := slices.Concat(openRules(inputSets, letIn), exceptRules(r.Hidden, false), strangerRules(r.Hidden, false, []string{beginning + " " + reset}, stray+unreachable))
	if established != "" {
		doors = slices.Insert(doors, 0, established)
	}
	chain("doors", "", doors...)
	// Nobody else's use of the bit may let a packet in.
	input := []string{fmt.Sprintf("meta mark & 0x%08x != 0 meta mark set meta mark & 0x%08x", f.mark, ^f.mark)}
	if len(ports) > 0 {
		input = append(input, fmt.Sprintf("meta l4proto . th dport { %s } jump doors", portPairs(ports)))
	}
	chain("input", fmt.Sprintf("filter hook input priority %d", ourPriority), input...)
	forwards, asked := f.forwardChains(chain, r, able, letIn)
	if hides := !f.plain && len(hidden) > 0; able < ableToLocate || !hides && forwards == nil {
		return s.String()
	} else if !hides {
		chain("away", fmt.Sprintf("nat hook prerouting priority %d", awayPriority), forwards...)
		return s.String()
	}

	// A router does not hide the ports of hosts behind it. What is local is dear to find out, and so it comes last.
	unnamed := unnamedPort(append(ports, asked...))
	kind, send := "nat", fmt.Sprintf("fib daddr type local dnat to :%d", unnamed)
	strangers := openRules(awaySets, "accept")
	if able < ableToRedirect {
		kind, send = "filter", "fib daddr type local drop"
		strangers = slices.Insert(strangers, 0, "ct state { established, related } accept")
	}
	sent := []string{beginning + " " + send}
	if able >= ableToFind { // an ACK that comes to a connection is let through, and none that a listener would answer
		sent = append(sent, "socket wildcard 1 "+send)
	}
	chain("strangers", "", slices.Concat(forwards, strangers, exceptRules(r.Hidden, false), strangerRules(r.Hidden, false, sent, send))...)
	if numbers := portNumbers(hidden, tcp); able >= ableToRedirect && numbers != "" {
		// A bare ACK that others forward may belong to a connection that conntrack has forgotten, and leaves a mapping, by which
		// chains of nat are not asked again. A stranger's connection does not begin on that.
		var known []string
		for _, rule := range forwards {
			match, _, _ := strings.Cut(rule, "dnat ")
			known = append(known, match+"accept")
		}
		const end = "fib daddr type local drop"
		chain("known", "", slices.Concat(known, openRules(awaySets, "accept"), exceptRules(r.Hidden, false), strangerRules(r.Hidden, false, []string{end}, end))...)
		chain("again", fmt.Sprintf("filter hook prerouting priority %d", awayPriority-1),
			fmt.Sprintf("%s ct status confirmed tcp dport { %s } jump known", beginning, numbers))
	}
	chain("away", fmt.Sprintf("%s hook prerouting priority %d", kind, awayPriority),
		fmt.Sprintf("meta l4proto . th dport { %s } jump strangers", portPairs(append(hidden, asked...))))
	if able < ableToRedirect {
		return s.String()
	}
	var refuse []string
	for _, e := range f.endings {
		refuse = append(refuse, e.rule())
	}
	chain("refuse", "", append(refuse, "meta l4proto tcp reject with tcp reset", "reject")...)
	chain("late", fmt.Sprintf("filter hook input priority %d", latePriority), fmt.Sprintf("th dport %d ct status dnat jump refuse", unnamed))
	return s.String()
}

// forwardChains are the chains for what is behind this host. It returns rules that translate what is asked of us, for those
// who are in alone; where somebody else translates it too, ours come first. The ports are those they are about. A kernel that is
// not able to translate for us has none.
func (f nftFirewall) forwardChains(chain func(name, hook string, rules ...string), r Ruleset, able ability, letIn string) (translate []string, asked []Knock) {
	behind := r.behind()
	if len(behind) == 0 {
		return nil, nil
	}
	var anywhere []string // the rules about any address of this host come after those about one
	var ports []string    // once they are translated
	var let, through, onlyRouted, back, masquerade []string
	const ours = "ct state { established, related } "
	for i, set := range setsOf(behind)[len(openSets):] {
		b := behind[i]
		hosts, port := b.target()
		family, in := b.family(), fmt.Sprintf("%s @%s ", set.match, set.name)
		to := fmt.Sprintf("%v dport %d %s daddr %v ", b.Proto, port, family, hosts)
		if n := fmt.Sprint(port); !slices.Contains(ports, n) {
			ports = append(ports, n)
		}
		let = append(let, to+ours+letIn)
		back = append(back, fmt.Sprintf("%v sport %d %s saddr %v %s", b.Proto, port, family, hosts, ours+letIn))
		if !b.forwarded() {
			through, onlyRouted = append(through, to+in+letIn), append(onlyRouted, to+in+"accept")
			continue
		}
		if able < ableToRedirect {
			continue
		}
		asked = append(asked, b.Knock)
		through = append(through, to+in+"ct status dnat "+letIn)
		list, local := &anywhere, "fib daddr type local "
		if b.At.IsValid() {
			list, local = &translate, fmt.Sprintf("%s daddr %v ", family, b.At)
		}
		*list = append(*list, fmt.Sprintf("%v dport %d %s%sdnat %s to %v", b.Proto, b.Port, in, local, family, b.To))
		if b.Masquerade {
			masquerade = append(masquerade, to+in+"ct status dnat masquerade")
		}
	}
	reset, unreachable := "drop", "drop"
	// A set of plain numbers is a bitmap, which is fast; the chains ask for the protocol. The bit is set here and not before
	// routing, where rules of ip(8) would see it.
	numbers := strings.Join(ports, ", ")
	forward := []string{fmt.Sprintf("meta mark & 0x%08x != 0 meta mark set meta mark & 0x%08x", f.mark, ^f.mark),
		fmt.Sprintf("th dport { %s } jump through", numbers), fmt.Sprintf("th sport { %s } jump back", numbers)}
	if f.passes { // what nobody drops needs no way through
		reset, unreachable, forward, through = "reject with tcp reset", "reject", forward[1:2], onlyRouted
		let = []string{ours + "accept"} // has the kernel put fragments together: one of 8 bytes has no flags
	}
	strangers := slices.Concat(exceptRules(r.Hidden, true),
		strangerRules(r.Hidden, true, []string{beginning + " " + reset}, "ct state != { established, related } "+unreachable))
	if !f.passes || strangers != nil {
		chain("through", "", slices.Concat(let, through, strangers)...)
		if !f.passes {
			chain("back", "", back...)
		}
		chain("forward", fmt.Sprintf("filter hook forward priority %d", ourPriority), forward...)
	}
	if masquerade != nil {
		chain("leaving", fmt.Sprintf("nat hook postrouting priority %d", leavingPriority), masquerade...)
	}
	return append(translate, anywhere...), asked
}

// family is nft's word for it.
func (b Behind) family() string {
	if b.is4() {
		return "ip"
	}
	return "ip6"
}

// beginning matches TCP packets that belong to no connection which is established: so none of these ends by our rules,
// whatever conntrack has forgotten of it.
const beginning = "tcp flags & (rst | ack) == 0"

// openRules have a verdict for sources that are in, link-local ones last.
func openRules(sets []openSet, verdict string) (rules []string) {
	for _, set := range sets {
		rules = append(rules, fmt.Sprintf("%s . meta l4proto . th dport @%s %s", set.match, set.name, verdict))
	}
	return rules
}

// exceptRules leave sources to the host's own rules. routed says that they are about hosts that are routed here.
func exceptRules(all []Hidden, routed bool) (rules []string) {
	for _, h := range all {
		for _, family := range []string{"ip", "ip6"} {
			var list []string
			for _, p := range prefixes(h.Except, family == "ip") {
				list = append(list, p.String())
			}
			if len(list) == 0 {
				continue
			}
			for _, match := range linkMatches(h.Links) {
				for _, to := range h.places(family, routed) {
					rules = append(rules, fmt.Sprintf("%s %s saddr { %s } %s return comment \"%s\"", match, family, strings.Join(list, ", "), to, comment(h.Door)))
				}
			}
		}
	}
	return rules
}

// places match what is hidden, for one family.
func (h Hidden) places(family string, routed bool) (matches []string) {
	if len(h.Ports) > 0 && !routed {
		matches = []string{fmt.Sprintf("meta l4proto . th dport { %s }", portPairs(h.Ports))}
	}
	for _, b := range h.Behind {
		if b.family() == family && b.forwarded() != routed {
			matches = append(matches, b.asked())
		}
	}
	return matches
}

// asked matches the port of one address, or network.
func (b Behind) asked() string {
	return fmt.Sprintf("%v dport %d %s daddr %v", b.Proto, b.Port, b.family(), b.At)
}

// strangerRules are rules about all hidden ports on all links, which end as is said for TCP and UDP.
func strangerRules(all []Hidden, routed bool, endTCP []string, endUDP string) (rules []string) {
	for _, h := range alikeHidden(all) {
		for _, match := range linkMatches(h.Links) {
			for _, b := range h.Behind {
				ends := endTCP
				if b.Proto == udp {
					ends = []string{endUDP}
				}
				for _, end := range ends {
					if b.forwarded() != routed {
						rules = append(rules, fmt.Sprintf("%s %s %s", match, b.asked(), end))
					}
				}
			}
			if routed {
				continue
			}
			if ports := portNumbers(h.Ports, tcp); ports != "" {
				for _, end := range endTCP {
					rules = append(rules, fmt.Sprintf("%s tcp dport { %s } %s", match, ports, end))
				}
			}
			if ports := portNumbers(h.Ports, udp); ports != "" {
				rules = append(rules, fmt.Sprintf("%s udp dport { %s } %s", match, ports, endUDP))
			}
		}
	}
	return rules
}

// unnamedPort is a port that no door is about, and no rule of the host's most likely.
func unnamedPort(ports []Knock) uint16 {
	port := uint16(1)
	for slices.ContainsFunc(ports, func(k Knock) bool { return k.Port == port }) {
		port++
	}
	return port
}

// alikeHidden joins what is hidden on the same links, so that a packet is looked up once and not once for each door.
func alikeHidden(all []Hidden) (joined []Hidden) {
	for _, h := range all {
		i := slices.IndexFunc(joined, func(j Hidden) bool { return slices.Equal(j.Links, h.Links) })
		if i < 0 {
			joined = append(joined, Hidden{Links: h.Links})
			i = len(joined) - 1
		}
		joined[i].Ports, joined[i].Behind = append(joined[i].Ports, h.Ports...), append(joined[i].Behind, h.Behind...)
	}
	return joined
}

// linkMatches are the matches for one of the links: all plain names are looked up at once, and each beginning of names
// (ppp*) by itself, as older nft has none of these in a set.
func linkMatches(links []string) (matches []string) {
	if len(links) == 0 {
		return []string{`iifname != "lo"`}
	}
	var plain []string
	for _, link := range links {
		if strings.HasSuffix(link, everyInterface) {
			matches = append(matches, `iifname "`+link+`"`)
		} else {
			plain = append(plain, `"`+link+`"`)
		}
	}
	if plain != nil {
		matches = append(matches, "iifname { "+strings.Join(plain, ", ")+" }")
	}
	return matches
}

func portPairs(ports []Knock) string {
	var s []string
	for _, k := range ports {
		if pair := fmt.Sprintf("%v . %d", k.Proto, k.Port); !slices.Contains(s, pair) {
			s = append(s, pair)
		}
	}
	return strings.Join(s, ", ")
}

func portNumbers(ports []Knock, proto Protocol) string {
	var s []string
	for _, k := range ports {
		if number := fmt.Sprint(k.Port); k.Proto == proto && !slices.Contains(s, number) {
			s = append(s, number)
		}
	}
	return strings.Join(s, ", ")
}
