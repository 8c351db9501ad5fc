//go:build linux && !pure

package main

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testLinks are br0, its port, its VLAN, a macvlan of it, lo, and a link alone, as a list of interfaces marks them.
func testLinks(list ...string) map[int]*Link {
	links := map[int]*Link{
		1: {Index: 1, Name: "br0"}, 2: {Index: 2, Name: "port", Upper: 1, Master: 1}, 3: {Index: 3, Name: "lo", Loopback: true},
		4: {Index: 4, Name: "br0.5", Parent: 1},
		5: {Index: 5, Name: "mac", Parent: 1, Takes: takesForeign},
		6: {Index: 6, Name: "alone"},
	}
	apply([][]string{list}, links)
	return links
}

// newTestReader makes a reader of two links, 2 being a port of 1, and lo (3), with one door of one knock for each
// protocol. It has no socket: frames are given to receive.
func newTestReader(log *strings.Builder, grants chan Grant) *Reader {
	doors := []*Door{
		{Name: "tcp", Sequence: []Knock{{7000, tcp}}, SeqTimeout: time.Second, Start: "true", Start6: "true"},
		{Name: "udp", Sequence: []Knock{{7000, udp}}, SeqTimeout: time.Second, Start: "true", Start6: "true"},
		{Name: "routed", Sequence: []Knock{{7500, tcp}}, SeqTimeout: time.Second, Start: "true", Target: netip.MustParseAddr("203.0.113.9")},
	}
	l := &Log{out: log}
	return &Reader{
		plan: Plan{
			matcher:   newMatcher(doors, 16),
			spec:      filterSpec(doors, nil, false),
			links:     testLinks("*"),
			addresses: map[[16]byte]bool{testSYN4.hit().To: true, testSYN6.hit().To: true, netip.MustParseAddr("203.0.113.9").As16(): false},
		},
		log: l, grants: grants,
		steps:  Throttle{log: l, burst: stepBurst, interval: stepInterval},
		opened: newThrottles(l, grantBurst, grantInterval),
		served: func() ([]Knock, error) { return nil, nil },
		now:    func() time.Duration { return 0 },
		// Frames without a stamp come when the batch begins.
		stepped: true,
	}
}

func TestReaderReceive(t *testing.T) {
	v4, v6 := testSYN4.bytes(), testSYN6.bytes()
	for _, tt := range []struct {
		name   string
		frame  Frame
		only   string // the links listened on; "": all
		opened string // link of the grant; "": none
	}{
		{"IPv4", Frame{Bytes: v4, Protocol: unix.ETH_P_IP, Link: 1}, "", "br0"},
		{"IPv6", Frame{Bytes: v6, Protocol: unix.ETH_P_IPV6, Link: 1}, "", "br0"},
		{"IPv4 in a frame of another type", Frame{Bytes: v4, Protocol: unix.ETH_P_8021Q, Link: 1}, "", ""},
		{"IPv4 in a frame of IPv6", Frame{Bytes: v4, Protocol: unix.ETH_P_IPV6, Link: 1}, "", ""},
		{"IPv6 in a frame of IPv4", Frame{Bytes: v6, Protocol: unix.ETH_P_IP, Link: 1}, "", ""},
		{"empty", Frame{Protocol: unix.ETH_P_IP, Link: 1}, "", ""},
		{"sent by us", Frame{Bytes: v4, Protocol: unix.ETH_P_IP, Link: 1, Outgoing: true}, "", ""},
		{"on a bridge's port, with the bridge", Frame{Bytes: v4, Protocol: unix.ETH_P_IP, Link: 2}, "", ""},
		{"on a bridge's port alone", Frame{Bytes: v4, Protocol: unix.ETH_P_IP, Link: 2}, "port", "br0"},
		{"tagged, with the VLAN's own link", Frame{Bytes: v4, Protocol: unix.ETH_P_IP, Link: 1, Tagged: true}, "", ""},
		{"to the macvlan's hardware address", Frame{Bytes: v4, Protocol: unix.ETH_P_IP, Link: 1, Foreign: true}, "", ""},
		{"to another hardware address, on one link", Frame{Bytes: v4, Protocol: unix.ETH_P_IP, Link: 1, Foreign: true}, "br0", "br0"},
		{"tagged, on one link", Frame{Bytes: v4, Protocol: unix.ETH_P_IP, Link: 1, Tagged: true}, "br0", "br0"},
		{"a link that came later", Frame{Bytes: v4, Protocol: unix.ETH_P_IP, Link: 9}, "", ""},
		{"to somebody else", Frame{Bytes: testSYN4.with(func(p *testPacket) { p.to = "198.51.100.2" }).bytes(), Protocol: unix.ETH_P_IP, Link: 1}, "", ""},
		{"to a door's Target", Frame{Bytes: testSYN4.with(func(p *testPacket) { p.to, p.knock.Port = "203.0.113.9", 7500 }).bytes(), Protocol: unix.ETH_P_IP, Link: 1}, "", "br0"},
		{"to another door's Target", Frame{Bytes: testSYN4.with(func(p *testPacket) { p.to = "203.0.113.9" }).bytes(), Protocol: unix.ETH_P_IP, Link: 1}, "", ""},
		{"to this host, with the port of a door with a Target", Frame{Bytes: testSYN4.with(func(p *testPacket) { p.knock.Port = 7500 }).bytes(), Protocol: unix.ETH_P_IP, Link: 1}, "", ""},
		{"from 127.0.0.1 on a wire", Frame{Bytes: testSYN4.with(func(p *testPacket) { p.from = "127.0.0.1" }).bytes(), Protocol: unix.ETH_P_IP, Link: 1}, "", ""},
		{"from 127.0.0.1 on lo", Frame{Bytes: testSYN4.with(func(p *testPacket) { p.from = "127.0.0.1" }).bytes(), Protocol: unix.ETH_P_IP, Link: 3}, "lo", "lo"},
		{"from ::1 on a wire", Frame{Bytes: testSYN6.with(func(p *testPacket) { p.from = "::1" }).bytes(), Protocol: unix.ETH_P_IPV6, Link: 1}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			grants := make(chan Grant, 1)
			r := newTestReader(new(strings.Builder), grants)
			if tt.only != "" {
				r.plan.links = testLinks(tt.only)
			}
			tt.frame.Len = len(tt.frame.Bytes)
			r.receive(&tt.frame)
			got := ""
			select {
			case g := <-grants:
				if got = g.Link; got == "" {
					got = "?"
				}
			default:
			}
			if got != tt.opened {
				t.Errorf("opened on %q, want %q", got, tt.opened)
			}
		})
	}
}

// TestReaderNeverWaits has doors that take no grant: the reader goes on and says so.
func TestReaderNeverWaits(t *testing.T) {
	var log strings.Builder
	r := newTestReader(&log, make(chan Grant))
	r.receive(&Frame{Bytes: testSYN4.bytes(), Len: 1000, Protocol: unix.ETH_P_IP, Link: 1})
	want := "192.0.2.7: tcp: Stage 1\n192.0.2.7: tcp: OPEN SESAME\n192.0.2.7: tcp: not opened: too many are waiting\n"
	if log.String() != want {
		t.Errorf("log: got %q, want %q", log.String(), want)
	}
}

// TestReaderAllocates shows what a stranger's packet costs: no memory, and no log line.
func TestReaderAllocates(t *testing.T) {
	var log strings.Builder
	r := newTestReader(&log, make(chan Grant))
	r.plan.matcher.onlyChanges = true
	for name, p := range map[string]testPacket{
		"another port":    testSYN4.with(func(p *testPacket) { p.knock.Port = 7001 }),
		"another host":    testSYN4.with(func(p *testPacket) { p.to = "198.51.100.9" }),
		"a late fragment": testSYN4.with(func(p *testPacket) { p.fragment = 1 }),
	} {
		f := Frame{Bytes: p.bytes(), Len: 1000, Protocol: unix.ETH_P_IP, Link: 1}
		if n := testing.AllocsPerRun(100, func() { r.receive(&f) }); n != 0 {
			t.Errorf("%s: got %v allocations a packet, want 0", name, n)
		}
	}
	if log.Len() > 0 {
		t.Errorf("log: got %q, want nothing", log.String())
	}
}

// TestReaderFlood shows what a flood of first knocks costs once its lines are left out: no memory either.
func TestReaderFlood(t *testing.T) {
	r := newTestReader(new(strings.Builder), make(chan Grant))
	r.plan.matcher = newMatcher([]*Door{{Name: "a", Sequence: []Knock{{7000, tcp}, {8000, tcp}}, SeqTimeout: time.Second}}, 16)
	r.plan.matcher.onlyChanges = true
	f := Frame{Bytes: testSYN4.bytes(), Len: 1000, Protocol: unix.ETH_P_IP, Link: 1}
	flood := func() {
		for i := range byte(200) {
			f.Bytes[ipv4OffSource+3] = i
			r.receive(&f)
		}
	}
	flood()
	if n := testing.AllocsPerRun(10, flood); n != 0 {
		t.Errorf("got %v allocations for 200 first knocks, want 0", n)
	}
	if r.steps.leftOut == 0 {
		t.Error("no line was left out: the test shows nothing")
	}
}

// TestReaderTimeout is how long the reader may sleep.
func TestReaderTimeout(t *testing.T) {
	var now time.Duration
	r := newTestReader(new(strings.Builder), nil)
	r.now = func() time.Duration { return now }
	if got := r.timeout(); got != -1 {
		t.Errorf("with nothing to do: got %v, want -1", got)
	}
	r.plan.matcher = newMatcher([]*Door{{Sequence: []Knock{{7000, tcp}, {8000, tcp}}, SeqTimeout: time.Second}}, 16)
	hit := testSYN4.hit()
	r.plan.matcher.Observe(&hit, nowhereServed)
	now = 250 * time.Millisecond
	if got := r.timeout(); got != 750*time.Millisecond {
		t.Errorf("with an attempt that ends in 750 ms: got %v", got)
	}
	now = 5 * time.Second
	if got := r.timeout(); got != 0 {
		t.Errorf("with an attempt that has ended: got %v, want 0", got)
	}
}

// TestReaderTime is when a packet came that was read later, with a wall clock that is set meanwhile.
func TestReaderTime(t *testing.T) {
	var now, wall time.Duration
	r := newTestReader(new(strings.Builder), make(chan Grant, 9))
	r.now, r.wall = func() time.Duration { return now }, func() time.Duration { return wall }
	const year = 365 * 24 * time.Hour
	for i, step := range []struct{ passed, set, stamp, want time.Duration }{
		{10 * time.Second, 50 * year, 0, 10 * time.Second}, // the first batch: nothing to compare with
		{time.Second, 0, -300 * time.Millisecond, 10*time.Second + 700*time.Millisecond},
		{time.Second, 0, -2 * time.Second, 11 * time.Second}, // no earlier than the batch before
		{time.Second, 0, time.Second, 13 * time.Second},      // it came while the batch was read
		{time.Second, year, -year, 14 * time.Second},         // set forward since the packet came
		{time.Second, -2 * year, year, 15 * time.Second},
		{time.Second, time.Millisecond, -300 * time.Millisecond, 15*time.Second + 700*time.Millisecond}, // slewed
	} {
		now += step.passed
		wall += step.passed + step.set
		r.begin()
		f := Frame{Bytes: testSYN4.bytes(), Len: 1000, Stamp: wall + step.stamp, Protocol: unix.ETH_P_IP, Link: 1}
		r.receive(&f)
		if r.hit.When != step.want {
			t.Errorf("step %d: came at %v, want %v", i, r.hit.When, step.want)
		}
	}
}

func TestReaderExplains(t *testing.T) {
	var debug strings.Builder
	r := newTestReader(new(strings.Builder), make(chan Grant, 9))
	r.debug = &Log{out: &debug}
	for _, change := range []func(p *testPacket){
		func(p *testPacket) {},
		func(p *testPacket) {},
		func(p *testPacket) { p.knock.Port = 7001 },
		func(p *testPacket) { p.knock = Knock{7000, udp} },
	} {
		r.receive(&Frame{Bytes: testSYN4.with(change).bytes(), Len: 1000, Protocol: unix.ETH_P_IP, Link: 1})
	}
	want := `hit: 192.0.2.7:40001 -> 7000:tcp (syn): tcp: 192.0.2.7: the sequence is complete
hit: 192.0.2.7:40001 -> 7000:tcp (syn): tcp: 192.0.2.7: a copy of a SYN that has counted: ignored
packet from 192.0.2.7 on link 1 does not count: 7001:tcp is no door's knock, or not for its source, at this address or interface, or with these flags (syn)
hit: 192.0.2.7:40001 -> 7000:udp: udp: 192.0.2.7: the sequence is complete
`
	if debug.String() != want {
		t.Errorf("got\n%swant\n%s", debug.String(), want)
	}
}

// TestReaderNumbersHits tells grants of one hit from those of another in the same batch.
func TestReaderNumbersHits(t *testing.T) {
	grants := make(chan Grant, 9)
	r := newTestReader(new(strings.Builder), grants)
	one := []Knock{{7000, tcp}}
	r.plan.matcher = newMatcher([]*Door{{Name: "a", Sequence: one, SeqTimeout: time.Second}, {Name: "b", Sequence: one, SeqTimeout: time.Second}}, 16)
	for seq := range uint32(2) {
		p := testSYN4.with(func(p *testPacket) { p.seq = seq })
		r.receive(&Frame{Bytes: p.bytes(), Len: 1000, Protocol: unix.ETH_P_IP, Link: 1})
	}
	for hit := range uint64(2) {
		for range 2 {
			if g := <-grants; g.Hit != hit+1 {
				t.Errorf("door %s: got hit %d, want %d", g.Door.Name, g.Hit, hit+1)
			}
		}
	}
}

// TestReaderStray has decoys: what is served is none, and the kernel is asked once a second at most.
func TestReaderStray(t *testing.T) {
	var log strings.Builder
	r := newTestReader(&log, make(chan Grant, 10))
	doors := testDoors(t, "[a] Sequence = 7000,8000:udp | Seq_Timeout = 10 | TCPFlags = syn,!ack | Command = true")
	r.plan.spec, r.plan.matcher, r.plan.ignored = filterSpec(doors, nil, false), newMatcher(doors, 16), []Knock{{7003, tcp}}
	r.plan.spec.Served = r.plan.ignored
	asked, listening := 0, []Knock{{7001, tcp}, {8001, udp}}
	r.served = func() ([]Knock, error) { asked++; return listening, nil }
	send := func(from string, k Knock, flags uint8) {
		p := testSYN4.with(func(p *testPacket) { p.from, p.knock, p.flags = from, k, flags })
		b := p.bytes()
		r.receive(&Frame{Bytes: b, Len: len(b), Protocol: unix.ETH_P_IP, Link: 1})
	}
	want := ""
	check := func(what string, line string, times int) {
		t.Helper()
		want += line
		if log.String() != want || asked != times {
			t.Errorf("%s: got %q after %d questions, want %q after %d", what, log.String(), asked, want, times)
		}
	}
	send("192.0.2.1", Knock{6900, tcp}, flagSYN)
	send("192.0.2.1", Knock{7002, tcp}, flagSYN|flagACK)
	send("192.0.2.1", Knock{7002, tcp}, flagACK)
	check("what is no decoy", "", 0)
	send("192.0.2.1", Knock{7001, tcp}, flagSYN)
	send("192.0.2.1", Knock{7003, tcp}, flagSYN)
	send("192.0.2.1", Knock{8001, udp}, 0)
	check("what is served or ignored", "", 1)
	send("192.0.2.1", Knock{7002, tcp}, flagSYN)
	send("192.0.2.1", Knock{7002, tcp}, flagSYN)
	check("a decoy", "", 1)
	send("192.0.2.1", Knock{7004, tcp}, flagSYN)
	send("192.0.2.1", Knock{7005, tcp}, flagSYN)
	check("more of them", "192.0.2.1: a: barred for 10s: it has hit ports near the knocks\n", 1)
	send("192.0.2.2", Knock{7002, tcp}, flagSYN)
	send("192.0.2.2", Knock{8002, udp}, 0)
	check("a UDP decoy", "192.0.2.2: a: barred for 10s: it has hit ports near the knocks\n", 1)
	r.batchTime += time.Second
	listening = listening[:1]
	send("192.0.2.3", Knock{7002, tcp}, flagSYN)
	send("192.0.2.3", Knock{8001, udp}, 0)
	check("what is no longer served", "192.0.2.3: a: barred for 10s: it has hit ports near the knocks\n", 2)
	for range 2 {
		send("192.0.2.1", Knock{7000, tcp}, flagSYN)
		send("192.0.2.1", Knock{8000, udp}, 0)
	}
	check("knocks", "192.0.2.1: a: Stage 1\n192.0.2.1: a: not opened: it is barred: sesame close \"a\" 192.0.2.1 lifts the bar\n", 2)

	f := Frame{Bytes: testSYN4.with(func(p *testPacket) { p.knock.Port = 7005 }).bytes(), Protocol: unix.ETH_P_IP, Link: 1}
	f.Len = len(f.Bytes)
	hit := func() {
		f.Bytes[ipv4OffSource+3]++
		for range 4 { // two ports, which bar it and lengthen that
			f.Bytes[ipv4MinLen+portOffDestination+1] ^= 1
			r.receive(&f)
		}
	}
	for range 20 { // until the table is full
		hit()
	}
	r.steps.spent = 1 << 60 // no line is left
	if n := testing.AllocsPerRun(100, hit); n != 0 {
		t.Errorf("got %v allocations a decoy, want 0", n)
	}
	if got := log.String(); !strings.HasSuffix(got, "barred for 10s: it has hit ports near the knocks\n") {
		t.Errorf("nobody was barred: %s", got)
	}
}

// TestReaderCodes has what log and -D say of codes: never a port of one.
func TestReaderCodes(t *testing.T) {
	var log, debug strings.Builder
	grants := make(chan Grant, 9)
	r := newTestReader(&log, grants)
	r.debug = &Log{out: &debug}
	doors := testDoors(t, "[a] Sequence = 7000, totp | TCPFlags = syn | TOTP = "+testSecret)
	r.plan.matcher = newMatcher(doors, 16)
	r.wall, r.codesWait = func() time.Duration { return 1000 * codeTime }, func() string { return "waiting" }
	r.begin()
	knock := func(flags uint8, ports ...uint16) {
		for _, port := range ports {
			p := testSYN4.with(func(p *testPacket) { p.knock.Port, p.flags = port, flags })
			p.seq = uint32(log.Len() + debug.Len())
			r.receive(&Frame{Bytes: p.bytes(), Len: 1000, Protocol: unix.ETH_P_IP, Link: 1})
		}
	}
	code := func(step uint32) []uint16 {
		ports := doors[0].TOTP.ports(doors[0].TOTP.code(step))
		return append([]uint16{7000}, ports...)
	}
	knock(flagSYN, code(1000)[1:]...)
	knock(flagACK, code(1000)...)
	knock(flagSYN, code(1002)...)
	knock(flagSYN, code(997)...)
	for range wrongCodes - 2 {
		knock(flagSYN, 7000, 20001)
	}
	knock(flagSYN, code(1000)...)
	knock(flagSYN, code(1001)...)
	if g := <-grants; g.Step != 1001 || len(grants) > 0 {
		t.Errorf("got step %d and %d grants more, want 1001 and none", g.Step, len(grants))
	}
	for _, want := range []string{
		"192.0.2.7: a: wrong code: it is that of 1m0s ahead: the clock here is slow, or the phone's is fast\n",
		"192.0.2.7: a: wrong code: it is that of 1m30s ago: somebody repeats it, or the clock here is fast, or the phone's is slow\n",
		"192.0.2.7: a: wrong code\n", "a: too many wrong codes: until there were none for an hour, it takes 2 codes in a row, each knocked with the whole sequence\n",
		"192.0.2.7: a: the code is right: the next one is needed, too: knock again with it\n192.0.2.7: a: Stage 1\n",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("got\n%swant in it\n%s", log.String(), want)
		}
	}
	for _, want := range []string{"-> 20000-20999:tcp (syn): ignored", "20000-20999:tcp is no door's knock, or not for its source, at this address or interface, or with these flags (ack)",
		"-> 20000-20999:tcp (syn): a: 192.0.2.7: stage 2 of 3", "a: 192.0.2.7: a wrong knock, totp:tcp is next: the attempt at stage 1 is discarded"} {
		if !strings.Contains(debug.String(), want) {
			t.Errorf("got\n%swant in it\n%s", debug.String(), want)
		}
	}
	if port := regexp.MustCompile(`\b20[0-9]{3}\b`).FindString(strings.ReplaceAll(log.String()+debug.String(), "20000-20999:tcp", "")); port != "" {
		t.Errorf("%s, a port of a code, stands in\n%s%s", port, log.String(), debug.String())
	}
	a := r.answer(Request{})
	if len(a.Status.Codes) != 1 || a.Status.Codes[0] != (AskedCodes{"a", 2, time.Hour}) || a.Status.CodesWait != "waiting" {
		t.Errorf("the status: got %+v, %q", a.Status.Codes, a.Status.CodesWait)
	}
}
