//go:build linux

package main

import (
	"fmt"
	"hash/fnv"
	"iter"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"
)

// Firewall builds the calls that bring our part of the firewall to where it must be: a chain of its own in iptables, or
// a table of its own in nft. Its methods know no clock, socket or process. Their calls are to be run in order, each
// after the one before has ended, and up to the first that fails; whichever fails, build puts everything right.
type Firewall interface {
	// build makes anew what is ours alone, whatever an earlier daemon has left: it hides, and needs to know nothing of the
	// host. At no moment a port that was hidden and is to be hidden is open.
	build(Ruleset) []Call
	// admit puts what we need in chains of the host, where it is not in its place.
	admit() []Call
	// open lets a source in, or lengthens its time. others are the passes that are open already for the source.
	open(p Pass, others []Pass) []Call
	// close takes a pass back. What others of the same source have in common with it stays.
	close(p Pass, others []Pass) []Call
}

// Ruleset is what our part of the firewall must be.
type Ruleset struct {
	Hidden []Hidden
	Kept   []Knock  // the ports of all doors: connections made while they were open live on
	Behind []Behind // the same, on hosts behind this one
	Open   []Pass
}

// behind are all that somebody has a right to reach behind this host, or had when a connection began; those of doors that a
// reload has done away with, too.
func (r Ruleset) behind() []Behind {
	all := slices.Clone(r.Behind)
	for _, p := range r.Open {
		for _, b := range p.Behind {
			if !slices.Contains(all, b) {
				all = append(all, b)
			}
		}
	}
	return all
}

// Hidden are ports that nobody may reach who has not knocked. Of TCP only the pure SYN is dropped, of UDP what belongs
// to no connection, also where conntrack does not look at it (notrack), so that hiding throws nobody out.
type Hidden struct {
	Door   string
	Ports  []Knock
	Behind []Behind       // of routed hosts, or forwarded from one address of this host
	Links  []string       // where they are hidden: names, or beginnings of names and a *; nil: everywhere but on lo
	Except []netip.Prefix // sources that are left to the host's own rules
}

// Pass is a source's right to reach ports.
type Pass struct {
	Door   string
	Source netip.Addr
	Link   string // counts for an IPv6 link-local source
	Ports  []Knock
	Behind []Behind
	Left   time.Duration // how long still; nft alone makes use of it
}

// source is the pass's source without zone, IPv4 not mapped.
func (p Pass) source() netip.Addr { return p.Source.Unmap().WithZone("") }

// onLink is whether the pass is bound to an interface. Only IPv6 gives an address on one link to somebody else on another.
func (p Pass) onLink() bool { return p.source().Is6() && p.source().IsLinkLocalUnicast() }

// link is that interface, or "".
func (p Pass) link() string {
	if p.onLink() {
		return p.Link
	}
	return ""
}

// usable says whether a pass can be put into rules.
func (p Pass) usable() bool { return p.Source.IsValid() && (!p.onLink() || plainLink(p.Link)) }

// ending is what the host has in store for packets in on a link that no rule of its own names.
type ending struct {
	family  string // inet, or ip or ip6 alone
	link    string // "": all that have no ending of their own
	proto   Protocol
	verdict string // drop, or reject with this or that; or iptables' target
}

// Call is a process to run.
type Call struct {
	Unless []string // is run first, if there is one; where it succeeds, Argv need not be run
	Argv   []string
	Input  string // for Argv's standard input
	// Otherwise are the inputs for more tries, each if the one before has failed: they ask less and less of the kernel.
	Otherwise iter.Seq[string]
}

// String prints the call as a shell would take it.
func (c Call) String() string {
	s := strings.Join(quoteWords(c.Argv), " ")
	if c.Unless != nil {
		s = strings.Join(quoteWords(c.Unless), " ") + " || " + s
	}
	if c.Input != "" {
		s += " <<END\n" + c.Input + "END"
	}
	return s
}

// maxComment is how many bytes of a door's name stand in a comment: nft keeps 128 bytes of a comment
// (NFTNL_UDATA_COMMENT_MAXLEN), iptables 256 (XT_MAX_COMMENT_LEN).
const maxComment = 100

// comment is how rules of a door are marked. A name that cannot stand there as it is gets a number, so that two doors
// never have the same comment: iptables could not tell their rules apart.
func comment(door string) string {
	name := strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune("\"'\\`$\x7f", r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(door, "_"))
	if name = strings.ToValidUTF8(name[:min(len(name), maxComment)], ""); name != door {
		name += " #" + fingerprint(door)
	}
	return "sesame: " + name
}

// fingerprint is a number of 8 hexadecimal digits for a text.
func fingerprint(s string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s))
	return fmt.Sprintf("%08x", h.Sum32())
}

// fits says whether all interface names can stand in rules. The kernel allows more (dev_valid_name in net/core/dev.c),
// but a + or * at the end means others too, and nft has no escape for a quote.
func (r Ruleset) fits() error {
	for _, h := range r.Hidden {
		for _, link := range h.Links {
			if !plainLink(strings.TrimSuffix(link, everyInterface)) {
				return fmt.Errorf("door %q: the firewall cannot take %q for the name of an interface", h.Door, link)
			}
		}
	}
	return nil
}

// prefixes returns those of one family, masked, and none that another one contains: nft refuses overlapping ones.
func prefixes(all []netip.Prefix, is4 bool) (kept []netip.Prefix) {
	// Two prefixes are apart, or one contains the other and comes before it.
	all = slices.Clone(all)
	sort.SliceStable(all, func(i, j int) bool { return all[i].Compare(all[j]) < 0 })
	for _, p := range all {
		if p.Addr().Is4() == is4 && (kept == nil || !kept[len(kept)-1].Overlaps(p)) {
			kept = append(kept, p.Masked())
		}
	}
	return kept
}

// ruleset is what our part of the firewall must be while nothing is open. general are the interfaces of doors that have
// none of their own, and auto those that "auto" stands for. links are the host's: packets for a port of a bridge come in on
// the bridge.
func (c *Config) ruleset(general, auto []string, links map[int]*Link) (r Ruleset) {
	for _, d := range c.Doors {
		for _, k := range d.OpenPorts {
			if !slices.Contains(r.Kept, k) {
				r.Kept = append(r.Kept, k)
			}
		}
		h := Hidden{Door: d.Name, Ports: slices.Clip(d.OpenPorts), Except: d.HideExcept}
		for _, b := range d.Behind {
			if !slices.Contains(r.Behind, b) {
				r.Behind = append(r.Behind, b)
			}
			if b.At.IsValid() {
				h.Behind = append(h.Behind, b)
			} else if !slices.Contains(h.Ports, b.Knock) { // over the other family it leads nowhere
				h.Ports = append(h.Ports, b.Knock)
			}
		}
		list := general
		if d.Interfaces != nil {
			list = d.Interfaces
		}
		every := slices.Contains(list, everyInterface)
		for _, item := range list {
			switch {
			case every: // but on lo, also if it is listened on
			case item == autoInterface:
				h.Links = append(h.Links, auto...)
			default:
				link, _, _ := strings.Cut(item, ":") // without an address's label
				h.Links = append(h.Links, link)
			}
		}
		h.Links = append(h.Links, inputs(h.Links, links)...)
		if d.Hide && (h.Links != nil || every) {
			r.Hidden = append(r.Hidden, h)
		}
	}
	return r
}

// inputs names, sorted, the bridges and so on that links which are named are ports of, and that are not named themselves.
func inputs(named []string, links map[int]*Link) (more []string) {
	for _, l := range links {
		if !names(named, l) {
			continue
		}
		for _, u := range l.uppers(links) {
			if !names(named, u) && !slices.Contains(more, u.Name) {
				more = append(more, u.Name)
			}
		}
	}
	slices.Sort(more)
	return more
}
