//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// How many log lines strangers can cause: steps of attempts, openings of one door, and packets lost.
const (
	stepBurst     = 100
	stepInterval  = time.Second
	grantBurst    = 200
	grantInterval = 200 * time.Millisecond
	dropBurst     = 10
	dropInterval  = 10 * time.Second
)

// Plan is what the reader goes by. A reload gives it a new one.
type Plan struct {
	captures []*Capture // those that the reader has too stay, with a new filter
	spec     FilterSpec // what counts
	ignored  []Knock    // Ignore_Ports, and ports of doors
	wide     bool       // the filter lets more through, for -D
	matcher  *Matcher   // nil: the one it has
	keys     []*keyTry  // of all doors, in their order
	links    map[int]*Link
	// addresses that may be knocked on: true for this host's own, false for others that are a door's Target.
	addresses map[[16]byte]bool
	// Of one that has either of these nothing else counts.
	ask *Ask // about bars: to be answered
	end bool // the reader is to end
}

// filter is what the kernel is to let through.
func (p *Plan) filter() FilterSpec {
	if p.wide {
		return p.spec.wide()
	}
	return p.spec
}

// Reader is the goroutine that owns the captures and the matcher: it takes packets from the ring and sends grants.
type Reader struct {
	plan      Plan
	now       func() time.Duration
	log       *Log
	debug     *Log // what -D shows, or nil
	grants    chan<- Grant
	plans     <-chan Plan
	wake      int           // an eventfd that is written to after each send on plans
	ended     chan struct{} // closed at the end
	steps     Throttle
	refusals  Throttle // authentic packets; how many more there were is told with the next one
	opened    Throttles
	tried     time.Duration           // until when trying packets with keys takes half of the time
	tryCost   time.Duration           // what it takes for one; 0: not measured yet in this batch
	granted   map[[32]byte]bool       // packets that were read before, so that the doors need not see each copy
	served    func() ([]Knock, error) // where something on this host listens, now
	servedAt  time.Duration           // not asked before
	servedNow map[Knock]bool          // the latest answer, as far as it is near knocks, and Ignore_Ports
	// translations tell ports that nat rules translate; nil: none is known to be.
	translations *Translations
	sources      *Sources // nil: each source is believed
	drops        Throttle
	meter        *Meter        // where the counts are told
	codesWait    func() string // why no code opens a door now, or ""
	statsAt      time.Duration
	pollFds      [1 + maxCaptures]unix.PollFd
	hit          Hit
	pace         pace
	batchTime    time.Duration
	wall         func() time.Duration // since 1970
	ahead        time.Duration        // of the wall clock, compared to now
	stepped      bool                 // the wall clock, since the batch before
	refused      Refusals
	step         uint32 // that codes are in now

	packets, lost, hits, sent uint64 // sent: grants; lost: by the kernel
}

// run reads until a plan says that it is to end. It closes grants when it ends.
func (r *Reader) run() {
	defer close(r.ended)
	defer close(r.grants)
	defer func() {
		r.steps.finish()
		r.refusals.finish()
		r.drops.finish()
		r.opened.finish()
		for _, c := range r.plan.captures {
			c.close()
		}
		r.sources.close()
		r.translations.close()
	}()
	var pause time.Duration
	for {
		woken, err := r.wait(pause)
		if err != nil {
			r.steps.printf(r.batchTime, "waiting for packets: %v", err)
			time.Sleep(time.Second)
		}
		r.begin()
		if woken {
			var count [8]byte
			_, _ = unix.Read(r.wake, count[:])
			for len(r.plans) > 0 {
				switch plan := <-r.plans; {
				case plan.end:
					return
				case plan.ask != nil:
					plan.ask.answer <- r.answer(plan.ask.Request)
				default:
					r.follow(plan)
				}
			}
		}
		most, slots := 0, 1
		for _, c := range r.plan.captures {
			if n := c.read(r.receive); int64(n)*int64(slots) >= int64(most)*int64(c.slots) {
				most, slots = n, c.slots
			}
		}
		pause = r.pace.pause(r.batchTime, most, slots)
		r.report(r.plan.matcher.Expire(r.batchTime))
		r.tell()
		r.steps.flush(r.batchTime)
		r.drops.flush(r.batchTime)
		r.opened.flush(r.batchTime)
	}
}

// tell publishes the counts, once a batch. The kernel's own are asked for once a second at most.
func (r *Reader) tell() {
	if r.batchTime >= r.statsAt {
		was := r.lost
		for _, c := range r.plan.captures {
			r.lost += c.drops()
		}
		if lost := r.lost - was; lost > 0 {
			r.drops.printf(r.batchTime, "%d packets lost: there was no room for them: a larger Ring_Size has more", lost)
		}
		r.statsAt = r.batchTime + time.Second
	}
	r.meter.set(Counters{
		Packets: r.packets, KernelDrops: r.lost, Hits: r.hits, Grants: r.sent, Attempts: uint64(r.plan.matcher.UnderWay()),
	})
}

// wait returns when there are packets, a wake-up, or something else to do, and not before packets have gathered for pause.
func (r *Reader) wait(pause time.Duration) (woken bool, err error) {
	if pause > 0 {
		if woken, err = wait(nil, r.wake, pause, r.pollFds[:0]); woken || err != nil {
			return woken, err
		}
	}
	return wait(r.plan.captures, r.wake, r.timeout(), r.pollFds[:0])
}

// maxSlew is by how much two clocks may drift apart between two batches that come close upon each other.
const maxSlew = 5 * time.Millisecond

// begin asks what time it is, for a batch of packets.
func (r *Reader) begin() {
	r.hit.When = r.batchTime // nothing that comes was there at the batch before
	r.batchTime, r.tryCost = r.now(), 0
	wall := r.wall()
	ahead := wall - r.batchTime
	r.step = codeStep(wall)
	r.stepped = (ahead - r.ahead).Abs() > maxSlew
	r.ahead = ahead
}

// cameAt is when the kernel had a packet: by the frame's own stamp, which is the wall clock's, unless that was set since.
func (r *Reader) cameAt(f *Frame) time.Duration {
	if r.stepped {
		return r.batchTime
	}
	return min(max(f.Stamp-r.ahead, r.hit.When), r.batchTime)
}

// timeout is how long there is nothing to do without a packet, -1 for ever.
func (r *Reader) timeout() time.Duration {
	next := min(r.plan.matcher.NextEnd(), r.steps.next(), r.drops.next(), r.opened.next())
	if next == never {
		return -1
	}
	return max(next-r.now(), 0)
}

// follow takes up a new plan. Attempts in progress go on at doors that stay the same.
func (r *Reader) follow(plan Plan) {
	plan.spec.Served = r.plan.spec.Served // until it is asked for anew
	r.servedAt = 0
	r.translations.forget()
	for _, c := range r.plan.captures {
		if !slices.Contains(plan.captures, c) {
			c.read(r.receive) // what came before its link went
			c.close()
		}
	}
	r.attach(&plan)
	if plan.matcher == nil {
		plan.matcher = r.plan.matcher
	} else {
		plan.matcher.adopt(r.plan.matcher)
	}
	r.plan = plan
}

// maxBarsShown bounds how many bars an answer names. A flood from many sources can cause thousands.
const maxBarsShown = 100

// answer lists the bars in force, and the doors that ask for more codes, or lifts the bars of one source. To close the doors of all
// sources lifts none: who wants everything shut does not want to let in whom a bar keeps out.
func (r *Reader) answer(q Request) (a Answer) {
	r.plan.matcher.eachBar(r.now(), func(b Bar) (lift bool) {
		s := BarredSource{Door: b.Door.Name, Source: b.source(), Decoy: b.Decoy, EndsIn: b.Left}
		if link := r.plan.links[b.Link]; link != nil {
			s.Link = link.Name
		}
		switch {
		case q.Close && q.Source.IsValid() && b.From.Contains(q.Source.WithZone("")) && q.wants(s.Door, q.Source, s.Link):
			r.log.printf("%s: %s: bar lifted by hand", s.who(), s.Door)
			a.Lifted++
			return true
		case q.Close:
		case len(a.Status.Bars) < maxBarsShown:
			a.Status.Bars = append(a.Status.Bars, s)
		default:
			a.Status.MoreBars++
		}
		return false
	})
	a.Status.Refused = r.refused.at(r.now())
	if len(r.plan.matcher.coded) > 0 {
		a.Status.CodesWait = r.codesWait()
	}
	r.plan.matcher.eachAsking(r.now(), func(d *Door, codes int, left time.Duration) {
		a.Status.Codes = append(a.Status.Codes, AskedCodes{d.Name, codes, left})
	})
	return a
}

// attach puts the plan's filter in place.
func (r *Reader) attach(plan *Plan) {
	for _, c := range plan.captures {
		if err := c.attach(plan.filter()); err != nil {
			r.log.printf("%v", err)
		}
	}
}

// servedEvery is how often the kernel is asked at most where something listens. Nobody asks but a stray packet.
const servedEvery = time.Second

// isServed reports whether something on this host listens at the port of the last hit, or nat rules translate it, or it is
// no decoy anyway. From then on the filter has it no more, or all that comes for a busy service near a knock would have to
// be looked at here.
func (r *Reader) isServed(k Knock) bool {
	if r.batchTime >= r.servedAt {
		r.servedAt = r.batchTime + servedEvery
		listening, err := r.served()
		if err != nil {
			r.steps.printf(r.batchTime, "asking where something listens: %v", err)
			return r.servedNow[k]
		}
		r.servedNow = map[Knock]bool{}
		served := slices.Clone(r.plan.ignored)
		for _, l := range slices.Concat(listening, r.plan.ignored, r.translations.found()) {
			// On a host with very many sockets, most are of no interest.
			if !r.servedNow[l] && r.plan.spec.strayAt(l) {
				r.servedNow[l] = true
				served = append(served, l)
			}
		}
		if !slices.Equal(served, r.plan.spec.Served) {
			r.plan.spec.Served = served
			r.attach(&r.plan)
		}
	}
	if !r.servedNow[k] && r.translations.finds(r.now(), &r.hit) {
		r.servedNow[k] = true
		r.plan.spec.Served = append(slices.Clone(r.plan.spec.Served), k)
		r.attach(&r.plan)
	}
	return r.servedNow[k]
}

// receive looks at one packet. Nothing is allocated or logged for one that counts nowhere.
func (r *Reader) receive(f *Frame) {
	r.packets++
	if f.Outgoing || len(f.Bytes) == 0 {
		return
	}
	// Not every frame starts at an IP header: a double-tagged one shows its inner tag first.
	switch version := f.Bytes[0] >> 4; {
	case f.Protocol == unix.ETH_P_IP && version == 4:
	case f.Protocol == unix.ETH_P_IPV6 && version == 6:
	default:
		return
	}
	r.hit = Hit{When: r.cameAt(f), Step: r.step}
	link := r.plan.links[f.Link]
	if link == nil || !link.listened() {
		r.ignored(f, "no Interface names the link")
		return
	}
	if err := parsePacket(f.Bytes, f.Len, &r.hit); err != nil {
		r.ignored(f, err.Error())
		return
	}
	// The kernel takes no such frame for its own (ip_rcv in net/ipv4/ip_input.c), unless a link over this one does.
	if f.Foreign && !link.TakesForeign {
		r.ignored(f, "it is to another hardware address")
		return
	}
	r.hit.Link, r.hit.Foreign = f.Link, f.Foreign
	// A frame can come twice: on a bridge's port and on the bridge, on a VLAN's parent and on the VLAN.
	if r.hit.Outside = link.frameOutside(f, r.hit.To); r.hit.Outside == allLists {
		r.ignored(f, "the bridge's or the VLAN's own link shows it again")
		return
	}
	own, known := r.plan.addresses[r.hit.To]
	if !known {
		r.ignored(f, "it is not to an address of the interfaces listened on, nor to a door's Target")
		return
	}
	r.hit.Routed = !own
	// 127.0.0.0/8 and ::1 come in on lo only (RFC 1122, section 3.2.1.3).
	if !link.Loopback && r.hit.source().IsLoopback() {
		r.ignored(f, "its source is a loopback address, and it came by wire")
		return
	}
	if r.hit.Knock == (Knock{r.plan.spec.KeyPort, udp}) && r.unlock(f) {
		return
	}
	verdict, steps := r.plan.matcher.Observe(&r.hit, r.isServed)
	switch verdict {
	case Counted:
		r.hits++
	case Ignored:
		if r.debug != nil {
			r.ignored(f, fmt.Sprintf("%v is no door's knock, or not for its source, at this address or interface, or with these flags (%s)",
				r.shown(), r.hit.flags()))
		}
		return
	}
	if r.debug != nil {
		r.explain(steps)
	}
	r.report(steps)
}

// report logs what is told of a step, and sends the grants on.
func (r *Reader) report(steps []Step) {
	for i := range steps {
		s := &steps[i]
		switch s.Kind {
		case Advanced, TimedOut, Barred, Swallowed, WrongCode, NextCode, MoreCodes:
			if s.Told || !r.steps.allow(r.batchTime) {
				continue
			}
		}
		switch s.Kind {
		case Advanced:
			r.log.printf("%v: %s: Stage %d", s.source(), s.Door.Name, s.Stage)
		case TimedOut:
			r.log.printf("%v: %s: sequence timeout (stage %d)", s.source(), s.Door.Name, s.Stage)
		case Barred:
			// Not which port: that of a scan in order tells the knock, and the log has more readers than the configuration.
			r.log.printf("%s: %s: barred for %v: it has hit ports near the knocks", s.who(), s.Door.Name, s.Door.SeqTimeout)
		case Swallowed:
			r.refused.add(r.batchTime, s.Door.Name, s.source(), "it is barred")
			r.log.printf("%v: %s: not opened: it is barred: sesame close %q %[1]v lifts the bar", s.source(), s.Door.Name, s.Door.Name)
		case WrongCode:
			r.log.printf("%v: %s: %s", s.source(), s.Door.Name, s.wrongCode())
		case NextCode:
			r.log.printf("%v: %s: the code is right: the next one is needed, too: knock again with it", s.source(), s.Door.Name)
		case MoreCodes:
			r.log.printf("%s: too many wrong codes: until there were none for an hour, it takes %d codes in a row, each knocked with the whole sequence", s.Door.Name, s.Stage)
		case Opened:
			opened := r.opened.of(s.Door.Name)
			opened.printf(r.batchTime, "%v: %s: Stage %d", s.source(), s.Door.Name, s.Stage)
			if err := r.forged(); err != nil {
				r.refused.add(r.batchTime, s.Door.Name, s.source(), "the kernel takes no packet from there on this interface")
				opened.printf(r.batchTime, "%v: %s: not opened: the kernel takes no packet from this address on this interface: %v", s.source(), s.Door.Name, err)
				continue
			}
			opened.printfNamed(r.batchTime, "%v: %s: OPEN SESAME", s.source(), s.Door.Name)
			r.grant(Grant{Door: s.Door, Source: s.source(), Hit: s.Hit, Step: s.Code})
		}
	}
}

// grant sends a grant to the doors.
func (r *Reader) grant(g Grant) {
	g.Link, g.When = r.plan.links[r.hit.Link].input(r.plan.links).Name, r.batchTime
	select {
	case r.grants <- g:
		r.sent++
	default:
		// The doors are busy with hundreds of grants; to wait would lose packets.
		r.refused.add(r.batchTime, g.Door.Name, g.Source, "too many are waiting")
		r.opened.of(g.Door.Name).printfNamed(r.batchTime, "%v: %s: not opened: too many are waiting", g.Source, g.Door.Name)
	}
}

// tryBurst is for how long at once packets are tried with keys, and half of all time is: in a flood on a slow machine others
// are passed over, so that sequences are knocked as ever.
const tryBurst = 50 * time.Millisecond

// maxGranted bounds the packets that are known again. The doors know all that have opened one.
const maxGranted = 4096

// unlock takes a packet to Key_Port, and reports whether it is a key's. The first door that it can open is opened. It is
// tried with all keys, so that how long it takes says nothing.
func (r *Reader) unlock(f *Frame) (authentic bool) {
	datagram := udpData(f.Bytes)
	if !keyShaped(datagram) {
		return false
	}
	if r.tried-r.batchTime > tryBurst {
		r.ignored(f, "there are too many packets to try them all with keys")
		return false
	}
	began := r.batchTime
	if r.tryCost == 0 { // it is measured once a batch
		began = r.now()
	}
	var by *keyTry
	var refusal error
	var source netip.Addr
	for _, t := range r.plan.keys {
		if !t.fits(datagram) || by != nil && refusal == nil {
			continue
		}
		by, refusal, source = t, nil, r.hit.source()
		request, err := t.key.open(datagram)
		g := Grant{User: t.key.Name, Packet: &KeyPacket{Tag: t.sum, Time: request.time, Wall: r.batchTime + r.ahead}}
		if err == nil {
			g.Door, g.Source, err = t.door.admit(t.key, request, source, g.Packet.Wall)
		}
		switch {
		case !t.door.hears(&r.hit):
			refusal = errors.New("it is to another address than this door's, or on another interface, or its source is not in Allow")
		case err != nil:
			refusal = err
		case r.granted[t.sum]:
			refusal = errSpent
		case g.Source == source:
			refusal = r.forged()
		}
		if refusal == nil {
			if len(r.granted) == maxGranted {
				clear(r.granted)
			}
			r.granted[t.sum] = true
			r.hits++
			r.opened.of(t.door.Name).printfNamed(r.batchTime, "%v: %s: OPEN SESAME by the key of %s (packet from %v, user %q)", g.Source, t.door.Name, t.key.Name, source, request.user)
			r.grant(g)
		}
	}
	if r.tryCost == 0 {
		r.tryCost = max(r.now()-began, 1)
	}
	r.tried = max(r.tried, r.batchTime) + 2*r.tryCost
	switch {
	case by == nil:
		r.ignored(f, "no key has made it")
	case refusal != nil:
		r.refusals.printf(r.batchTime, "%v: %s: packet by the key of %s refused: %v", source, by.door.Name, by.key.Name, refusal)
	}
	return by != nil
}

// forged says why the kernel does not take the last hit's source for one that can be at its link, or returns nil. It
// is asked before a grant only. IPv6 knows no such check, and what comes in on lo has passed none.
func (r *Reader) forged() error {
	h, link := &r.hit, r.plan.links[r.hit.Link]
	if r.sources == nil || !h.source().Is4() || link.Loopback || h.Foreign && h.Routed { // the last is bridged, not routed
		return nil
	}
	q := sourceOnLink{[4]byte(h.From[12:]), [4]byte(h.To[12:]), link.routed(r.plan.links).Index}
	if h.Routed {
		q.to = [4]byte{255, 255, 255, 255} // the source alone is asked about, and not whether this host forwards
	}
	return r.sources.refuses(r.batchTime, q)
}

// wrongCode says what may be wrong with a code: it is one of another time.
func (s *Step) wrongCode() string {
	switch off := time.Duration(s.Stage) * codeTime; {
	case off > 0:
		return fmt.Sprintf("wrong code: it is that of %v ahead: the clock here is slow, or the phone's is fast", off)
	case off < 0:
		return fmt.Sprintf("wrong code: it is that of %v ago: somebody repeats it, or the clock here is fast, or the phone's is slow", -off)
	}
	return "wrong code"
}

// source is the address that the step is about.
func (s *Step) source() netip.Addr { return netip.AddrFrom16(s.From).Unmap() }

// who is the source, or the network.
func (s *Step) who() string {
	if s.Net {
		return fmt.Sprintf("%v/64", s.source())
	}
	return s.source().String()
}

// ignored says for -D why a packet is no hit.
func (r *Reader) ignored(f *Frame, why string) {
	if r.debug != nil {
		r.debug.printf("packet from %v on link %d does not count: %s", r.hit.source(), f.Link, why)
	}
}

// shown is the port of the last hit; of one that can be a half of a code, not which: the code may still be good.
func (r *Reader) shown() string {
	for _, d := range r.plan.matcher.coded {
		if d.takesHalf(r.hit.Knock) {
			return fmt.Sprintf("%d-%d:%v", d.TOTP.base, d.TOTP.base+codeHalves-1, r.hit.Knock.Proto)
		}
	}
	return r.hit.Knock.String()
}

// outcomes are for -D what became of a hit, where there is no more to say of it.
var outcomes = map[StepKind]string{
	Opened:    "the sequence is complete",
	Copied:    "a copy of a SYN that has counted: ignored",
	Unfit:     "TCPFlags do not fit: ignored",
	Unheard:   "it is to another address than this door's, or on another interface, or its source is not in Allow: ignored",
	Cooling:   "Seq_Cooldown is not over: ignored",
	Evicted:   "discarded: there are too many attempts",
	Warned:    "a decoy, near a knock: a different one within Seq_Timeout bars the source",
	Barred:    "a decoy, near a knock, and not the first: it is barred for Seq_Timeout",
	Swallowed: "the sequence is complete, but the source is barred",
	WrongCode: "wrong code",
	NextCode:  "the sequence is complete, and the next code is needed, too",
	MoreCodes: "too many wrong codes: it takes more in a row",
}

// explain says for -D why a hit counted or did not.
func (r *Reader) explain(steps []Step) {
	h := &r.hit
	what := fmt.Sprintf("hit: %v -> %v", netip.AddrPortFrom(h.source(), h.FromPort), r.shown())
	if h.Knock.Proto == tcp {
		what += " (" + h.flags() + ")"
	}
	if len(steps) == 0 {
		r.debug.printf("%s: ignored: no attempt waits for such a packet, and no door begins with one", what)
	}
	for _, s := range steps {
		why := outcomes[s.Kind]
		switch s.Kind {
		case Advanced:
			why = fmt.Sprintf("stage %d of %d", s.Stage, len(s.Door.Sequence))
		case Repeated:
			why = fmt.Sprintf("a repeat of the knock just matched: still at stage %d", s.Stage)
		case Discarded:
			why = fmt.Sprintf("a wrong knock, %v is next: the attempt at stage %d is discarded", s.Door.Sequence[s.Stage], s.Stage)
		case TimedOut:
			why = fmt.Sprintf("Seq_Timeout is over, and %v did not come: the attempt at stage %d is discarded", s.Door.Sequence[s.Stage], s.Stage)
		}
		r.debug.printf("%s: %s: %s: %s", what, s.Door.Name, s.who(), why)
	}
}
