package main

import (
	"cmp"
	"hash/maphash"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
	"time"
)

// The matcher keeps, for each source and door, how far the source has got. It is bit-parallel (Shift-And, Baeza-Yates
// and Gonnet 1992): bit i of an attempt says that knocks 0 to i of the sequence have been matched. With mask holding a
// bit for each place where the knock at hand stands in the sequence, a hit turns the bits S into
//
//	(S<<1 | 1 | S) & mask
//
// S<<1 goes on to the next knock, 1 starts anew, S tolerates a repeat of the knock just matched, and a knock out of turn
// clears everything. Each bit has the latest start that can have led to it; bits whose start is Seq_Timeout ago are
// cleared first. The last bit opens the door.
//
// What a hit does at a door does not depend on the sequences of other doors. If it did, whoever has one door could find
// out the knocks of all others: send a port between one's own knocks, and see whether one's door still opens. The
// exception is among the door's own decoys: there, a knock of another door ends the attempt but counts as no decoy, as
// its source may go on to knock at both doors.
//
// The bar is one rule, above that line. A hit on a decoy ends its source's attempts at the door, and moves the source on:
//
//	         a decoy           a different decoy
//	clear ------------> warned ------------------> barred --+
//	  ^                   |                         |  ^    |
//	  +-------------------+-------------------------+  +----+
//	    Seq_Timeout later                    a different decoy: Seq_Timeout begins again
//
// One decoy is a typing mistake; two are a scan. The same decoy again does not count: its SYN may be a copy. Knocks go on
// matching while a source is barred, but a sequence opens the door only if its first knock came after the bar's end. So
// a scan gains nothing from a bar that ends between two knocks. Someone with an IPv6 /64 has an address for every scan:
// the eighth address of a /64 that is barred bars the whole /64.

// A code stands for two knocks whose ports only mean something to a source that has completed all before them: to others they are
// other ports, and no decoys. A wrong one ends the attempt, and counts for the door, whoever it came from:
//
//	             20 wrong codes in an hour          20,000 in all
//	one code ------------------------------> two ---------------> three in a row, each of the step after the one before
//	   ^                                      |                     |
//	   +--------------------------------------+---------------------+
//	                          an hour without a wrong code
//
// So nobody is locked out. The halves are judged together, as a first half is taken that some code of farSteps ago or ahead has: then a
// clock that is wrong can be told of.

// maxAttempts bounds the table. When it is full, what anybody can make goes first: the oldest guard, then the oldest attempt
// at stage 1, or that has opened its door already; only without such ones the oldest of all. So a flood of first knocks
// does not push out who is further.
const maxAttempts = 16384

// printsPerKnock is how many SYNs are remembered for each knock of a sequence: a browser opens two connections for a
// knock, and sends the SYNs of all of them again.
const printsPerKnock = 2

// copyTime is how long after an opening copies of its SYNs are known: Linux sends a SYN again for up to 63 s
// (tcp(7), tcp_syn_retries). Meanwhile the attempt is among those that make room first.
const copyTime = 64 * time.Second

const (
	wrongCodes = 20
	manyWrong  = 20000
)

// barFrom is how many different decoys bar a source, and how many barred addresses an IPv6 /64: each within Seq_Timeout of
// the one before.
var barFrom = [...]uint8{guard: 2, network: 8}

// none ends the lists of attempts, which are linked by index. The attempt of that index is not used: an empty table is all
// zeros, and its pages take no memory before they are.
const none = 0

// attemptKind says what an attempt in the table is: one, or what is known of hits on decoys by its source, or by an IPv6
// /64, whose first address is from. There can be one of each at a door.
type attemptKind uint8

const (
	attempting attemptKind = iota
	guard                  // of a source
	network                // of a /64
)

// attempt is a source's progress at a door. It outlives the opening of the door by copyTime, to know copies of
// the SYNs that opened it. A guard outlives its time by Seq_Timeout, to know which attempts were begun before its end.
// Attempts hold no pointers, so that the collector need not look at the table.
type attempt struct {
	from [16]byte
	link uint32 // of a link-local source, else 0
	door uint32 // index in Matcher.doors
	bits uint32
	// stage is the highest one reached since the attempt began, for the log, and 0 once it has opened; of a guard it is
	// what barFrom counts.
	stage uint8
	queue uint8 // the one of Matcher.byEnd that it is in
	kind  attemptKind
	told  bool   // of a guard: the log knows that it has kept a door shut
	began uint64 // the number of the hit that began it
	// prints is how many fingerprints of hits were noted since the attempt began.
	prints uint32
	decoy  Knock  // of a guard: the latest that differed from the one before; of an attempt: the first half of its code
	step   uint32 // of the latest right code; 0: there is none
	row    uint8  // how many of them came in a row
	// until is when its latest start is Seq_Timeout ago, or later: it is set anew when the attempt starts anew, and not
	// when an older start is the one that leads on. Which bits are in time is looked at with every hit.
	until time.Duration
	// next is the next attempt in the same hash bucket, or free slot.
	next int32
	// byEnd links the attempts of doors with equal Seq_Timeout in the order of their ends; cheap links those at stage 1
	// or 0 in the order of their last start or opening, and by themselves guards in the order of their latest decoy.
	byEnd, cheap links
}

type links struct{ prev, next int32 }

// queue is a list of attempts through one of their links.
type queue struct {
	head, tail int32
	n          int // how many are in it
}

// StepKind says what a hit did to an attempt.
type StepKind uint8

const (
	Advanced  StepKind = iota // to the next stage, or started
	Opened                    // the sequence is complete: a Grant
	Repeated                  // the knock just matched came again
	Copied                    // a retransmitted SYN: no knock
	Discarded                 // a wrong knock ended the attempt
	TimedOut                  // Seq_Timeout is up
	Unfit                     // the TCP flags are not those asked for
	Unheard                   // it is to another address than the door's
	Cooling                   // Seq_Cooldown is not over
	Evicted                   // the table was full
	Warned                    // it was on a decoy
	Barred                    // it was on another one: no sequence of the source, or its /64, opens the door for a time
	Swallowed                 // the sequence is complete, and a bar keeps the door shut
	WrongCode                 // one was knocked; Stage is how many steps ahead it is, or 0
	NextCode                  // the sequence is complete, and the door asks for the next code, too
	MoreCodes                 // the door asks for so many in a row (Stage) from now on
)

// Verdict is what a hit is to all doors together.
type Verdict uint8

const (
	Ignored Verdict = iota // nothing
	Stray                  // no knock, but on a decoy, or a door is strict
	Counted                // a knock of at least one door
)

// Step is one thing that a hit, or the time, did at one door.
type Step struct {
	Kind  StepKind
	Door  *Door
	From  [16]byte
	Stage int    // knocks matched so far; of an ended attempt, how far it had come; of decoys, what barFrom counts
	Hit   uint64 // the number of the hit that did it
	Told  bool   // not of interest to the log: it was told within Seq_Timeout
	Net   bool   // From is an IPv6 /64
	Code  uint32 // the step of the attempt's latest right code
	began uint64
	door  uint32
}

// Bar is a source, or an IPv6 /64, for which no sequence opens a door.
type Bar struct {
	Door  *Door
	From  netip.Prefix
	Link  int   // of a link-local source, else 0
	Decoy Knock // the latest that was hit
	Left  time.Duration
}

// source is the address, or the /64.
func (b *Bar) source() string {
	if b.From.IsSingleIP() {
		return b.From.Addr().String()
	}
	return b.From.String()
}

// Matcher knows who is how far at which door. It has no clock, reads no socket and writes no log.
type Matcher struct {
	doors    []*Door
	knocks   map[Knock][]*Door  // in whose sequence it stands: one of those with equal Flags, Target, List and Allow
	coded    []*Door            // with codes: one of those with equal ports, Flags, Target, List and Allow
	codes    []codes            // of each door
	strict   bool               // at least one door is
	byFirst  map[Knock][]uint32 // doors by the first knock of their sequence
	near     map[Knock][]uint32 // doors that may have a decoy there, by decoyPlace
	cooling  []time.Duration    // until when each door takes no notice
	queueOf  []uint8            // index in byEnd for the attempts at each door
	guardsOf []uint8            // the same for guards
	opened   uint8              // the same for attempts that have opened
	byEnd    []queue            // one for copyTime, for each different Seq_Timeout, and for twice that
	timeouts []time.Duration    // of each of byEnd
	cheap    queue
	guards   queue
	seed     maphash.Seed
	buckets  []int32
	attempts []attempt
	// starts has, for each attempt, the start that led to each set bit, lowest bit first, and of a guard when the log was
	// told of the bar; prints the fingerprints of its latest hits. Both are slabs with a fixed number for each attempt.
	starts     []time.Duration
	prints     []uint32
	startsEach int
	printsEach int
	used       int      // slots of attempts ever used, none among them
	free       int32    // list of slots free again
	live       int      // how many attempts there are
	hits       uint64   // how many have been observed
	looked     []uint64 // for each door, the latest hit for which the source had an attempt there
	steps      []Step
	// onlyChanges leaves out the steps that only -D shows: Repeated, Copied, Unfit, Unheard, Cooling, and what is Told.
	onlyChanges bool
}

// newMatcher makes a matcher for doors with sequences. bound is how many attempts it keeps at most.
func newMatcher(doors []*Door, bound int) *Matcher {
	m := &Matcher{
		doors:    doors,
		knocks:   map[Knock][]*Door{},
		byFirst:  map[Knock][]uint32{},
		near:     map[Knock][]uint32{},
		cooling:  make([]time.Duration, len(doors)),
		codes:    make([]codes, len(doors)),
		looked:   make([]uint64, len(doors)),
		seed:     maphash.MakeSeed(),
		buckets:  make([]int32, 1<<bits.Len(uint(bound-1))),
		attempts: make([]attempt, 1+bound),
		used:     1,
		steps:    make([]Step, 0, 64),
	}
	m.opened = m.queueFor(copyTime)
	for i, d := range doors {
		m.byFirst[d.Sequence[0]] = append(m.byFirst[d.Sequence[0]], uint32(i))
		m.cooling[i] = math.MinInt64
		m.queueOf = append(m.queueOf, m.queueFor(d.SeqTimeout))
		m.guardsOf = append(m.guardsOf, m.queueFor(2*d.SeqTimeout))
		heardAs := func(o *Door) bool {
			return o.Flags == d.Flags && o.Target == d.Target && o.List == d.List && slices.Equal(o.Allow, d.Allow)
		}
		for _, k := range d.Sequence {
			if k.half() {
				continue
			}
			m.startsEach = max(m.startsEach, bits.OnesCount32(d.mask(k)))
			m.addDecoys(uint32(i), k)
			if !slices.ContainsFunc(m.knocks[k], heardAs) {
				m.knocks[k] = append(m.knocks[k], d)
			}
		}
		if d.hasCode() && !slices.ContainsFunc(m.coded, func(o *Door) bool {
			return o.TOTP.base == d.TOTP.base && o.Sequence[o.CodeAt] == d.Sequence[d.CodeAt] && heardAs(o)
		}) {
			m.coded = append(m.coded, d)
		}
		m.strict = m.strict || d.Strict
		m.printsEach = max(m.printsEach, printsPerKnock*len(d.Sequence))
	}
	m.starts = make([]time.Duration, len(m.attempts)*m.startsEach)
	m.prints = make([]uint32, len(m.attempts)*m.printsEach)
	return m
}

// decoyPlace stands for 64 neighbouring ports: a knock has decoys in two places at most, or three.
func decoyPlace(k Knock) Knock { return Knock{k.Port >> 6, k.Proto} }

func (m *Matcher) addDecoys(door uint32, k Knock) {
	if !m.doors[door].hasDecoys() {
		return
	}
	lowest, highest := k.decoys()
	for _, port := range []uint16{lowest, k.Port, highest} {
		place := decoyPlace(Knock{port, k.Proto})
		if there := m.near[place]; len(there) == 0 || there[len(there)-1] != door {
			m.near[place] = append(there, door)
		}
	}
}

// queueFor finds or makes the list of attempts that end timeout after their start. So many different timeouts that a
// byte does not hold them share the last list; their ends are then noticed late, at worst by the longest of them.
func (m *Matcher) queueFor(timeout time.Duration) uint8 {
	for i, t := range m.timeouts {
		if t == timeout && i > 0 { // the first one is opened
			return uint8(i)
		}
	}
	if len(m.timeouts) < math.MaxUint8 {
		m.timeouts = append(m.timeouts, timeout)
		m.byEnd = append(m.byEnd, queue{})
	}
	return uint8(len(m.timeouts) - 1)
}

// Observe takes one hit and says what it did. It asks whether something on this host listens at its port, or Ignore_Ports
// has it, where that makes a difference. The steps are valid until the next call.
func (m *Matcher) Observe(hit *Hit, served func(Knock) bool) (Verdict, []Step) {
	switch {
	case m.counts(hit):
		return Counted, m.knock(hit, served)
	case m.strays(hit) && !served(hit.Knock):
		return Stray, m.stray(hit, served)
	}
	return Ignored, nil
}

// counts reports whether a door has the hit's knock, and that same door's address and flags fit.
func (m *Matcher) counts(hit *Hit) bool {
	for _, d := range m.knocks[hit.Knock] {
		if d.hears(hit) && d.fits(hit) {
			return true
		}
	}
	for _, d := range m.coded {
		if d.takesHalf(hit.Knock) && d.hears(hit) && d.fits(hit) {
			return true
		}
	}
	return false
}

// strays reports whether a hit that counts at no door is of interest to one: it is on a decoy, or the door is strict.
func (m *Matcher) strays(hit *Hit) bool {
	if m.strict && unsolicited(hit) {
		return true
	}
	for _, door := range m.near[decoyPlace(hit.Knock)] {
		if d := m.doors[door]; d.decoy(hit) && d.hears(hit) {
			return true
		}
	}
	return false
}

// unsolicited reports whether a hit is a TCP packet that belongs to no connection.
func unsolicited(hit *Hit) bool { return hit.Knock.Proto == tcp && hit.Flags&answerMask == 0 }

// knock takes a hit that counts at a door.
func (m *Matcher) knock(hit *Hit, served func(Knock) bool) []Step {
	key := m.arrive(hit)
	syn, print := hit.Flags&flagSYN != 0, uint32(0)
	if syn {
		print = m.fingerprint(hit)
	}
	for i := m.buckets[key]; i != none; {
		a := &m.attempts[i]
		this := i
		i = a.next
		if a.kind != attempting || a.from != hit.From || a.link != sourceLink(hit) {
			continue
		}
		m.looked[a.door] = m.hits
		if d := m.doors[a.door]; d.mask(hit.Knock) == 0 && !d.takesHalf(hit.Knock) {
			m.wrong(this, hit, served)
			continue
		}
		if why, deaf := m.deaf(a.door, hit); deaf {
			m.remark(why, a.door, hit, 0)
			continue
		}
		if syn {
			if m.copied(this, print) {
				m.remark(Copied, a.door, hit, int(a.stage))
				continue
			}
			m.note(this, print)
		}
		m.advance(this, hit, served)
	}
	for _, door := range m.byFirst[hit.Knock] {
		if m.looked[door] == m.hits {
			continue // its attempt was looked at above
		}
		if why, deaf := m.deaf(door, hit); deaf {
			m.remark(why, door, hit, 0)
			continue
		}
		i := m.begin(key, door, hit)
		if syn {
			m.note(i, print)
		}
		m.advance(i, hit, served)
	}
	return m.sorted()
}

// arrive counts a hit, ends what has ended before it, and returns the bucket of its source.
func (m *Matcher) arrive(hit *Hit) (bucket int32) {
	m.Expire(hit.When)
	m.hits++
	return m.bucketOf(hit)
}

// deaf says why a knock of a door's does nothing there, if so.
func (m *Matcher) deaf(door uint32, hit *Hit) (why StepKind, deaf bool) {
	switch d := m.doors[door]; {
	case !d.hears(hit):
		return Unheard, true
	case !d.fits(hit):
		return Unfit, true
	case hit.When < m.cooling[door]:
		return Cooling, true
	}
	return 0, false
}

// stray takes a hit that counts at no door, on a port that nothing serves: it ends the source's attempts where it is on a
// decoy, or the door is strict, and a decoy may bar the source.
func (m *Matcher) stray(hit *Hit, served func(Knock) bool) []Step {
	key := m.arrive(hit)
	for i := m.buckets[key]; i != none; {
		a := &m.attempts[i]
		this := i
		i = a.next
		switch {
		case a.kind == network || a.from != hit.From || a.link != sourceLink(hit):
		case a.kind == attempting:
			m.wrong(this, hit, served)
		case m.doors[a.door].decoy(hit) && m.doors[a.door].hears(hit):
			m.looked[a.door] = m.hits
			m.guard(this, guard, hit)
		}
	}
	for _, door := range m.near[decoyPlace(hit.Knock)] {
		d := m.doors[door]
		if m.looked[door] != m.hits && d.decoy(hit) && d.hears(hit) {
			m.looked[door] = m.hits // it may stand there twice
			m.guard(m.begin(key, door, hit), guard, hit)
		}
	}
	for _, s := range m.steps { // of now, and not those that are added here
		if s.Kind == Barred && s.Stage == int(barFrom[guard]) {
			m.guardNetwork(s.door, hit)
		}
	}
	return m.sorted()
}

// wrong ends attempt i if the hit, which is no knock of its door, is on one of the decoys, or if the door is strict.
func (m *Matcher) wrong(i int32, hit *Hit, served func(Knock) bool) {
	a := &m.attempts[i]
	d := m.doors[a.door]
	if a.bits != 0 && d.mask(hit.Knock) == 0 && d.hears(hit) && (d.decoy(hit) || d.Strict && unsolicited(hit) && !served(hit.Knock)) {
		m.step(Discarded, a, int(a.stage))
		m.drop(i)
	}
}

// guard takes a hit on a decoy, for the guard of its source or for that of its network.
func (m *Matcher) guard(i int32, kind attemptKind, hit *Hit) {
	a := &m.attempts[i]
	if over := hit.When >= m.guardEnd(a); over {
		a.kind, a.stage = kind, 0
	} else if kind == guard && a.decoy == hit.Knock {
		return
	}
	timeout := m.doors[a.door].SeqTimeout
	toldAt := &m.starts[int(i)*m.startsEach]
	a.stage, a.decoy, a.began = min(a.stage+1, barFrom[kind]+1), hit.Knock, m.hits
	s := Step{Kind: Warned, Stage: int(a.stage), Net: kind == network, Told: true}
	if a.stage >= barFrom[kind] {
		s.Kind, s.Told = Barred, a.stage > barFrom[kind] && hit.When-*toldAt < timeout
	}
	if !s.Told {
		*toldAt, a.told = hit.When, false
	}
	m.stepOf(s, a)
	m.unlink(&m.guards, i, cheapLinks)
	m.append(&m.guards, i, cheapLinks)
	m.requeue(i, m.guardsOf[a.door], hit.When+2*timeout)
}

// guardNetwork counts a source that has just been barred for its IPv6 /64.
func (m *Matcher) guardNetwork(door uint32, hit *Hit) {
	of := *hit
	clear(of.From[8:])
	if of.From == [16]byte{} {
		return // IPv4
	}
	i := m.guardOf(network, of.From, sourceLink(hit), door)
	if i == none {
		i = m.begin(m.bucketOf(&of), door, &of)
	}
	m.guard(i, network, &of)
}

// guardEnd is when a source is no longer warned or barred. Of an attempt that is to be a guard, it is when it was made.
func (m *Matcher) guardEnd(a *attempt) time.Duration { return a.until - m.doors[a.door].SeqTimeout }

// bars reports whether a guard is a bar.
func (a *attempt) bars() bool { return a.stage >= barFrom[a.kind] }

// guardOf is the guard of a source, or of its /64, at a door, or none.
func (m *Matcher) guardOf(kind attemptKind, from [16]byte, link, door uint32) int32 {
	if kind == network {
		clear(from[8:])
	}
	i := m.buckets[m.bucketOf(&Hit{From: from})]
	for ; i != none; i = m.attempts[i].next {
		if a := &m.attempts[i]; a.kind == kind && a.from == from && a.link == link && a.door == door {
			break
		}
	}
	return i
}

// barOn is the bar that keeps a sequence begun at start from opening attempt a's door, or none: the source's or its /64's.
func (m *Matcher) barOn(a *attempt, start time.Duration) int32 {
	for kind := guard; kind <= network && m.guards.n > 0; kind++ {
		i := m.guardOf(kind, a.from, a.link, a.door)
		if bar := &m.attempts[i]; i != none && bar.bars() && start < m.guardEnd(bar) {
			return i
		}
	}
	return none
}

// eachBar goes through the bars in force, the latest first, and lifts those for which visit says so.
func (m *Matcher) eachBar(now time.Duration, visit func(Bar) (lift bool)) {
	for i := m.guards.tail; i != none; {
		a := &m.attempts[i]
		this := i
		i = a.cheap.prev
		addr := netip.AddrFrom16(a.from).Unmap()
		bar := Bar{m.doors[a.door], netip.PrefixFrom(addr, addr.BitLen()), int(a.link), a.decoy, m.guardEnd(a) - now}
		if a.kind == network {
			bar.From = netip.PrefixFrom(addr, 64)
		}
		if a.bars() && bar.Left > 0 && visit(bar) {
			m.drop(this)
		}
	}
}

// rank is the queue that an attempt is in by its cheap links, if it is in one.
func (m *Matcher) rank(a *attempt) *queue {
	if a.kind != attempting {
		return &m.guards
	}
	return &m.cheap
}

// sorted are the steps by when their attempts were begun, and then as the doors stand in the configuration.
func (m *Matcher) sorted() []Step {
	sort.Stable((*stepOrder)(m))
	return m.steps
}

// stepOrder is the matcher itself, so that sorting takes no memory.
type stepOrder Matcher

func (o *stepOrder) Len() int      { return len(o.steps) }
func (o *stepOrder) Swap(i, j int) { o.steps[i], o.steps[j] = o.steps[j], o.steps[i] }
func (o *stepOrder) Less(i, j int) bool {
	a, b := &o.steps[i], &o.steps[j]
	return a.began < b.began || a.began == b.began && a.door < b.door
}

// Expire ends the attempts whose time is up and says which. The steps are valid until the next call.
func (m *Matcher) Expire(now time.Duration) []Step {
	m.steps = m.steps[:0]
	for q := range m.byEnd {
		for i := m.byEnd[q].head; i != none && m.attempts[i].until <= now; i = m.byEnd[q].head {
			a := &m.attempts[i]
			if a.bits != 0 {
				m.step(TimedOut, a, int(a.stage))
			}
			m.drop(i)
		}
	}
	return m.steps
}

// adopt takes over the attempts of the matcher that this one follows, at doors that are still the same. Of a one-time
// door whose next sequence is in force it takes those that have opened, as SYNs of the used sequence may come again. It
// is to be called before any hit is observed.
func (m *Matcher) adopt(old *Matcher) {
	m.seed = old.seed // fingerprints and buckets are made with it
	m.hits = old.hits
	const gone = -1
	now := slices.Repeat([]int{gone}, len(old.doors))
	taken := make([]bool, len(m.doors)) // two doors may be alike
	for _, alike := range []func(was, is *Door) bool{(*Door).knockedAs, (*Door).nextOneTime} {
		for i, was := range old.doors {
			for j, d := range m.doors {
				if now[i] == gone && !taken[j] && alike(was, d) {
					now[i], taken[j] = j, true
					m.cooling[j], m.codes[j] = old.cooling[i], old.codes[i]
				}
			}
		}
	}
	moved := make([]int32, old.used)
	for _, q := range old.byEnd {
		for i := q.head; i != none; i = old.attempts[i].byEnd.next {
			a := &old.attempts[i]
			if now[a.door] != gone && (a.kind == attempting || m.doors[now[a.door]].hasDecoys()) && (a.bits == 0 || old.doors[a.door].knockedAs(m.doors[now[a.door]])) {
				moved[i] = m.adoptOne(old, i, uint32(now[a.door]))
			}
		}
	}
	for _, q := range []queue{old.guards, old.cheap} {
		for i := q.head; i != none; i = old.attempts[i].cheap.next {
			if moved[i] != none {
				m.append(m.rank(&m.attempts[moved[i]]), moved[i], cheapLinks)
			}
		}
	}
}

func (m *Matcher) adoptOne(old *Matcher, was int32, door uint32) int32 {
	a := &old.attempts[was]
	hit := Hit{From: a.from, Link: int(a.link)}
	i := m.begin(m.bucketOf(&hit), door, &hit)
	queue := m.queueOf[door]
	switch {
	case a.kind != attempting:
		queue = m.guardsOf[door]
	case a.queue == old.opened:
		queue = m.opened
	}
	m.requeue(i, queue, a.until)
	is := &m.attempts[i]
	is.bits, is.stage, is.began, is.kind, is.told, is.decoy = a.bits, a.stage, a.began, a.kind, a.told, a.decoy
	is.step, is.row = a.step, a.row
	copy(m.starts[int(i)*m.startsEach:], old.starts[int(was)*old.startsEach:][:max(bits.OnesCount32(a.bits), 1)])
	known := old.printsOf(was)
	for n := a.prints - min(a.prints, uint32(len(known))); n < a.prints; n++ { // oldest first
		m.note(i, known[int(n)%len(known)])
	}
	return i
}

// NextEnd is when Expire will have something to do.
func (m *Matcher) NextEnd() time.Duration {
	at := never
	for _, q := range m.byEnd {
		if q.head != none {
			at = min(at, m.attempts[q.head].until)
		}
	}
	return at
}

// UnderWay is how many attempts have not opened their door, and are no guards.
func (m *Matcher) UnderWay() int { return m.live - m.byEnd[m.opened].n - m.guards.n }

// advance applies the hit to attempt i, whose flags and time have been looked at.
func (m *Matcher) advance(i int32, hit *Hit, served func(Knock) bool) {
	a := &m.attempts[i]
	d := m.doors[a.door]
	starts := m.starts[int(i)*m.startsEach:][:m.startsEach]
	// The bits still in time, and their starts by place.
	var old [maxKnocks]time.Duration
	live := uint32(0)
	for n, rest := 0, a.bits; rest != 0; n, rest = n+1, rest&(rest-1) {
		if place := bits.TrailingZeros32(rest); hit.When-starts[n] < d.SeqTimeout {
			live |= 1 << place
			old[place] = starts[n]
		}
	}
	was := uint8(bits.Len32(live))
	mask := d.mask(hit.Knock)
	if mask == 0 { // it can be a half
		if live>>(d.CodeAt-1) == 0 { // it is another port
			m.wrong(i, hit, served)
			return
		}
		var again bool
		if mask, again = m.half(a, hit, live); again {
			m.remark(Repeated, a.door, hit, int(was))
			return
		}
	}
	if was == 0 {
		if a.bits != 0 {
			m.step(TimedOut, a, int(a.stage)) // a later start, which led nowhere, has put off its end
		}
		a.began = m.hits
	}
	a.bits = (live<<1 | 1 | live) & mask
	for n, rest := 0, a.bits; rest != 0; n, rest = n+1, rest&(rest-1) {
		place := bits.TrailingZeros32(rest)
		start := time.Duration(math.MinInt64)
		if live&(1<<place) != 0 {
			start = old[place]
		}
		if place == 0 {
			start = hit.When
		} else if live&(1<<(place-1)) != 0 {
			start = max(start, old[place-1])
		}
		starts[n] = start
	}
	stage := uint8(bits.Len32(a.bits))
	switch last := uint32(1) << (len(d.Sequence) - 1); {
	case a.bits&last != 0:
		if bar := m.barOn(a, starts[bits.OnesCount32(a.bits)-1]); bar != none {
			b := &m.attempts[bar]
			m.stepOf(Step{Kind: Swallowed, Stage: len(d.Sequence), Told: b.told}, a)
			b.told = true
		} else if d.hasCode() && int(a.row) < m.codes[a.door].needed(hit.When) {
			m.step(NextCode, a, len(d.Sequence))
		} else {
			m.step(Opened, a, len(d.Sequence))
			a.row, a.step = 0, 0
			if d.Cooldown > 0 {
				m.cooling[a.door] = hit.When + d.Cooldown
			}
		}
		a.bits, a.stage = 0, 0
		m.requeue(i, m.opened, hit.When+copyTime)
	case a.bits == 0:
		if was > 0 {
			m.step(Discarded, a, int(a.stage))
		}
		if a.stage > 0 {
			m.drop(i)
		}
		// Else it is one that has opened, and waits for copies of its SYNs.
		return
	case stage == was:
		m.remark(Repeated, a.door, hit, int(stage))
	default:
		if stage < was {
			m.step(Discarded, a, int(a.stage))
		}
		m.step(Advanced, a, int(stage))
		a.stage = stage
	}
	if a.bits&1 != 0 { // it has started anew
		m.requeue(i, m.queueOf[a.door], hit.When+d.SeqTimeout)
	}
	m.unlink(&m.cheap, i, cheapLinks)
	if a.stage <= 1 && a.row == 0 {
		m.append(&m.cheap, i, cheapLinks)
	}
}

// codes are those around the present one of a door, and when wrong ones came.
type codes struct {
	step  uint32 // the present one
	near  [2*farSteps + 1]uint32
	wrong [wrongCodes]time.Duration // the latest ones: the n-th at n modulo wrongCodes
	n     uint64                    // how many since an hour was quiet
	more  int                       // how many codes the door asks for, beside one
}

// needed is how many codes in a row the door asks for.
func (c *codes) needed(now time.Duration) int {
	if c.n > 0 && c.quiet(now) <= 0 {
		c.n, c.more = 0, 0
	}
	return 1 + c.more
}

// fail takes note of a wrong code.
func (c *codes) fail(now time.Duration) {
	c.wrong[c.n%wrongCodes] = now
	if c.n++; c.n >= manyWrong && c.more > 0 {
		c.more = 2
	} else if c.n >= wrongCodes && now-c.wrong[c.n%wrongCodes] < time.Hour {
		c.more = max(c.more, 1)
	}
}

// quiet is how long it takes until an hour has been.
func (c *codes) quiet(now time.Duration) time.Duration {
	return c.wrong[(c.n-1)%wrongCodes] + time.Hour - now
}

// half says which place of the sequence a port of a code's half matches, or that it was matched before. What matches none is a wrong
// code.
func (m *Matcher) half(a *attempt, hit *Hit, live uint32) (mask uint32, again bool) {
	d, c := m.doors[a.door], &m.codes[a.door]
	if c.step != hit.Step {
		c.step = hit.Step
		for i := range c.near {
			c.near[i] = d.TOTP.code(hit.Step - farSteps + uint32(i))
		}
	}
	first, off := uint32(1)<<d.CodeAt, 0
	if live >= first<<1 && slices.Contains(d.TOTP.ports(d.TOTP.code(a.step)), hit.Knock.Port) {
		return 0, true
	}
	for i := len(c.near) - 1; i >= 0; i-- { // the latest: those before it are used up with it
		ports := d.TOTP.ports(c.near[i])
		switch {
		case live&first == 0 && live&(first>>1) != 0 && ports[0] == hit.Knock.Port:
			a.decoy = hit.Knock
			return first, false
		case live&first == 0 || ports[0] != a.decoy.Port || ports[1] != hit.Knock.Port:
		case i < farSteps-1 || i > farSteps+1:
			off = i - farSteps
		default:
			step := hit.Step + uint32(i) - farSteps
			if step == a.step+1 {
				a.row++
			} else if step != a.step {
				a.row = 1
			}
			a.step = step
			return first << 1, false
		}
	}
	if live&first != 0 && a.decoy == hit.Knock {
		return 0, true
	}
	needed := c.needed(hit.When)
	m.step(WrongCode, a, off)
	if c.fail(hit.When); c.more >= needed {
		m.step(MoreCodes, a, 1+c.more)
	}
	return 0, false
}

// eachAsking goes through the doors that ask for more than one code.
func (m *Matcher) eachAsking(now time.Duration, visit func(d *Door, codes int, left time.Duration)) {
	for i, d := range m.doors {
		if c := &m.codes[i]; c.needed(now) > 1 {
			visit(d, c.needed(now), c.quiet(now))
		}
	}
}

func (m *Matcher) step(kind StepKind, a *attempt, stage int) {
	m.stepOf(Step{Kind: kind, Stage: stage}, a)
}

// stepOf is a step of an attempt, which fills in whose it is.
func (m *Matcher) stepOf(s Step, a *attempt) {
	if !s.Told || !m.onlyChanges {
		s.Door, s.From, s.Hit, s.Code, s.began, s.door = m.doors[a.door], a.from, m.hits, a.step, a.began, a.door
		m.steps = append(m.steps, s)
	}
}

// remark is a step that changes nothing.
func (m *Matcher) remark(kind StepKind, door uint32, hit *Hit, stage int) {
	if !m.onlyChanges {
		m.steps = append(m.steps, Step{Kind: kind, Door: m.doors[door], From: hit.From, Stage: stage, Hit: m.hits, began: m.hits, door: door})
	}
}

// sourceLink is the link that a link-local source is told apart by (RFC 4007), 0 for other sources.
func sourceLink(hit *Hit) uint32 {
	if hit.From[0] == 0xfe && hit.From[1]&0xc0 == 0x80 {
		return uint32(hit.Link)
	}
	return 0
}

// bucketOf hashes the source alone, so that its attempts at all doors are in one bucket. The seed is random: nobody
// can choose addresses that share one.
func (m *Matcher) bucketOf(hit *Hit) int32 {
	return int32(maphash.Bytes(m.seed, hit.From[:]) & uint64(len(m.buckets)-1))
}

// fingerprint tells a SYN from all others but its own copies (the source is the attempt's). The flags do not count: a
// SYN that got no answer is sent again without ECE and CWR (RFC 3168, section 6.1.1.1).
func (m *Matcher) fingerprint(hit *Hit) uint32 {
	return uint32(maphash.Comparable(m.seed, struct {
		to    [16]byte
		from  uint16
		knock Knock
		seq   uint32
	}{hit.To, hit.FromPort, hit.Knock, hit.Seq}))
}

func (m *Matcher) printsOf(i int32) []uint32 {
	return m.prints[int(i)*m.printsEach:][:m.printsEach]
}

func (m *Matcher) copied(i int32, print uint32) bool {
	known := m.printsOf(i)
	return slices.Contains(known[:min(int(m.attempts[i].prints), len(known))], print)
}

func (m *Matcher) note(i int32, print uint32) {
	a := &m.attempts[i]
	known := m.printsOf(i)
	known[int(a.prints)%len(known)] = print
	a.prints++
}

// begin makes an attempt, with no bit set yet.
func (m *Matcher) begin(key int32, door uint32, hit *Hit) int32 {
	if m.free == none && m.used == len(m.attempts) {
		m.evict()
	}
	i := m.free
	if i != none {
		m.free = m.attempts[i].next
	} else {
		i = int32(m.used)
		m.used++
	}
	m.live++
	m.attempts[i] = attempt{
		from: hit.From, link: sourceLink(hit), door: door,
		queue: m.queueOf[door],
		until: hit.When + m.doors[door].SeqTimeout,
		next:  m.buckets[key],
	}
	m.buckets[key] = i
	m.append(&m.byEnd[m.queueOf[door]], i, byEndLinks)
	return i
}

func (m *Matcher) evict() {
	oldest := cmp.Or(m.guards.head, m.cheap.head) // none is 0
	if oldest == none {
		end := m.NextEnd()
		for _, q := range m.byEnd {
			if oldest == none && q.head != none && m.attempts[q.head].until == end {
				oldest = q.head
			}
		}
	}
	a := &m.attempts[oldest]
	m.step(Evicted, a, int(a.stage))
	m.drop(oldest)
}

// drop forgets attempt i and frees its slot.
func (m *Matcher) drop(i int32) {
	a := &m.attempts[i]
	m.unlink(&m.byEnd[a.queue], i, byEndLinks)
	m.unlink(m.rank(a), i, cheapLinks)
	at := &m.buckets[m.bucketOf(&Hit{From: a.from})]
	for *at != i {
		at = &m.attempts[*at].next
	}
	*at = a.next
	a.next = m.free
	m.free = i
	m.live--
}

// requeue moves attempt i to the end of a queue of byEnd.
func (m *Matcher) requeue(i int32, queue uint8, until time.Duration) {
	a := &m.attempts[i]
	m.unlink(&m.byEnd[a.queue], i, byEndLinks)
	a.queue, a.until = queue, until
	m.append(&m.byEnd[queue], i, byEndLinks)
}

func byEndLinks(a *attempt) *links { return &a.byEnd }

func cheapLinks(a *attempt) *links { return &a.cheap }

func (m *Matcher) append(q *queue, i int32, of func(*attempt) *links) {
	*of(&m.attempts[i]) = links{q.tail, none}
	if q.tail == none {
		q.head = i
	} else {
		of(&m.attempts[q.tail]).next = i
	}
	q.tail = i
	q.n++
}

// unlink takes attempt i out of the queue; one that is not in it is left alone.
func (m *Matcher) unlink(q *queue, i int32, of func(*attempt) *links) {
	l := of(&m.attempts[i])
	switch {
	case l.prev != none:
		of(&m.attempts[l.prev]).next = l.next
	case q.head == i:
		q.head = l.next
	default:
		return
	}
	if l.next != none {
		of(&m.attempts[l.next]).prev = l.prev
	} else {
		q.tail = l.prev
	}
	*l = links{}
	q.n--
}
