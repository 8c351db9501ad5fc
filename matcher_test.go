//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// testDoors reads doors, one a line, with | for the ends of the lines that they have in a configuration:
//
//	[a] Sequence = 7000,8000 | Seq_Timeout = 10
func testDoors(t testing.TB, text string) []*Door {
	t.Helper()
	c, err := parseConfig("doors", strings.NewReader(strings.NewReplacer("]", "]\n", "|", "\n").Replace(text)))
	if err != nil {
		t.Fatal(err)
	}
	return c.Doors
}

// testHit is a hit of a SYN.
func testHit(when time.Duration, from string, knock Knock, seq uint32) Hit {
	return Hit{When: when, From: netip.MustParseAddr(from).As16(), FromPort: 40000, Knock: knock, Flags: flagSYN, Seq: seq}
}

// numbered makes the address of source number n.
func numbered(n int) (a [16]byte) {
	binary.BigEndian.PutUint64(a[:], 0x20010db8<<32)
	binary.BigEndian.PutUint64(a[8:], uint64(n))
	return a
}

var stepWords = []string{"stage", "opens", "repeat", "copy", "discard", "timeout", "unfit", "unheard", "cooling", "evict", "warn", "bar", "swallow", "wrong code", "next code", "more codes"}

// describe prints steps as "a stage 1, b opens"; with their source where it is not from.
func describe(steps []Step, from [16]byte) string {
	steps = slices.DeleteFunc(slices.Clone(steps), func(s Step) bool { return s.Net && s.Kind == Warned })
	slices.SortStableFunc(steps, func(a, b Step) int { return strings.Compare(a.Door.Name, b.Door.Name) })
	var s []string
	for _, step := range steps {
		text := step.Door.Name + " " + stepWords[step.Kind]
		if step.Kind != Opened && step.Kind != NextCode && (step.Kind < Warned || step.Kind > Swallowed) && step.Stage != 0 {
			text += " " + strconv.Itoa(step.Stage)
		}
		if step.Told && step.Kind != Warned {
			text += " told"
		}
		if step.Net || step.From != from {
			text = step.who() + " " + text
		}
		s = append(s, text)
	}
	return strings.Join(s, ", ")
}

// runScript feeds m with the hits of a script and compares the steps. A line is
//
//	+1.5s 192.0.2.7 7000:tcp flags=syn,ack seq=1 port=2 link=3 to=198.51.100.1 => a stage 1
//
// where all behind the knock may be left out, and a ~ before it says that it is no door's knock: a SYN with a sequence number of its own. Instead of a source and a knock
// it can be expire, next (what NextEnd says), attempts, bars, or lift and a source.
func runScript(t *testing.T, m *Matcher, script string) {
	t.Helper()
	seq := uint32(1000)
	for line := range strings.Lines(strings.TrimSpace(script)) {
		in, want, _ := strings.Cut(line, "=>")
		in, want = strings.TrimSpace(in), strings.TrimSpace(want)
		words := strings.Fields(in)
		when, err := time.ParseDuration(words[0])
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		var got string
		switch words[1] {
		case "expire":
			got = describe(m.Expire(when), [16]byte{})
		case "next":
			got = "never"
			if at := m.NextEnd(); at != never {
				got = at.String()
			}
		case "attempts":
			got = strconv.Itoa(m.live)
		case "bars", "lift":
			var list []string
			m.eachBar(when, func(b Bar) bool {
				list = append(list, fmt.Sprint(b.Door.Name, " ", b.From, " ", b.Decoy, " ", b.Left))
				return words[1] == "lift" && b.From.Contains(netip.MustParseAddr(words[2]))
			})
			got = strings.Join(list, ", ")
		default:
			port, stray := strings.CutPrefix(words[2], "~")
			knock, err := parseKnock(port)
			if err != nil {
				t.Fatalf("%s: %v", in, err)
			}
			seq++
			hit := testHit(when, words[1], knock, seq)
			hit.Step = scriptStep + uint32(when/codeTime)
			if knock.Proto == udp {
				hit.Flags, hit.Seq = 0, 0
			}
			served := nowhereServed
			for _, option := range words[3:] {
				key, value, _ := strings.Cut(option, "=")
				n, _ := strconv.Atoi(value)
				switch key {
				case "flags":
					hit.Flags = 0
					for name := range strings.SplitSeq(value, ",") {
						hit.Flags |= flagBits[name] | map[string]uint8{"ece": 0x40, "cwr": 0x80}[name]
					}
				case "seq":
					hit.Seq = uint32(n)
				case "port":
					hit.FromPort = uint16(n)
				case "link":
					hit.Link = n
				case "to":
					hit.To = netip.MustParseAddr(value).As16()
				case "served":
					served = func(Knock) bool { return true }
				case "routed":
					hit.To, hit.Routed = netip.MustParseAddr(value).As16(), true
				default:
					t.Fatalf("%s: what is %q?", in, option)
				}
			}
			if stray {
				got = describe(m.stray(&hit, served), hit.From)
			} else {
				got = describe(m.knock(&hit, served), hit.From)
			}
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
		checkMatcher(t, m)
	}
}

// scriptStep is the step of codes when a script begins.
const scriptStep = 1000

// nowhereServed is a host on which nothing listens.
func nowhereServed(Knock) bool { return false }

// checkMatcher looks whether the lists within m agree with each other.
func checkMatcher(t testing.TB, m *Matcher) {
	t.Helper()
	type key struct {
		from [16]byte
		link uint32
		door uint32
		kind attemptKind
	}
	live := map[int32]bool{}
	keys := map[key]bool{}
	for b, i := range m.buckets {
		for ; i != none; i = m.attempts[i].next {
			a := &m.attempts[i]
			k := key{a.from, a.link, a.door, a.kind}
			if live[i] || keys[k] {
				t.Fatalf("attempt %d (%v) is there twice", i, k)
			}
			live[i], keys[k] = true, true
			if own := m.bucketOf(&Hit{From: a.from}); own != int32(b) {
				t.Fatalf("attempt %d is in bucket %d, not %d", i, b, own)
			}
		}
	}
	underWay := 0
	for i := range live {
		if m.attempts[i].queue != m.opened && m.attempts[i].kind == attempting {
			underWay++
		}
	}
	if got := m.UnderWay(); got != underWay {
		t.Fatalf("attempts under way: got %d, want %d", got, underWay)
	}
	if bound := len(m.attempts) - 1; len(live) != m.live || m.live > bound {
		t.Fatalf("%d attempts are in the buckets, live is %d, the bound %d", len(live), m.live, bound)
	}
	walk := func(name string, q queue, of func(*attempt) *links) (list []int32) {
		before := int32(none)
		for i := q.head; i != none; i = of(&m.attempts[i]).next {
			if !live[i] || of(&m.attempts[i]).prev != before || len(list) > m.live {
				t.Fatalf("%s: broken at attempt %d behind %v", name, i, list)
			}
			list, before = append(list, i), i
		}
		if q.tail != before {
			t.Fatalf("%s: the tail is %d, want %d", name, q.tail, before)
		}
		return list
	}
	byEnd := 0
	for n, q := range m.byEnd {
		list := walk(fmt.Sprint("byEnd ", n), q, byEndLinks)
		byEnd += len(list)
		for at, i := range list {
			a := &m.attempts[i]
			d := m.doors[a.door]
			if int(a.queue) != n || a.bits != 0 && a.queue != m.queueOf[a.door] ||
				a.kind != attempting && (a.queue != m.guardsOf[a.door] || a.stage == 0 || a.stage > barFrom[a.kind]+1 || a.bits != 0) ||
				a.kind == attempting && a.stage == 0 && a.queue != m.opened {
				t.Fatalf("attempt %d at stage %d is in byEnd %d, which is for another timeout", i, a.stage, n)
			}
			if at > 0 && len(m.timeouts) < 255 && a.until < m.attempts[list[at-1]].until {
				t.Fatalf("attempt %d ends before the one that stands before it", i)
			}
			place := 0
			for bit, k := range d.Sequence {
				if a.bits&(1<<bit) == 0 {
					continue
				}
				start := m.starts[int(i)*m.startsEach+place]
				if start+d.SeqTimeout > a.until {
					t.Fatalf("attempt %d ends at %v, with knock %v started at %v", i, a.until, k, start)
				}
				place++
			}
			if a.bits>>len(d.Sequence) != 0 || a.kind == attempting && int(a.stage) >= len(d.Sequence) && len(d.Sequence) > 0 && a.stage > 0 {
				t.Fatalf("attempt %d has bits %b at stage %d of %d", i, a.bits, a.stage, len(d.Sequence))
			}
		}
	}
	if byEnd != m.live {
		t.Fatalf("%d attempts are in byEnd, want %d", byEnd, m.live)
	}
	cheap, guards := walk("cheap", m.cheap, cheapLinks), walk("guards", m.guards, cheapLinks)
	if len(cheap) != m.cheap.n || len(guards) != m.guards.n {
		t.Fatalf("%d and %d attempts are in the cheap lists, want %d and %d", len(cheap), len(guards), m.cheap.n, m.guards.n)
	}
	for i := range live {
		a := &m.attempts[i]
		if is := slices.Contains(cheap, i); is != (a.stage <= 1 && a.row == 0 && a.kind == attempting) {
			t.Fatalf("attempt %d at stage %d: in the cheap list is %v", i, a.stage, is)
		}
		if is := slices.Contains(guards, i); is != (a.kind != attempting) {
			t.Fatalf("attempt %d of kind %d: in the list of guards is %v", i, a.kind, is)
		}
	}
	free := 0
	for i := m.free; i != none; i = m.attempts[i].next {
		if free++; live[i] || free > m.used {
			t.Fatalf("attempt %d is free, and not", i)
		}
	}
	if free+m.live != m.used-1 {
		t.Fatalf("%d free and %d live attempts, want %d", free, m.live, m.used-1)
	}
}

func TestMatcher(t *testing.T) {
	const abc = "[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10 | TCPFlags = syn"
	tests := []struct{ name, doors, script string }{
		{"the plain sequence", abc, `
			+0s 192.0.2.7 7000 => a stage 1
			+1s 192.0.2.7 8000 => a stage 2
			+2s 192.0.2.7 9000 => a opens
			+3s 192.0.2.7 9000 =>
			+3s 192.0.2.7 7000 => a stage 1`},
		{"IPv6, and UDP in between", "[a] Sequence = 7000,8000:udp,9000 | TCPFlags = syn", `
			+0s 2001:db8::7 7000     => a stage 1
			+1s 2001:db8::7 8000:udp => a stage 2
			+2s 2001:db8::7 9000     => a opens`},
		{"the protocol is part of the knock", "[a] Sequence = 7000,8000:udp,9000", `
			+0s 192.0.2.7 7000:udp =>
			+0s 192.0.2.7 7000     => a stage 1
			+1s 192.0.2.7 8000     =>
			+1s 192.0.2.7 8000:udp => a stage 2`},
		{"just in time", abc, `
			+0s         192.0.2.7 7000 => a stage 1
			+5s         192.0.2.7 8000 => a stage 2
			+9.999999s  192.0.2.7 9000 => a opens`},
		{"exactly Seq_Timeout is too late", abc, `
			+0s  192.0.2.7 7000 => a stage 1
			+5s  192.0.2.7 8000 => a stage 2
			+10s 192.0.2.7 9000 => a timeout 2`},
		{"Seq_Timeout counts from the first knock", abc, `
			+0s  192.0.2.7 7000 => a stage 1
			+9s  192.0.2.7 8000 => a stage 2
			+11s 192.0.2.7 9000 => a timeout 2
			+11s 192.0.2.7 7000 => a stage 1`},
		{"a repeated first knock starts the time anew", abc, `
			+0s  192.0.2.7 7000 => a stage 1
			+9s  192.0.2.7 7000 => a repeat 1
			+10s expire =>
			+17s 192.0.2.7 8000 => a stage 2
			+18s 192.0.2.7 9000 => a opens`},
		{"a knock out of turn discards", "[a] Sequence = 7000,8000,9000,7500", `
			+0s 192.0.2.7 7000 => a stage 1
			+1s 192.0.2.7 8000 => a stage 2
			+2s 192.0.2.7 7500 => a discard 2
			+3s 192.0.2.7 9000 =>
			+3s attempts => 0`},
		{"knocks of other doors say nothing of this one", abc + "\n[b] Sequence = 1234,5678:udp\n[c] Sequence = 7100,600 | Decoys = no", `
			+0s 192.0.2.7 7000     => a stage 1
			+1s 192.0.2.7 1234     => b stage 1
			+1s 192.0.2.7 8000     => a stage 2
			+2s 192.0.2.7 5678:udp => b opens
			+2s 192.0.2.7 600      =>
			+2s 192.0.2.7 7100     => c stage 1
			+3s 192.0.2.7 9000     => a opens`},
		{"but among its own decoys", "[a] Sequence = 7000,8000,9000\n[b] Sequence = 7001,8001,9001", `
			+0s 192.0.2.7 7000 => a stage 1
			+1s 192.0.2.7 8000 => a stage 2
			+2s 192.0.2.7 8001 => a discard 2
			+3s 192.0.2.7 9000 =>
			+4s 192.0.2.7 7001 => b stage 1
			+4s 192.0.2.7 8001 => b stage 2
			+4s 192.0.2.7 9001 => b opens
			+5s 192.0.2.7 7000 => a stage 1
			+5s 192.0.2.7 8000 => a stage 2
			+5s 192.0.2.7 9000 => a opens`},
		{"whose flags fit", "[a] Sequence = 7000,8000 | TCPFlags = syn\n[b] Sequence = 7001,8001", `
			+0s 192.0.2.7 7000           => a stage 1
			+1s 192.0.2.7 7001 flags=ack => b stage 1
			+2s 192.0.2.7 7001           => a discard 1, b repeat 1`},
		{"or where it is strict", abc + " | Decoys = no | Strict = yes | Seq_Cooldown = 5\n[b] Sequence = 1234,5678:udp,1", `
			+0s 192.0.2.7 7000           => a stage 1
			+0s 192.0.2.7 1234 flags=ack => b stage 1
			+1s 192.0.2.7 5678:udp       => b stage 2
			+2s 192.0.2.7 1 served       => b opens
			+3s 192.0.2.7 8000           => a stage 2
			+3s 192.0.2.7 1234 flags=fin => a discard 2, b stage 1
			+4s 192.0.2.7 7000           => a stage 1
			+4s 192.0.2.8 7000           => a stage 1
			+4s 192.0.2.8 8000           => a stage 2
			+4s 192.0.2.8 9000           => a opens
			+5s 192.0.2.7 1              => a discard 1, b discard 1`},
		{"a knock left out", abc, `
			+0s 192.0.2.7 7000 => a stage 1
			+1s 192.0.2.7 9000 => a discard 1`},
		{"a wrong knock that is the first one starts anew", abc, `
			+0s  192.0.2.7 7000 => a stage 1
			+1s  192.0.2.7 8000 => a stage 2
			+9s  192.0.2.7 7000 => a discard 2, a stage 1
			+17s 192.0.2.7 8000 => a stage 2
			+18s 192.0.2.7 9000 => a opens`},
		{"a new connection to the port just matched", abc, `
			+0s 192.0.2.7 7000 => a stage 1
			+1s 192.0.2.7 8000 => a stage 2
			+1s 192.0.2.7 8000 => a repeat 2
			+1s 192.0.2.7 8000 => a repeat 2
			+2s 192.0.2.7 9000 => a opens`},
		{"a datagram that comes twice", "[a] Sequence = 7000:udp,8000:udp", `
			+0s 192.0.2.7 7000:udp => a stage 1
			+0s 192.0.2.7 7000:udp => a repeat 1
			+1s 192.0.2.7 8000:udp => a opens`},
		{"a retransmitted SYN", abc, `
			+0s 192.0.2.7 7000 seq=1 => a stage 1
			+1s 192.0.2.7 7000 seq=1 => a copy 1
			+1s 192.0.2.7 8000 seq=2 => a stage 2
			+2s 192.0.2.7 7000 seq=1 => a copy 2
			+2s 192.0.2.7 9000 seq=3 => a opens
			+3s 192.0.2.7 9000 seq=3 => a copy
			+3s 192.0.2.7 8000 seq=2 => a copy
			+3s 192.0.2.7 7000 seq=1 => a copy`},
		{"one port several times, with copies", "[a] Sequence = 8,8,8", `
			+0s 192.0.2.7 8 seq=1 => a stage 1
			+1s 192.0.2.7 8 seq=1 => a copy 1
			+1s 192.0.2.7 8 seq=2 => a stage 2
			+2s 192.0.2.7 8 seq=1 => a copy 2
			+2s 192.0.2.7 8 seq=2 => a copy 2
			+2s 192.0.2.7 8 seq=2 port=2 => a opens
			+3s 192.0.2.7 8 seq=1 => a copy`},
		{"the copy of a one-knock door's SYN", "[a] Sequence = 22 | Seq_Timeout = 10", `
			+0s  192.0.2.7 22 seq=1 => a opens
			+1s  192.0.2.7 22 seq=1 => a copy
			+3s  192.0.2.7 22 seq=2 => a opens
			+9s  192.0.2.7 22 seq=1 => a copy
			+12s 192.0.2.7 22 seq=2 => a copy
			+66s 192.0.2.7 22 seq=2 => a copy
			+67s 192.0.2.7 22 seq=2 => a opens`},
		{"what makes another SYN", "[a] Sequence = 8,8,8,8,8,8", `
			+0s 192.0.2.7 8 seq=1                 => a stage 1
			+0s 192.0.2.7 8 seq=2                 => a stage 2
			+0s 192.0.2.7 8 seq=1 port=1          => a stage 3
			+0s 192.0.2.7 8 seq=1 to=198.51.100.1 => a stage 4
			+0s 192.0.2.8 8 seq=1                 => a stage 1
			+0s 192.0.2.7 8 seq=1                 => a copy 4`},
		// RFC 3168, section 6.1.1.1: a SYN that got no answer is sent again without ECN.
		{"a SYN retransmitted without ECN", abc, `
			+0s 192.0.2.7 7000 seq=1 flags=syn,ece,cwr => a stage 1
			+1s 192.0.2.7 8000 seq=2 flags=syn,ece,cwr => a stage 2
			+1s 192.0.2.7 7000 seq=1                   => a copy 2
			+2s 192.0.2.7 9000 seq=3 flags=syn,ece,cwr => a opens`},
		{"a browser: two connections for each knock, and their copies", abc, `
			+0s 192.0.2.7 7000 seq=1 => a stage 1
			+0s 192.0.2.7 7000 seq=2 => a repeat 1
			+0s 192.0.2.7 8000 seq=3 => a stage 2
			+0s 192.0.2.7 8000 seq=4 => a repeat 2
			+1s 192.0.2.7 7000 seq=1 => a copy 2
			+1s 192.0.2.7 7000 seq=2 => a copy 2
			+1s 192.0.2.7 8000 seq=3 => a copy 2
			+2s 192.0.2.7 9000 seq=5 => a opens`},
		{"segments without SYN have no copies", "[a] Sequence = 8,8 | TCPFlags = ack", `
			+0s 192.0.2.7 8 flags=ack seq=1 => a stage 1
			+0s 192.0.2.7 8 flags=ack seq=1 => a opens`},
		{"the beginning comes again within the sequence", "[a] Sequence = 7001,7002,7001,7003", `
			+0s 192.0.2.7 7001 => a stage 1
			+0s 192.0.2.7 7002 => a stage 2
			+0s 192.0.2.7 7001 => a stage 3
			+0s 192.0.2.7 7001 => a repeat 3
			+0s 192.0.2.7 7001 => a repeat 3
			+0s 192.0.2.7 7002 => a discard 3, a stage 2
			+0s 192.0.2.7 7001 => a stage 3
			+0s 192.0.2.7 7003 => a opens`},
		{"an older start is out of time, a later one is not", "[a] Sequence = 7,7,8 | Seq_Timeout = 10", `
			+0s  192.0.2.7 7 => a stage 1
			+5s  192.0.2.7 7 => a stage 2
			+11s 192.0.2.7 7 => a stage 2
			+14s 192.0.2.7 8 => a opens`},
		{"the start that led on is out of time", "[a] Sequence = 7,7,9,8 | Seq_Timeout = 10", `
			+0s  192.0.2.7 7 => a stage 1
			+5s  192.0.2.7 7 => a stage 2
			+6s  192.0.2.7 9 => a stage 3
			+11s 192.0.2.7 8 => a timeout 3
			+11s 192.0.2.7 7 => a stage 1`},
		{"flags that do not fit are ignored", "[a] Sequence = 7000,8000 | TCPFlags = syn,!ack", `
			+0s 192.0.2.7 7000 flags=syn,ack =>
			+0s 192.0.2.7 7000 flags=ack     =>
			+0s 192.0.2.7 7000 flags=syn,psh => a stage 1
			+1s 192.0.2.7 1234 flags=rst     =>
			+1s 192.0.2.7 8000 flags=syn,ack =>
			+2s 192.0.2.7 8000               => a opens`},
		{"UDP is not affected by flags", "[a] Sequence = 7000,8000:udp | TCPFlags = syn", `
			+0s 192.0.2.7 7000     => a stage 1
			+1s 192.0.2.7 8000:udp => a opens`},
		{"nor is a wrong UDP knock", "[a] Sequence = 7000,8000,9000:udp | TCPFlags = syn", `
			+0s 192.0.2.7 7000     => a stage 1
			+1s 192.0.2.7 9000:udp => a discard 1`},
		{"two sources", abc, `
			+0s 192.0.2.7 7000 => a stage 1
			+0s 192.0.2.8 7000 => a stage 1
			+1s 192.0.2.7 8000 => a stage 2
			+1s 192.0.2.8 9000 => a discard 1
			+2s 192.0.2.8 8000 =>
			+2s 192.0.2.7 9000 => a opens`},
		{"one source's timeout leaves the others alone", abc, `
			+0s  192.0.2.7 7000 => a stage 1
			+5s  192.0.2.8 7000 => a stage 1
			+6s  192.0.2.8 8000 => a stage 2
			+10s expire => 192.0.2.7 a timeout 1
			+11s 192.0.2.8 9000 => a opens`},
		{"a timeout seen with another's hit", abc, `
			+0s  192.0.2.7 7000 => a stage 1
			+10s 192.0.2.8 7000 => 192.0.2.7 a timeout 1, a stage 1`},
		{"one source at several doors", abc + `
			[b] Sequence = 7000,8000,7000,9000 | Seq_Timeout = 5 | TCPFlags = ack
			[c] Sequence = 8000,9000 | Seq_Timeout = 20
			[d] Sequence = 7000,8000 | Seq_Timeout = 1`, `
			+0s 192.0.2.7 7000 flags=syn,ack => a stage 1, b stage 1, d stage 1
			+1s 192.0.2.7 8000 flags=syn,ack => a stage 2, b stage 2, c stage 1, d timeout 1
			+2s 192.0.2.7 9000 flags=syn     => a opens, c opens
			+3s 192.0.2.7 7000 flags=ack     => b stage 3, d stage 1
			+3s 192.0.2.7 8000 flags=syn     => c stage 1, d opens
			+4s 192.0.2.7 9000 flags=ack     => b opens, c opens`},
		{"a scan in order", "[a] Sequence = 1941,1942,1945", `
			+0s 192.0.2.7 1941 => a stage 1
			+0s 192.0.2.7 1942 => a stage 2
			+0s 192.0.2.7 1943 => a discard 2
			+0s 192.0.2.7 1945 =>`},
		{"the end without a packet", abc + "\n[b] Sequence = 1,2 | Seq_Timeout = 3", `
			+0s  next => never
			+0s  192.0.2.7 7000 => a stage 1
			+0s  next           => 10s
			+1s  192.0.2.8 1    => b stage 1
			+1s  next           => 4s
			+2s  192.0.2.7 7000 => a repeat 1
			+3.999999999s expire =>
			+4s  expire         => 192.0.2.8 b timeout 1
			+4s  next           => 12s
			+60s expire         => 192.0.2.7 a timeout 1
			+60s next           => never
			+60s attempts       => 0`},
		{"cooldown", "[a] Sequence = 7000,8000 | Seq_Cooldown = 5\n[b] Sequence = 7000,9000", `
			+0s   192.0.2.8 7000 => a stage 1, b stage 1
			+0s   192.0.2.7 7000 => a stage 1, b stage 1
			+1s   192.0.2.7 8000 => a opens
			+1s   192.0.2.7 7000 =>
			+2s   192.0.2.8 8000 =>
			+2s   192.0.2.9 7000 => b stage 1
			+5.9s 192.0.2.7 9000 => b opens
			+6s   192.0.2.7 7000 => a stage 1, b stage 1
			+6s   192.0.2.8 8000 => a opens`},
		{"link-local sources on two links", abc, `
			+0s fe80::7 7000 link=2   => a stage 1
			+0s fe80::7 8000 link=3   =>
			+0s fe80::7 7000 link=3   => a stage 1
			+1s fe80::7 8000 link=2   => a stage 2
			+1s febf::7 7000 link=2   => a stage 1
			+1s febf::7 8000 link=3   =>
			+2s fe80::7 9000 link=3   => a discard 1
			+2s fe80::7 9000 link=2   => a opens`},
		{"other sources may come in on any link", abc, `
			+0s 192.0.2.7   7000 link=2 => a stage 1
			+0s fec0::7     7000 link=2 => a stage 1
			+1s 192.0.2.7   8000 link=3 => a stage 2
			+1s fec0::7     8000 link=3 => a stage 2`},
		{"no time at all", "[a] Sequence = 7,8 | Seq_Timeout = 0\n[b] Sequence = 9 | Seq_Timeout = 0", `
			+0s 192.0.2.7 7 => a stage 1
			+0s 192.0.2.7 8 => a timeout 1
			+1s 192.0.2.7 9 => b opens
			+1s next => 1m5s
			+65s expire =>
			+65s next => never`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := newMatcher(testDoors(t, test.doors), 64)
			m.onlyChanges = !strings.Contains(test.script, "repeat") && !strings.Contains(test.script, "copy")
			runScript(t, m, test.script)
		})
	}
}

// What -D shows beyond that.
func TestMatcherRemarks(t *testing.T) {
	runScript(t, newMatcher(testDoors(t, "[a] Sequence = 7000,8000 | TCPFlags = syn | Seq_Cooldown = 5"), 64), `
		+0s 192.0.2.7 7000 flags=ack => a unfit
		+0s 192.0.2.7 7000           => a stage 1
		+0s 192.0.2.7 7000 flags=ack => a unfit
		+0s 192.0.2.7 7000           => a repeat 1
		+1s 192.0.2.7 8000 seq=1     => a opens
		+2s 192.0.2.7 8000 seq=1     => a cooling
		+2s 192.0.2.8 7000           => a cooling
		+6s 192.0.2.7 8000 seq=1     => a copy`)
}

func TestMatcherLongestSequence(t *testing.T) {
	distinct, same := &Door{Name: "distinct"}, &Door{Name: "same"}
	for i := range uint16(maxKnocks) {
		distinct.Sequence = append(distinct.Sequence, Knock{1000 + i, tcp})
		same.Sequence = append(same.Sequence, Knock{8, tcp})
	}
	for _, d := range []*Door{distinct, same} {
		t.Run(d.Name, func(t *testing.T) {
			d.SeqTimeout = time.Minute
			m := newMatcher([]*Door{d}, 4)
			for round := range 3 {
				for i, knock := range d.Sequence {
					want := fmt.Sprintf("%s stage %d", d.Name, i+1)
					if i == maxKnocks-1 {
						want = d.Name + " opens"
					}
					hit := testHit(time.Duration(round*maxKnocks+i)*time.Second, "192.0.2.7", knock, uint32(round<<8+i))
					if got := describe(m.knock(&hit, nowhereServed), hit.From); got != want {
						t.Errorf("round %d, knock %d: got %q, want %q", round, i+1, got, want)
					}
					checkMatcher(t, m)
				}
			}
		})
	}
}

// A flood, by which the table is full many times over, does not push out who is further.
func TestMatcherFlood(t *testing.T) {
	const bound = 50
	flood := func(t *testing.T, m *Matcher, knock Knock) (evicted int) {
		for n := range 10 * bound {
			hit := Hit{When: 2 * time.Second, From: numbered(n), Knock: knock, Flags: flagSYN}
			for _, s := range m.knock(&hit, nowhereServed) {
				if s.Kind == Evicted {
					evicted++
				}
			}
			if m.live > bound {
				t.Fatalf("got %d attempts, want at most %d", m.live, bound)
			}
			checkMatcher(t, m)
		}
		return evicted
	}
	for _, test := range []struct {
		name  string
		knock Knock
	}{{"of first knocks", Knock{7000, tcp}}, {"at a one-knock door", Knock{22, udp}}} {
		t.Run(test.name, func(t *testing.T) {
			m := newMatcher(testDoors(t, "[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10\n[b] Sequence = 22:udp"), bound)
			runScript(t, m, `
				+0s 192.0.2.7 7000 => a stage 1
				+1s 192.0.2.8 7000 => a stage 1
				+1s 192.0.2.7 8000 => a stage 2`)
			// Of the flood's sources all but bound-1 go, and the one that is at stage 1.
			if got, want := flood(t, m, test.knock), 9*bound+2; got != want {
				t.Errorf("got %d evicted, want %d", got, want)
			}
			runScript(t, m, `
				+3s 192.0.2.8 8000 =>
				+3s 192.0.2.7 9000 => a opens`)
		})
	}
	t.Run("of those at stage 2 the first to end goes", func(t *testing.T) {
		m := newMatcher(testDoors(t, "[a] Sequence = 7,8,9 | Seq_Timeout = 10\n[b] Sequence = 1,2,3 | Seq_Timeout = 5"), 3)
		runScript(t, m, `
			+0s 192.0.2.7 7 => a stage 1
			+0s 192.0.2.7 8 => a stage 2
			+1s 192.0.2.8 1 => b stage 1
			+1s 192.0.2.8 2 => b stage 2
			+2s 192.0.2.9 7 => a stage 1
			+2s 192.0.2.9 8 => a stage 2
			+3s 192.0.2.1 7 => a stage 1, 192.0.2.8 b evict 2
			+3s 192.0.2.2 7 => 192.0.2.1 a evict 1, a stage 1
			+4s 192.0.2.7 9 => a opens
			+4s 192.0.2.3 7 => 192.0.2.2 a evict 1, a stage 1
			+4s 192.0.2.4 7 => 192.0.2.7 a evict, a stage 1
			+5s 192.0.2.9 9 => a opens`)
	})
	t.Run("more doors at once than there is room", func(t *testing.T) {
		m := newMatcher(testDoors(t, "[a] Sequence = 7,8\n[b] Sequence = 7,9\n[c] Sequence = 7,1\n[d] Sequence = 7"), 1)
		runScript(t, m, `
			+0s 192.0.2.7 7 => a stage 1, a evict 1, b stage 1, b evict 1, c stage 1, c evict 1, d opens
			+1s attempts => 1`)
	})
}

// More different Seq_Timeouts than there are lists: the last ones share one.
func TestMatcherManyTimeouts(t *testing.T) {
	var doors []*Door
	for i := range 400 {
		doors = append(doors, &Door{
			Name: fmt.Sprint(i), SeqTimeout: time.Duration(1000-i) * time.Second,
			Sequence: []Knock{{uint16(i + 1), tcp}, {1000, tcp}},
		})
	}
	m := newMatcher(doors, 1000)
	for n := range doors {
		m.knock(&Hit{From: numbered(n), Knock: doors[n].Sequence[0], Flags: flagSYN}, nowhereServed)
	}
	checkMatcher(t, m)
	// Whether its end has been noticed or not, a late attempt opens nothing.
	for n, d := range doors {
		for _, s := range m.knock(&Hit{When: 800 * time.Second, From: numbered(n), Knock: Knock{1000, tcp}, Flags: flagSYN}, nowhereServed) {
			if s.Kind == Opened && (s.Door != d || d.SeqTimeout <= 800*time.Second) {
				t.Errorf("door with %v opened after 800s", s.Door.SeqTimeout)
			}
		}
	}
	m.Expire(2000 * time.Second)
	checkMatcher(t, m)
	if m.live != 0 {
		t.Errorf("got %d attempts in the end, want none", m.live)
	}
}

// Copies of a sequence's SYNs, at any place, neither hinder the opening nor open again.
func TestMatcherCopies(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		d := &Door{Name: "a", SeqTimeout: time.Minute}
		for range 1 + r.IntN(6) {
			d.Sequence = append(d.Sequence, Knock{uint16(1 + r.IntN(4)), tcp})
		}
		m := newMatcher([]*Door{d}, 8)
		var script []string
		var sent []Hit
		observe := func(hit Hit) (opened bool) {
			script = append(script, fmt.Sprintf("%d seq=%d", hit.Knock.Port, hit.Seq))
			return slices.ContainsFunc(m.knock(&hit, nowhereServed), func(s Step) bool { return s.Kind == Opened })
		}
		for i, knock := range d.Sequence {
			sent = append(sent, testHit(0, "192.0.2.7", knock, uint32(i)))
			if got, want := observe(sent[i]), i == len(d.Sequence)-1; got != want {
				t.Fatalf("%s: %v: opened is %v, want %v", d.sequence(), script, got, want)
			}
			for range r.IntN(4) {
				if observe(sent[r.IntN(len(sent))]) {
					t.Fatalf("%s: %v: a copy opened it", d.sequence(), script)
				}
			}
		}
	}
}

// attemptKey and progress are what the simple matchers below keep: for a source and a door, how many knocks have been
// matched since a start.
type attemptKey struct {
	from [16]byte
	door int
}

type progress struct {
	stage int
	start time.Duration
	first int // number of the hit that it started with
}

// reference matches by knockd's rule, for several doors at once, and tolerates a repeat of the knock just matched: slow,
// and so simple that it can be believed. It keeps every way in which the hits can be read.
type reference struct {
	doors   []*Door
	ways    map[attemptKey]map[progress]bool
	cooling map[int]time.Duration
	guards  map[attemptKey]referenceGuard
	barred  map[attemptKey]time.Duration // until when
	// Of the one /64 that all sources are in, by door.
	networks map[int]referenceNetwork
}

type referenceGuard struct {
	decoy  Knock
	until  time.Duration
	barred bool
}

type referenceNetwork struct {
	addresses           int
	until, barredBefore time.Duration
}

func newReference(doors []*Door) *reference {
	return &reference{doors, map[attemptKey]map[progress]bool{}, map[int]time.Duration{}, map[attemptKey]referenceGuard{}, map[attemptKey]time.Duration{}, map[int]referenceNetwork{}}
}

// stray takes a hit that is no door's knock.
func (r *reference) stray(hit *Hit) {
	for i, d := range r.doors {
		k := attemptKey{hit.From, i}
		if !r.wrong(k, hit) {
			continue
		}
		before, until := r.guards[k], hit.When+d.SeqTimeout
		over := hit.When >= before.until
		if !over && before.decoy == hit.Knock {
			continue
		}
		r.guards[k] = referenceGuard{hit.Knock, until, !over}
		if over {
			continue
		}
		r.barred[k] = until
		if net := r.networks[i]; !before.barred {
			if hit.When >= net.until {
				net.addresses = 0
			}
			net.addresses++
			net.until = until
			if net.addresses >= 8 {
				net.barredBefore = until
			}
			r.networks[i] = net
		}
	}
}

// wrong takes a hit that is no knock of the door, and says whether it is on one of its decoys.
func (r *reference) wrong(k attemptKey, hit *Hit) (decoy bool) {
	d := r.doors[k.door]
	decoy = d.Decoys && len(d.Sequence) > 1 && (hit.Knock.Proto == udp || d.Flags.fit(hit.Flags)) &&
		slices.ContainsFunc(d.Sequence, func(knock Knock) bool {
			apart := int(knock.Port) - int(hit.Knock.Port)
			return knock.Proto == hit.Knock.Proto && apart >= -32 && apart <= 32
		})
	if decoy || d.Strict && hit.Knock.Proto == tcp && hit.Flags&(flagACK|flagRST) == 0 {
		delete(r.ways, k)
	}
	return decoy
}

// step says which ways there are after the hit, and whether one of them has come to the end, and opens.
func (r *reference) step(k attemptKey, hit *Hit) (ways map[progress]bool, complete, opens bool) {
	d := r.doors[k.door]
	ways = map[progress]bool{}
	for p := range r.ways[k] {
		if hit.When-p.start >= d.SeqTimeout {
			continue
		}
		if hit.Knock == d.Sequence[p.stage-1] {
			ways[p] = true
		}
		if hit.Knock == d.Sequence[p.stage] {
			p.stage++
			ways[p] = true
		}
	}
	if hit.Knock == d.Sequence[0] {
		ways[progress{stage: 1, start: hit.When}] = true
	}
	for p := range ways {
		if p.stage == len(d.Sequence) {
			complete = true
			opens = opens || p.start >= max(r.barred[k], r.networks[k.door].barredBefore)
			delete(ways, p)
		}
	}
	return ways, complete, opens
}

func (r *reference) observe(hit *Hit) (opened []int) {
	for i, d := range r.doors {
		k := attemptKey{hit.From, i}
		if d.mask(hit.Knock) == 0 {
			r.wrong(k, hit)
			continue
		}
		if hit.Knock.Proto == tcp && !d.Flags.fit(hit.Flags) || hit.When < r.cooling[i] {
			continue
		}
		ways, complete, opens := r.step(k, hit)
		r.ways[k] = ways
		if complete {
			delete(r.ways, k)
		}
		if opens {
			opened = append(opened, i)
			if d.Cooldown > 0 {
				r.cooling[i] = hit.When + d.Cooldown
			}
		}
	}
	return opened
}

// strict is knockd's own rule: nothing is tolerated, and a new attempt begins only where there is none.
type strict struct {
	doors []*Door
	at    map[attemptKey]progress
}

// observe says which doors open, and which hit each opening began with.
func (s *strict) observe(number int, hit *Hit) (opened map[int]int) {
	opened = map[int]int{}
	for i, d := range s.doors {
		if hit.Knock.Proto == tcp && !d.Flags.fit(hit.Flags) {
			continue
		}
		k := attemptKey{hit.From, i}
		p, ok := s.at[k]
		if ok && hit.When-p.start >= d.SeqTimeout {
			ok = false
		}
		switch {
		case !ok && hit.Knock == d.Sequence[0]:
			p = progress{1, hit.When, number}
		case ok && hit.Knock == d.Sequence[p.stage]:
			p.stage++
		default:
			delete(s.at, k)
			continue
		}
		s.at[k] = p
		if p.stage == len(d.Sequence) {
			delete(s.at, k)
			opened[i] = p.first
		}
	}
	return opened
}

// openedBy lists the doors that the steps open, in order.
func openedBy(m *Matcher, steps []Step) (doors []int) {
	for _, s := range steps {
		if s.Kind == Opened {
			doors = append(doors, slices.Index(m.doors, s.Door))
		}
	}
	slices.Sort(doors)
	return doors
}

// alikeDoors makes doors whose sequences are of few different knocks, so that they have much in common.
func alikeDoors(r *rand.Rand) (doors []*Door) {
	knocks := make([]Knock, 2+r.IntN(4))
	for i := range knocks {
		knocks[i] = Knock{uint16(1 + i/2), []Protocol{tcp, udp}[i%2]}
	}
	for range 1 + r.IntN(4) {
		d := &Door{SeqTimeout: time.Duration(1+r.IntN(20)) * time.Second, Decoys: r.IntN(3) == 0}
		for range 1 + r.IntN(6) {
			d.Sequence = append(d.Sequence, knocks[r.IntN(len(knocks))])
		}
		if r.IntN(3) == 0 {
			d.Flags = TCPFlags{flagACK, uint8(r.IntN(2)) * flagACK}
		}
		doors = append(doors, d)
	}
	return doors
}

// seeds is how many random cases there are: fewer with -short, as where the CPU is emulated (make arch-test).
func seeds(n int) uint64 {
	if testing.Short() {
		n = n/10 + 1
	}
	return uint64(n)
}

// randomHits makes hits of three sources that often follow a door's sequence.
func randomHits(r *rand.Rand, doors []*Door, n int) (hits []Hit) {
	now := time.Duration(0)
	following := map[attemptKey]int{}
	for i := range n {
		now += time.Duration(max(0, r.IntN(6)-2)) * 500 * time.Millisecond
		from := numbered(r.IntN(3))
		d := r.IntN(len(doors))
		at := r.IntN(len(doors[d].Sequence))
		if r.IntN(5) > 0 {
			k := attemptKey{from, d % 2}
			d, at = d%2%len(doors), following[k]%len(doors[d%2%len(doors)].Sequence)
			following[k] += max(0, 1-r.IntN(6)/5) // now and then the same again
		}
		hit := Hit{When: now, From: from, Knock: doors[d].Sequence[at], Seq: uint32(i)}
		if hit.Knock.Proto == tcp {
			hit.Flags = flagSYN | doors[d].Flags.Value
			if r.IntN(8) == 0 {
				hit.Flags ^= flagACK
			}
		}
		hits = append(hits, hit)
	}
	return hits
}

// The matcher opens the same doors at the same hits as the reference; and whatever knockd opens, it has opened between
// the first and the last of the packets that knockd needs, unless decoys are hit, as in each third case.
func TestMatcherAgainstReference(t *testing.T) {
	openings, strictOpenings, moreThanStrict := 0, 0, 0
	for seed := range seeds(30000) {
		r := rand.New(rand.NewPCG(seed, 2))
		doors := alikeDoors(r)
		cooldown := r.IntN(4) == 0
		if cooldown {
			doors[0].Cooldown = time.Second
		}
		m := newMatcher(doors, 32)
		ref, knockd := newReference(doors), &strict{doors, map[attemptKey]progress{}}
		latest := map[attemptKey]int{} // hit of the latest opening
		strays := seed%3 == 0
		for i, hit := range randomHits(r, doors, 40) {
			if decoy := hit; strays && r.IntN(10) == 0 {
				decoy.Knock.Port += uint16(10 + r.IntN(2))
				m.stray(&decoy, nowhereServed)
				ref.stray(&decoy)
			}
			got, want := openedBy(m, m.knock(&hit, nowhereServed)), ref.observe(&hit)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, hit %d (%v at %v): opened %v, want %v", seed, i, hit.Knock, hit.When, got, want)
			}
			openings += len(got)
			for _, d := range got {
				latest[attemptKey{hit.From, d}] = i
			}
			strictNow := knockd.observe(i, &hit)
			for d, first := range strictNow {
				if last, ok := latest[attemptKey{hit.From, d}]; !cooldown && !strays && (!ok || last < first) {
					t.Fatalf("seed %d: knockd opens door %d by hits %d to %d, and ours does not", seed, d, first, i)
				}
			}
			strictOpenings += len(strictNow)
			if len(got) > len(strictNow) {
				moreThanStrict++
			}
		}
		checkMatcher(t, m)
	}
	if n := int(seeds(30000)); openings < 4*n || strictOpenings < 2*n || moreThanStrict < n/3 {
		t.Errorf("got %d openings, %d of knockd, %d beyond it: the streams test too little", openings, strictOpenings, moreThanStrict)
	}
}

// Each 3 bytes are a hit: the source and whether it is a copy, the knock, or stray port, and its flags, and the time since
// the one before.
func FuzzMatcher(f *testing.F) {
	doors := testDoors(f, `
		[a] Sequence = 1,2,3            | Seq_Timeout = 5
		[b] Sequence = 1,2,1,3:udp      | Seq_Timeout = 3
		[c] Sequence = 2,2,2            | Seq_Timeout = 5
		[d] Sequence = 3                | Seq_Timeout = 2
		[e] Sequence = 3:udp,1,1,2      | Seq_Timeout = 9 | TCPFlags = syn,!ack
		[f] Sequence = 3,1              | Seq_Timeout = 4 | Decoys = no | Strict = yes
		[g] Sequence = 2,1              | Seq_Timeout = 4 | Decoys = no`)
	knocks := []Knock{{1, tcp}, {2, tcp}, {3, tcp}, {3, udp}, {9, tcp}}
	// Around 1, 2 and 3, around 2 and 3, 3 alone, and nothing; around 3:udp, and nothing.
	strays := []Knock{{33, tcp}, {34, tcp}, {35, tcp}, {36, tcp}, {35, udp}, {36, udp}}
	f.Add([]byte("\x40\x00\x00\x01\x00\x01\x01\x00\x02\x01"))
	f.Add([]byte("\x01\x00\x00\x01\x01\x00\x01\x02\x00\x01\x00\x01\x01\x00\x02\x01"))
	f.Add([]byte("\x40\x00\x00\x01\x00\x01\x01\x00\x42\x01\x00\x02\x01"))
	f.Add([]byte("\x40\x00\x41\x01\x00\x00\x01\x00\x01\x01\x00\x02\x01\x01\x00\x01\x01\x02\xff"))
	f.Add([]byte("\x02\x00\x01\x00\x80\x01\x00\x00\x01\x00\x80\x01\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 || len(script) > 300 {
			return
		}
		bound := 1 + int(script[0])%65
		m := newMatcher(doors, bound)
		exact := newReference(doors)  // what must be, where all attempts have room and no hit is a copy
		upper := newReference(doors)  // what may be at most: every way, also over openings and what may be a copy
		roomy := bound > 8*len(doors) // else who is barred may be forgotten
		plain := roomy
		now := time.Duration(0)
		var hits []Hit
		for i, s := 0, script[1:]; len(s) >= 3; i, s = i+1, s[3:] {
			now += time.Duration(s[2]) * 20 * time.Millisecond
			hit := Hit{When: now, From: numbered(int(s[0] & 7)), Knock: knocks[int(s[1]&0xf)%len(knocks)], Seq: uint32(i)}
			if s[1]&0x40 != 0 {
				hit.Knock = strays[int(s[1]&0xf)%len(strays)]
			}
			if hit.Knock.Proto == tcp {
				hit.Flags = []uint8{flagSYN, flagSYN, flagSYN | flagACK, flagACK}[s[1]>>4&3]
			}
			if s[0]&0x80 != 0 && i > 0 {
				hit = hits[i-1-int(s[0]>>3&0xf)%i]
				hit.When = now
				plain = false
			}
			hits = append(hits, hit)
			if slices.Contains(strays, hit.Knock) {
				if got := openedBy(m, m.stray(&hit, nowhereServed)); len(got) > 0 {
					t.Fatalf("hit %d (%v): a stray packet opened %v", i, hit.Knock, got)
				}
				checkMatcher(t, m)
				exact.stray(&hit)
				upper.stray(&hit)
				continue
			}
			isCopy := slices.ContainsFunc(hits[:i], func(h Hit) bool { h.When = now; return h == hit })
			got := openedBy(m, m.knock(&hit, nowhereServed))
			checkMatcher(t, m)
			want := exact.observe(&hit)
			if plain && !slices.Equal(got, want) {
				t.Fatalf("hit %d (%v): opened %v, want %v", i, hit.Knock, got, want)
			}
			var may []int
			for d, door := range doors {
				k := attemptKey{hit.From, d}
				if door.mask(hit.Knock) == 0 {
					upper.wrong(k, &hit)
					continue
				}
				if hit.Knock.Proto == tcp && !door.Flags.fit(hit.Flags) {
					continue
				}
				ways, complete, opens := upper.step(k, &hit)
				if opens || complete && !roomy {
					may = append(may, d)
				}
				if isCopy {
					for p := range upper.ways[k] {
						ways[p] = true
					}
				}
				upper.ways[k] = ways
			}
			for _, d := range got {
				if !slices.Contains(may, d) {
					t.Fatalf("hit %d (%v): opened %s without its sequence in time", i, hit.Knock, doors[d].Name)
				}
			}
			if m.live > bound {
				t.Fatalf("hit %d: got %d attempts, want at most %d", i, m.live, bound)
			}
			if at := m.NextEnd(); at != never != (m.live > 0) || at < now {
				t.Fatalf("hit %d at %v: NextEnd says %v with %d attempts", i, now, at, m.live)
			}
		}
		m.Expire(now + time.Hour)
		if checkMatcher(t, m); m.live != 0 {
			t.Errorf("got %d attempts an hour later, want none", m.live)
		}
	})
}

func TestMatcherAllocatesNothing(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout int
		want    int // attempts in the end
	}{{"a full table", 1000, maxAttempts}, {"attempts that end", 10, 10000}} {
		t.Run(test.name, func(t *testing.T) {
			m := newMatcher(testDoors(t, fmt.Sprintf("[a] Sequence = 7000,8000,9000 | Seq_Timeout = %d", test.timeout)), maxAttempts)
			n := 0
			observe := func() {
				m.Observe(&Hit{When: time.Duration(n) * time.Millisecond, From: numbered(n % 20000), Knock: Knock{7000, tcp}, Flags: flagSYN, Seq: uint32(n)}, nowhereServed)
				n++
			}
			for range 40000 {
				observe()
			}
			if allocs := testing.AllocsPerRun(40000, observe); allocs != 0 {
				t.Errorf("got %v allocations for a hit, want 0", allocs)
			}
			if m.live != test.want {
				t.Errorf("got %d attempts, want %d", m.live, test.want)
			}
			a := m.doors[0].Sequence
			if allocs := testing.AllocsPerRun(1000, func() {
				for _, knock := range a {
					m.Observe(&Hit{When: time.Duration(n) * time.Millisecond, From: numbered(1 << 30), Knock: knock, Flags: flagSYN, Seq: uint32(n)}, nowhereServed)
					n++
				}
				m.Expire(time.Duration(n) * time.Millisecond)
				m.NextEnd()
			}); allocs != 0 {
				t.Errorf("got %v allocations for an opening, want 0", allocs)
			}
		})
	}
}

// TestBarsAllocateNothing has two decoys hit by each of more sources of IPv6 /64s than there is room for.
func TestBarsAllocateNothing(t *testing.T) {
	m := newMatcher(testDoors(t, "[a] Sequence = 7000,8000,9000"), 1000)
	n, bars := 0, 0
	decoys := func() {
		for _, port := range []uint16{7001, 7002} {
			hit := Hit{When: time.Duration(n) * time.Millisecond, From: numbered(n % 3000), Knock: Knock{port, tcp}, Flags: flagSYN}
			hit.From[7] = uint8(n / 20)
			_, steps := m.Observe(&hit, nowhereServed)
			for i := range steps {
				if steps[i].Kind == Barred && steps[i].Net {
					bars++
				}
			}
		}
		n++
	}
	if allocs := testing.AllocsPerRun(9000, decoys); allocs != 0 || bars == 0 {
		t.Errorf("got %v allocations for a bar, want 0, and %d bars of a /64", allocs, bars)
	}
}

func BenchmarkMatch(b *testing.B) {
	one := testDoors(b, "[a] Sequence = 7000,8000,9000 | TCPFlags = syn")
	var same []*Door
	for i := range uint16(1000) {
		same = append(same, &Door{SeqTimeout: 25 * time.Second, Sequence: []Knock{{7000, tcp}, {8000 + i, tcp}, {9000, tcp}}})
	}
	b.Run("one source", benchMatch(one, 1))
	b.Run("60,000 sources", benchMatch(one, 60000))
	b.Run("1,000 doors that begin alike", benchMatch(same, 1))
}

// benchMatch has sources knock on the first door's ports, all of them on one and then all on the next.
func benchMatch(doors []*Door, sources int) func(b *testing.B) {
	return func(b *testing.B) {
		b.ReportAllocs()
		m := newMatcher(doors, maxAttempts)
		sequence := doors[0].Sequence
		hit := Hit{Flags: flagSYN}
		for n := 0; b.Loop(); n++ {
			hit.When += 100 * time.Microsecond // 10,000 a second
			hit.From = numbered(n % sources)
			hit.Knock = sequence[n/sources%len(sequence)]
			hit.Seq = uint32(n)
			m.knock(&hit, nowhereServed)
		}
	}
}

// TestCountsLists asks for hits on links of two doors that share a knock.
func TestCountsLists(t *testing.T) {
	m := newMatcher([]*Door{{Sequence: []Knock{{7000, tcp}}, List: 1}, {Sequence: []Knock{{7000, tcp}}, List: 2}}, 1)
	for _, test := range []struct {
		outside uint64
		want    bool
	}{{^uint64(1), false}, {^uint64(2), true}, {^uint64(4), true}, {^uint64(6), true}, {^uint64(8), false}} {
		if got := m.counts(&Hit{Knock: Knock{7000, tcp}, Outside: test.outside}); got != test.want {
			t.Errorf("outside of %b: got %v, want %v", test.outside, got, test.want)
		}
	}
}

// TestCountsAllow asks for hits of sources that only one of two doors that share a knock is for.
func TestCountsAllow(t *testing.T) {
	m := newMatcher(testDoors(t, "[a] Sequence = 1,2 | Allow = 192.0.2.0/24\n[b] Sequence = 1,3\n[c] Sequence = 4 | Allow = 192.0.2.0/24"), 1)
	for _, tt := range []struct {
		from  string
		knock Knock
		want  bool
	}{
		{"192.0.2.7", Knock{1, tcp}, true},
		{"198.51.100.7", Knock{1, tcp}, true},
		{"198.51.100.7", Knock{2, tcp}, false},
		{"198.51.100.7", Knock{4, tcp}, false},
	} {
		h := testHit(0, tt.from, tt.knock, 1)
		if got := m.counts(&h); got != tt.want {
			t.Errorf("%v from %s counts: got %v, want %v", tt.knock, tt.from, got, tt.want)
		}
	}
}

// TestCountsTargets asks for hits on this host and on a Target: each door's own address and flags.
func TestCountsTargets(t *testing.T) {
	there := netip.MustParseAddr("203.0.113.9")
	m := newMatcher([]*Door{
		{Sequence: []Knock{{7000, tcp}}, Flags: TCPFlags{flagSYN, flagSYN}},
		{Sequence: []Knock{{7000, tcp}, {7001, udp}}, Target: there},
	}, 1)
	for _, tt := range []struct {
		knock  Knock
		flags  uint8
		routed bool
		want   bool
	}{
		{Knock{7000, tcp}, flagSYN, false, true},
		{Knock{7000, tcp}, flagACK, false, false},
		{Knock{7000, tcp}, flagACK, true, true},
		{Knock{7001, udp}, 0, false, false},
		{Knock{7001, udp}, 0, true, true},
	} {
		h := &Hit{Knock: tt.knock, Flags: tt.flags, Routed: tt.routed}
		if tt.routed {
			h.To = there.As16()
		}
		if got := m.counts(h); got != tt.want {
			t.Errorf("%v with flags %s, routed %v, counts: got %v, want %v", tt.knock, h.flags(), tt.routed, got, tt.want)
		}
	}
}

// TestMatcherAsks whether something listens at a port, only where that makes a difference.
func TestMatcherAsks(t *testing.T) {
	const plain, strict = "[a] Sequence = 7000,8000 | TCPFlags = syn,!ack", "[a] Sequence = 7000,8000 | Decoys = no | Strict = yes"
	for _, tt := range []struct {
		name, door string
		knock      Knock
		flags      uint8
		served     bool
		want       Verdict
		asked      int
	}{
		{"a knock", plain, Knock{7000, tcp}, flagSYN, true, Counted, 0},
		{"a knock with other flags", plain, Knock{7000, tcp}, flagACK, false, Ignored, 0},
		{"no decoy", plain, Knock{7033, tcp}, flagSYN, false, Ignored, 0},
		{"a decoy of the other protocol", plain, Knock{7001, udp}, 0, false, Ignored, 0},
		{"a decoy", plain, Knock{7032, tcp}, flagSYN, false, Stray, 1},
		{"a decoy that is served", plain, Knock{7032, tcp}, flagSYN, true, Ignored, 1},
		{"any port, with a strict door", strict, Knock{22, tcp}, flagSYN, false, Stray, 1},
		{"one that is served", strict, Knock{22, tcp}, flagSYN, true, Ignored, 1},
		{"a packet of a connection", strict, Knock{22, tcp}, flagACK, false, Ignored, 0},
	} {
		m := newMatcher(testDoors(t, tt.door), 8)
		asked := 0
		hit := Hit{From: numbered(1), Knock: tt.knock, Flags: tt.flags}
		got, _ := m.Observe(&hit, func(k Knock) bool {
			if asked++; k != tt.knock {
				t.Errorf("%s: asked for %v", tt.name, k)
			}
			return tt.served
		})
		if got != tt.want || asked != tt.asked {
			t.Errorf("%s: got %d after %d questions, want %d after %d", tt.name, got, asked, tt.want, tt.asked)
		}
	}
}

// TestMatcherTarget knocks on a host behind this one, and on this one, at doors with one sequence.
func TestMatcherTarget(t *testing.T) {
	runScript(t, newMatcher(testDoors(t, "[here] Sequence = 7000,8000\n[there] Sequence = 7000,8000 | Target = 203.0.113.9\n[six] Sequence = 7000,8000 | Target = 2001:db8::9"), 64), `
		+0s 192.0.2.7 7000 to=192.0.2.1       => here stage 1, six unheard, there unheard
		+0s 192.0.2.7 8000 routed=203.0.113.9 => here unheard
		+0s 192.0.2.7 7000 routed=203.0.113.9 => here unheard, six unheard, there stage 1
		+0s 192.0.2.7 8000 to=192.0.2.1       => here opens, there unheard
		+0s 192.0.2.7 8000 routed=203.0.113.9 => here unheard, there opens
		+0s 2001:db8::7 7000 routed=2001:db8::9 => here unheard, six stage 1, there unheard
		+0s 2001:db8::7 8000 routed=2001:db8::9 => six opens`)
	runScript(t, newMatcher(testDoors(t, "[here] Sequence = 7000\n[mine] Sequence = 7000 | Target = 192.0.2.1"), 64), `
		+0s 192.0.2.7 7000 to=192.0.2.1 => here opens, mine opens`)
}

// TestMatcherAdopts takes attempts over into another matcher, as a reload does.
func TestMatcherAdopts(t *testing.T) {
	next := func(old *Matcher, doors string) *Matcher {
		m := newMatcher(testDoors(t, doors), 64)
		m.adopt(old)
		checkMatcher(t, m)
		return m
	}
	first := newMatcher(testDoors(t, "[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10\n[b] Sequence = 7000,1\n[c] Sequence = 5:udp | Seq_Cooldown = 9\n[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10"), 64)
	runScript(t, first, `
		+0s 192.0.2.7 7000 seq=1 => a stage 1, a stage 1, b stage 1
		+1s 192.0.2.7 8000 seq=2 => a stage 2, a stage 2
		+1s 192.0.2.8 7000 => a stage 1, a stage 1, b stage 1
		+2s 192.0.2.9 7000 => a stage 1, a stage 1, b stage 1
		+2s 192.0.2.5 5:udp => c opens
		+3s 192.0.2.6 7000 seq=1 => a stage 1, a stage 1, b stage 1
		+3s 192.0.2.6 8000 seq=2 => a stage 2, a stage 2
		+3s 192.0.2.6 9000 seq=3 => a opens, a opens`)
	second := next(first, "[new] Sequence = 1,2,2,2 | Seq_Timeout = 3\n[c] Sequence = 5:udp | Seq_Cooldown = 9\n[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10\n[b] Sequence = 7000,2")
	runScript(t, second, `
		+4s 192.0.2.5 5:udp => c cooling
		+4s next => 10s
		+4s 192.0.2.7 8000 seq=2 => a copy 2
		+4s 192.0.2.7 9000 => a opens
		+4s 192.0.2.6 9000 seq=3 => a copy
		+4s 192.0.2.8 8000 => a stage 2
		+10s expire =>
		+11s expire => 192.0.2.8 a timeout 2
		+12s expire => 192.0.2.9 a timeout 1`)
	// A door that is heard on other links is another one.
	moved := newMatcher(testDoors(t, "[a] Sequence = 7000,8000 | Interface = eth0"), 64)
	runScript(t, moved, "+0s 192.0.2.7 7000 => a stage 1")
	runScript(t, next(moved, "[a] Sequence = 7000,8000 | Interface = wan"), "+1s attempts => 0")
	runScript(t, next(moved, "[a] Sequence = 7000,8000 | Interface = eth0"), "+1s attempts => 1")
	// The second of two alike is a door of its own again.
	third := next(second, "[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10\n[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10")
	runScript(t, third, `+13s 192.0.2.7 7000 => a stage 1, a stage 1`)
	runScript(t, next(third, "[options]"), `
		+13s attempts => 0
		+13s 192.0.2.7 7000 =>`)
}

// TestMatcherAdoptsOneTime brings the next line of a one-time file into force: Seq_Cooldown goes on, and SYNs of the used
// sequence that are sent again do not count for the next one.
func TestMatcherAdoptsOneTime(t *testing.T) {
	next := func(old *Matcher, name, file, sequence string) *Matcher {
		doors := testDoors(t, "["+name+"] Sequence = "+sequence+" | Seq_Cooldown = 1")
		doors[0].OneTime = file
		m := newMatcher(doors, 64)
		if old != nil {
			m.adopt(old)
		}
		checkMatcher(t, m)
		return m
	}
	used := func() *Matcher {
		m := next(nil, "a", "/once", "7000,8000,9000")
		runScript(t, m, `
			+0s 192.0.2.8 7000 seq=7 => a stage 1
			+0s 192.0.2.7 7000 seq=1 => a stage 1
			+0s 192.0.2.7 8000 seq=2 => a stage 2
			+0s 192.0.2.7 9000 seq=3 => a opens`)
		return m
	}
	const copies = `
		+1s 192.0.2.7 8000 seq=2 => a copy
		+1s 192.0.2.7 9000 seq=3 => a copy
		+1s 192.0.2.7 7000 seq=1 => a copy`
	m := next(used(), "a", "/once", "8000,9000,7000")
	runScript(t, m, `
		+0s attempts => 1
		+0.9s 192.0.2.7 8000 seq=4 => a cooling`+copies+`
		+1s 192.0.2.7 8000 seq=4 => a stage 1
		+1s 192.0.2.7 9000 seq=5 => a stage 2
		+1s 192.0.2.7 7000 seq=6 => a opens
		+65s expire =>
		+65s attempts => 0`)
	// The same line once more in the file: the attempts go on.
	runScript(t, next(used(), "a", "/once", "7000,8000,9000"), `
		+1s 192.0.2.8 8000 seq=8 => a stage 2
		+1s 192.0.2.7 7000 seq=1 => a copy`)
	for _, other := range []*Matcher{next(used(), "a", "/other", "8000,7000"), next(used(), "b", "/once", "8000,7000"), next(used(), "a", "", "8000,7000")} {
		runScript(t, other, `+0s attempts => 0`)
	}
}

// TestMatcherAdoptsOrder shows that steps come in the order in which their attempts were begun, also after a reload.
func TestMatcherAdoptsOrder(t *testing.T) {
	doors := testDoors(t, "[a] Sequence = 2,3\n[b] Sequence = 1,2,3")
	old, m := newMatcher(doors, 64), newMatcher(doors, 64)
	runScript(t, old, `
		+0s 192.0.2.7 1 => b stage 1
		+0s 192.0.2.7 2 => a stage 1, b stage 2`)
	m.adopt(old)
	hit := testHit(0, "192.0.2.7", Knock{3, tcp}, 9)
	var opened []string
	for _, s := range m.knock(&hit, nowhereServed) {
		opened = append(opened, s.Door.Name)
	}
	if want := []string{"b", "a"}; !slices.Equal(opened, want) {
		t.Errorf("opened: got %q, want %q", opened, want)
	}
}

// TestMatcherBars has one script for each part of the rule above Matcher.
func TestMatcherBars(t *testing.T) {
	const abc = "[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10"
	for _, test := range []struct{ name, doors, script string }{
		{"one decoy before the knocks", abc, `
			+0s  192.0.2.7 ~6999 => a warn
			+1s  192.0.2.7 7000  => a stage 1
			+2s  192.0.2.7 8000  => a stage 2
			+3s  192.0.2.7 9000  => a opens`},
		{"one between them ends the attempt", abc, `
			+0s  192.0.2.7 7000  => a stage 1
			+1s  192.0.2.7 8000  => a stage 2
			+2s  192.0.2.7 ~8032 => a discard 2, a warn
			+3s  192.0.2.7 9000  =>
			+3s  192.0.2.7 7000  => a stage 1`},
		{"each time", abc, `
			+0s  192.0.2.7 7000  => a stage 1
			+1s  192.0.2.7 ~8032 => a discard 1, a warn
			+2s  192.0.2.7 7000  => a stage 1
			+3s  192.0.2.7 ~8032 => a discard 1
			+4s  192.0.2.7 8000  =>`},
		{"another one bars", abc, `
			+0s  192.0.2.7 ~6999 => a warn
			+1s  192.0.2.7 ~8031 => a bar
			+1s  bars            => a 192.0.2.7/32 8031:tcp 10s
			+2s  192.0.2.7 7000  => a stage 1
			+3s  192.0.2.7 8000  => a stage 2
			+4s  192.0.2.7 9000  => a swallow
			+5s  bars            => a 192.0.2.7/32 8031:tcp 6s
			+5s  192.0.2.7 7000  => a stage 1
			+6s  192.0.2.7 8000  => a stage 2
			+7s  192.0.2.7 9000  => a swallow told
			+11s bars            =>
			+11s 192.0.2.7 7000  => a stage 1
			+11s 192.0.2.7 8000  => a stage 2
			+11s 192.0.2.7 9000  => a opens`},
		{"not the same one again", abc, `
			+0s  192.0.2.7 ~6999 => a warn
			+1s  192.0.2.7 ~6999 =>
			+9s  192.0.2.7 ~6999 =>
			+10s 192.0.2.7 ~6998 => a warn
			+19s 192.0.2.7 ~6997 => a bar
			+28s 192.0.2.7 ~6997 =>
			+29s bars            =>
			+29s 192.0.2.7 ~6996 => a warn`},
		{"nor one that is Seq_Timeout later", abc, `
			+0s  192.0.2.7 ~6999 => a warn
			+10s 192.0.2.7 ~6998 => a warn
			+20s 192.0.2.7 ~6997 => a warn
			+30s 192.0.2.7 7000  => a stage 1`},
		{"put off by each other one, and told once in Seq_Timeout", abc, `
			+0s  192.0.2.7 ~6999 => a warn
			+1s  192.0.2.7 ~7001 => a bar
			+2s  192.0.2.7 7000  => a stage 1
			+2s  192.0.2.7 8000  => a stage 2
			+2s  192.0.2.7 9000  => a swallow
			+5s  192.0.2.7 ~7002 => a bar told
			+10s 192.0.2.7 ~7003 => a bar told
			+11s 192.0.2.7 ~7001 => a bar
			+12s 192.0.2.7 7000  => a stage 1
			+12s 192.0.2.7 8000  => a stage 2
			+12s 192.0.2.7 9000  => a swallow
			+20s 192.0.2.7 ~7005 => a bar told
			+29s bars            => a 192.0.2.7/32 7005:tcp 1s
			+30s bars            =>
			+40s attempts        => 2
			+40s expire          =>
			+40s attempts        => 1
			+76s expire          =>
			+76s attempts        => 0`},
		{"a sequence begun before the end of the bar", abc, `
			+0s  192.0.2.7 ~6999 => a warn
			+1s  192.0.2.7 ~7001 => a bar
			+10.9s 192.0.2.7 7000 => a stage 1
			+11s 192.0.2.7 8000  => a stage 2
			+20s 192.0.2.7 9000  => a swallow
			+20s 192.0.2.7 7000  => a stage 1
			+20s 192.0.2.7 8000  => a stage 2
			+20s 192.0.2.7 9000  => a opens`},
		{"and begun once more after it", abc, `
			+0s  192.0.2.7 ~6999 => a warn
			+1s  192.0.2.7 ~7001 => a bar
			+9s  192.0.2.7 7000  => a stage 1
			+11s 192.0.2.7 7000  => a repeat 1
			+11s 192.0.2.7 8000  => a stage 2
			+12s 192.0.2.7 9000  => a opens`},
		{"lifted", abc + "\n[b] Sequence = 7000,18000", `
			+0s 192.0.2.7 ~6999  => a warn, b warn
			+0s 192.0.2.8 ~6999  => a warn, b warn
			+1s 192.0.2.7 ~7001  => a bar, b bar
			+1s 192.0.2.8 ~8001  => a bar
			+2s bars             => a 192.0.2.8/32 8001:tcp 9s, a 192.0.2.7/32 7001:tcp 9s, b 192.0.2.7/32 7001:tcp 24s
			+2s 192.0.2.8 7000   => a stage 1, b stage 1
			+2s 192.0.2.8 8000   => a stage 2
			+3s lift 192.0.2.8   => a 192.0.2.8/32 8001:tcp 8s, a 192.0.2.7/32 7001:tcp 8s, b 192.0.2.7/32 7001:tcp 23s
			+4s 192.0.2.8 9000   => a opens
			+4s bars             => a 192.0.2.7/32 7001:tcp 7s, b 192.0.2.7/32 7001:tcp 22s
			+5s 192.0.2.8 ~7002  => a warn, b discard 1, b bar`},
		{"the ends of the decoys", abc, `
			+0s 192.0.2.7 7000   => a stage 1
			+1s 192.0.2.7 ~6967  =>
			+1s 192.0.2.7 ~7033  =>
			+1s 192.0.2.7 ~7001:udp =>
			+2s 192.0.2.7 8000   => a stage 2
			+2s 192.0.2.7 ~6968  => a discard 2, a warn
			+2s 192.0.2.8 ~7032  => a warn`},
		{"the ends of the ports", "[a] Sequence = 1,65535:udp", `
			+0s 192.0.2.1 ~33        => a warn
			+0s 192.0.2.2 ~34        =>
			+0s 192.0.2.3 ~65503:udp => a warn
			+0s 192.0.2.4 ~65502:udp =>
			+0s 192.0.2.5 ~2:udp     =>
			+0s 192.0.2.6 ~65534     =>`},
		{"a port over both protocols", "[a] Sequence = 1000,2000:udp,1000:udp", `
			+0s 192.0.2.1 ~1001     => a warn
			+1s 192.0.2.1 ~1001:udp => a bar`},
		{"others go on", abc, `
			+0s 192.0.2.8 7000  => a stage 1
			+1s 192.0.2.7 ~7001 => a warn
			+1s 192.0.2.7 ~7002 => a bar
			+2s 192.0.2.8 8000  => a stage 2
			+3s 192.0.2.8 9000  => a opens`},
		{"at that door alone", abc + "\n[b] Sequence = 500,600", `
			+0s 192.0.2.7 500   => b stage 1
			+1s 192.0.2.7 ~7001 => a warn
			+1s 192.0.2.7 ~7002 => a bar
			+2s 192.0.2.7 600   => b opens
			+2s 192.0.2.7 ~501  => b warn`},
		{"two doors have it", abc + "\n[b] Sequence = 7010,600", `
			+0s 192.0.2.7 7010  => b stage 1
			+1s 192.0.2.7 ~7005 => a warn, b discard 1, b warn
			+1s 192.0.2.7 ~7006 => a bar, b bar`},
		{"no decoys", abc + " | Decoys = no", `
			+0s 192.0.2.7 7000  => a stage 1
			+1s 192.0.2.7 ~7001 =>
			+2s 192.0.2.7 8000  => a stage 2`},
		{"one knock has none", "[a] Sequence = 22", `
			+0s 192.0.2.7 ~21 =>
			+0s 192.0.2.7 ~20 =>
			+1s 192.0.2.7 22  => a opens`},
		{"what would count at a knock", abc + "\n[b] Sequence = 7000,8000,9000 | TCPFlags = syn\n[c] Sequence = 7000,8000,9000 | TCPFlags = syn,!ack", `
			+0s 192.0.2.1 ~7001 flags=syn          => a warn, b warn, c warn
			+0s 192.0.2.2 ~7001 flags=syn,ack      => a warn, b warn
			+0s 192.0.2.3 ~7001 flags=ack          => a warn
			+0s 192.0.2.4 ~7001 flags=fin          => a warn
			+0s 192.0.2.5 ~7001 flags=syn,rst,fin  => a warn, b warn, c warn`},
		{"strict", abc + " | Decoys = no | Strict = yes\n[b] Sequence = 7000,50000 | Decoys = no", `
			+0s 192.0.2.7 7000  => a stage 1, b stage 1
			+1s 192.0.2.7 ~80   => a discard 1
			+2s 192.0.2.7 7000  => a stage 1, b repeat 1
			+3s 192.0.2.7 ~80:udp =>
			+3s 192.0.2.7 ~80 flags=ack =>
			+3s 192.0.2.8 ~80   =>
			+4s 192.0.2.7 8000  => a stage 2`},
		{"strict, and flags that do not fit", "[a] Sequence = 7000,8000 | Decoys = no | Strict = yes | TCPFlags = syn", `
			+0s 192.0.2.7 7000            => a stage 1
			+1s 192.0.2.7 ~8000 flags=fin =>
			+2s 192.0.2.7 ~8001 flags=fin => a discard 1`},
		{"a knock of another door is none", "[a] Sequence = 7000,8000,9000\n[b] Sequence = 7001,8001,9001", `
			+0s 192.0.2.7 7000  => a stage 1
			+1s 192.0.2.7 7001  => a discard 1, b stage 1
			+2s 192.0.2.7 8000  => b discard 1
			+3s 192.0.2.7 7000  => a stage 1
			+4s 192.0.2.7 8000  => a stage 2
			+5s 192.0.2.7 9000  => a opens`},
		{"a knock of a door that does not hear the source", abc + "\n[b] Sequence = 7001,8001 | Allow = 198.51.100.0/24", `
			+0s 192.0.2.7    ~7001 => a warn
			+1s 198.51.100.7 7001  => b stage 1
			+1s 198.51.100.7 7000  => a stage 1`},
		{"strict, after an opening", "[a] Sequence = 7000 | Decoys = no | Strict = yes", `
			+0s 192.0.2.7 7000 seq=5 => a opens
			+1s 192.0.2.7 ~80        =>
			+2s 192.0.2.7 7000 seq=5 => a copy`},
		{"Allow", abc + " | Allow = 192.0.2.0/24,2001:db8::/32", `
			+0s 192.0.2.7    7000  => a stage 1
			+1s 192.0.2.7    ~7001 =>
			+2s 198.51.100.7 7000  => a unheard
			+2s 2001:db8::7  7000  => a stage 1
			+2s 2001:db9::7  7000  => a unheard
			+3s 198.51.100.7 ~7001 =>
			+4s 192.0.2.7    8000  => a stage 2`},
		{"after an opening, whose copies are still known", abc, `
			+0s  192.0.2.7 7000 seq=1 => a stage 1
			+1s  192.0.2.7 8000 seq=2 => a stage 2
			+2s  192.0.2.7 9000 seq=3 => a opens
			+3s  192.0.2.7 ~9001      => a warn
			+4s  192.0.2.7 7000 seq=1 => a copy
			+23s expire               =>
			+23s attempts             => 1`},
		{"a timeout as long as copies are known", "[a] Sequence = 7000,8000 | Seq_Timeout = 64", `
			+0s   192.0.2.7 ~7001 => a warn
			+1s   192.0.2.7 ~7002 => a bar
			+2s   192.0.2.8 7000  => a stage 1
			+64s  192.0.2.7 7000  => a stage 1
			+64s  192.0.2.7 8000  => a swallow
			+66s  expire          => 192.0.2.8 a timeout 1
			+129s expire          =>
			+129s attempts        => 0`},
		{"a link-local source on another link", abc, `
			+0s fe80::1 ~7001 link=2 => a warn
			+1s fe80::1 ~7002 link=3 => a warn
			+1s fe80::1 ~7003 link=2 => a bar
			+2s fe80::1 7000 link=3  => a stage 1
			+2s fe80::1 8000 link=3  => a stage 2
			+2s fe80::1 9000 link=3  => a opens`},
	} {
		t.Run(test.name, func(t *testing.T) {
			runScript(t, newMatcher(testDoors(t, test.doors), 100), test.script)
		})
	}
	t.Run("guards make room first", func(t *testing.T) {
		m := newMatcher(testDoors(t, abc), 3)
		runScript(t, m, `
			+0s 192.0.2.1 7000  => a stage 1
			+1s 192.0.2.2 ~7001 => a warn
			+1s 192.0.2.3 ~7001 => a warn
			+1s 192.0.2.2 ~7002 => a bar
			+2s 192.0.2.4 7000  => 192.0.2.3 a evict 1, a stage 1
			+3s 192.0.2.5 ~7001 => 192.0.2.2 a evict 2, a warn
			+3s 192.0.2.6 ~7001 => 192.0.2.5 a evict 1, a warn
			+4s 192.0.2.1 8000  => a stage 2`)
	})
	t.Run("taken over", func(t *testing.T) {
		old := newMatcher(testDoors(t, abc), 100)
		runScript(t, old, `
			+0s 192.0.2.7 ~7001 => a warn
			+1s 192.0.2.8 ~7001 => a warn
			+1s 192.0.2.8 ~7002 => a bar
			+1s 192.0.2.9 7000  => a stage 1`)
		m := newMatcher(testDoors(t, "[b] Sequence = 1\n"+abc), 100)
		m.adopt(old)
		checkMatcher(t, m)
		runScript(t, m, `
			+2s 192.0.2.7 ~7001 =>
			+2s 192.0.2.7 ~7003 => a bar
			+3s 192.0.2.8 ~7004 => a bar told
			+3s bars            => a 192.0.2.8/32 7004:tcp 10s, a 192.0.2.7/32 7003:tcp 9s
			+3s 192.0.2.9 8000  => a stage 2`)
		none := newMatcher(testDoors(t, abc+" | Decoys = no"), 100)
		none.adopt(old)
		runScript(t, none, "+2s attempts => 1")
	})
}

// TestMatcherBarsNetworks has addresses of an IPv6 /64 barred, one after the other.
func TestMatcherBarsNetworks(t *testing.T) {
	const abc = "[a] Sequence = 7000,8000,9000 | Seq_Timeout = 10\n[b] Sequence = 500,600"
	sources := func(m *Matcher, format string, first, n int, at time.Duration) (bars int) {
		for i := first; i < first+n; i++ {
			for _, port := range []uint16{7001, 7002} {
				hit := testHit(at, fmt.Sprintf(format, i), Knock{port, tcp}, uint32(i))
				for _, s := range m.stray(&hit, nowhereServed) {
					if s.Kind == Barred && !s.Told {
						bars++
					}
				}
				checkMatcher(t, m)
			}
		}
		return bars
	}
	for _, test := range []struct {
		name, format string
		n, bars      int
		script       string
	}{
		{"seven addresses", "2001:db8::%d", 7, 7, `
			+1s 2001:db8::99 7000 => a stage 1
			+1s 2001:db8::99 8000 => a stage 2
			+1s 2001:db8::99 9000 => a opens`},
		{"eight", "2001:db8::%d", 8, 9, `
			+1s 2001:db8::99  7000  => a stage 1
			+1s 2001:db8::99  8000  => a stage 2
			+1s 2001:db8::99  9000  => a swallow
			+1s 2001:db8::98  7000  => a stage 1
			+1s 2001:db8::98  8000  => a stage 2
			+1s 2001:db8::98  9000  => a swallow told
			+1s 2001:db8::    7000  => a stage 1
			+1s 2001:db8::    8000  => a stage 2
			+1s 2001:db8::    9000  => a swallow told
			+1s 2001:db8::99  500   => b stage 1
			+1s 2001:db8::99  600   => b opens
			+1s 2001:db8:0:1:: 7000 => a stage 1
			+1s 2001:db8:0:1:: 8000 => a stage 2
			+1s 2001:db8:0:1:: 9000 => a opens
			+9s 2001:db8::8   ~7003 => a bar told
			+10s 2001:db8::97 7000  => a stage 1
			+10s 2001:db8::97 8000  => a stage 2
			+10s 2001:db8::97 9000  => a opens`},
		{"a ninth", "2001:db8::%d", 8, 9, `
			+9s  2001:db8::9 ~7001 => a warn
			+9s  2001:db8::9 ~7002 => a bar, 2001:db8::/64 a bar told
			+11s 2001:db8::a ~7001 => a warn
			+11s 2001:db8::a ~7002 => a bar, 2001:db8::/64 a bar
			+12s lift 2001:db8::b  => a 2001:db8::/64 7002:tcp 9s, a 2001:db8::a/128 7002:tcp 9s, a 2001:db8::9/128 7002:tcp 7s
			+12s 2001:db8::b 7000  => a stage 1
			+12s 2001:db8::b 8000  => a stage 2
			+12s 2001:db8::b 9000  => a opens
			+12s 2001:db8::a 7000  => a stage 1
			+12s 2001:db8::a 8000  => a stage 2
			+12s 2001:db8::a 9000  => a swallow`},
		{"an address that has none", "2001:db8:0:0:%d::", 8, 9, `
			+1s 2001:db8:: ~7001 => a warn
			+1s 2001:db8:: ~7002 => a bar, 2001:db8::/64 a bar told`},
		{"addresses of many", "2001:db8:0:%d::1", 20, 20, ""},
		{"IPv4", "192.0.2.%d", 20, 20, `
			+1s 192.0.2.99 7000 => a stage 1
			+1s 192.0.2.99 8000 => a stage 2
			+1s 192.0.2.99 9000 => a opens`},
		{"::/64, which is none", "::1:%d", 20, 20, `
			+1s 192.0.2.99 7000 => a stage 1
			+1s 192.0.2.99 8000 => a stage 2
			+1s 192.0.2.99 9000 => a opens`},
		{"link-local, on one link", "fe80::%d", 8, 9, `
			+1s fe80::99 7000 link=2 => a stage 1
			+1s fe80::99 8000 link=2 => a stage 2
			+1s fe80::99 9000 link=2 => a opens
			+1s fe80::99 7000 => a stage 1
			+1s fe80::99 8000 => a stage 2
			+1s fe80::99 9000 => a swallow`},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMatcher(testDoors(t, abc), 200)
			if got := sources(m, test.format, 1, test.n, 0); got != test.bars {
				t.Errorf("got %d bars of %d sources, want %d", got, test.n, test.bars)
			}
			runScript(t, m, strings.TrimSpace(test.script)+"\n+60s expire =>")
		})
	}
	t.Run("not within Seq_Timeout", func(t *testing.T) {
		m := newMatcher(testDoors(t, abc), 200)
		if got := sources(m, "2001:db8::%d", 1, 7, 0) + sources(m, "2001:db8::%d", 11, 7, 10*time.Second); got != 14 {
			t.Errorf("got %d bars of 14 sources", got)
		}
		if got := sources(m, "2001:db8::%d", 21, 1, 19*time.Second); got != 2 {
			t.Errorf("got %d bars by the eighth within Seq_Timeout, want 2", got)
		}
	})
	t.Run("a full table", func(t *testing.T) {
		for bound := 1; bound < 30; bound++ {
			m := newMatcher(testDoors(t, abc), bound)
			sources(m, "2001:db8::%d", 1, 50, 0)
		}
	})
}

// TestScansOpenNothing models scans of all ports in order, up and down, at any pace, against sequences of two to four
// knocks that go up, down, and anyhow, adjacent ones also: no door opens. A real knock from elsewhere opens meanwhile.
func TestScansOpenNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		n, first, step := 2+r.IntN(3), 100+r.IntN(60000), 1+r.IntN(400)*r.IntN(2)
		d := &Door{Name: "a", SeqTimeout: time.Duration(1+r.IntN(30)) * time.Second, Decoys: true}
		for i := range n {
			d.Sequence = append(d.Sequence, Knock{uint16(first + i*step), tcp})
		}
		switch r.IntN(3) {
		case 0:
			slices.Reverse(d.Sequence)
		case 1:
			r.Shuffle(n, func(i, j int) { d.Sequence[i], d.Sequence[j] = d.Sequence[j], d.Sequence[i] })
		}
		pace := []time.Duration{0, time.Microsecond, 10 * time.Millisecond, time.Second / 3, time.Second, d.SeqTimeout - 1, d.SeqTimeout, 2 * d.SeqTimeout}[r.IntN(8)]
		down := r.IntN(2) == 0
		m := newMatcher([]*Door{d}, 100)
		now := time.Duration(0)
		for i := range 65535 {
			port := uint16(i + 1)
			if down {
				port = uint16(65535 - i)
			}
			if int(port) < first-100 || int(port) > first+4*step+100 {
				continue // far from all decoys nothing is seen of it
			}
			now += pace
			hit := Hit{When: now, From: numbered(1), Knock: Knock{port, tcp}, Flags: flagSYN, Seq: uint32(i)}
			_, steps := m.Observe(&hit, nowhereServed)
			if len(openedBy(m, steps)) > 0 {
				t.Fatalf("%v within %v opens at pace %v, down %v", d.sequence(), d.SeqTimeout, pace, down)
			}
		}
		for i, k := range d.Sequence {
			hit := Hit{When: now, From: numbered(2), Knock: k, Flags: flagSYN, Seq: uint32(i)}
			if opened := len(openedBy(m, m.knock(&hit, nowhereServed))) > 0; opened != (i == n-1) {
				t.Fatalf("%v: knock %d from elsewhere: opened is %v", d.sequence(), i, opened)
			}
		}
	}
}

// TestOddsOfScans measures the figures of check and README: how many scans in random order it takes to open a door of two
// knocks, and how many packets with an owner's address, to any ports, keep the owner out.
func TestOddsOfScans(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	send := func(m *Matcher, when time.Duration, port uint16, seq int) (step StepKind) {
		hit := Hit{When: when, From: numbered(1), Knock: Knock{port, tcp}, Flags: flagSYN, Seq: uint32(seq)}
		_, steps := m.Observe(&hit, nowhereServed)
		for _, s := range steps {
			step = max(step, s.Kind)
		}
		return step
	}
	random := func(knocks int) *Matcher {
		d := &Door{Name: "a", SeqTimeout: time.Second, Decoys: true}
		for range knocks {
			d.Sequence = append(d.Sequence, Knock{uint16(1 + r.IntN(65535)), tcp})
		}
		m := newMatcher([]*Door{d}, 16)
		m.onlyChanges = true
		return m
	}
	two := newMatcher(testDoors(t, "[a] Sequence = 7000,9000"), 16)
	two.onlyChanges = true
	var ports []uint16 // those that matter
	for i := range uint16(2*decoyReach + 1) {
		ports = append(ports, 7000-decoyReach+i, 9000-decoyReach+i)
	}
	scans, opened := 100*int(seeds(8000)), 0
	for scan := range scans {
		r.Shuffle(len(ports), func(i, j int) { ports[i], ports[j] = ports[j], ports[i] })
		for i, port := range ports {
			step := send(two, time.Duration(scan)*time.Hour, port, i)
			if step == Opened {
				opened++
			}
			if step == Barred {
				break
			}
		}
	}
	if want := scans / twoKnockScans; opened < want*7/10 || opened > want*13/10 {
		t.Errorf("of %d scans %d opened a door of two knocks, want about %d", scans, opened, want)
	}
	for i, want := range []int{1000, 680, 510} {
		knocks := 2 + i
		packets, doors := 0, 20*int(seeds(60))
		for range doors {
			m, packet := random(knocks), 0
			for send(m, 0, uint16(1+r.IntN(65535)), packet) != Barred {
				packet++
			}
			packets += packet
		}
		if got := packets / doors; got < want*8/10 || got > want*12/10 {
			t.Errorf("%d knocks: it takes %d packets to have an address barred, want about %d", knocks, got, want)
		}
	}
	for range 300 { // 2,048 packets do it without luck
		m, barred := random(2+r.IntN(3)), false
		for port := 1 + r.IntN(decoyReach); port <= 65535; port += decoyReach {
			barred = send(m, 0, uint16(port), port) == Barred || barred
		}
		if !barred {
			t.Errorf("%v: a packet to every %dth port does not bar its source", m.doors[0].sequence(), decoyReach)
		}
	}
}
