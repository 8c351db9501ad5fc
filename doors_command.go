//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
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
	return Command{
		Line: strings.ReplaceAll(line, "%IP%", ip),
		Env:  []string{"KNOCK_IP=" + ip, "KNOCK_DOOR=" + g.Door.Name, "KNOCK_FAMILY=" + family, "KNOCK_INTERFACE=" + g.Link},
	}
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
	pid    int
	began  uint64   // in clock ticks since boot; tells it from a later process of the same number (proc(5), stat)
	gate   *os.File // nil: it is not gated
	exited chan syscall.WaitStatus
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

// reap reports whether the shell has ended, and then frees its process. It does not wait: a thread that waited for each
// command would bring the daemon to the process limit, where the Go runtime ends the program.
func (p Process) reap() bool {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil)
	if pid == 0 || err == syscall.EINTR {
		return false
	}
	p.exited <- status
	return true
}

// start runs c with /bin/sh in a process group of its own. When reap has found its end, ended is called from another
// goroutine. It returns an error if it could not be started; ended is not called then.
func (c Command) start(ended func(Outcome)) (Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return Process{}, fmt.Errorf("making a pipe: %w", err)
	}
	defer w.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		_ = r.Close()
		return Process{}, err
	}
	defer null.Close()
	p := Process{exited: make(chan syscall.WaitStatus, 1)}
	argv, files := []string{"sh", "-c", c.Line}, []uintptr{null.Fd(), w.Fd(), w.Fd()}
	if c.Gated {
		var closed *os.File
		if closed, p.gate, err = os.Pipe(); err != nil {
			_ = r.Close()
			return Process{}, fmt.Errorf("making a pipe: %w", err)
		}
		defer closed.Close()
		argv, files = []string{"sh", "-c", gate, c.Line}, append(files, closed.Fd())
	}
	began := time.Now()
	p.pid, err = syscall.ForkExec("/bin/sh", argv, &syscall.ProcAttr{
		Env:   append(inherited(os.Environ()), c.Env...),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		_ = r.Close()
		if p.gate != nil {
			_ = p.gate.Close()
		}
		return Process{}, fmt.Errorf("starting /bin/sh: %w", err)
	}
	if c.Gated {
		p.began, _ = processBegan(p.pid)
	}
	output := make(chan Outcome, 1)
	go collect(r, output)
	go func() {
		status := <-p.exited
		took := time.Since(began)
		_ = r.SetReadDeadline(time.Now().Add(lateOutput))
		o := <-output
		o.Took = took
		if status.Signaled() {
			o.Signal = status.Signal()
		} else {
			o.Status = status.ExitStatus()
		}
		ended(o)
	}()
	return p, nil
}

// collect reads a command's output until it ends or the read deadline passes, sends the beginning of it, and goes on
// reading for a process left behind, which would else get SIGPIPE.
func collect(r *os.File, output chan<- Outcome) {
	defer r.Close()
	var o Outcome
	var kept strings.Builder
	buf := make([]byte, maxOutput)
	for {
		n, err := r.Read(buf)
		keep := min(n, maxOutput-kept.Len())
		kept.Write(buf[:keep])
		o.More += n - keep
		if err != nil {
			o.Output = kept.String()
			output <- o
			if errors.Is(err, os.ErrDeadlineExceeded) {
				_ = r.SetReadDeadline(time.Time{})
				for err = nil; err == nil; { // io.Copy does this too, and brings 60 KB for sendfile(2) and splice(2)
					_, err = r.Read(buf)
				}
			}
			return
		}
	}
}

const (
	// killAfter is how long a command has between SIGTERM and SIGKILL.
	killAfter = time.Second
)
