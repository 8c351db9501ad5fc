//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How many log lines the links can cause, and how long it takes to the next try where they cannot be read or heard.
const (
	linkBurst    = 50
	linkInterval = 30 * time.Second
	linkRetry    = 5 * time.Second
)

// sequences returns the doors that can be knocked at, with the next line of one-time files, and those that have no line
// left. With an error they are what could be read.
func (d *daemon) sequences(c *Config) (on, off []*Door, err error) {
	unused, mistakes, unreadable := c.oneTimeFiles()
	if mistakes = append(mistakes, unreadable...); mistakes != nil {
		err = mistakes
	}
	on, off = inForce(c.Doors, unused)
	return on, off, err
}

// lists are the lists of interfaces that the configuration's doors have.
func (d *daemon) lists(c *Config) [][]string { return c.lists(d.interfaces(c)) }

// watch follows the links from now on, and their default routes where the configuration asks for them.
func (d *daemon) watch(c *Config) error {
	routes := slices.Contains(slices.Concat(d.lists(c)...), autoInterface)
	if d.stopLinks != nil && (d.routes || !routes) {
		return nil
	}
	stop, err := watchLinks(routes, d.linksChanged)
	if err != nil {
		return err
	}
	if d.stopLinks != nil {
		d.stopLinks()
		select { // what the one before had not read yet
		case d.linksChanged <- struct{}{}:
		default:
		}
	}
	d.stopLinks, d.routes = stop, routes
	return nil
}

// readLinks returns all links, marked by the configuration's lists, and notes which have held a default route.
func (d *daemon) readLinks(c *Config) (map[int]*Link, error) {
	links, err := readLinks(d.routes)
	if err != nil {
		return nil, err
	}
	apply(d.lists(c), links)
	d.addAuto(defaultLinks(links))
	return links, nil
}

// addAuto notes links that have held a default route. d.auto is never changed in place, as others have it, too.
func (d *daemon) addAuto(names []string) {
	for _, name := range names {
		if !slices.Contains(d.auto, name) && len(d.auto) < maxAutoLinks {
			d.auto = append(slices.Clip(d.auto), name)
		}
	}
}

// planFor is what the reader is to go by, but for the matcher and the captures: doors with sequences, and links.
func (d *daemon) planFor(c *Config, doors []*Door, links map[int]*Link) Plan {
	p := Plan{wide: d.options.debug, ignored: c.IgnorePorts, ring: c.RingSize, links: links, addresses: map[[16]byte]bool{}}
	var addresses []netip.Addr
	add := func(addr netip.Addr, own bool) {
		if _, known := p.addresses[addr.As16()]; !known && (addr.Is4() || !d.options.onlyIPv4) {
			p.addresses[addr.As16()] = own
			addresses = append(addresses, addr)
		}
	}
	for _, l := range links {
		if l.listened() {
			for _, at := range append(l.uppers(links), l) {
				for _, addr := range at.Addresses {
					add(addr, true)
				}
			}
		}
	}
	for _, door := range doors {
		if door.Target.IsValid() {
			add(door.Target, false)
		}
	}
	p.spec = filterSpec(doors, addresses, d.options.onlyIPv4)
	p.spec.Served = c.IgnorePorts
	for _, l := range links {
		// Whoever sends packets on this host sees in /proc how often the daemon wakes up.
		if l.Loopback && !l.listened() {
			p.spec.NotOn = l.Index
		}
	}
	return p
}

func (d *daemon) newMatcher(doors []*Door) *Matcher {
	m := newMatcher(doors, maxAttempts)
	m.onlyChanges = !d.options.debug
	return m
}

// openCaptures gives the plan a capture for each link that is listened on, or a single one where a list names all links
// or where there are too many. Of those it has, by link, it keeps what still hears its link. With an error the others
// are there.
func openCaptures(p *Plan, lists [][]string, have map[int]*Capture) (captures map[int]*Capture, err error) {
	var indexes []int
	for index, l := range p.links {
		if l.listened() {
			indexes = append(indexes, index)
		}
	}
	if len(indexes) > maxCaptures || slices.Contains(slices.Concat(lists...), everyInterface) {
		indexes = []int{0}
	}
	sort.SliceStable(indexes, func(i, j int) bool { return indexes[i] < indexes[j] })
	captures = map[int]*Capture{}
	for _, index := range indexes {
		c := have[index]
		if c == nil || !c.hears(index) {
			var failed error
			c, failed = openCapture(index, p.filter(), p.ring/len(indexes))
			if failed != nil {
				if !errors.Is(failed, unix.ENODEV) { // else it has vanished meanwhile, and news of that is on its way
					err = failed
				}
				continue
			}
		}
		captures[index] = c
		p.captures = append(p.captures, c)
	}
	return captures, err
}

// closeCaptures closes those that were not there before.
func closeCaptures(captures, before map[int]*Capture) {
	for index, c := range captures {
		if before[index] != c {
			c.close()
		}
	}
}

// followLinks takes up what has changed of the links: the reader goes on with other addresses and captures, and all
// that it knows of attempts.
func (d *daemon) followLinks() {
	now := d.now()
	d.linksAt = nil
	defer func() {
		if d.linkLog.flush(now); d.linkLog.leftOut > 0 {
			d.linksAt = time.After(linkRetry)
		}
	}()
	auto, rules := d.auto, d.rules(d.config, d.links)
	links, err := d.readLinks(d.config)
	if err != nil {
		d.linkLog.printf(now, "%v", err)
		d.linksAt = time.After(linkRetry)
		return
	}
	plan := d.planFor(d.config, d.active, links)
	captures, err := openCaptures(&plan, d.lists(d.config), d.captures)
	if err != nil {
		d.linkLog.printf(now, "%v", err)
		d.linksAt = time.After(linkRetry)
	}
	same := len(links) == len(d.links)
	for index, l := range links {
		same = same && l.same(d.links[index])
	}
	for index, c := range captures {
		same = same && c == d.captures[index]
	}
	if same {
		return
	}
	d.logLinks(now, links)
	d.links, d.captures = links, captures
	d.send(plan)
	settings := doorSettings{}
	if d.firewall != nil && !slices.Equal(auto, d.auto) {
		if err := d.journal.noteFirewall(d.auto); err != nil {
			d.linkLog.printf(now, "%v", err)
		}
	}
	if next := d.rules(d.config, links); fmt.Sprint(next) != fmt.Sprint(rules) {
		settings.rules = &next
	}
	d.about.Links = linkStates(d.lists(d.config), links)
	settings.about = d.about
	d.settings <- settings
}

// rules are what our part of the firewall must be while nothing is open.
func (d *daemon) rules(c *Config, links map[int]*Link) Ruleset {
	return c.ruleset(d.interfaces(c), d.auto, links)
}

// named are the lists that do not just name all links: these are of interest to who reads the log.
func (d *daemon) named(c *Config) (named [][]string) {
	for _, list := range d.lists(c) {
		if !slices.Contains(list, everyInterface) {
			named = append(named, list)
		}
	}
	return named
}

// logLinks tells what has become of the links that are named.
func (d *daemon) logLinks(now time.Duration, links map[int]*Link) {
	lists := d.named(d.config)
	before, after := linkStates(lists, d.links), linkStates(lists, links)
	state := func(all []LinkState, name string) string {
		for _, s := range all {
			if s.Name == name {
				return s.String()
			}
		}
		return ""
	}
	for _, s := range before {
		if s.State != absent && state(after, s.Name) == "" {
			d.linkLog.printf(now, "interface %s is gone", s.Name)
		}
	}
	for _, s := range after {
		if s.String() != state(before, s.Name) {
			d.linkLog.printf(now, "%s", s.news())
		}
	}
}

// logOdd names what is waited for, and what is a port.
func (d *daemon) logOdd() {
	for _, s := range linkStates(d.named(d.config), d.links) {
		if s.odd() {
			d.log.printf("%s", s.news())
		}
	}
}

// nextSequences brings the next one-time sequences into force after one was used. A file that cannot be read disables
// its doors, and a line with a mistake is passed over: nobody could knock it.
func (d *daemon) nextSequences() {
	unused, mistakes, unreadable := d.config.oneTimeFiles()
	if mistakes = append(mistakes, unreadable...); mistakes != nil {
		d.logMistakes(mistakes)
	}
	var off []*Door
	d.active, off = inForce(d.config.Doors, unused)
	d.logDisabled(off)
	plan := d.planFor(d.config, d.active, d.links)
	plan.matcher = d.newMatcher(d.active)
	for _, c := range d.captures {
		plan.captures = append(plan.captures, c)
	}
	d.send(plan)
}

// send gives the reader a new plan. What is not in it is the reader's to close.
func (d *daemon) send(plan Plan) {
	d.wakeReader()
	d.plans <- plan
}

func (d *daemon) wakeReader() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(d.wake, one[:])
}

// describeInterfaces names all interfaces that are listened on.
func (d *daemon) describeInterfaces(c *Config) string {
	var all []string
	items := slices.Concat(d.lists(c)...)
	switch every := slices.Contains(items, everyInterface); {
	case every && slices.Contains(items, loopback):
		return "any,lo (all interfaces)"
	case every:
		return "any (all interfaces but lo: Interface = any,lo adds it)"
	}
	for _, item := range items {
		if !slices.Contains(all, item) {
			all = append(all, item)
		}
	}
	return strings.Join(all, ", ")
}

// missingCapability names what the process lacks (capabilities(7)). As root in a container it may have less than root.
func missingCapability(c *Config) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if unix.Capget(&header, &have[0]) != nil {
		return nil // what needs it will tell
	}
	var missing []string
	if have[0].Effective&(1<<unix.CAP_NET_RAW) == 0 {
		missing = append(missing, "CAP_NET_RAW (to see packets)")
	}
	if have[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 && c.native() {
		missing = append(missing, "CAP_NET_ADMIN (for Open_Ports)")
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("missing: %s: run it as root, or give it what is missing", strings.Join(missing, " and "))
}
