//go:build linux && !pure

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lines notes each write.
type lines []string

func (l *lines) Write(b []byte) (int, error) {
	*l = append(*l, string(b))
	return len(b), nil
}

// autumn is the date of all test lines.
func autumn() time.Time { return time.Date(2026, 11, 22, 15, 38, 59, 0, time.Local) }

func TestLogWithoutFile(t *testing.T) {
	var out, copied lines
	l := Log{out: &out, copy: &copied, date: autumn}
	l.printf("%s: %s: Stage %d", "10.9.0.2", "openSSH", 1)
	l.printf("shutting down")
	if want := (lines{"10.9.0.2: openSSH: Stage 1\n", "shutting down\n"}); !slices.Equal(out, want) {
		t.Errorf("got writes %q, want %q", out, want)
	}
	if copied != nil {
		t.Errorf("got the copy %q, want none: there is no file", copied)
	}
}

func TestLogFile(t *testing.T) {
	var out, copied lines
	l := Log{out: &out, copy: &copied, date: autumn}
	file := filepath.Join(t.TempDir(), "knockd.log")
	if err := os.WriteFile(file, []byte("earlier\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(path string) {
		t.Helper()
		if err := l.open(path, nil); err != nil {
			t.Fatal(err)
		}
	}
	open(file)
	l.printf("one")
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	l.printf("two") // still goes to the renamed file
	open(file)
	l.printf("three")
	if err := l.open(filepath.Join(file, "none"), nil); err == nil {
		t.Errorf("a file in a file: got no error")
	}
	l.printf("four") // what was open stays in use
	open("")
	l.printf("five")

	for path, want := range map[string]string{
		file + ".1": "earlier\n[2026-11-22 15:38] one\n[2026-11-22 15:38] two\n",
		file:        "[2026-11-22 15:38] three\n[2026-11-22 15:38] four\n",
	} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", filepath.Base(path), got, err, want)
		}
	}
	if want := (lines{"five\n"}); !slices.Equal(out, want) {
		t.Errorf("without a file: got %q, want %q", out, want)
	}
	if want := (lines{"one\n", "two\n", "three\n", "four\n"}); !slices.Equal(copied, want) {
		t.Errorf("copy: got %q, want %q", copied, want)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got&^0o640 != 0 {
		t.Errorf("mode of a new log file: got %v, want no more than 640", got)
	}
}

func TestPrintable(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", "10.9.0.2: вход: Stage 1", "10.9.0.2: вход: Stage 1"},
		{"tab", "a\tb", "a\tb"},
		{"forged line", "a\n[2026-11-22 15:38] 10.9.0.2: b: OPEN SESAME", "a?[2026-11-22 15:38] 10.9.0.2: b: OPEN SESAME"},
		{"overwritten line", "a\r\x08b", "a??b"},
		{"terminal sequence", "\x1b]0;a\x07", "?]0;a?"},
		{"terminal sequence of one byte more", "\u009b2J", "?2J"},
		{"next line", "a\u0085b", "a?b"},
		{"delete and null", "\x7f\x00", "??"},
		{"not UTF-8", "a\x9b2J\xff", "a\ufffd2J\ufffd"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			(&Log{out: &out}).printf("%s", test.in)
			if got := out.String(); got != test.want+"\n" {
				t.Errorf("got %q, want %q", got, test.want+"\n")
			}
		})
	}
}

// TestThrottle runs scripts: "3s b" logs the line b three seconds after the start, and "3s" flushes then. The throttle
// lets 3 lines pass at once and then one every 10 s.
func TestThrottle(t *testing.T) {
	tests := []struct{ name, script, want, next string }{
		{"within the burst", "0s a,0s b,1s c", "a,b,c", ""},
		{"over the burst", "0s a,0s b,0s c,0s d,9.9s e", "a,b,c", "10s"},
		{"after an interval", "0s a,0s b,0s c,10s d,10s e,20s f", "a,b,c,d,1 line left out, as there were too many,f", ""},
		{"at the rate for ever", "0s a,0s b,0s c,10s d,20s e,30s f,40s g", "a,b,c,d,e,f,g", ""},
		{"left out", "0s a,0s b,0s c,1s d,2s e,10s", "a,b,c,2 lines left out, as there were too many", ""},
		{"left out, and no room to say so", "0s a,0s b,0s c,1s d,9.9s", "a,b,c", "10s"},
		{"left out is said once", "0s a,0s b,0s c,1s d,1s e,10s,20s", "a,b,c,2 lines left out, as there were too many", ""},
		{"left out is said before the next line", "0s a,0s b,0s c,1s d,1s e,25s f", "a,b,c,2 lines left out, as there were too many,f", ""},
		{"nothing to say", "0s,10s", "", ""},
		{"full burst after a rest", "0s a,0s b,0s c,30s d,30s e,30s f,30s g", "a,b,c,d,e,f", "40s"},
		{"no more than a burst after a long rest", "0s a,1000h b,1000h c,1000h d,1000h e", "a,b,c,d", "1000h0m10s"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			const start = 1000 * time.Second // the host has been up for a while
			throttle := Throttle{log: &Log{out: &out}, burst: 3, interval: 10 * time.Second}
			for _, step := range strings.Split(test.script, ",") {
				after, line, isLine := strings.Cut(step, " ")
				at, err := time.ParseDuration(after)
				if err != nil {
					t.Fatal(err)
				}
				if isLine {
					throttle.printf(start+at, "%s", line)
				} else {
					throttle.flush(start + at)
				}
			}
			if got := strings.ReplaceAll(strings.TrimSuffix(out.String(), "\n"), "\n", ","); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			next := ""
			if at := throttle.next(); at != never {
				next = (at - start).String()
			}
			if next != test.next {
				t.Errorf("next: got %q, want %q", next, test.next)
			}
		})
	}
}

// TestLogQueue has lines written by the log's own goroutine: in their order, and none is lost at the end.
func TestLogQueue(t *testing.T) {
	var out lines
	l := Log{out: &out, date: autumn}
	l.printf("before")
	l.start()
	for i := range maxQueue / 2 {
		l.printf("%d", i)
	}
	l.finish()
	if len(out) != 1+maxQueue/2 || out[0] != "before\n" {
		t.Fatalf("got %d lines, the first one %q, want %d", len(out), out[0], 1+maxQueue/2)
	}
	for i := range maxQueue / 2 {
		if want := fmt.Sprintf("%d\n", i); out[1+i] != want {
			t.Fatalf("line %d: got %q, want %q", i, out[1+i], want)
		}
	}
}

// TestLogRotated renames the file and opens it anew, again and again, while lines are written: none that comes after
// goes to the old one, nor at the end.
func TestLogRotated(t *testing.T) {
	dir := t.TempDir()
	wrong := 0
	for i := range 100 {
		l := Log{date: autumn}
		file := func(n int) string { return fmt.Sprintf("%s/%d.%d", dir, i, n) }
		for n := range 3 {
			if err := l.open(file(n), nil); err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				l.start()
			}
			l.printf("%d", n)
		}
		l.finish()
		if got, _ := os.ReadFile(file(2)); !strings.HasSuffix(string(got), "] 2\n") {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("lines after the last rotation that went elsewhere: got %d, want 0", wrong)
	}
}

// TestLogRotatedStuck changes the outlets while nobody takes lines: what was lost is told by the next ones.
func TestLogRotatedStuck(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var copied lines
	l := Log{date: autumn, copy: &copied}
	open := func(file string) {
		t.Helper()
		if err := l.open(file, nil); err != nil {
			t.Fatal(err)
		}
	}
	open(pipe)
	const written = 40 // more than a pipe takes
	for range written {
		l.printf("%s", strings.Repeat("x", maxLine))
	}
	lost := l.to.all[0].lost
	if lost == 0 {
		t.Fatal("no line was lost: the test shows nothing")
	}
	open(pipe) // SIGHUP
	l.printf("one more")
	file := pipe + ".file"
	open(file)
	l.printf("at last")
	got, _ := os.ReadFile(file)
	if want := fmt.Sprintf("[2026-11-22 15:38] %d log lines lost, as nobody took them\n[2026-11-22 15:38] at last\n", lost+1); string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(copied) != written+2 {
		t.Errorf("lines of the copy: got %d, want %d", len(copied), written+2)
	}
}

// TestLogPipe has a pipe as the log file: without a reader it is refused, and what was open stays; and with one it gets
// the lines.
func TestLogPipe(t *testing.T) {
	var out lines
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	l := Log{date: autumn, out: &out}
	want := "opening the log file: open " + pipe + ": no such device or address: a pipe needs somebody who reads it first"
	if err := l.open(pipe, nil); err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	l.printf("one")
	reader, err := os.OpenFile(pipe, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := l.open(pipe, nil); err != nil {
		t.Fatal(err)
	}
	l.printf("two")
	got := make([]byte, 100)
	n, err := reader.Read(got)
	if want := "[2026-11-22 15:38] two\n"; string(got[:n]) != want || !slices.Equal(out, lines{"one\n"}) {
		t.Errorf("got %q, %v, and %q elsewhere, want %q", got[:n], err, out, want)
	}
}

// TestLogStuck has a reader that takes nothing: printf does not wait, and what it leaves out is counted.
func TestLogStuck(t *testing.T) {
	var out lines
	stuck := make(chan bool)
	l := Log{date: autumn, out: writerFunc(func(b []byte) (int, error) {
		<-stuck
		return out.Write(b)
	})}
	l.start()
	const more = 10
	for i := range maxQueue + 1 + more { // one line is being written
		l.printf("%d", i)
		for i == 0 && len(l.queue) > 0 {
			runtime.Gosched()
		}
	}
	close(stuck)
	l.finish()
	if len(out) != maxQueue+2 || out[1] != fmt.Sprintf("%d log lines lost, as nobody took them\n", more) {
		t.Errorf("got %d lines, the second one %q", len(out), out[1])
	}
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestLogNames looks up who a line is about that may be named, once in a while, and not what others say of it.
func TestLogNames(t *testing.T) {
	var out lines
	now, asked := time.Duration(0), 0
	names := newNames(func() time.Duration { return now }, func(ctx context.Context, addr string) ([]string, error) {
		asked++
		switch addr {
		case "10.9.0.2":
			return []string{"laptop.lan.", "other.lan."}, nil
		case "10.9.0.3":
			return []string{"a\n[2026-11-22 15:38] 10.9.0.4: b: OPEN SESAME"}, nil
		case "fd00:9::2":
			<-ctx.Done() // a name server that does not answer
		}
		return nil, errors.New("no such host")
	})
	l := Log{out: &out, names: names}
	addr := netip.MustParseAddr
	l.printfNamed("%v: %s: Stage %d", addr("10.9.0.2"), "openSSH", 1)
	l.printfNamed("%v: %s: Stage %d", addr("10.9.0.2"), "openSSH", 2)
	l.printfNamed("openSSH: running command: iptables -s 10.9.0.2")
	l.printf("%v: %s: Stage %d", addr("10.9.0.2"), "openSSH", 1)
	l.printf("%v: %s: Stage %d", addr("10.9.0.5"), "openSSH", 1)
	l.printfNamed("%v: %s: Stage %d", addr("10.9.0.3"), "openSSH", 1)
	l.printfNamed("%v: %s: Stage %d", addr("10.9.0.4"), "openSSH", 1)
	l.printfNamed("%v: %s: Stage %d", addr("10.9.0.4"), "openSSH", 2)
	if asked != 3 {
		t.Errorf("looked up %d times, want 3", asked)
	}
	now = nameMemory
	l.printfNamed("%v: %s: OPEN SESAME", addr("10.9.0.2"), "openSSH")
	if asked != 4 {
		t.Errorf("looked up %d times after a while, want 4", asked)
	}
	for i := range 2 * maxNames {
		names.of(netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)}), true)
	}
	if n := len(names.known); n > maxNames {
		t.Errorf("names remembered: got %d, want at most %d", n, maxNames)
	}
	names.cancel()
	l.printfNamed("%v: %s: OPEN SESAME", addr("fd00:9::2"), "openSSH")
	want := lines{
		"10.9.0.2 (laptop.lan): openSSH: Stage 1\n",
		"10.9.0.2 (laptop.lan): openSSH: Stage 2\n",
		"openSSH: running command: iptables -s 10.9.0.2\n",
		"10.9.0.2: openSSH: Stage 1\n",
		"10.9.0.5: openSSH: Stage 1\n",
		"10.9.0.3 (a?[2026-11-22 15:38] 10.9.0.4: b: OPEN SESAME): openSSH: Stage 1\n",
		"10.9.0.4: openSSH: Stage 1\n",
		"10.9.0.4: openSSH: Stage 2\n",
		"10.9.0.2 (laptop.lan): openSSH: OPEN SESAME\n",
		"fd00:9::2: openSSH: OPEN SESAME\n",
	}
	if !slices.Equal(out, want) {
		t.Errorf("got\n%q\nwant\n%q", out, want)
	}
}

// TestLogNamesAtTheEnd has a name server that is dead, and a resolver that does not notice cancel: the lines that wait
// at the end are written all the same.
func TestLogNamesAtTheEnd(t *testing.T) {
	var out lines
	l := Log{out: &out}
	asked, dead := make(chan struct{}, 1), make(chan struct{})
	defer close(dead)
	l.names = newNames(bootTime, func(context.Context, string) ([]string, error) {
		asked <- struct{}{}
		<-dead
		return nil, errors.New("no answer")
	})
	l.start()
	for stage := range 3 {
		l.printfNamed("%v: %s: Stage %d", netip.MustParseAddr("10.9.0.2"), "openSSH", stage+1)
	}
	l.printf("shutting down")
	<-asked
	l.finish() // in vain, if it waited for the name
	want := lines{"10.9.0.2: openSSH: Stage 1\n", "10.9.0.2: openSSH: Stage 2\n", "10.9.0.2: openSSH: Stage 3\n", "shutting down\n"}
	if !slices.Equal(out, want) {
		t.Errorf("got\n%q\nwant\n%q", out, want)
	}
}

// TestLogNamesOfMany has lines about ever more strangers, whose names take their time: the names are left out, and the
// lines are not late.
func TestLogNamesOfMany(t *testing.T) {
	var out lines
	l := Log{out: &out}
	asked := make(chan string)
	var begun atomic.Int32
	l.names = newNames(bootTime, func(_ context.Context, addr string) ([]string, error) {
		begun.Add(1)
		asked <- addr
		return []string{"name.of." + addr}, nil
	})
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	l.start()
	const strangers = 500
	for i := range strangers {
		l.printfNamed("%v: a: Stage 1", addr(i))
		for i == 0 && begun.Load() == 0 {
			runtime.Gosched()
		}
	}
	want := []string{addr(0).String()}
	for i := strangers - 1 - maxNameWait; i < strangers; i++ {
		want = append(want, addr(i).String())
	}
	for _, who := range want {
		if got := <-asked; got != who {
			t.Fatalf("looked up: got %s, want %s", got, who)
		}
	}
	l.finish()
	if len(out) != strangers {
		t.Fatalf("got %d lines, want %d", len(out), strangers)
	}
	for i, line := range out {
		named := fmt.Sprintf("%v (name.of.%[1]v): a: Stage 1\n", addr(i))
		plain := fmt.Sprintf("%v: a: Stage 1\n", addr(i))
		switch {
		case line == named && slices.Contains(want, addr(i).String()):
		case line == plain && !slices.Contains(want[:len(want)-1], addr(i).String()): // the end may come before the last name
		default:
			t.Errorf("line %d: got %q", i, line)
		}
	}
}
