//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

var testScope = scope{"2c8a1d5e-7f3b-4b0a-9c53-0c2f6f1e0d11", 4026531840}

// testEntries is one entry of each kind.
func testEntries() []Entry {
	return []Entry{
		{Door: "ssh", Source: netip.MustParseAddr("192.0.2.7"), Link: "eth0", State: Open, Since: 41 * time.Second, Until: 541 * time.Second,
			Ports: []Knock{{22, tcp}, {51820, udp}}},
		{Door: "a \"b\"\t€\n\xff", Source: netip.MustParseAddr("fe80::7"), Link: "wg-é", State: Starting,
			Start: "ip6tables -w -I INPUT -s %IP% -j ACCEPT\t# 'quoted' \\", Stop: "end 1\t0", Pid: 4711, Began: math.MaxUint64},
		{Door: "c", Source: netip.MustParseAddr("::ffff:192.0.2.7"), State: Closing, Since: 1, Until: math.MaxInt64, Stop: "x", Tries: 7, Pid: 1},
	}
}

const testJournal = `sesame journal 1 2c8a1d5e-7f3b-4b0a-9c53-0c2f6f1e0d11 4026531840	SUM
"ssh"	192.0.2.7	"eth0"	open	41000000000	541000000000	""	""	22:tcp 51820:udp	0	0	0	SUM
"a \"b\"\t€\n\xff"	fe80::7	"wg-é"	starting	0	0	"ip6tables -w -I INPUT -s %IP% -j ACCEPT\t# 'quoted' \\"	"end 1\t0"		0	4711	18446744073709551615	SUM
"c"	::ffff:192.0.2.7	""	closing	1	9223372036854775807	""	"x"		7	1	0	SUM
end 3	SUM
`

// seal puts checksums in the place of what stands after each line's last tab.
func seal(text string) []byte {
	var out strings.Builder
	for line := range strings.Lines(text) {
		body := line[:max(strings.LastIndexByte(line, '\t'), 0)]
		if strings.HasPrefix(line, "end ") {
			out.WriteString(body)
			body = out.String()
			out.WriteString("\t" + checksum(body))
		} else {
			out.WriteString(sealed(body))
		}
	}
	return []byte(out.String())
}

// TestJournalFormat holds version 1 fast: daemons to come must read it.
func TestJournalFormat(t *testing.T) {
	got := formatJournal(testScope, testEntries())
	if want := seal(testJournal); !bytes.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	const want = "sesame journal 1 b 7\t73e6b66105056a90\nend 0\t14182b6888c27b1c\n"
	if got := string(formatJournal(scope{"b", 7}, nil)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestJournalRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		const odd = "\t\n\r\"'`\\ %#=\x00\x7f\xff\xc3€é\u2028\ufffd\U0001f511az09"
		b := make([]byte, random.IntN(40))
		for i := range b {
			if b[i] = odd[random.IntN(len(odd))]; random.IntN(4) == 0 {
				b[i] = byte(random.IntN(256))
			}
		}
		return string(b)
	}
	for range 300 {
		var want []Entry
		for range random.IntN(20) {
			e := Entry{
				Door: text(), Link: text(), Start: text(), Stop: text(), State: OpeningState(random.IntN(3)),
				Since: time.Duration(random.Int64()), Until: time.Duration(random.Int64()),
				Tries: random.IntN(math.MaxInt32), Pid: random.IntN(math.MaxInt32), Began: random.Uint64(),
			}
			var a [16]byte
			for i := range a {
				a[i] = byte(random.IntN(256) * random.IntN(2))
			}
			if e.Source = netip.AddrFrom16(a); random.IntN(2) == 0 {
				e.Source = netip.AddrFrom4([4]byte(a[:4]))
			}
			for range random.IntN(3) * random.IntN(100) {
				e.Ports = append(e.Ports, Knock{uint16(1 + random.IntN(65535)), []Protocol{tcp, udp}[random.IntN(2)]})
			}
			want = append(want, e)
		}
		at, got, err := parseJournal(formatJournal(testScope, want))
		if err != nil || at != testScope || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, %+v, %v\nwant %v, %+v", at, got, err, testScope, want)
		}
	}
}

// wantPart fails unless got is a part of the entries, in their order, with at most lost of them missing.
func wantPart(t *testing.T, what string, got, entries []Entry, lost int) {
	t.Helper()
	if missing := len(entries) - len(got); missing < 0 || missing > lost {
		t.Fatalf("%s: got %d of %d entries, want at most %d missing", what, len(got), len(entries), lost)
	}
	for _, e := range entries {
		if len(got) > 0 && reflect.DeepEqual(got[0], e) {
			got = got[1:]
		}
	}
	if len(got) > 0 {
		t.Fatalf("%s: got an entry that was not written: %+v", what, got[0])
	}
}

// TestJournalByteChanged puts every other value in the place of every byte: each is noticed, and costs no more than the
// line that it is in, or two where they become one.
func TestJournalByteChanged(t *testing.T) {
	entries := testEntries()
	text := formatJournal(testScope, entries)
	for i, was := range text {
		for change := 1; change < 256; change++ {
			if testing.Short() && change&(change-1) != 0 {
				continue // one bit at a time
			}
			text[i] = was ^ byte(change)
			what := fmt.Sprintf("byte %d from %q to %q", i, was, text[i])
			at, got, err := parseJournal(text)
			if err == nil || errors.Is(err, errNewer) {
				t.Fatalf("%s: got error %v, want damage", what, err)
			}
			if at != testScope && at != unknownScope {
				t.Fatalf("%s: got %v", what, at)
			}
			lost := 1
			if was == '\n' {
				lost = 2
			}
			wantPart(t, what, got, entries, lost)
		}
		text[i] = was
	}
}

func TestJournalCut(t *testing.T) {
	entries := testEntries()
	text := formatJournal(testScope, entries)
	for size := range text {
		at, got, err := parseJournal(text[:size])
		if err == nil || errors.Is(err, errNewer) {
			t.Fatalf("%d bytes of %d: got error %v, want damage", size, len(text), err)
		}
		lines := bytes.Count(text[:size], []byte("\n"))
		want := entries[:max(lines-1, 0)]
		if len(got) != len(want) || lines > 0 && at != testScope {
			t.Fatalf("%d bytes: got %v and %d entries, want %d", size, at, len(got), len(want))
		}
		wantPart(t, fmt.Sprint(size, " bytes"), got, want, 0)
	}
}

// TestJournalLines loses, doubles and swaps whole lines, whose checksums are right.
func TestJournalLines(t *testing.T) {
	entries := testEntries()
	lines := strings.SplitAfter(string(formatJournal(testScope, entries)), "\n")
	lines = lines[:len(lines)-1]
	try := func(what string, lost int, parts ...[]string) {
		t.Helper()
		var text strings.Builder
		for _, p := range parts {
			text.WriteString(strings.Join(p, ""))
		}
		_, got, err := parseJournal([]byte(text.String()))
		if err == nil || errors.Is(err, errNewer) {
			t.Fatalf("%s: got error %v, want damage", what, err)
		}
		if len(got) < len(entries)-lost {
			t.Errorf("%s: got %d entries of %d", what, len(got), len(entries))
		}
	}
	for i := range lines {
		try(fmt.Sprint("without line ", i+1), 1, lines[:i], lines[i+1:])
		try(fmt.Sprint("line twice ", i+1), 0, lines[:i+1], lines[i:])
		try(fmt.Sprint("nothing before line ", i+1), 0, lines[:i], []string{"\n"}, lines[i:])
		if i > 0 {
			try(fmt.Sprint("swapped with the one before ", i+1), 1, lines[:i-1], lines[i:i+1], lines[i-1:i], lines[i+1:])
			try(fmt.Sprint("in the place of the one before ", i+1), 1, lines[:i-1], lines[i:i+1], lines[i:])
		}
	}
	// The end of another journal with as many entries.
	other := formatJournal(testScope, []Entry{entries[0], entries[0], entries[0]})
	try("another end", 0, lines[:4], []string{string(other[bytes.LastIndex(other, []byte("end ")):])})
}

// TestJournalNonsense has right checksums and wrong values.
func TestJournalNonsense(t *testing.T) {
	good := Entry{Door: "a", Source: netip.MustParseAddr("192.0.2.7"), Ports: []Knock{{22, tcp}}}
	const was = "\"a\"\t192.0.2.7\t\"\"\tstarting\t0\t0\t\"\"\t\"\"\t22:tcp\t0\t0\t0\t"
	for _, tt := range []struct{ name, from, to string }{
		{"port 0", "22:tcp", "0:tcp"},
		{"port too great", "22:tcp", "65536:tcp"},
		{"protocol", "22:tcp", "22:icmp"},
		{"ports", "22:tcp", "22:tcp,23:tcp"},
		{"negative tries", "tcp\t0", "tcp\t-1"},
		{"tries", "tcp\t0", "tcp\tx"},
		{"pid too great", "0\t0\t0\t", "0\t2147483648\t0\t"},
		{"began", "0\t0\t0\t", "0\t0\t18446744073709551616\t"},
		{"negative time", "starting\t0", "starting\t-5"},
		{"time too great", "starting\t0", "starting\t9223372036854775808"},
		{"no address", "192.0.2.7", ""},
		{"address", "192.0.2.7", "192.0.2.256"},
		{"address with a zone", "192.0.2.7", "fe80::1%eth0"},
		{"prefix", "192.0.2.7", "192.0.2.0/24"},
		{"state", "starting", "started"},
		{"no state", "starting", ""},
		{"door without quotes", `"a"`, "a"},
		{"broken quotes", `"a"`, `"a`},
		{"a field more", "22:tcp", "22:tcp\t"},
		{"a field less", "\t0\t0\t0\t", "\t0\t0\t"},
	} {
		entries := []Entry{good, good, good}
		text := strings.Replace(string(formatJournal(testScope, entries)), was, strings.Replace(was, tt.from, tt.to, 1), 1)
		at, got, err := parseJournal(seal(text))
		want := "line 2: what it says makes no sense"
		if err == nil || err.Error() != want || at != testScope || !reflect.DeepEqual(got, entries[1:]) {
			t.Errorf("%s: got %v, %d entries, %v, want 2 and %s", tt.name, at, len(got), err, want)
		}
	}
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "line 1: the end is missing"},
		{"something else", "[options]\n", "line 1: it is not the first line of a journal (the first of 2 damaged lines)"},
		{"zeroes", strings.Repeat("\x00", 4096), "line 1: it is not the first line of a journal (the first of 2 damaged lines)"},
		{"version 0", string(seal("sesame journal 0 a 1\t\nend 0\t\n")), "line 1: it is not the first line of a journal"},
		{"too few", string(seal("sesame journal 1 a 1\t\nend 1\t\n")), "line 2: the end is not that of the 0 entries before it"},
	} {
		if _, got, err := parseJournal([]byte(tt.text)); err == nil || err.Error() != tt.want || got != nil {
			t.Errorf("%s: got %v, %v, want %s", tt.name, got, err, tt.want)
		}
	}
}

func FuzzParseJournal(f *testing.F) {
	f.Add([]byte(testJournal), true)
	f.Add(seal(testJournal), false)
	f.Add([]byte("sesame journal 2 x\n"), false)
	f.Add([]byte("sesame journal 1 a 1\t\n\"\"\t::\t``\topen\t0\t0\t'x'\t\"\"\t1:udp 2\t0\t0\t0\t\nend 1\t\nend 1\t\n"), true)
	f.Fuzz(func(t *testing.T, text []byte, right bool) {
		if right {
			text = seal(string(text))
		}
		at, entries, err := parseJournal(text)
		if errors.Is(err, errNewer) && (at != unknownScope || entries != nil) {
			t.Fatalf("%v, yet %v and %d entries", err, at, len(entries))
		}
		again := formatJournal(at, entries)
		at2, entries2, err2 := parseJournal(again)
		if err2 != nil || at2 != at || !reflect.DeepEqual(entries2, entries) {
			t.Fatalf("written again: got %v, %+v, %v\nwant %v, %+v", at2, entries2, err2, at, entries)
		}
		if err == nil && bytes.Count(text, []byte("\n")) != len(entries)+2 {
			t.Fatalf("%d entries in %q", len(entries), text)
		}
	})
}

// TestJournalWriter has a disk that is full for a while.
func TestJournalWriter(t *testing.T) {
	full := errors.New("no space left on device")
	var w journalWriter
	if w.touch(); w.due(0, true) || w.next() != never {
		t.Error("without a journal there is something to write")
	}
	var written []Entry
	answer := full
	w.configure(func(entries []Entry) error {
		written = entries
		return answer
	})
	w.touch()
	if !w.due(0, false) || w.write(0, nil) != full || w.next() != retryAfter || w.due(retryAfter-1, false) || !w.due(retryAfter-1, true) {
		t.Errorf("a full disk: next at %v, want another try at %v, or for a new opening", w.next(), retryAfter)
	}
	answer = nil
	if err := w.write(retryAfter, []Entry{{Door: "open"}}); err != nil || w.next() != never || w.due(time.Hour, true) {
		t.Errorf("got %v, and it is to be written at %v", err, w.next())
	}
	if len(written) != 1 || written[0].Door != "open" {
		t.Errorf("got %v, want what is open", written)
	}
}

// TestJournalBehind has ports of hosts behind this one in the journal: the target is a part of what is open.
func TestJournalBehind(t *testing.T) {
	entry := Entry{Door: "nas", Source: netip.MustParseAddr("2001:db8::7"), State: Open, Until: 9, Ports: []Knock{{22, tcp}}, Behind: []Behind{
		{Knock: Knock{8053, udp}, To: netip.MustParseAddrPort("[fd77::10]:5353"), Masquerade: true},
		{Knock: Knock{443, tcp}, At: netip.MustParsePrefix("2001:db8:1::/48")},
	}}
	text := formatJournal(testScope, []Entry{entry})
	if want := "\t22:tcp 8053:udp;->;[fd77::10]:5353;masquerade [2001:db8:1::/48]:443:tcp\t"; !strings.Contains(string(text), want) {
		t.Errorf("got %s, want %q in it", text, want)
	}
	if _, entries, err := parseJournal(text); err != nil || !reflect.DeepEqual(entries, []Entry{entry}) {
		t.Errorf("read again: got %+v, %v, want %+v", entries, err, entry)
	}
}
