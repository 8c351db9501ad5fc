//go:build linux && !pure

package main

import (
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Hosts behind the one with the daemons: doors may have them as their Target.
const (
	routedAddr  = "198.51.100.7"
	routedAddr6 = "fd00:98::7"
)

// compareSeeds is how many cases a normal run has. SESAME_COMPARE_SEED is the first seed and SESAME_COMPARE_N the
// number of cases of another one.
const compareSeeds = 300

// TestBesideKnockd runs the real knockd and ours on one interface, with one configuration, and sends both the same
// packets. What knockd says must be what a model of it says, and what we open must be what the matcher opens: so both
// are known packet by packet. Whatever knockd opens we open between the first and the last of its packets, and whatever
// only we open has one of the mends below as its reason. Half of the cases have decoys: there, one ends an attempt, and
// whoever has hit two opens nothing here.
func TestBesideKnockd(t *testing.T) {
	first, n := envNumber(t, "SESAME_COMPARE_SEED", 1), envNumber(t, "SESAME_COMPARE_N", compareSeeds)
	x := orderedWire(newWorld(t, 1))
	packets, found := 0, map[string]int{}
	for seed := first; seed < first+n; seed++ {
		c := newCompareCase(t, seed)
		packets += len(c.packets)
		for _, name := range c.compare(x) {
			found[name]++
		}
	}
	t.Logf("seeds %d to %d: %d packets", first, first+n-1, packets)
	wanted := []string{openedByBoth, copiesCounted, decoyHit, sourceBarred, sameLines}
	for m := mend(1); m <= allMends; m <<= 1 {
		wanted = append(wanted, m.String())
	}
	for _, name := range wanted {
		if first == 1 && n >= compareSeeds && found[name] == 0 {
			t.Errorf("no case of: %s: the streams test too little", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		t.Logf("%5d %s", found[name], name)
	}
}

// TestDifferentFromKnockd has the smallest stream for each difference. A packet is a source (a, b: IPv4; c: IPv6) and
// a port; each is another SYN, but "=" makes a copy of the latest SYN of that source to that port, and "!" an ACK.
func TestDifferentFromKnockd(t *testing.T) {
	x := orderedWire(newWorld(t, 1))
	for _, tt := range []struct{ name, doors, packets string }{
		{openedByBoth, "[d] Sequence = 1,2,3", "a1 a2 a3"},
		{openedByBoth, "[d] Sequence = 1,2,3", "c1 c2 c3"},
		{openedByBoth, "[d] Sequence = 1,2,3 | TCPFlags = syn", "a1 a2! a2 a1! a3"},
		{openedByBoth, "[d] Sequence = 8,8,8", "a8 a8 a8"},
		{mendOwn.String(), "[d] Sequence = 1,2,3 [e] Sequence = 4,1", "a1 a2 a4 a3"},
		{mendOwn.String(), "[d] Sequence = 1,2,3 [e] Sequence = 9,40", "a1 a2 a40 a3"},
		{"", "[d] Sequence = 1,2,3 [e] Sequence = 4,1", "a1 a2 a1 a3"},
		{copiesCounted, "[d] Sequence = 8,8,8", "a8 a8= a8="},
		{mendEnds.String(), "[d] Sequence = 1,2,3", "a1 b1 a3 b2 b3"},
		{mendDoors.String(), "[d] Sequence = 1,2,3 [e] Sequence = 2,4", "a1 a2 a4"},
		{mendRepeats.String(), "[d] Sequence = 1,2,3", "a1 a2 a2 a3"},
		{mendRepeats.String(), "[d] Sequence = 1,2,3", "c1 c1= c2 c3"},
		{mendCopies.String(), "[d] Sequence = 1,2,3", "a1 a2 a1= a3"},
		{mendAnew.String(), "[d] Sequence = 1,2,3", "a1 a2 a1 a2 a3"},
		{decoyHit, "[d] Sequence = 1,2,3", "a1 a2 a35 a3"},
		{sourceBarred, "[d] Sequence = 1,2,3", "a9 a35 a1 a2 b9 b8 a3"},
		{sourceBarred, "[d] Sequence = 1,2,3", "a9 a9 a9= a1 a9 a35 a2 a3"},
		{openedByBoth, "[d] Sequence = 1,2,3", "a9 a10 a1 a2 a35 a3"}, // with Decoys = no
		{openedByBoth, "[d] Sequence = 1 | TCPFlags = syn | [e] Sequence = 2,3", "a2 a1! a3"},
	} {
		var config strings.Builder
		for line := range strings.FieldsFuncSeq(strings.NewReplacer("]", "]\n", "[", "\n[").Replace(tt.doors), func(r rune) bool {
			return r == '\n' || r == '|'
		}) {
			config.WriteString(line + "\n")
		}
		c := &compareCase{config: config.String(), decoys: tt.name == decoyHit || tt.name == sourceBarred}
		c.parse(t)
		latest := map[string]testPacket{}
		for i, word := range strings.Fields(tt.packets) {
			word, again := strings.CutSuffix(word, "=")
			word, ack := strings.CutSuffix(word, "!")
			port, err := strconv.Atoi(word[1:])
			if err != nil {
				t.Fatal(err)
			}
			p := testPacket{from: fmt.Sprintf("10.9.1.%d", word[0]), to: hostAddr, fromPort: 30000, seq: uint32(i), flags: flagSYN}
			if word[0] == 'c' {
				p.from, p.to = "fd00:9::1:3", hostAddr6
			}
			p.knock = Knock{uint16(port), tcp}
			switch {
			case again:
				p = latest[word]
			case ack:
				p.flags = flagACK
			default:
				latest[word] = p
			}
			c.packets = append(c.packets, p)
		}
		c.packets = append(c.packets, markerPacket)
		names := c.compare(x)
		slices.Sort(names) // what both open comes first
		names = names[1:]  // and the marker is among it
		names = slices.DeleteFunc(names, func(name string) bool { return name == sameLines })
		if got, want := strings.Join(slices.Compact(names), ", "), tt.name; got != want {
			t.Errorf("%s: %s:\n got %q\nwant %q", tt.doors, tt.packets, got, want)
		}
	}
}

// compare gives the case to both daemons and to the models of both, and says what it is that each opening shows.
func (c *compareCase) compare(x *wire) (names []string) {
	t := x.w
	t.Helper()
	names, err := c.explain()
	if err != nil {
		least, leastErr := c.smallest()
		t.Fatalf("seed %d: %v\nthe smallest stream that shows something like it: %v\n%v", c.seed, err, leastErr, least)
	}
	theirs, ours := c.run(x)
	if want := c.knockd(0, false).lines; !slices.Equal(theirs, want) {
		t.Fatalf("knockd's lines differ from the model's:\n%s\n%v", sideBySide(theirs, want), c)
	}
	var openings []string
	for _, line := range ours {
		if strings.HasSuffix(line, ": OPEN SESAME") {
			openings = append(openings, line)
		}
	}
	if want := c.matcherLines(); !slices.Equal(openings, want) {
		t.Fatalf("the daemon's openings differ from the matcher's:\n%s\n%v", sideBySide(openings, want), c)
	}
	// Where none of the mends plays a part, every line is the same, in the same order.
	if len(theirs) <= stepBurst && slices.Equal(theirs, c.knockd(allMends, c.decoys).lines) {
		if !slices.Equal(ours, theirs) {
			t.Fatalf("the daemon's lines differ from knockd's:\n%s\n%v", sideBySide(ours, theirs), c)
		}
		names = append(names, sameLines)
	}
	return names
}

// orderedWire is a wire on which no packet overtakes another: veth hands them on through a queue of the sender's
// processor, and so the test stays on one.
func orderedWire(w *world) *wire {
	w.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	var one unix.CPUSet
	one.Set(firstCPU(w.T))
	w.must(unix.SchedSetaffinity(0, &one))
	return w.wire(0)
}

func envNumber(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// firstCPU is one that the test may run on.
func firstCPU(t *testing.T) int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for i := range 1024 {
		if set.IsSet(i) {
			return i
		}
	}
	t.Fatal("no processor to run on")
	return 0
}

// What was found out about an opening, beside the mends.
const (
	openedByBoth  = "opened by both"
	sameLines     = "same lines in the same order"
	copiesCounted = "opened by knockd only: it counts copies of a SYN as knocks"
	decoyHit      = "opened by knockd only: a decoy was hit between the knocks"
	sourceBarred  = "opened by knockd only: the source is barred, as two decoys were hit"
)

// mend is a set of what we do otherwise than knockd, each with its own effect on the model.
type mend uint

const (
	mendEnds mend = 1 << iota
	mendDoors
	mendRepeats
	mendCopies
	mendAnew
	mendOwn
	allMends = mendOwn<<1 - 1
)

var mendNames = []string{
	"the end of one attempt does not end the others",
	"several doors are knocked at once",
	"a repeat of the knock just matched is tolerated",
	"a copy of a SYN that has counted is ignored",
	"a hit that ends an attempt starts anew",
	"a knock of other doors alone changes nothing",
}

func (m mend) String() string {
	var names []string
	for i, name := range mendNames {
		if m&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return "opened by us only: " + strings.Join(names, "; ")
}

// compareCase is a configuration and a stream of packets, made from a seed.
type compareCase struct {
	seed    uint64
	config  string // knockd's; ours has "decoys = no", too
	decoys  bool   // it has not
	doors   []*Door
	packets []testPacket
}

// marker is a door of the test's own, and the last packet knocks at it: once a daemon has opened it, it has read
// everything.
const marker = "[marker]\n sequence = 65001:udp\n command = true\n"

var markerPacket = testPacket{from: "10.9.1.250", to: hostAddr, fromPort: 1, knock: Knock{65001, udp}}

var compareFlags = []struct {
	text string // TCPFlags
	fits []uint8
}{
	{"", []uint8{flagSYN, flagSYN, flagSYN | 0xc0, flagACK, flagFIN}},
	{"syn", []uint8{flagSYN, flagSYN, flagSYN | 0xc0, flagSYN | flagACK}},
	{"syn", []uint8{flagSYN}},
	{"syn,!ack", []uint8{flagSYN}},
	{"fin,!ack", []uint8{flagFIN, flagFIN | flagSYN}},
	{"ack", []uint8{flagACK, flagACK, flagACK | flagSYN}},
}

func newCompareCase(t *testing.T, seed uint64) *compareCase {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 3))
	c := &compareCase{seed: seed, decoys: seed%2 == 0}
	pool := make([]Knock, 2+r.IntN(10))
	apart := 1
	if seed%3 == 0 {
		apart = 40 // knocks are not among each other's decoys
	}
	for i := range pool {
		pool[i] = Knock{uint16(7000 + apart*r.IntN(8)), []Protocol{tcp, tcp, udp}[r.IntN(3)]}
	}
	var text strings.Builder
	var flags []int // of each door, index in compareFlags
	var sequences [][]Knock
	var targets []string // of each door, "" for the host's own addresses
	for i := range 1 + r.IntN(8) {
		var s []Knock
		if i > 0 && r.IntN(3) == 0 {
			s = append(s, sequences[r.IntN(i)]...)
			s = s[:1+r.IntN(len(s))]
		}
		length := 1 + r.IntN(6)
		if length == 1 && r.IntN(2) == 0 {
			length = 3
		}
		for len(s) < length {
			k := pool[r.IntN(len(pool))]
			if len(s) > 0 && r.IntN(8) == 0 {
				k = s[len(s)-1]
			}
			s = append(s, k)
		}
		sequences, flags = append(sequences, s), append(flags, r.IntN(len(compareFlags)))
		fmt.Fprintf(&text, "[d%d]\n sequence = %s\n seq_timeout = 60\n", i, (&Door{Sequence: s}).sequence())
		targets = append(targets, "")
		if r.IntN(5) == 0 {
			targets[i] = []string{routedAddr, routedAddr6}[r.IntN(2)]
			fmt.Fprintf(&text, " target = %s\n", targets[i])
		}
		if f := compareFlags[flags[i]].text; f != "" {
			fmt.Fprintf(&text, " tcpflags = %s\n", f)
		}
		text.WriteString(" command = true\n")
	}
	c.config = text.String()
	c.parse(t)

	// Each packet that is made is another connection's.
	made := uint32(0)
	packet := func(from string, k Knock, flags uint8) testPacket {
		made++
		p := testPacket{from: from, to: hostAddr, fromPort: uint16(30000 + made), knock: k, seq: made * 1000}
		if strings.Contains(from, ":") {
			p.to = hostAddr6
		}
		if k.Proto == tcp {
			p.flags = flags
		}
		return p
	}
	anyFlags := func() uint8 { return []uint8{flagSYN, flagSYN, flagACK, flagFIN, flagSYN | flagACK, 4}[r.IntN(6)] }
	knocking := func(from string) (stream []testPacket) {
		d := r.IntN(len(sequences))
		to := targets[d]
		if r.IntN(8) == 0 { // at a wrong address
			to = []string{"", routedAddr, routedAddr6}[r.IntN(3)]
		}
		if to != "" && strings.Contains(to, ":") != strings.Contains(from, ":") {
			from = map[bool]string{false: "10.9.1.9", true: "fd00:9::1:9"}[strings.Contains(to, ":")]
		}
		packet := func(from string, k Knock, flags uint8) testPacket {
			p := packet(from, k, flags)
			if to != "" {
				p.to = to
			}
			return p
		}
		fits := compareFlags[flags[d]].fits
		clean := r.IntN(3) == 0
		s := sequences[d]
		if r.IntN(6) == 0 { // given up somewhere, and begun again
			s = slices.Concat(s[:r.IntN(len(s))], s)
		}
		if c.decoys && r.IntN(6) == 0 { // mistyped before
			for range 1 + r.IntN(3) {
				stream = append(stream, packet(from, Knock{uint16(7000 + r.IntN(50)), tcp}, fits[r.IntN(len(fits))]))
			}
		}
		for _, k := range s {
			p := packet(from, k, fits[r.IntN(len(fits))])
			switch odd := r.IntN(40); {
			case clean || odd >= 15:
			case odd < 1:
				continue // lost
			case odd < 3: // a second connection
				stream = append(stream, packet(from, k, p.flags))
			case odd < 6: // the same again
				stream = append(stream, p)
			case odd < 9: // and one from earlier
				if len(stream) > 0 {
					stream = append(stream, stream[r.IntN(len(stream))])
				}
			case odd < 12: // at a wrong place
				wrong := pool[r.IntN(len(pool))]
				if r.IntN(4) == 0 {
					wrong.Port = uint16(7000 + r.IntN(12)) // it may be no door's
				}
				stream = append(stream, packet(from, wrong, anyFlags()))
			case odd < 14: // with other flags
				stream = append(stream, packet(from, k, anyFlags()))
			default: // an answer that comes late
				stream = append(stream, packet(from, k, flagACK))
			}
			stream = append(stream, p)
		}
		if r.IntN(8) == 0 {
			stream = append(stream, stream...)
		}
		return stream
	}
	// Sources follow each other, or come at once; so do the doors that one of them knocks at.
	mix := func(a, b []testPacket) (out []testPacket) {
		if r.IntN(2) == 0 {
			return append(a, b...)
		}
		for len(a)+len(b) > 0 {
			if r.IntN(len(a)+len(b)) < len(a) {
				out, a = append(out, a[0]), a[1:]
			} else {
				out, b = append(out, b[0]), b[1:]
			}
		}
		return out
	}
	for i := range 1 + r.IntN(3) {
		from := fmt.Sprint([]string{"10.9.1.", "fd00:9::1:"}[r.IntN(2)], 2+i)
		var stream []testPacket
		for range 1 + r.IntN(4) {
			stream = mix(stream, knocking(from))
		}
		c.packets = mix(c.packets, stream)
	}
	// More could be more lines than the daemon writes at once (grantBurst).
	c.packets = append(c.packets[:min(len(c.packets), 90)], markerPacket)
	return c
}

// parse adds the marker to the configuration and reads the doors.
func (c *compareCase) parse(t *testing.T) {
	t.Helper()
	c.config += marker
	parsed, err := parseConfig("compare", strings.NewReader(c.ours()))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, c.ours())
	}
	c.doors = parsed.Doors
}

func (c *compareCase) ours() string {
	if c.decoys {
		return c.config
	}
	return strings.ReplaceAll(c.config, "]\n", "]\n decoys = no\n")
}

func (c *compareCase) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "SESAME_COMPARE_SEED=%d SESAME_COMPARE_N=1\n%s", c.seed, c.ours())
	for i, p := range c.packets {
		fmt.Fprintf(&s, "%3d: %s -> %s %v", i, p.from, p.to, p.knock)
		if p.knock.Proto == tcp {
			fmt.Fprintf(&s, " flags %#02x seq %d", p.flags, p.seq)
		}
		s.WriteByte('\n')
	}
	return s.String()
}

// smallest leaves out packets as long as explain still fails.
func (c *compareCase) smallest() (*compareCase, error) {
	least := *c
	for i := 0; i < len(least.packets); {
		less := least
		less.packets = slices.Delete(slices.Clone(least.packets), i, i+1)
		if _, err := less.explain(); err != nil {
			least, i = less, 0
		} else {
			i++
		}
	}
	_, err := least.explain()
	return &least, err
}

// run sends the packets to both daemons, and returns their lines about stages and openings.
func (c *compareCase) run(x *wire) (theirs, ours []string) {
	w := x.w
	dir := w.TempDir()
	config, own, out, log := filepath.Join(dir, "knockd.conf"), filepath.Join(dir, "own.conf"), filepath.Join(dir, "knockd"), filepath.Join(dir, "log")
	w.must(os.WriteFile(config, []byte(c.config), 0o600))
	w.must(os.WriteFile(own, []byte(c.ours()), 0o600))
	file, err := os.Create(out)
	w.must(err)
	defer file.Close()
	knockd := exec.Command("/usr/sbin/knockd", "-v", "-i", "eth0", "-c", config)
	knockd.Stdout, knockd.Stderr = file, file
	for _, cmd := range []*exec.Cmd{knockd, sesame("sesame", "serve", "-i", "eth0", "-c", own, "-g", log)} {
		w.must(w.host.start(cmd))
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
	}
	await := func(name, want string) (text string) {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			b, _ := os.ReadFile(name)
			if text = string(b); strings.Contains(text, want) {
				return text
			}
			if time.Now().After(deadline) {
				w.Fatalf("waited in vain for %q in:\n%s%v", want, text, c)
			}
		}
	}
	await(out, "listening on eth0...\n")
	await(log, "starting up, listening on eth0\n")
	for _, p := range c.packets {
		x.send(p.bytes())
	}
	progress := func(text string) (lines []string) {
		for _, line := range strings.Split(text, "\n") {
			if strings.Contains(line, ": Stage ") || strings.HasSuffix(line, ": OPEN SESAME") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	theirs = progress(await(out, "marker: OPEN SESAME\n"))
	ours = progress(await(log, "marker: OPEN SESAME\n"))
	for i := range ours {
		_, ours[i], _ = strings.Cut(ours[i], "] ") // the date
	}
	return theirs, ours
}

// sideBySide shows where two lists of lines begin to differ.
func sideBySide(got, want []string) string {
	var s strings.Builder
	for i := range max(len(got), len(want)) {
		line := func(of []string) string {
			if i < len(of) {
				return of[i]
			}
			return ""
		}
		differs := ""
		if line(got) != line(want) {
			differs = "<-"
		}
		fmt.Fprintf(&s, "%-40s %-40s %s\n", line(got), line(want), differs)
	}
	return "     got                                      want\n" + s.String()
}

// seenOpening is one door opened for a source by the packets listed, the last of which completed the sequence.
type seenOpening struct {
	from, door string
	packets    []int
}

func (o *seenOpening) last() int { return o.packets[len(o.packets)-1] }

// within says whether a packet's number is between those of the opening's first and last packet.
func (o *seenOpening) within(n int) bool { return o.packets[0] <= n && n <= o.last() }

func (o *seenOpening) sameAs(other *seenOpening) bool {
	return o.from == other.from && o.door == other.door
}

// ofMatcher is what our matcher opens, each opening with its last packet only.
func (c *compareCase) ofMatcher() (openings []seenOpening) {
	m := newMatcher(c.doors, maxAttempts/64)
	for i, p := range c.packets {
		hit := p.hit()
		hit.Routed = p.routed()
		hit.When = time.Duration(i) * time.Microsecond
		_, steps := m.Observe(&hit, nowhereServed)
		for _, s := range steps {
			if s.Kind == Opened {
				openings = append(openings, seenOpening{p.from, s.Door.Name, []int{i}})
			}
		}
	}
	return openings
}

func (c *compareCase) matcherLines() (lines []string) {
	for _, o := range c.ofMatcher() {
		lines = append(lines, fmt.Sprintf("%s: %s: OPEN SESAME", o.from, o.door))
	}
	return lines
}

// explain compares the openings of knockd's model with those of the matcher, and names what each one of either is. An
// opening without a name is the error.
func (c *compareCase) explain() (names []string, err error) {
	openings, all := c.ofMatcher(), c.knockd(allMends, c.decoys)
	if !alike(all.openings, openings) {
		return nil, fmt.Errorf("the model with all mends opens %v, the matcher %v", all.openings, openings)
	}
	both := make([]bool, len(openings))
	for _, theirs := range c.knockd(0, false).openings {
		i := slices.IndexFunc(openings, func(o seenOpening) bool { return o.sameAs(&theirs) && theirs.within(o.last()) })
		switch {
		case i >= 0:
			both[i] = true
			names = append(names, openedByBoth)
		case slices.ContainsFunc(all.copies, func(o seenOpening) bool {
			return o.sameAs(&theirs) && slices.Contains(theirs.packets, o.last())
		}):
			names = append(names, copiesCounted)
		case all.barredFor(&theirs):
			names = append(names, sourceBarred)
		case all.decoyWithin(&theirs):
			names = append(names, decoyHit)
		default:
			return nil, fmt.Errorf("knockd opens %s for %s by packets %v, and we do not", theirs.door, theirs.from, theirs.packets)
		}
	}
	for i, o := range openings {
		if both[i] {
			continue
		}
		name, ok := c.reason(&o)
		if !ok {
			return nil, fmt.Errorf("we open %s for %s by packet %d, and no mend explains it", o.door, o.from, o.last())
		}
		names = append(names, name.String())
	}
	return names, nil
}

// reason finds the fewest mends with which knockd would have opened at the same packet: by themselves, else with decoys,
// where the case has them. An attempt that a decoy has ended may open later than it would have.
func (c *compareCase) reason(o *seenOpening) (mend, bool) {
	opens := func(m mend, decoys bool) bool {
		return slices.ContainsFunc(c.knockd(m, decoys).openings, func(theirs seenOpening) bool {
			return theirs.sameAs(o) && theirs.last() == o.last()
		})
	}
	for _, decoys := range []bool{false, c.decoys} {
		for size := range len(mendNames) + 1 {
			for m := range mend(1) << len(mendNames) {
				if bits.OnesCount(uint(m)) == size && opens(m, decoys) {
					return m, true
				}
			}
		}
	}
	return 0, false
}

// alike says whether the same doors open to the same sources at the same packets.
func alike(a, b []seenOpening) bool {
	key := func(o seenOpening) string { return fmt.Sprint(o.last(), o.from, o.door) }
	set := func(openings []seenOpening) map[string]int {
		n := map[string]int{}
		for _, o := range openings {
			n[key(o)]++
		}
		return n
	}
	return maps.Equal(set(a), set(b))
}

// model is knockd as it behaves, with some of our mends. It has no clock: nothing takes long here.
type model struct {
	hits     map[modelKey][]int // packets on decoys
	warned   map[modelKey]Knock // by which decoy
	barred   map[modelKey]int   // by which packet, on another one
	decoys   bool               // doors of two knocks or more have them
	mends    mend
	doors    []*Door
	attempts []*modelAttempt // in the order of their starts
	prints   map[modelKey][]modelPrint
	lines    []string
	openings []seenOpening
	copies   []seenOpening // SYNs found to be copies, by source, door and number
}

type modelKey struct {
	from string
	door int
}

type modelPrint struct {
	fromPort uint16
	knock    Knock
	seq      uint32
}

// modelAttempt has a bit for each place in the sequence that it may be at: with knockd's rules, one.
type modelAttempt struct {
	modelKey
	at      uint32
	packets []int
	ended   bool // it has opened, or failed; the next packet finds it gone
}

// knockd runs the model. With decoys, a hit on one ends the source's attempt at the door, and from the second one on no
// sequence of the source opens the door; one that is another door's knock just ends the attempt.
func (c *compareCase) knockd(mends mend, decoys bool) *model {
	m := &model{mends: mends, decoys: decoys, doors: c.doors, prints: map[modelKey][]modelPrint{},
		hits: map[modelKey][]int{}, warned: map[modelKey]Knock{}, barred: map[modelKey]int{}}
	for i := range c.packets {
		if decoys {
			m.bar(i, &c.packets[i])
		}
		if p := &c.packets[i]; m.seen(p) {
			m.clean()
			m.observe(i, p)
		}
	}
	return m
}

// seen says whether knockd's filter lets the packet through: a door has its port, and its address and flags fit that
// door.
func (m *model) seen(p *testPacket) bool {
	return slices.ContainsFunc(m.doors, func(d *Door) bool { return d.mask(p.knock) != 0 && meant(d, p) && fits(d, p) })
}

// near says whether the packet is near a knock of the door.
func near(d *Door, p *testPacket) bool {
	return len(d.Sequence) > 1 && slices.ContainsFunc(d.Sequence, func(knock Knock) bool {
		apart := int(knock.Port) - int(p.knock.Port)
		return knock.Proto == p.knock.Proto && -32 <= apart && apart <= 32
	})
}

// bar looks whether the packet is on decoys.
func (m *model) bar(n int, p *testPacket) {
	if m.seen(p) {
		return
	}
	for i, d := range m.doors {
		k := modelKey{p.from, i}
		if !meant(d, p) || !fits(d, p) || !near(d, p) {
			continue
		}
		m.hits[k] = append(m.hits[k], n)
		m.attempts = slices.DeleteFunc(m.attempts, func(a *modelAttempt) bool {
			if a.modelKey == k && !a.ended {
				delete(m.prints, k)
			}
			return a.modelKey == k
		})
		_, already := m.barred[k]
		if first, warned := m.warned[k]; warned && !already && first != p.knock {
			m.barred[k] = n
		}
		m.warned[k] = p.knock
	}
}

// barredFor says whether the source was barred from the door before the opening was complete.
func (m *model) barredFor(o *seenOpening) bool {
	for k, by := range m.barred {
		if k.from == o.from && m.doors[k.door].Name == o.door && by <= o.last() {
			return true
		}
	}
	return false
}

// decoyWithin says whether the source has hit a decoy of the door between the knocks of the opening.
func (m *model) decoyWithin(o *seenOpening) bool {
	for k, hits := range m.hits {
		if k.from == o.from && m.doors[k.door].Name == o.door && slices.ContainsFunc(hits, o.within) {
			return true
		}
	}
	return false
}

// meant says whether the packet is to the door's address: for a door, one that is not is as good as not there.
func meant(d *Door, p *testPacket) bool {
	if d.Target.IsValid() {
		return p.to == d.Target.String()
	}
	return !p.routed()
}

func (p *testPacket) routed() bool { return p.to == routedAddr || p.to == routedAddr6 }

func fits(d *Door, p *testPacket) bool { return p.knock.Proto != tcp || d.Flags.fit(p.flags) }

// clean takes out the attempts that have ended. When that is the first of the list, knockd loses all the others with
// it, whosever they are.
func (m *model) clean() {
	if len(m.attempts) > 0 && m.attempts[0].ended && m.mends&mendEnds == 0 {
		m.attempts = nil
	}
	m.attempts = slices.DeleteFunc(m.attempts, func(a *modelAttempt) bool { return a.ended })
}

func (m *model) observe(n int, p *testPacket) {
	under := map[int]bool{} // doors that the source has an attempt at
	for _, a := range m.attempts {
		if a.from != p.from || !meant(m.doors[a.door], p) {
			continue
		}
		under[a.door] = true
		if d := m.doors[a.door]; fits(d, p) && (m.mends&mendOwn == 0 || m.decoys && near(d, p) || d.mask(p.knock) != 0) && !m.copied(n, p, a.modelKey) {
			m.advance(n, p, a)
		}
	}
	if len(under) > 0 && m.mends&mendDoors == 0 {
		return // who is busy at one door starts at no other
	}
	for i, d := range m.doors {
		k := modelKey{p.from, i}
		if under[i] || !meant(d, p) || !fits(d, p) {
			continue
		}
		if p.knock != d.Sequence[0] {
			if m.prints[k] != nil && (m.mends&mendOwn == 0 || d.mask(p.knock) != 0) { // it has opened, and remembers what comes
				m.copied(n, p, k)
			}
			continue
		}
		if !m.copied(n, p, k) {
			a := &modelAttempt{modelKey: k}
			m.attempts = append(m.attempts, a)
			m.reach(n, a, 1)
		}
	}
}

func (m *model) advance(n int, p *testPacket, a *modelAttempt) {
	d := m.doors[a.door]
	next := a.at << 1
	if m.mends&mendRepeats != 0 {
		next |= a.at
	}
	if m.mends&mendAnew != 0 {
		next |= 1
	}
	if next &= d.mask(p.knock); next == 0 {
		a.ended = true
		delete(m.prints, a.modelKey)
		return
	}
	m.reach(n, a, next)
}

// reach puts the attempt at places of its sequence.
func (m *model) reach(n int, a *modelAttempt, at uint32) {
	d := m.doors[a.door]
	if bits.Len32(at) != bits.Len32(a.at) { // else a repeat
		m.lines = append(m.lines, fmt.Sprintf("%s: %s: Stage %d", a.from, d.Name, bits.Len32(at)))
	}
	a.at, a.packets = at, append(a.packets, n)
	if bits.Len32(at) == len(d.Sequence) {
		a.ended = true
		if m.prints[a.modelKey] == nil {
			m.prints[a.modelKey] = []modelPrint{} // not nil: there is a memory, with nothing in it yet
		}
		if _, barred := m.barred[a.modelKey]; barred {
			return
		}
		m.lines = append(m.lines, fmt.Sprintf("%s: %s: OPEN SESAME", a.from, d.Name))
		m.openings = append(m.openings, seenOpening{a.from, d.Name, a.packets})
	}
}

// copied says whether the packet is a SYN that the attempt knows, and lets it know it.
func (m *model) copied(n int, p *testPacket, k modelKey) bool {
	if m.mends&mendCopies == 0 || p.knock.Proto != tcp || p.flags&flagSYN == 0 {
		return false
	}
	print := modelPrint{p.fromPort, p.knock, p.seq}
	if slices.Contains(m.prints[k], print) {
		m.copies = append(m.copies, seenOpening{k.from, m.doors[k.door].Name, []int{n}})
		return true
	}
	known := append(m.prints[k], print)
	longest := 0 // there is as much room at each door as the longest sequence needs
	for _, d := range m.doors {
		longest = max(longest, len(d.Sequence))
	}
	m.prints[k] = known[max(0, len(known)-printsPerKnock*longest):]
	return false
}

// TestLogBesideKnockd runs both with a log file, commands that fail, timeouts, a reload and the end: the same lines in the
// same order, but for those that knockd does not have and the empty ones that only knockd has.
func TestLogBesideKnockd(t *testing.T) {
	w := newWorld(t, 2)
	dir := t.TempDir()
	config := dir + "/knockd.conf"
	theirs, ours := dir+"/theirs", dir+"/ours"
	// knockd counts whole seconds: with a timeout of one, knocks on both sides of a full second are too late for it.
	w.must(os.WriteFile(config, []byte("[options]\n logfile = "+theirs+`
[fails]
	sequence = 7000,8000,9000
	seq_timeout = 3
	start_command = exit 3
	cmd_timeout = 2
	stop_command = true
[none]
	sequence = 7100,8100:udp
	tcpflags = syn
	command = nosuchcommand %IP%
[silent]
	sequence = 7000,8000,9010
`), 0o600))
	knockd := exec.Command("/usr/sbin/knockd", "-i", "eth0", "-c", config)
	var daemons []*running
	for cmd, log := range map[*exec.Cmd]string{knockd: theirs, sesame("knockd", "-i", "eth0", "-c", config, "-g", ours): ours} {
		daemons = append(daemons, w.daemon(cmd, config, log))
	}
	var logs [2][]string
	read := func() {
		for i, file := range []string{theirs, ours} {
			text, _ := os.ReadFile(file)
			logs[i] = nil
			for _, line := range strings.Split(string(text), "\n") {
				date, line, dated := strings.Cut(line, "] ")
				if line == "" {
					continue
				}
				if _, err := time.Parse("[2006-01-02 15:04", date); err != nil || !dated {
					t.Fatalf("%s: line %q does not begin with a date", file, date+line)
				}
				only := func(text string) bool { return strings.Contains(line, text) }
				if !slices.ContainsFunc([]string{"warning: ", ": command took ", ": command output: ", "re-opening log file: ", ": start command failed ("}, only) {
					logs[i] = append(logs[i], line)
				}
			}
		}
	}
	both := func(text string, times int) {
		t.Helper()
		w.eventually(fmt.Sprintf("%d times %q in both logs", times, text), func() bool {
			read()
			return strings.Count(strings.Join(logs[0], "\n"), text) == times && strings.Count(strings.Join(logs[1], "\n"), text) == times
		})
	}
	both("starting up", 1)
	w.knock(0, "-d20", hostAddr, "7000", "8000", "9000")
	both("fails: running command: true", 1)
	w.knock(0, "-d20", hostAddr, "7100", "8100:udp")
	both("command returned non-zero status code (127)", 1)
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	// knockd notices a timeout when a packet comes. This one begins nothing.
	w.eventually("the timeout in both logs", func() bool {
		w.knock(1, hostAddr, "9000")
		read()
		return strings.Count(strings.Join(slices.Concat(logs[0], logs[1]), "\n"), "10.9.0.2: fails: sequence timeout (stage 2)") == 2
	})
	w.knock(0, "-6", "-d20", hostAddr6, "7100", "8100:udp")
	both("fd00:9::2: none: OPEN SESAME", 1)
	both("command returned non-zero status code (127)", 2)
	for _, d := range daemons {
		d.signal(unix.SIGHUP)
	}
	both("re-reading config file: "+config, 1)
	w.knock(1, "-d20", hostAddr, "7100", "8100:udp")
	both("command returned non-zero status code (127)", 3)
	for _, d := range daemons {
		d.signal(unix.SIGTERM)
	}
	both("shutting down", 1)
	if !slices.Equal(logs[1], logs[0]) {
		t.Errorf("the daemon's lines differ from knockd's:\n%s", sideBySide(logs[1], logs[0]))
	}
	for what, pattern := range logReaders {
		count := func(lines []string) (n int) {
			for _, line := range lines {
				if regexp.MustCompile(pattern).MatchString(line) {
					n++
				}
			}
			return n
		}
		if got, want := count(logs[1]), count(logs[0]); got != want || got == 0 {
			t.Errorf("lines for %s: got %d, want %d, as in knockd's", what, got, want)
		}
	}
}

// logReaders are the patterns by which other programs know knockd's lines, without the date: logwatch's own, and
// fail2ban's as people write them, with what <HOST> stands for.
var logReaders = map[string]string{
	"logwatch, the start":     `^starting up, listening on `,
	"logwatch, openings":      `OPEN SESAME$`,
	"logwatch, timeouts":      `: sequence timeout `,
	"logwatch, commands":      `^(.*?): running command: (.*)`,
	"logwatch, stages":        `^(\d+\.\d+\.\d+\.\d+): (.*?): Stage (\d+)`,
	"fail2ban, first knocks":  `^(?:::f{4,6}:)?(?P<host>[\w\-.:^_]*\w): \S+: Stage 1$`,
	"fail2ban, a stage":       `(?P<host>[\w\-.:^_]*\w): .*: Stage \d+$`,
	"fail2ban, given up":      `^(?P<host>[\w\-.:^_]*\w): .*: sequence timeout \(stage \d+\)$`,
	"fail2ban, openings":      `^(?P<host>[\w\-.:^_]*\w): .*: OPEN SESAME$`,
	"fail2ban, the door ends": `^(?P<host>[\w\-.:^_]*\w): .*: command timeout$`,
}
