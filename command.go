package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	maxOutput = 4096 // bytes of a command's output that are kept for the log
	// lateOutput is how long after a command's end its output is waited for, where a process that it left behind
	// holds the pipe open.
	lateOutput = 100 * time.Millisecond
)

// Command is a shell line to run for a source.
type Command struct {
	Line string
	Env  []string
}

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

// Process is a running command.
type Process struct {
	pid    int
	exited chan syscall.WaitStatus
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
	began := time.Now()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", c.Line}, &syscall.ProcAttr{
		Env:   append(inherited(os.Environ()), c.Env...),
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		_ = r.Close()
		return Process{}, fmt.Errorf("starting /bin/sh: %w", err)
	}
	p := Process{pid, make(chan syscall.WaitStatus, 1)}
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

// inherited is the environment that commands get from the daemon: one with a PATH, and without what we set ourselves.
func inherited(environ []string) (env []string) {
	path := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range environ {
		switch {
		case strings.HasPrefix(v, "KNOCK_"):
		case strings.HasPrefix(v, "PATH=") && v != "PATH=":
			path = v
		default:
			env = append(env, v)
		}
	}
	return append(env, path)
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
				_, _ = io.Copy(io.Discard, r)
			}
			return
		}
	}
}

// Grant is the matcher's word that a door may be opened for a source.
type Grant struct {
	Door   *Door
	Source netip.Addr
	Link   string        // the interface that the last knock came in on
	When   time.Duration // monotonic, of the last knock
	Hit    uint64        // the number of the last knock among all hits
}
