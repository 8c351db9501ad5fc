//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseOneTime(t *testing.T) {
	for _, tt := range []struct{ name, text, unused, mistakes string }{
		{"nothing", "", "", ""},
		{"in knockd's manner", " 1,2:udp\n 3:TCP,4\n", "0:1:tcp,2:udp 9:3:tcp,4:tcp", ""},
		{"no leading blank, no newline at the end", "1\n2", "0:1:tcp 2:2:tcp", ""},
		{"used", "#1,2\n 3\n", "5:3:tcp", ""},
		{"comments and empty lines", "# list\n\n   \n\t# more\n\t5 # for Monday\r\n", "20:5:tcp", ""},
		{"mistakes", " 1\n 2,x\n 3\n ,\n", "0:1:tcp 8:3:tcp",
			"once:2: Sequence: a port is a number from 1 to 65535, not \"x\"\n" +
				"once:4: Sequence: an item is empty: a port is a number from 1 to 65535, and commas only go between ports\n" +
				"once:4: Sequence: an item is empty: a port is a number from 1 to 65535, and commas only go between ports"},
		{"byte order mark", "\ufeff 1,2\n3,4\n", "3:1:tcp,2:tcp 8:3:tcp,4:tcp", ""},
		{"byte order mark, used", "\ufeff#1,2\n3,4\n", "8:3:tcp,4:tcp", ""},
		{"too long", strings.Repeat("1,", maxKnocks) + "1\n", "", "once:1: Sequence: a sequence has 1 to 32 knocks, not 33"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			unused, mistakes := parseOneTime("once", []byte(tt.text))
			var got []string
			for _, u := range unused {
				got = append(got, fmt.Sprintf("%d:%s", u.at, (&Door{Sequence: u.sequence}).sequence()))
			}
			if s := strings.Join(got, " "); s != tt.unused {
				t.Errorf("unused: got %q, want %q", s, tt.unused)
			}
			if mistakes.Error() != tt.mistakes {
				t.Errorf("mistakes: got %q, want %q", mistakes, tt.mistakes)
			}
		})
	}
	for name, text := range map[string]string{
		"a file that is none": strings.Repeat("x\n", 1000),
		"many in each line":   strings.Repeat(strings.Repeat(",", maxKnocks-1)+"\n", maxOneTimeSize/maxKnocks),
	} {
		// What is behind the slice takes memory, too.
		if _, mistakes := parseOneTime("once", []byte(text)); len(mistakes) != maxConfigErrors || cap(mistakes) > 4*maxConfigErrors {
			t.Errorf("mistakes of %s: got %d with room for %d, want %d", name, len(mistakes), cap(mistakes), maxConfigErrors)
		}
	}
}

func FuzzParseOneTime(f *testing.F) {
	for _, seed := range []string{" 1,2:udp\n#3\n4", "\n\n", "x", " 1\r\n\t#\n", "\ufeff1\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		unused, _ := parseOneTime("once", text)
		for _, u := range unused {
			if u.at < 0 || u.at >= len(text) || u.at > 0 && text[u.at-1] != '\n' && string(text[:u.at]) != byteOrderMark || len(u.sequence) < 1 || len(u.sequence) > maxKnocks {
				t.Fatalf("line at %d with %d knocks", u.at, len(u.sequence))
			}
			// Marked, it is not there any more, and the others are as they were.
			marked := slices.Insert(slices.Clone(text), u.at, '#')
			if c := text[u.at]; c == ' ' || c == '\t' {
				marked = slices.Clone(text)
				marked[u.at] = '#'
			}
			if left, _ := parseOneTime("once", marked); len(left) != len(unused)-1 {
				t.Fatalf("marking the line at %d leaves %d of %d", u.at, len(left), len(unused))
			}
		}
	})
}

// sequence reads knocks.
func sequence(t testing.TB, text string) []Knock {
	t.Helper()
	return testDoors(t, "[a] Sequence = "+text)[0].Sequence
}

// TestDoorsOneTime has grants of one-time doors: the line is marked before the command, and by one knock once.
func TestDoorsOneTime(t *testing.T) {
	d := newDoorsTest(t, "[a] Start_Command = a | One_Time_Sequences = /once\n[b] Start_Command = b | One_Time_Sequences = /once")
	for _, door := range d.config {
		door.Sequence = []Knock{{7, tcp}}
	}
	var marked []string
	outcome := error(nil)
	told := make(chan struct{}, 1)
	d.oneTime.used = told
	d.oneTime.use = func(file string, s []Knock) error {
		marked = append(marked, fmt.Sprintf("%s %s after %d commands", file, (&Door{Sequence: s}).sequence(), len(d.started)))
		return outcome
	}
	// All hits are of one batch, and have its time.
	const when = 1
	grant := func(door, source string, hit uint64) {
		d.Doors.grant(when, Grant{Door: d.config[door], Source: netip.MustParseAddr(source), When: when, Hit: hit})
		d.tick(when)
		for _, j := range d.commands.running {
			d.end(when, j, Outcome{})
		}
		d.tick(when)
	}
	grant("a", "192.0.2.7", 1)
	grant("b", "192.0.2.7", 1) // the same knock at both
	select {
	case <-told:
	default:
		t.Error("nobody was told that the sequence was used")
	}
	outcome = errUsed
	grant("b", "192.0.2.8", 2) // somebody else at the same moment
	grant("a", "192.0.2.7", 3) // and once more
	select {
	case <-told:
	default:
		t.Error("nobody was told that the sequence in force is not in the file")
	}
	outcome = unix.EROFS
	grant("a", "192.0.2.7", 4)
	select {
	case <-told:
		t.Error("told of a sequence that is still in force")
	default:
	}
	if want := []string{"a", "b"}; !slices.Equal(d.started, want) {
		t.Errorf("commands: got %q, want %q", d.started, want)
	}
	want := []string{"/once 7:tcp after 0 commands", "/once 7:tcp after 2 commands", "/once 7:tcp after 2 commands", "/once 7:tcp after 2 commands"}
	if !slices.Equal(marked, want) {
		t.Errorf("marked: got %q, want %q", marked, want)
	}
	for _, line := range []string{
		"192.0.2.8: b: not opened: its sequence has been used, or taken out of the file: /once\n",
		"192.0.2.7: a: not opened: its sequence cannot be marked as used: read-only file system\n",
	} {
		if !strings.Contains(d.logged.String(), line) {
			t.Errorf("log lacks %q: %s", line, d.logged.String())
		}
	}
}

// TestDoorsOneTimeFiles has doors of two files, one of them named by a link too, which one hit opens in any order.
func TestDoorsOneTimeFiles(t *testing.T) {
	dir := t.TempDir()
	first, second, link := dir+"/first", dir+"/second", dir+"/link"
	for _, file := range []string{first, second} {
		if err := os.WriteFile(file, []byte(" 7,8\n7,8\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("first", link); err != nil {
		t.Fatal(err)
	}
	d := newDoorsTest(t, "[a] Start_Command = a | One_Time_Sequences = "+first+"\n[b] Start_Command = b | One_Time_Sequences = "+second+
		"\n[c] Start_Command = c | One_Time_Sequences = "+link)
	d.oneTime.used, d.oneTime.use = make(chan struct{}, 1), useOneTime
	for hit := range uint64(3) {
		d.started = nil
		for _, name := range []string{"a", "b", "c"} {
			d.config[name].Sequence = sequence(t, "7,8")
			d.Doors.grant(1, Grant{Door: d.config[name], Source: netip.MustParseAddr("192.0.2.7"), Hit: hit + 1})
			d.tick(1)
			for _, j := range d.commands.running {
				d.end(1, j, Outcome{})
			}
			d.tick(1)
		}
		want := [][]string{{"a", "b", "c"}, {"a", "b", "c"}, nil}[hit] // the file has two lines
		if !slices.Equal(d.started, want) {
			t.Errorf("hit %d: commands: got %q, want %q: %s", hit+1, d.started, want, d.logged.String())
		}
	}
}
