//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// lateOutput is how long after a command's end its output is waited for, where a process that it left behind
	// holds the pipe open.
	lateOutput = 100 * time.Millisecond
	// leftoverPause is how long after a signal it is looked whether the process has ended.
	leftoverPause = 10 * time.Millisecond
)

// Command is a shell line to run for a source.
type Command struct {
	Line string
	Env  []string
	// Gated has the shell wait until the process is released. If the daemon dies before that, the line is never run.
	Gated bool
}

// gate waits for a line on descriptor 3, and then becomes the shell that runs the line given as $0.
const gate = `read -r go <&3 && exec /bin/sh -c "$0" sh 3<&-`

// doorCommand puts the source's address in place of %IP%. A netip.Addr without zone prints as digits, letters, dots and
// colons only: nothing else that comes from the network reaches a shell.
func doorCommand(line string, g Grant) Command {
	ip := g.Source.WithZone("").String()
	family := "4"
	if g.Source.Is6() {
		family = "6"
	}
	c := Command{
		Line: strings.ReplaceAll(line, "%IP%", ip),
		Env:  []string{"KNOCK_IP=" + ip, "KNOCK_DOOR=" + g.Door.Name, "KNOCK_FAMILY=" + family, "KNOCK_INTERFACE=" + g.Link},
	}
	if g.User != "" {
		c.Env = append(c.Env, "KNOCK_USER="+g.User)
	}
	return c
}

// Outcome is how a command ended.
type Outcome struct {
	Err    error          // it could not be started
	Status int            // exit status, if it was not ended by Signal
	Signal syscall.Signal // 0: none
	Took   time.Duration
	Output string // its first maxOutput bytes
	More   int    // bytes of output beyond that
}

// failure is how it failed, "" if it did not.
func (o Outcome) failure() string {
	switch {
	case o.Err != nil:
		return "not run"
	case o.Signal != 0:
		return fmt.Sprintf("signal %d", o.Signal)
	case o.Status != 0:
		return fmt.Sprintf("status %d", o.Status)
	}
	return ""
}

// Process is a running command.
type Process struct {
	pid     int
	began   uint64   // in clock ticks since boot; tells it from a later process of the same number (proc(5), stat)
	gate    *os.File // nil: it is not gated
	output  *os.File
	started time.Time
	exited  chan Outcome // has no output yet
}

// release lets a gated command go, abandon ends it before it has done anything.
func (p Process) release() {
	_, _ = p.gate.Write([]byte("\n"))
	_ = p.gate.Close()
}

func (p Process) abandon() { _ = p.gate.Close() }

// processBegan is when a process was started, in clock ticks since boot, and its state (proc(5), stat). 0 if there is
// none.
func processBegan(pid int) (began uint64, state byte) {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// The name of the process, which is the second field, may have anything in it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, 0
	}
	began, _ = strconv.ParseUint(fields[19], 10, 64)
	return began, fields[0][0]
}

// endLeftover ends the process group of a command that an earlier daemon has left behind, if it still runs: first by
// SIGTERM, and after a while by SIGKILL. It reports whether there was one.
func endLeftover(pid int, began uint64) bool {
	runs := func() bool {
		b, state := processBegan(pid)
		return b != 0 && b == began && state != 'Z'
	}
	if pid <= 1 || !runs() {
		return false
	}
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	for tries := 0; runs(); tries++ {
		if tries == int(killAfter/leftoverPause) {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
		if tries > 2*int(killAfter/leftoverPause) {
			break // it hangs in the kernel
		}
		time.Sleep(leftoverPause)
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL) // whoever of them takes no notice of SIGTERM
	return true
}

// end signals the command's process group, so that what the shell has started ends too. Not after reap has reported
// the end: the number may be another's by then.
func (p Process) end(sig syscall.Signal) { _ = syscall.Kill(-p.pid, sig) }

// reap reports whether the shell has ended, and then frees its process. It does not wait, as exec.Cmd.Wait would, in a
// thread for each command: that takes 25 KB for good, and brings the daemon to the process limit, where the Go runtime
// ends the program.
func (p Process) reap() bool {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil)
	if pid == 0 || err == syscall.EINTR {
		return false
	}
	o := Outcome{Took: time.Since(p.started)}
	if status.Signaled() {
		o.Signal = status.Signal()
	} else {
		o.Status = status.ExitStatus()
	}
	_ = p.output.SetReadDeadline(time.Now().Add(lateOutput))
	p.exited <- o
	return true
}

// start runs c with /bin/sh in a process group of its own. When reap has found its end, ended is called from another
// goroutine. It returns an error if it could not be started; ended is not called then.
func (c Command) start(ended func(Outcome)) (_ Process, err error) {
	cmd := exec.Command("/bin/sh")
	cmd.Args = []string{"sh", "-c", c.Line}
	cmd.Env = append(inherited(os.Environ()), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, printed, err := os.Pipe()
	if err != nil {
		return Process{}, fmt.Errorf("making a pipe: %w", err)
	}
	defer printed.Close()
	cmd.Stdout, cmd.Stderr = printed, printed
	p := Process{output: output, started: time.Now(), exited: make(chan Outcome, 1)}
	defer func() {
		if err != nil {
			_, _ = output.Close(), p.gate.Close()
		}
	}()
	if c.Gated {
		var closed *os.File
		if closed, p.gate, err = os.Pipe(); err != nil {
			return Process{}, fmt.Errorf("making a pipe: %w", err)
		}
		defer closed.Close()
		cmd.Args = []string{"sh", "-c", gate, c.Line}
		cmd.ExtraFiles = []*os.File{closed} // from descriptor 3 on
	}
	if err = cmd.Start(); err != nil {
		return Process{}, fmt.Errorf("starting /bin/sh: %w", err)
	}
	p.pid = cmd.Process.Pid
	_ = cmd.Process.Release() // reap waits for it
	if c.Gated {
		p.began, _ = processBegan(p.pid)
	}
	go p.collect(ended)
	return p, nil
}

// collect reads a command's output until that ends or, soon after reap, its deadline passes, and calls ended. It goes
// on reading for a process left behind, which would else get SIGPIPE.
func (p Process) collect(ended func(Outcome)) {
	defer p.output.Close()
	kept, _ := io.ReadAll(io.LimitReader(p.output, maxOutput))
	more, _ := io.Copy(io.Discard, p.output)
	o := <-p.exited
	o.Output, o.More = string(kept), int(more)
	ended(o)
	_ = p.output.SetReadDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, p.output)
}

// killAfter is how long a command has between SIGTERM and SIGKILL.
const killAfter = time.Second
