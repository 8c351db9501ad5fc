package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var testPlace = place{"2c8a1d5e-7f3b-4b0a-9c53-0c2f6f1e0d11", 4026531840}

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
	got := formatJournal(testPlace, testEntries())
	if want := seal(testJournal); !bytes.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	const want = "sesame journal 1 b 7\t73e6b66105056a90\nend 0\t14182b6888c27b1c\n"
	if got := string(formatJournal(place{"b", 7}, nil)); got != want {
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
				Door: text(), Link: text(), Start: text(), Stop: text(), State: EntryState(random.IntN(3)),
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
		at, got, err := parseJournal(formatJournal(testPlace, want))
		if err != nil || at != testPlace || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, %+v, %v\nwant %v, %+v", at, got, err, testPlace, want)
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
	text := formatJournal(testPlace, entries)
	for i, was := range text {
		for change := 1; change < 256; change++ {
			text[i] = was ^ byte(change)
			what := fmt.Sprintf("byte %d from %q to %q", i, was, text[i])
			at, got, err := parseJournal(text)
			if err == nil || errors.Is(err, errNewer) {
				t.Fatalf("%s: got error %v, want damage", what, err)
			}
			if at != testPlace && at != noPlace {
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
	text := formatJournal(testPlace, entries)
	for size := range text {
		at, got, err := parseJournal(text[:size])
		if err == nil || errors.Is(err, errNewer) {
			t.Fatalf("%d bytes of %d: got error %v, want damage", size, len(text), err)
		}
		lines := bytes.Count(text[:size], []byte("\n"))
		want := entries[:max(lines-1, 0)]
		if len(got) != len(want) || lines > 0 && at != testPlace {
			t.Fatalf("%d bytes: got %v and %d entries, want %d", size, at, len(got), len(want))
		}
		wantPart(t, fmt.Sprint(size, " bytes"), got, want, 0)
	}
}

// TestJournalLines loses, doubles and swaps whole lines, whose checksums are right.
func TestJournalLines(t *testing.T) {
	entries := testEntries()
	lines := strings.SplitAfter(string(formatJournal(testPlace, entries)), "\n")
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
	other := formatJournal(testPlace, []Entry{entries[0], entries[0], entries[0]})
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
		text := strings.Replace(string(formatJournal(testPlace, entries)), was, strings.Replace(was, tt.from, tt.to, 1), 1)
		at, got, err := parseJournal(seal(text))
		want := "line 2: what it says makes no sense"
		if err == nil || err.Error() != want || at != testPlace || !reflect.DeepEqual(got, entries[1:]) {
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
		if errors.Is(err, errNewer) && (at != noPlace || entries != nil) {
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

// testDir is a folder for a journal, and a journal in it. They last as long as the test.
func testDir(t *testing.T) (string, *Journal) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	return dir, mustOpen(t, dir)
}

func mustOpen(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.close)
	return j
}

func mustWrite(t *testing.T, j *Journal, entries []Entry) {
	t.Helper()
	if err := j.write(entries); err != nil {
		t.Fatal(err)
	}
}

// wantFiles fails unless these files are in the folder, besides the lock.
func wantFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	var got []string
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if f.Name() != "lock" {
			got = append(got, f.Name())
		}
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("files: got %q, want %q", got, names)
	}
}

func wantRead(t *testing.T, j *Journal, want Recovered) {
	t.Helper()
	got, err := j.read()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestJournal(t *testing.T) {
	top := filepath.Join(t.TempDir(), "lib")
	dir := filepath.Join(top, "state")
	old := unix.Umask(0o022)
	j := mustOpen(t, dir+"/")
	unix.Umask(old)
	for path, want := range map[string]os.FileMode{top: 0o755, dir: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	if got, _ := os.ReadFile(dir + "/lock"); string(got) != fmt.Sprintf("%d\n", os.Getpid()) {
		t.Errorf("lock: got %q", got)
	}
	wantRead(t, j, Recovered{})
	wantFiles(t, dir)
	mustWrite(t, j, testEntries())
	wantRead(t, j, Recovered{Entries: testEntries()})
	mustWrite(t, j, testEntries()[1:])
	j.close()
	// What a killed one has left behind goes; what is somebody's own stays.
	for _, name := range []string{"journal.123", "journal.damaged.4294967295", "journal.old", "journal.damaged"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j = mustOpen(t, dir)
	wantFiles(t, dir, "journal", "journal.damaged", "journal.old")
	wantRead(t, j, Recovered{Entries: testEntries()[1:]})
	mustWrite(t, j, nil)
	wantRead(t, j, Recovered{})
	if info, err := os.Stat(j.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("journal: got %v, %v, want mode 600", info.Mode(), err)
	}
	wantFiles(t, dir, "journal", "journal.damaged", "journal.old")
}

func TestJournalElsewhere(t *testing.T) {
	dir, j := testDir(t)
	here := j.at
	if len(here.boot) != 36 || here.netns == 0 {
		t.Errorf("this place: got %+v", here)
	}
	for name, at := range map[string]place{"another boot": {"another", here.netns}, "another network namespace": {here.boot, here.netns + 1}, "nowhere": noPlace} {
		j.at = at
		mustWrite(t, j, testEntries())
		j.at = here
		got, err := j.read()
		if want := (Recovered{Entries: testEntries(), Elsewhere: true}); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	needRoot(t)
	n, err := newNetns()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	j.close()
	if err := n.do(func() error {
		j, err := openJournal(dir)
		if err != nil {
			return err
		}
		defer j.close()
		if err := j.write(testEntries()); err != nil {
			return err
		}
		if r, err := j.read(); err != nil || r.Elsewhere {
			t.Errorf("inside: got %+v, %v", r, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wantRead(t, mustOpen(t, dir), Recovered{Entries: testEntries(), Elsewhere: true})
}

func TestJournalDamaged(t *testing.T) {
	dir, j := testDir(t)
	if err := os.WriteFile(j.path+".damaged", []byte("an older one"), 0o644); err != nil {
		t.Fatal(err)
	}
	good := formatJournal(j.at, testEntries())
	bad := bytes.Replace(good, []byte("ssh"), []byte("ssj"), 1)
	noFirst := good[1:]
	for _, tt := range []struct {
		name      string
		text      []byte
		entries   []Entry
		elsewhere bool
		damage    string
	}{
		{"an entry", bad, testEntries()[1:], false, "line 2: its checksum is another one"},
		{"the first line", noFirst, testEntries(), true, "line 1: it is not the first line of a journal"},
		{"no end", good[:bytes.LastIndex(good, []byte("end "))], testEntries(), false, "line 5: the end is missing"},
		{"empty", nil, nil, true, "line 1: the end is missing"},
		{"too long", append(bytes.Repeat([]byte("x"), maxJournalSize), good...), nil, true, "line 1: it is not the first line of a journal (the first of 2 damaged lines)"},
	} {
		if err := os.WriteFile(j.path, tt.text, 0o600); err != nil {
			t.Fatal(err)
		}
		wantRead(t, j, Recovered{tt.entries, tt.elsewhere, j.path + ": " + tt.damage + ": it is kept as " + j.path + ".damaged"})
		if kept, _ := os.ReadFile(j.path + ".damaged"); !bytes.Equal(kept, tt.text[:min(len(tt.text), maxJournalSize)]) {
			t.Errorf("%s: what was kept is not what was there", tt.name)
		}
		// What could be read is on the disk still, should the daemon be killed now.
		wantRead(t, j, Recovered{Entries: tt.entries, Elsewhere: tt.elsewhere})
		wantFiles(t, dir, "journal", "journal.damaged")
		if info, err := os.Stat(j.path + ".damaged"); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: journal.damaged: got %v, %v, want mode 600", tt.name, info.Mode(), err)
		}
	}
}

func TestJournalNewer(t *testing.T) {
	dir, j := testDir(t)
	for _, text := range []string{"sesame journal 2", "sesame journal 2\n{}\n", "sesame journal 10 a 1\t0\nend 0\t0\n", string(seal(strings.Replace(testJournal, "1", "3", 1)))} {
		if err := os.WriteFile(j.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		version := strings.Fields(text)[2]
		_, err := j.read()
		want := j.path + ": written by a newer sesame (journal " + version + "): run that one, for it knows how to close what is open; or, if nothing is, delete the file"
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
		if got, _ := os.ReadFile(j.path); string(got) != text {
			t.Errorf("%q: it has become %q", text, got)
		}
		wantFiles(t, dir, "journal")
	}
}

func TestJournalRefused(t *testing.T) {
	top := t.TempDir()
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(top, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o770); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(top, "foreign")
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Mkdir(foreign, 0o700), os.Chown(foreign, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	const others = " is not for us alone to write to, and commands are kept there: make it so (chown, chmod 700): StateDir names another folder"
	for dir, want := range map[string]string{
		file:            "opening the pid file: open " + file + "/lock: not a directory: StateDir names another folder",
		file + "/below": "mkdir " + file + ": not a directory: StateDir names another folder",
		open:            open + others,
		foreign:         foreign + others,
	} {
		if dir == foreign && os.Geteuid() != 0 {
			continue // nobody else's folder to be had
		}
		if _, err := openJournal(dir); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", dir, err, want)
		}
	}
	dir, j := testDir(t)
	if err := os.Mkdir(j.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := j.read(); err == nil || !strings.HasSuffix(err.Error(), "is a directory: StateDir names another folder") {
		t.Errorf("a folder for a journal: got %v", err)
	}
	if err := j.write(nil); err == nil || !strings.HasSuffix(err.Error(), ": StateDir names another folder") {
		t.Errorf("a folder for a journal: got %v", err)
	}
	wantFiles(t, dir, "journal")
	// What could not be read again is not written.
	if err := j.write([]Entry{{Start: strings.Repeat("x", maxJournalSize)}}); err == nil || !strings.Contains(err.Error(), "must not have more than 16777216") {
		t.Errorf("too much: got %v", err)
	}
}

// TestJournalDiskFull has a folder that is read-only, and then full. What the journal has stays as it is, and can be
// read.
func TestJournalDiskFull(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return err
		}
		for _, step := range []error{
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32k,mode=700"),
		} {
			if step != nil {
				return step
			}
		}
		j, err := openJournal(dir)
		if err != nil {
			return err
		}
		if err := j.write(testEntries()); err != nil {
			return err
		}
		j.close()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return err
		}
		if err := j.write(nil); !errors.Is(err, unix.EROFS) {
			t.Errorf("read-only: got %v, want EROFS", err)
		}
		if _, err := openJournal(dir); !errors.Is(err, unix.EROFS) || !strings.HasSuffix(err.Error(), ": read-only file system: StateDir names another folder") {
			t.Errorf("read-only: got %v, want EROFS and what to do", err)
		}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=32k"); err != nil {
			return err
		}
		filler, err := os.Create(dir + "/filler")
		if err != nil {
			return err
		}
		defer filler.Close()
		for err == nil {
			_, err = filler.Write(make([]byte, 4096))
		}
		if j, err = openJournal(dir); err != nil { // the lock is there still
			return err
		}
		defer j.close()
		if err := j.write(nil); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("full: got %v, want ENOSPC", err)
		}
		wantRead(t, j, Recovered{Entries: testEntries()})
		wantFiles(t, dir, "filler", "journal")
		// A damaged one stays where it is.
		f, err := os.OpenFile(j.path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("S"), 0); err != nil {
			return err
		}
		r, err := j.read()
		if err != nil || len(r.Entries) != 3 || !r.Elsewhere || !strings.HasSuffix(r.Damage, "no space left on device") {
			t.Errorf("full and damaged: got %+v, %v", r, err)
		}
		wantFiles(t, dir, "filler", "journal")
		// The lock of a new folder needs no room either.
		below, err := openJournal(dir + "/below")
		if err != nil {
			return err
		}
		below.close()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

const held = " is held by another daemon, process %d: one daemon watches several interfaces (-i eth0,eth1); for a second one name another StateDir"

func TestJournalHeld(t *testing.T) {
	dir, j := testDir(t)
	want := fmt.Sprintf(dir+held, os.Getpid())
	if _, err := openJournal(dir); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	// A command that is still running does not hold it.
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
	j.close()
	mustOpen(t, dir).close()
	// A lock with something else in it is one all the same, and stays as it is.
	if err := os.WriteFile(dir+"/lock", []byte("mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir)
	if got, _ := os.ReadFile(dir + "/lock"); string(got) != "mine\n" {
		t.Errorf("lock: got %q", got)
	}
	if _, err := openJournal(dir); err == nil || !strings.Contains(err.Error(), " process ?: ") {
		t.Errorf("got %v", err)
	}
}

// TestJournalKilled kills a daemon that writes its journal again and again: what is left is what it wrote last, or was
// about to write, and the lock is free.
func TestJournalKilled(t *testing.T) {
	if dir := os.Getenv("SESAME_TEST_JOURNAL"); dir != "" {
		writeForever(dir)
	}
	dir, j := testDir(t)
	j.close()
	for round := range 20 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestJournalKilled$")
		cmd.Env = append(os.Environ(), "SESAME_TEST_JOURNAL="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 2 + rand.IntN(20) {
			lines.Scan()
		}
		if round == 0 {
			want := fmt.Sprintf(dir+held, cmd.Process.Pid)
			if _, err := openJournal(dir); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		var last string
		for ok := true; ok; ok = lines.Scan() {
			if lines.Text() != "" {
				last = lines.Text()
			}
		}
		_ = cmd.Wait()
		j := mustOpen(t, dir)
		r, err := j.read()
		if err != nil || r.Damage != "" || r.Elsewhere || len(r.Entries) == 0 {
			t.Fatalf("after %q: got %d entries, %q, %v, %v", last, len(r.Entries), r.Damage, r.Elsewhere, err)
		}
		var written int
		_, _ = fmt.Sscan(last, &written)
		if n := r.Entries[0].Tries; n != written && n != written+1 || len(r.Entries) != 1+n%7 {
			t.Errorf("got %d entries of %d, want those of %d or the next one", len(r.Entries), n, written)
		}
		wantFiles(t, dir, "journal")
		j.close()
	}
}

// writeForever writes journals, each of another size, and says which ones are on the disk.
func writeForever(dir string) {
	j, err := openJournal(dir)
	if err != nil {
		panic(err)
	}
	for n := 1; ; n++ {
		e := testEntries()[0]
		e.Tries = n
		entries := []Entry{e}
		for range n % 7 {
			entries = append(entries, e)
		}
		if err := j.write(entries); err != nil {
			panic(err)
		}
		fmt.Println(n)
	}
}
