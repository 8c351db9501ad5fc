//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// withCodes has the ports of codes in the places of words such as 1000a and 1000b: the halves of the code of step 1000.
func withCodes(t TOTP, script string) string {
	return regexp.MustCompile(`\b(\d+)([ab])\b`).ReplaceAllStringFunc(script, func(word string) string {
		step, _ := strconv.Atoi(word[:len(word)-1])
		return fmt.Sprint(t.ports(t.code(uint32(step)))[word[len(word)-1]-'a'])
	})
}

// wrongOnes are n wrong codes from different sources, each a second after the one before, and what the last one does.
func wrongOnes(from, n int, last string) (script string) {
	for i := range n {
		script += fmt.Sprintf("+%ds 198.51.100.%d 7000 => a stage 1\n+%[1]ds 198.51.100.%[2]d 20001 => a wrong code, ", from+i, i)
		if i == n-1 {
			script += last
		}
		script += "a discard 1\n"
	}
	return script
}

func TestCodes(t *testing.T) {
	const door = "[a] Sequence = 7000, totp | TOTP = " + testSecret
	for _, tt := range []struct{ name, doors, script string }{
		{"opens, with the code of now, of before and of after", door, `
			+0s 192.0.2.7 7000  => a stage 1
			+1s 192.0.2.7 1000a => a stage 2
			+2s 192.0.2.7 1000b => a opens
			+3s 192.0.2.8 7000  => a stage 1
			+3s 192.0.2.8 999a  => a stage 2
			+3s 192.0.2.8 999b  => a opens
			+3s 192.0.2.9 7000  => a stage 1
			+3s 192.0.2.9 1001a => a stage 2
			+3s 192.0.2.9 1001b => a opens`},
		{"without what comes before, it is another port", door, `
			+0s 192.0.2.7 1000a =>
			+0s 192.0.2.7 20005 =>
			+0s 192.0.2.7 1000b =>
			+0s attempts => 0`},
		{"both halves are of one code", door, `
			+0s 192.0.2.7 7000  => a stage 1
			+1s 192.0.2.7 1000a => a stage 2
			+2s 192.0.2.7 999b  => a wrong code, a discard 2
			+2s 192.0.2.7 1000b =>`},
		{"the second half first", door, `
			+0s 192.0.2.7 7000  => a stage 1
			+1s 192.0.2.7 1000b => a wrong code, a discard 1
			+2s 192.0.2.7 1000a =>`},
		{"clocks that differ", door, `
			+0s 192.0.2.7 7000  => a stage 1
			+1s 192.0.2.7 1002a => a stage 2
			+2s 192.0.2.7 1002b => a wrong code 2, a discard 2
			+3s 192.0.2.7 7000  => a stage 1
			+3s 192.0.2.7 990a  => a stage 2
			+3s 192.0.2.7 990b  => a wrong code -10, a discard 2
			+3s 192.0.2.7 7000  => a stage 1
			+3s 192.0.2.7 989a  => a wrong code, a discard 1`},
		{"time goes on between the halves", door, `
			+29s 192.0.2.7 7000  => a stage 1
			+29s 192.0.2.7 999a  => a stage 2
			+31s 192.0.2.7 999b  => a wrong code -2, a discard 2
			+31s 192.0.2.7 7000  => a stage 1
			+59s 192.0.2.7 1000a => a stage 2
			+61s 192.0.2.7 1001b => a wrong code, a discard 2`},
		{"halves again, by other SYNs and the same", "[a] Sequence = 7000, totp, 9000 | TOTP = " + testSecret, `
			+0s 192.0.2.7 7000  => a stage 1
			+1s 192.0.2.7 1000a seq=1 => a stage 2
			+1s 192.0.2.7 1000a seq=1 => a copy 2
			+2s 192.0.2.7 1000a => a repeat 2
			+3s 192.0.2.7 1000b => a stage 3
			+4s 192.0.2.7 1000b => a repeat 3
			+4s 192.0.2.7 1000a => a repeat 3
			+5s 192.0.2.7 9000  => a opens
			+6s 192.0.2.7 1000a =>`},
		{"a wrong one after it is right", "[a] Sequence = 7000, totp, 9000 | TOTP = " + testSecret, `
			+0s 192.0.2.7 7000  => a stage 1
			+1s 192.0.2.7 1000a => a stage 2
			+3s 192.0.2.7 1000b => a stage 3
			+4s 192.0.2.7 1001b => a wrong code, a discard 3
			+5s 192.0.2.7 9000  =>`},
		{"UDP, another base, and a minute", "[a] Sequence = 7000, totp:udp | TOTP = " + testSecret + " 30000 | Decoys = no", `
			+0s  192.0.2.7 7000 => a stage 1
			+1s  192.0.2.7 20000:udp =>
			+59s 192.0.2.7 30001 =>
			+59s 192.0.2.7 30001:udp => a wrong code, a discard 1`},
		{"begins anew", door, `
			+0s  192.0.2.7 7000  => a stage 1
			+1s  192.0.2.7 1000a => a stage 2
			+50s 192.0.2.7 7000  => a discard 2, a stage 1
			+99s 192.0.2.7 1003a => a stage 2
			+99s 192.0.2.7 1003b => a opens`},
		{"none are decoys", "[a] Sequence = 19990, 5000, totp | TOTP = " + testSecret, `
			+0s 192.0.2.7 19990  => a stage 1
			+1s 192.0.2.7 20000  =>
			+1s 192.0.2.7 ~20001 =>
			+1s 192.0.2.7 ~19999 => a discard 1, a warn`},
		{"a strict door, for which they are stray ports until then", "[a] Sequence = 7000, 5000, totp | Strict = yes | TOTP = " + testSecret, `
			+0s 192.0.2.7 7000  => a stage 1
			+1s 192.0.2.7 20000 => a discard 1
			+2s 192.0.2.7 7000  => a stage 1
			+2s 192.0.2.7 5000  => a stage 2
			+2s 192.0.2.7 1000a => a stage 3
			+2s 192.0.2.7 1000b => a opens`},
		{"two doors, each with its secret", door + " | Open_Ports = 22 \n[b] Sequence = 7000, totp | TOTP = GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", `
			+0s 192.0.2.7 7000  => a stage 1, b stage 1
			+1s 192.0.2.7 1000a => a stage 2, b wrong code, b discard 1
			+2s 192.0.2.7 1000b => a opens`},
		{"too many wrong ones: two in a row", door, wrongOnes(0, 20, "a more codes 2, ") + `			+30s 192.0.2.7 7000  => a stage 1
			+30s 192.0.2.7 1001a => a stage 2
			+30s 192.0.2.7 1001b => a next code
			+31s 192.0.2.7 7000  => a stage 1
			+31s 192.0.2.7 1001a => a stage 2
			+31s 192.0.2.7 1001b => a next code
			+33s 192.0.2.7 7000  => a stage 1
			+33s 192.0.2.7 1002a => a stage 2
			+33s 192.0.2.7 1002b => a opens
			+63s 192.0.2.7 7000  => a stage 1
			+63s 192.0.2.7 1003a => a stage 2
			+63s 192.0.2.7 1003b => a next code
			+70s 192.0.2.7 7000  => a stage 1
			+70s 192.0.2.7 1001a => a stage 2
			+70s 192.0.2.7 1001b => a next code
			+3618s 192.0.2.9 7000  => a stage 1
			+3618s 192.0.2.9 1120a => a stage 2
			+3618s 192.0.2.9 1120b => a next code
			+3619s 192.0.2.8 7000  => a stage 1
			+3619s 192.0.2.8 1120a => a stage 2
			+3619s 192.0.2.8 1120b => a opens`},
		{"19 wrong ones in each hour", door, wrongOnes(0, 19, "") + wrongOnes(3600, 19, "") + `			+3620s 192.0.2.7 7000  => a stage 1
			+3620s 192.0.2.7 1120a => a stage 2
			+3620s 192.0.2.7 1120b => a opens`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			doors := testDoors(t, tt.doors)
			runScript(t, newMatcher(doors, 64), withCodes(doors[0].TOTP, strings.ReplaceAll(tt.script, "\t", "")))
		})
	}
}

// guess has a source guess one code, and reports whether the door has opened.
func guess(t *testing.T, m *Matcher, when time.Duration, from string, seq *uint32, code uint32) (opened bool) {
	d := m.doors[0]
	ports := d.TOTP.ports(code)
	for _, port := range []uint16{7000, ports[0], ports[1]} {
		hit := testHit(when, from, Knock{port, tcp}, *seq)
		hit.Step = scriptStep + uint32(when/codeTime)
		*seq++
		for _, s := range m.knock(&hit, nowhereServed) {
			opened = opened || s.Kind == Opened
		}
	}
	return opened
}

// TestMillionCodes knocks every code there is within one step. Three of them are right, and count only while the door asks for
// one: not to those who guess in an order that they do not choose.
func TestMillionCodes(t *testing.T) {
	m := newMatcher(testDoors(t, "[a] Sequence = 7000, totp | TOTP = "+testSecret), 64)
	m.onlyChanges = true
	seq, opened, wrong := uint32(0), 0, uint64(codeHalves*codeHalves-3)
	for _, code := range rand.New(rand.NewPCG(6, 238)).Perm(codeHalves * codeHalves) {
		if guess(t, m, time.Second, "192.0.2.7", &seq, uint32(code)) {
			opened++
		}
	}
	firsts := map[uint32]bool{}
	for _, code := range m.codes[0].near {
		firsts[code/codeHalves] = true
	}
	wrong -= uint64(len(firsts)) // the same half twice may be a copy
	if c := &m.codes[0]; opened != 0 || c.n != wrong || c.needed(time.Second) != 3 {
		t.Errorf("got %d openings, %d wrong codes, and %d codes are needed: want 0, %d, 3", opened, c.n, c.needed(time.Second), wrong)
	}
	checkMatcher(t, m)
	// The owner still gets in, by three codes.
	for i, want := range []bool{false, false, true} {
		at := time.Duration(i+1) * codeTime
		if got := guess(t, m, at, "192.0.2.99", &seq, m.doors[0].TOTP.code(scriptStep+uint32(i)+1)); got != want {
			t.Errorf("code %d of the owner's: opened is %v, want %v", i+1, got, want)
		}
	}
}

// TestOdds has the manual's table of how many of those who guess for a day get in. They know the other knocks.
func TestOdds(t *testing.T) {
	m := newMatcher(testDoors(t, "[a] Sequence = 7000, totp | TOTP = "+testSecret), 64)
	c := &m.codes[0]
	// Who is patient guesses only while one code is enough: each guess counts, whoever makes it.
	const day = 24 * time.Hour
	slow, seq := 0, uint32(0)
	for at := time.Duration(0); at < day; at += time.Second {
		if c.needed(at) == 1 {
			guess(t, m, at, fmt.Sprintf("192.0.2.%d", slow%256), &seq, 1002)
			slow++
		} else {
			at += c.quiet(at) - time.Second
		}
	}
	if slow != wrongCodes*24 {
		t.Errorf("got %d guesses at one code in a day, want %d", slow, wrongCodes*24)
	}
	// Who is not has a chance of three codes in a million, and then of one for each that must follow.
	const each, next = 3. / (codeHalves * codeHalves), 1. / (codeHalves * codeHalves)
	text, err := os.ReadFile("man/knockd.conf.5")
	if err != nil {
		t.Fatal(err)
	}
	odds := func(chance float64) string {
		n := int(1/chance + .5)
		return strings.TrimPrefix(fmt.Sprintf("1 in %d,%03d", n/1000, n%1000), "0,")
	}
	for who, rate := range map[string]float64{"one address, 1,000 a second": 1e3, "an IPv6 /48, 100,000 a second": 1e5, "10,000 hosts, 1,000,000 a second": 1e6} {
		fast := each * (wrongCodes + (manyWrong-wrongCodes)*next + (rate*day.Seconds()-manyWrong)*next*next)
		want := fmt.Sprintf("\n.It %s Ta %s Ta %s\n", who, strings.Replace(odds(float64(slow)*each), "0,", "", 1), odds(fast))
		if !strings.Contains(string(text), want) {
			t.Errorf("knockd.conf(5) has not: %s", want)
		}
	}
}

// TestCodesAtRandom has few sources at few doors in a table that is too small, and what is in it agree all the time, also over
// reloads. A door opens only to who has knocked as many codes in a row as it asks for.
func TestCodesAtRandom(t *testing.T) {
	const text = "[a] Sequence = 7000, totp, 7000, 9000 | TOTP = " + testSecret + "\n[b] Sequence = 9000, 7000, totp:udp | Strict = yes | Seq_Timeout = 20 | TOTP = " + testSecret
	random := rand.New(rand.NewPCG(4226, 6238))
	m := newMatcher(testDoors(t, text), 6)
	secret := m.doors[0].TOTP
	opened, asked := 0, map[int]int{}
	now := time.Duration(0)
	var next [6][]Knock // what each source will knock, if it does not go wrong
	for n := range 200000 {
		now += time.Duration(random.ExpFloat64() * float64([]time.Duration{time.Second / 2, 10 * time.Second}[n/50000%2]))
		from := random.IntN(len(next))
		hit := testHit(now, fmt.Sprintf("192.0.2.%d", from), Knock{7001, tcp}, uint32(n/(1+random.IntN(2))))
		hit.Step = scriptStep + uint32(now/codeTime)
		if len(next[from]) == 0 {
			d := m.doors[random.IntN(2)]
			for row := range uint32(1 + random.IntN(3)) {
				knocks := slices.Clone(d.Sequence)
				for i, port := range secret.ports(secret.code(hit.Step + row - uint32(random.IntN(2)))) {
					knocks[d.CodeAt+i].Port = port
				}
				next[from] = append(next[from], knocks...)
			}
		}
		switch random.IntN(12) {
		case 0: // a decoy
		case 1:
			hit.Knock = next[from][random.IntN(len(next[from]))]
		case 2:
			hit.Knock = Knock{20001, []Protocol{tcp, udp}[random.IntN(2)]}
		default:
			hit.Knock, next[from] = next[from][0], next[from][1:]
		}
		if hit.Knock.Proto == udp {
			hit.Flags, hit.Seq = 0, 0
		}
		_, steps := m.Observe(&hit, nowhereServed)
		for _, s := range steps {
			if s.Kind == Opened {
				opened++
				asked[m.codes[s.door].needed(now)]++
				if s.Code+1 < hit.Step-2 || s.Code > hit.Step+1 {
					t.Fatalf("opened by the code of step %d in step %d", s.Code, hit.Step)
				}
			}
		}
		checkMatcher(t, m)
		if n%5000 == 0 {
			next := newMatcher(testDoors(t, text), 6)
			next.adopt(m)
			m = next
			checkMatcher(t, m)
		}
	}
	t.Logf("%d openings, by codes asked for: %v", opened, asked)
	if asked[1] < 10 || asked[2] == 0 {
		t.Errorf("%d openings, by codes asked for: %v: the test shows nothing", opened, asked)
	}
}
