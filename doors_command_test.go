//go:build linux && !pure

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

// receive takes what comes from c, and does not wait for ever.
func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(30 * time.Second):
		t.Fatal("waited 30 seconds in vain")
	}
	return v
}

// testFIFO makes a pipe in the file system, through which a command can tell what it does.
func testFIFO(t *testing.T) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// readFIFO waits until somebody has written to it, and closed it.
func readFIFO(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// startReaped starts a command whose end is found without the doors, which do that at SIGCHLD.
func startReaped(c Command, ended func(Outcome)) (Process, error) {
	p, err := c.start(ended)
	if err == nil {
		go func() {
			for !p.reap() {
				time.Sleep(5 * time.Millisecond)
			}
		}()
	}
	return p, err
}

// runCommand runs a command to its end.
func runCommand(t *testing.T, c Command) Outcome {
	t.Helper()
	ended := make(chan Outcome, 1)
	if _, err := startReaped(c, func(o Outcome) { ended <- o }); err != nil {
		t.Fatal(err)
	}
	return receive(t, ended)
}

// processState is the state of a process in /proc (R, S, Z ...), or "" if there is none.
func processState(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // proc_pid_stat(5)
	return fields[0]
}

func TestDoorCommand(t *testing.T) {
	tests := []struct {
		name, line, source, want string
		family                   string
	}{
		{"once", "iptables -s %IP% -j ACCEPT", "192.0.2.7", "iptables -s 192.0.2.7 -j ACCEPT", "4"},
		{"not at all", "true", "192.0.2.7", "true", "4"},
		{"everywhere", "%IP%; '%IP%/32' %IP%%IP%", "192.0.2.7", "192.0.2.7; '192.0.2.7/32' 192.0.2.7192.0.2.7", "4"},
		{"nothing else", "%ip% %DOOR% %% %s %IP", "192.0.2.7", "%ip% %DOOR% %% %s %IP", "4"},
		{"IPv6", "allow %IP%", "2001:db8::7", "allow 2001:db8::7", "6"},
		{"zone", "allow %IP%", "fe80::7%eth0;reboot", "allow fe80::7", "6"},
	}
	for _, test := range tests {
		c := doorCommand(test.line, Grant{Door: &Door{Name: "ssh"}, Source: netip.MustParseAddr(test.source), Link: "eth1"})
		source, _, _ := strings.Cut(test.source, "%")
		env := []string{"KNOCK_IP=" + source, "KNOCK_DOOR=ssh", "KNOCK_FAMILY=" + test.family, "KNOCK_INTERFACE=eth1"}
		if c.Line != test.want || !slices.Equal(c.Env, env) {
			t.Errorf("%s: got %q %q, want %q %q", test.name, c.Line, c.Env, test.want, env)
		}
	}
}

// What a name holds is seen by a command as it is, and by the shell never.
func TestDoorNamesStayInTheEnvironment(t *testing.T) {
	for _, name := range []string{"open SSH", "$(echo no)", "`echo no`; echo no", "'", `"`, "%IP%", "a=b", "-n", "Tür"} {
		c := doorCommand(`printf %s "$KNOCK_DOOR,$KNOCK_IP,$KNOCK_FAMILY,$KNOCK_INTERFACE"`,
			Grant{Door: &Door{Name: name}, Source: netip.MustParseAddr("2001:db8::7"), Link: "br-lan.1"})
		want := name + ",2001:db8::7,6,br-lan.1"
		if got := runCommand(t, c); got.Output != want || got.Status != 0 {
			t.Errorf("got %q, want %q", got.Output, want)
		}
	}
}

func TestCommandOutcome(t *testing.T) {
	tests := []struct {
		name, line string
		want       Outcome
	}{
		{"nothing", "", Outcome{}},
		{"output of both kinds", "echo a; echo b >&2", Outcome{Output: "a\nb\n"}},
		{"status", "echo bad >&2; exit 7", Outcome{Status: 7, Output: "bad\n"}},
		{"no such program", "exec /nonexistent/program 2>/dev/null", Outcome{Status: 127}},
		{"signal", "kill -TERM $$", Outcome{Signal: syscall.SIGTERM}},
		{"the most that is kept", "printf %4096d 0", Outcome{Output: strings.Repeat(" ", maxOutput-1) + "0"}},
		{"one byte more", "printf %4097d 0", Outcome{Output: strings.Repeat(" ", maxOutput), More: 1}},
		{"more than a pipe holds", "i=0; while [ $i -lt 50 ]; do printf %10000d 0; i=$((i+1)); done; exit 3", Outcome{Status: 3, Output: strings.Repeat(" ", maxOutput), More: 500000 - maxOutput}},
		{"no input", "read x || echo none", Outcome{Output: "none\n"}},
		{"a process group of its own", `set -- $(cat /proc/self/stat); [ $5 = $$ ] && echo yes`, Outcome{Output: "yes\n"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := runCommand(t, Command{Line: test.line})
			if got.Took <= 0 {
				t.Errorf("got %v taken, want some time", got.Took)
			}
			if got.Took = 0; got != test.want {
				t.Errorf("got %.200q, want %.200q", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", test.want))
			}
		})
	}
}

func TestCommandPath(t *testing.T) {
	t.Setenv("KNOCK_IP", "of the daemon")
	for _, test := range []struct{ path, want string }{
		{"", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin 192.0.2.7\n"},
		{"/opt/bin", "/opt/bin 192.0.2.7\n"},
	} {
		t.Setenv("PATH", test.path)
		if got := runCommand(t, Command{Line: "echo $PATH $KNOCK_IP", Env: []string{"KNOCK_IP=192.0.2.7"}}); got.Output != test.want {
			t.Errorf("PATH %q: got %q, want %q", test.path, got.Output, test.want)
		}
	}
}

// A process left behind delays the outcome by lateOutput and no more, and lives on: it may still write.
func TestCommandLeavesProcessBehind(t *testing.T) {
	late, told := testFIFO(t), testFIFO(t)
	began := time.Now()
	got := runCommand(t, Command{Line: fmt.Sprintf("echo early; (read x < %s; echo late; echo again; echo alive > %s) & exit 2", late, told)})
	if took := time.Since(began); took > time.Second {
		t.Errorf("got the outcome after %v, want it within a second", took)
	}
	if got.Output != "early\n" || got.Status != 2 {
		t.Errorf("got %+v, want the early output and status 2", got)
	}
	alive := make(chan string, 1)
	go func() { alive <- readFIFO(told) }()
	if err := os.WriteFile(late, []byte("go on\n"), 0); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, alive); got != "alive\n" {
		t.Errorf("got %q, want it alive", got)
	}
}

// end reaches what the shell has started, and nothing is left of the shell.
func TestCommandEnd(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		fifo := testFIFO(t)
		ended, child := make(chan Outcome, 1), make(chan string, 1)
		p, err := startReaped(Command{Line: "sleep 600 & echo $! > " + fifo + "; wait"}, func(o Outcome) { ended <- o })
		if err != nil {
			t.Fatal(err)
		}
		go func() { child <- readFIFO(fifo) }()
		pid, err := strconv.Atoi(strings.TrimSpace(receive(t, child)))
		if err != nil {
			t.Fatal(err)
		}
		p.end(sig)
		if got := receive(t, ended); got.Signal != sig {
			t.Errorf("got %+v, want it ended by %v", got, sig)
		}
		if state := processState(p.pid); state != "" {
			t.Errorf("%v: the shell is still there, in state %s", sig, state)
		}
		// The child was init's to collect, which may take a moment, or not be done at all in a container.
		for deadline := time.Now().Add(10 * time.Second); ; {
			state := processState(pid)
			if state == "" || state == "Z" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v: what the shell has started is still there, in state %s", sig, state)
			}
		}
	}
}

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

func TestCommandThatCannotBeStarted(t *testing.T) {
	_, err := Command{Line: "true", Env: []string{"KNOCK_DOOR=a\x00b"}}.start(func(Outcome) { t.Error("ended was called") })
	if err == nil || !strings.HasPrefix(err.Error(), "starting /bin/sh: ") {
		t.Errorf("got %v, want an error of starting /bin/sh", err)
	}
}

// A real command that ignores SIGTERM is killed, and then its door is closed.
func TestDoorsKill(t *testing.T) {
	d := newDoorsTest(t, "[a] Start_Command = trap '' TERM; echo ready; while :; do sleep 60 >/dev/null 2>&1; done | Stop_Command = close | Cmd_Timeout = 1")
	fake := d.commands.run
	ready := make(chan string, 1)
	d.commands.run = func(c Command, ended func(Outcome)) (Process, error) {
		if c.Line == "close" {
			return fake(c, ended)
		}
		fifo := testFIFO(t)
		c.Line = strings.Replace(c.Line, "echo ready", "echo ready > "+fifo, 1)
		go func() { ready <- readFIFO(fifo) }()
		return startReaped(c, ended)
	}
	d.run("+0s grant a 192.0.2.7 =>")
	receive(t, ready)
	d.run(`
		+61s tick =>
		+62s tick =>`)
	e := receive(t, d.commands.ended)
	if e.outcome.Signal != syscall.SIGKILL {
		t.Errorf("got %+v, want it ended by signal 9", e.outcome)
	}
	d.Doors.end(62*time.Second, e.job, e.outcome)
	d.run("+63s tick => close")
}

// The goroutine as a whole, with real commands.
func TestDoorsServe(t *testing.T) {
	fifo := testFIFO(t)
	config := testDoors(t, fmt.Sprintf("[a] Sequence = 7 | Start_Command = exit 0 | Stop_Command = echo closed %%IP%% > %s | Cmd_Timeout = 1000", fifo))
	doors := newDoors(bootTime, &Log{out: io.Discard}, Command.start)
	grants := make(chan Grant, 1)
	served, closed := make(chan bool, 1), make(chan string, 1)
	go func() { closed <- readFIFO(fifo) }()
	go func() {
		doors.serve(grants)
		served <- true
	}()
	grants <- Grant{Door: config[0], Source: netip.MustParseAddr("192.0.2.7")}
	close(grants)
	if got := receive(t, closed); got != "closed 192.0.2.7\n" {
		t.Errorf("got %q, want the stop command run", got)
	}
	receive(t, served)
}
