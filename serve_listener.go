//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
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

// maxGrants is how many grants may wait for the doors.
const maxGrants = 1024

// Listener is what is listened on, and what the reader goes by. Another configuration has another one, which shares the
// channels and the captures that still hear their link.
type Listener struct {
	onlyIPv4, debug bool
	plans           chan Plan
	wake            int              // an eventfd: see Reader
	ended           chan struct{}    // closed when the reader has ended
	sources         *Sources         // the reader's
	changed         chan struct{}    // told by the kernel: a link, or a default route
	retry           <-chan time.Time // when to read the links again, changed or not
	log             Throttle

	config   *Config
	doors    []*Door          // those that can be knocked at: of config, or one-time doors with their next sequence
	news     *linkNews        // nil: not yet asked for
	links    map[int]*Link    // all of them, by index
	captures map[int]*Capture // by link, or 0 for the one that hears all
	auto     []string         // links that a default route has led out of; never changed in place
}

// linkNews is that the kernel tells of changes of links, and of default routes if routes.
type linkNews struct {
	routes bool
	stop   func()
}

func newListener(onlyIPv4, debug bool) (*Listener, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("making an eventfd: %w", err)
	}
	sources, err := openSources()
	if err != nil {
		return nil, err
	}
	return &Listener{
		onlyIPv4: onlyIPv4, debug: debug, plans: make(chan Plan, 1), wake: wake, ended: make(chan struct{}), sources: sources,
		changed: make(chan struct{}, 1),
	}, nil
}

// bring returns the listener for another configuration, whose captures are still those of l; l stays as it is. After an
// error it must be closed, too.
func (l *Listener) bring(c *Config, doors []*Door) (*Listener, error) {
	next := *l
	next.config, next.doors = c, doors
	// The links are watched before they are read, so that no change is missed.
	routes := slices.Contains(slices.Concat(next.lists()...), autoInterface)
	if l.news == nil || routes && !l.news.routes {
		stop, err := watchLinks(routes, l.changed)
		if err != nil {
			return &next, err
		}
		next.news = &linkNews{routes, stop}
	}
	return &next, next.readLinks()
}

// close gives up what l has and the one in force has not.
func (l *Listener) close(inForce *Listener) {
	for index, c := range l.captures {
		if inForce.captures[index] != c {
			c.close()
		}
	}
	if l.news != nil && l.news != inForce.news {
		l.news.stop()
	}
}

// start lets a reader send grants from now on, until end.
func (l *Listener) start(now func() time.Duration, date func() time.Time, codesWait func() string, log, debug *Log, meter *Meter) <-chan Grant {
	l.log = Throttle{log: log, burst: linkBurst, interval: linkInterval}
	grants := make(chan Grant, maxGrants)
	reader := &Reader{
		plan: l.plan(l.newMatcher()), now: now, log: log, debug: debug, grants: grants, plans: l.plans, wake: l.wake, ended: l.ended,
		opened: newThrottles(log, grantBurst, grantInterval), meter: meter, codesWait: codesWait,
		steps:    Throttle{log: log, burst: stepBurst, interval: stepInterval},
		refusals: Throttle{log: log, burst: 1, interval: time.Second},
		drops:    Throttle{log: log, burst: dropBurst, interval: dropInterval},
		served:   func() ([]Knock, error) { return servedPorts(procNet) },
		sources:  l.sources, translations: newTranslations(), servedNow: map[Knock]bool{}, granted: map[[32]byte]bool{},
		wall: func() time.Duration { return time.Duration(date().UnixNano()) },
	}
	go reader.run()
	return grants
}

// replace makes the reader go by l from now on. What l has not of the one before is given up.
func (l *Listener) replace(before *Listener) {
	if l.news != before.news {
		before.news.stop()
		select { // what it had not read yet
		case l.changed <- struct{}{}:
		default:
		}
	}
	l.send(l.newMatcher())
}

// knockAt makes these the doors that can be knocked at.
func (l *Listener) knockAt(doors []*Door) {
	l.doors = doors
	l.send(l.newMatcher())
}

// send gives the reader a new plan; without a matcher it goes on with the one it has. What is not in the plan is the
// reader's to close.
func (l *Listener) send(m *Matcher) {
	l.plans <- l.plan(m)
	l.wakeReader()
}

// ask has the reader list the bars, or lift some. After its end there are none.
func (l *Listener) ask(r Request) Answer {
	ask := Ask{r, make(chan Answer, 1)}
	a := askOwner(l.plans, Plan{ask: &ask}, l.wakeReader, ask.answer, l.ended)
	if a.Err == errEnding {
		return Answer{}
	}
	return a
}

// end ends the reader.
func (l *Listener) end() {
	l.plans <- Plan{end: true}
	l.wakeReader()
}

func (l *Listener) wakeReader() {
	_, _ = unix.Write(l.wake, binary.NativeEndian.AppendUint64(nil, 1))
}

func (l *Listener) newMatcher() *Matcher {
	m := newMatcher(l.knocked(), maxAttempts)
	m.onlyChanges = !l.debug
	return m
}

// knocked are the doors that have a sequence.
func (l *Listener) knocked() []*Door {
	return slices.DeleteFunc(slices.Clone(l.doors), func(d *Door) bool { return d.Sequence == nil })
}

// lists are the lists of interfaces that the configuration's doors have.
func (l *Listener) lists() [][]string { return l.config.lists(l.config.Interfaces) }

// rules are what our part of the firewall must be while nothing is open.
func (l *Listener) rules() Ruleset { return l.config.ruleset(l.config.Interfaces, l.auto, l.links) }

// readLinks reads all links, marks them by the configuration's lists, and notes which have held a default route.
func (l *Listener) readLinks() error {
	links, err := readLinks(l.news.routes)
	if err != nil {
		return err
	}
	apply(l.lists(), links)
	l.links = links
	l.addAuto(linkNames(links, true))
	return nil
}

// addAuto notes links that hold, or have held, a default route. Where there is no room for one that is there, the first
// one noted that is gone is forgotten.
func (l *Listener) addAuto(names []string) {
	there := linkNames(l.links, false)
	for _, name := range names {
		if slices.Contains(l.auto, name) {
			continue
		}
		auto := slices.Clone(l.auto)
		if len(auto) == maxAutoLinks {
			gone := slices.IndexFunc(auto, func(noted string) bool { return !slices.Contains(there, noted) })
			if gone < 0 || !slices.Contains(there, name) {
				continue
			}
			auto = slices.Delete(auto, gone, gone+1)
		}
		l.auto = append(auto, name)
	}
}

// recallAuto puts those that an earlier daemon has noted before the ones of now: their ports stay hidden.
func (l *Listener) recallAuto(names []string) {
	l.auto = nil
	l.addAuto(names)
	l.addAuto(linkNames(l.links, true))
}

// leftOut are the links that hold a default route now, and that there was no room for.
func (l *Listener) leftOut() []string {
	return slices.DeleteFunc(linkNames(l.links, true), func(name string) bool { return slices.Contains(l.auto, name) })
}

// logLeftOut names those of which before has not said it.
func (l *Listener) logLeftOut(before []string, printf func(format string, args ...any)) {
	for _, name := range l.leftOut() {
		if !slices.Contains(before, name) {
			printf("warning: interface %s: auto hides no port there, as it has %d other interfaces: name it in Interface", name, maxAutoLinks)
		}
	}
}

// plan is what the reader is to go by.
func (l *Listener) plan(m *Matcher) Plan {
	known := map[[16]byte]bool{}
	var addresses []netip.Addr
	add := func(addr netip.Addr, own bool) {
		if _, again := known[addr.As16()]; !again && (addr.Is4() || !l.onlyIPv4) {
			known[addr.As16()] = own
			addresses = append(addresses, addr)
		}
	}
	for _, link := range l.links {
		if link.listened() {
			for _, at := range append(link.uppers(l.links), link) {
				for _, addr := range at.Addresses {
					add(addr, true)
				}
			}
		}
	}
	for _, door := range l.doors {
		if door.Target.IsValid() {
			add(door.Target, false)
		}
	}
	spec := filterSpec(l.knocked(), addresses, l.onlyIPv4)
	var keys []*keyTry
	for _, door := range l.doors {
		for i := range door.Keys {
			keys, spec.KeyPort = append(keys, newKeyTry(door, &door.Keys[i])), l.config.KeyPort
		}
	}
	spec.Served = l.config.noDecoys()
	for _, link := range l.links {
		// Whoever sends packets on this host sees in /proc how often the daemon wakes up.
		if link.Loopback && !link.listened() {
			spec.NotOn = link.Index
		}
	}
	var captures []*Capture
	for _, index := range slices.Sorted(maps.Keys(l.captures)) {
		captures = append(captures, l.captures[index])
	}
	return Plan{
		captures: captures, spec: spec, ignored: l.config.noDecoys(), wide: l.debug, matcher: m, links: l.links, addresses: known, keys: keys,
	}
}

// openCaptures opens a capture for each link that is listened on, or a single one where a list names all links or where
// there are too many. Of those that are there it keeps what still hears its link; the others it does not close. With an
// error the other captures are there.
func (l *Listener) openCaptures() (err error) {
	var indexes []int
	for index, link := range l.links {
		if link.listened() {
			indexes = append(indexes, index)
		}
	}
	if len(indexes) > maxCaptures || slices.Contains(slices.Concat(l.lists()...), everyInterface) {
		indexes = []int{0}
	}
	slices.Sort(indexes)
	plan := l.plan(nil)
	captures := map[int]*Capture{}
	for _, index := range indexes {
		c := l.captures[index]
		if c == nil || !c.hears(index) {
			var failed error
			c, failed = openCapture(index, plan.filter(), l.config.RingSize/len(indexes))
			if failed != nil {
				if !errors.Is(failed, unix.ENODEV) { // else it has vanished meanwhile, and news of that is on its way
					err = failed
				}
				continue
			}
		}
		captures[index] = c
	}
	l.captures = captures
	return err
}

// follow takes up what has changed of the links, and reports whether anything has: the reader goes on with other
// addresses and captures, and all that it knows of attempts.
func (l *Listener) follow(now time.Duration) bool {
	l.retry = nil
	next := *l
	if err := next.readLinks(); err != nil {
		l.log.printf(now, "%v", err)
		l.retry = time.After(linkRetry)
		return false
	}
	if err := next.openCaptures(); err != nil {
		l.log.printf(now, "%v", err)
		l.retry = time.After(linkRetry)
	}
	same := maps.EqualFunc(next.links, l.links, (*Link).same) && maps.Equal(next.captures, l.captures)
	if !same {
		l.logLinks(now, next.links)
		next.logLeftOut(l.leftOut(), func(format string, args ...any) { l.log.printf(now, format, args...) })
		l.links, l.captures, l.auto = next.links, next.captures, next.auto
		l.send(nil)
	}
	if l.log.flush(now); l.log.leftOut > 0 {
		l.retry = time.After(linkRetry)
	}
	return !same
}

// named are the lists that do not just name all links: these are of interest to who reads the log.
func (l *Listener) named() [][]string {
	return slices.DeleteFunc(l.lists(), func(list []string) bool { return slices.Contains(list, everyInterface) })
}

// logLinks tells what becomes of the links that are named.
func (l *Listener) logLinks(now time.Duration, links map[int]*Link) {
	before, after := linkStates(l.named(), l.links), linkStates(l.named(), links)
	for _, s := range before {
		if s.State != absent && !slices.ContainsFunc(after, func(a LinkState) bool { return a.Name == s.Name }) {
			l.log.printf(now, "interface %s is gone", s.Name)
		}
	}
	for _, s := range after {
		if !slices.ContainsFunc(before, func(b LinkState) bool { return b.Name == s.Name && b.String() == s.String() }) {
			l.log.printf(now, "%s", s.news(strings.Join(linkNames(links, false), ", ")))
		}
	}
}

// logOdd names what is waited for, and what is a port.
func (l *Listener) logOdd(log *Log) {
	for _, s := range linkStates(l.named(), l.links) {
		if s.odd() {
			log.printf("%s", s.news(strings.Join(linkNames(l.links, false), ", ")))
		}
	}
	l.logLeftOut(nil, log.printf)
}

// String names all interfaces that are listened on.
func (l *Listener) String() string {
	var all []string
	items := slices.Concat(l.lists()...)
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
