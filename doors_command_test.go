//go:build linux && !pure

package main

import (
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
		{"", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin 192.0.2.7\n"},
		{"/opt/bin", "/usr/local/sbin:/usr/sbin:/sbin:/opt/bin 192.0.2.7\n"},
	} {
		t.Setenv("PATH", test.path)
		if got := runCommand(t, Command{Line: "echo $PATH $KNOCK_IP", Env: []string{"KNOCK_IP=192.0.2.7"}}); got.Output != test.want {
			t.Errorf("PATH %q: got %q, want %q", test.path, got.Output, test.want)
		}
	}
}

// What a service manager tells the daemon is not for its commands.
func TestCommandEnvironment(t *testing.T) {
	for _, name := range []string{
		"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY",
		"NOTIFY_SOCKET",
	} {
		t.Setenv(name, "secret")
	}
	t.Setenv("LISTENING", "public")
	t.Setenv("NOTIFY_SOCKETS", "public")
	if got := runCommand(t, Command{Line: "env | grep -c =secret; env | grep -c =public"}); got.Output != "0\n2\n" {
		t.Errorf("got %q: variables of the service manager, and others", got.Output)
	}
}

// A process left behind delays the outcome by lateOutput and no more, and lives on: it may still write.
func TestCommandLeavesProcessBehind(t *testing.T) {
	late, told := testFIFO(t), testFIFO(t)
	got := runCommand(t, Command{Line: fmt.Sprintf("echo early; (read x < %s; echo late; echo again; echo alive > %s) & exit 2", late, told)})
	// The process left behind still waits for what is written below.
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
