//go:build linux && !pure

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

func TestExecute(t *testing.T) {
	tests := []struct {
		name, line, input string
		want              string // what it prints, / between the two
		err               string
	}{
		{"nothing", "", "", "/", ""},
		{"output of both kinds", "echo a; echo b >&2", "", "a\n/b\n", ""},
		{"input", "cat; echo end", "some\nlines\n", "some\nlines\nend\n/", ""},
		{"no input", "cat", "", "/", ""},
		{"input that is not read", "exec true", strings.Repeat("x", 1<<20), "/", ""},
		{"in English", "echo $LC_ALL", "", "C\n/", ""},
		{"status", "echo a; echo 'no such rule' >&2; exit 4", "", "a\n/no such rule\n",
			`sh -c "echo a; echo 'no such rule' >&2; exit 4": exit status 4: no such rule`},
		{"complaint of several lines", "exec >&2; echo a; echo b; echo; exit 1", "", "/a\nb\n\n", `sh -c "exec >&2; echo a; echo b; echo; exit 1": exit status 1: a; b`},
		{"complaint at the wrong place", "echo a; exit 1", "", "a\n/", `sh -c "echo a; exit 1": exit status 1: a`},
		{"no complaint", "exit 1", "", "/", `sh -c "exit 1": exit status 1`},
		{"signal", "kill -TERM $$", "", "/", `sh -c "kill -TERM $$": signal: terminated`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, err := execute([]string{"sh", "-c", test.line}, test.input, 30*time.Second)
			if got := stdout + "/" + stderr; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != test.err {
				t.Errorf("got %s, want %s", got, test.err)
			}
		})
	}
}

// Up to maxPrinted bytes are read whole. What prints more is an error, and ended at once if it goes on.
func TestExecuteBounds(t *testing.T) {
	for _, test := range []struct {
		line string
		ok   bool
	}{
		{fmt.Sprintf("head -c %d /dev/zero", maxPrinted), true},
		{fmt.Sprintf("head -c %d /dev/zero", maxPrinted+1), false},
		{"exec yes", false},
		{"exec yes >&2", false},
	} {
		stdout, _, err := execute([]string{"sh", "-c", test.line}, "", 30*time.Second)
		switch {
		case test.ok && (err != nil || len(stdout) != maxPrinted):
			t.Errorf("%s: got %d bytes, %v", test.line, len(stdout), err)
		case !test.ok && (err == nil || !errors.Is(err, errTooMuch)):
			t.Errorf("%s: got %.200s, want an error of printing too much", test.line, fmt.Sprint(err))
		}
	}
	_, _, err := execute([]string{"sh", "-c", "exec >&2; head -c 10000 /dev/zero | tr '\\0' é; exit 1"}, "", 30*time.Second)
	if err == nil || len(err.Error()) > maxOutput+200 || !utf8.ValidString(err.Error()) {
		t.Errorf("got %.200s, want an error of one line's length", fmt.Sprint(err))
	}
}

// However much a program prints, it can be read line by line; but no line without end.
func TestExecuteLines(t *testing.T) {
	n, last := 0, ""
	p := execution{argv: []string{"sh", "-c", "seq 2000000; printf end; echo odd >&2"}, limit: 60 * time.Second, take: func(line string) { n, last = n+1, line }}
	stdout, stderr, err := p.run()
	if n != 2000001 || last != "end" || stdout != "" || stderr != "odd\n" || err != nil || p.pid <= 0 {
		t.Errorf("got %d lines, the last one %q, stdout %q, stderr %q, process %d, %v", n, last, stdout, stderr, p.pid, err)
	}
	p.argv = []string{"sh", "-c", "exec tr '\\0' x < /dev/zero"}
	if _, _, err := p.run(); !errors.Is(err, errTooMuch) {
		t.Errorf("a line without end: got %v, want %v", err, errTooMuch)
	}
}

// The deadline reaches what the program has started.
func TestExecuteDeadline(t *testing.T) {
	began := time.Now()
	stdout, _, err := execute([]string{"sh", "-c", "sleep 600 & echo $!; wait"}, "", 500*time.Millisecond)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if want := `sh -c "sleep 600 & echo $!; wait": it did not end by itself, and was ended after 500ms`; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(stdout))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		state := processState(pid)
		if state == "" || state == "Z" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("what the program has started is still there, in state %s", state)
		}
	}
}

// A process that has left the group and holds the output open is waited for a moment only.
func TestExecuteHeld(t *testing.T) {
	began := time.Now()
	stdout, _, err := execute([]string{"sh", "-c", "setsid sleep 600 & echo $!"}, "", 30*time.Second)
	if took := time.Since(began); took < heldOutput || took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	if !errors.Is(err, errHeld) {
		t.Errorf("got %v, want %v", err, errHeld)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(stdout))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

// Programs speak English, whatever the daemon's own language.
func TestExecuteEnglish(t *testing.T) {
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	stdout, _, err := execute([]string{"env"}, "", 30*time.Second)
	if err != nil || strings.Count("\n"+stdout, "\nLC_ALL=") != 1 || !strings.Contains("\n"+stdout, "\nLC_ALL=C\n") {
		t.Errorf("got %v and the environment %q, want LC_ALL=C alone", err, stdout)
	}
}

func TestExecuteMissing(t *testing.T) {
	for _, test := range []struct{ name, want string }{
		{"nosuchprogram", "running nosuchprogram: executable file not found in $PATH"},
		{"/nosuch/program", "running /nosuch/program: stat /nosuch/program: no such file or directory"},
		{"/etc/passwd", "running /etc/passwd: permission denied"},
	} {
		_, _, err := execute([]string{test.name, "-S"}, "", time.Second)
		if err == nil || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

// Root's programs are found with the PATH of a user.
func TestFindProgram(t *testing.T) {
	usual, err := findProgram("iptables", append(searchPath(), rootPath...))
	if err != nil {
		t.Skip("needs iptables: apt install iptables")
	}
	for _, path := range []string{"", t.TempDir()} {
		t.Setenv("PATH", path)
		got, err := findProgram("iptables", append(searchPath(), rootPath...))
		if err != nil || filepath.Base(got) != filepath.Base(usual) {
			t.Errorf("PATH %q: got %s, %v, want %s", path, got, err, usual)
		}
	}
}
