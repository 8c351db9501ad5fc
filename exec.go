//go:build unix

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxOutput = 4096 // bytes of a command's output that are kept for the log
	// maxPrinted is how many bytes of a program's output are read. More is an error: half of a list would be misread.
	maxPrinted = 4 << 20
	// heldOutput is how long after a program's end its output is waited for, where a process that has left its group
	// holds the pipe open.
	heldOutput = time.Second
)

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

// Why the output of a program, which may be there and work, is not known.
var (
	errTooMuch = fmt.Errorf("it prints more than %d bytes", maxPrinted)
	errTooLong = errors.New("it did not end by itself, and was ended")
	errHeld    = errors.New("it has ended, and a process that it left behind holds its output open")
)

// exitError is how a program has ended that failed.
type exitError syscall.WaitStatus

func (e exitError) Error() string {
	status := syscall.WaitStatus(e)
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// statusOf is the exit status that an error of execute's tells of, -1 if it tells of none.
func statusOf(err error) int {
	if e, ok := errors.AsType[exitError](err); ok {
		return syscall.WaitStatus(e).ExitStatus()
	}
	return -1
}

// awaitExit waits for the end of a process that this one has started. It returns an exitError if that failed.
func awaitExit(pid int) error {
	for {
		var status syscall.WaitStatus
		switch _, err := syscall.Wait4(pid, &status, 0, nil); {
		case err == syscall.EINTR:
		case err != nil:
			return os.NewSyscallError("wait4", err)
		case status != 0:
			return exitError(status)
		default:
			return nil
		}
	}
}

// execute runs a program to its end, without a shell and in English, and returns what it has printed. An error is for an
// exit status other than 0 as well, and says what the program said. After limit the program is ended, and whatever it has
// started.
func execute(argv []string, input string, limit time.Duration) (stdout, stderr string, err error) {
	path, err := findProgram(argv[0], append(searchPath(), rootPath...))
	if err != nil {
		return "", "", fmt.Errorf("running %s: %w", argv[0], err)
	}
	stdout, stderr, err = runToEnd(path, argv, input, limit)
	if err == nil {
		return stdout, stderr, nil
	}
	said := strings.TrimSpace(stderr)
	if said == "" && len(stdout) <= maxPrinted {
		said = strings.TrimSpace(stdout)
	}
	if said = strings.ToValidUTF8(said[:min(len(said), maxOutput)], "?"); said != "" {
		said = ": " + strings.ReplaceAll(said, "\n", "; ") // one line of a log
	}
	return stdout, stderr, fmt.Errorf("%s: %w%s", strings.Join(quoteWords(argv), " "), err, said)
}

// runToEnd does what execute says. os/exec would, and with it the file for a router is 56 KB larger.
func runToEnd(path string, argv []string, input string, limit time.Duration) (stdout, stderr string, err error) {
	var r, w [3]*os.File // pipes, by the program's descriptor
	for fd := range r {
		if r[fd], w[fd], err = os.Pipe(); err != nil {
			return "", "", fmt.Errorf("making a pipe: %w", err)
		}
		defer r[fd].Close()
		defer w[fd].Close()
	}
	english := []string{"LC_ALL=C"}
	for _, v := range inherited(os.Environ()) {
		if !strings.HasPrefix(v, "LC_ALL=") {
			english = append(english, v)
		}
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env:   english,
		Files: []uintptr{r[0].Fd(), w[1].Fd(), w[2].Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return "", "", &os.PathError{Op: "fork/exec", Path: path, Err: err}
	}
	_, _, _ = r[0].Close(), w[1].Close(), w[2].Close()
	go func() {
		_, _ = io.WriteString(w[0], input)
		_ = w[0].Close()
	}()
	out, complaint := make(chan printed, 1), make(chan printed, 1)
	go readPrinted(r[1], out)
	go readPrinted(r[2], complaint)
	var late atomic.Bool
	timer := time.AfterFunc(limit, func() {
		late.Store(true)
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	})
	err = awaitExit(pid)
	timer.Stop()
	_, _ = r[1].SetReadDeadline(time.Now().Add(heldOutput)), r[2].SetReadDeadline(time.Now().Add(heldOutput))
	o, c := <-out, <-complaint
	switch {
	case o.err == errTooMuch || c.err == errTooMuch:
		err = errTooMuch
	case late.Load():
		err = fmt.Errorf("%w after %v", errTooLong, limit)
	case err == nil:
		err = cmp.Or(o.err, c.err)
	}
	return o.text, c.text, err
}

// printed is what a program has printed on a pipe, and why that is not all.
type printed struct {
	text string
	err  error
}

// readPrinted reads the pipe up to its end, to its deadline, or to more than maxPrinted bytes: then the program's next
// write fails.
func readPrinted(pipe *os.File, to chan<- printed) {
	text, err := io.ReadAll(io.LimitReader(pipe, maxPrinted+1))
	_ = pipe.Close()
	switch {
	case len(text) > maxPrinted:
		err = errTooMuch
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errHeld
	}
	to <- printed{string(text), err}
}

// rootPath is where root's programs are: after "su" PATH is often that of a user.
var rootPath = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// findCommand returns the path of a command that is to be run.
func findCommand(name string) (path string, err error) { return findProgram(name, searchPath()) }

// become has a command take the place of this program: its exit status is ours. It returns only if that cannot be.
func become(path string, argv []string) error {
	err := syscall.Exec(path, argv, os.Environ())
	if err == syscall.ENOEXEC { // a script that does not say by what (execvp(3))
		err = syscall.Exec("/bin/sh", append([]string{"sh", path}, argv[1:]...), os.Environ())
	}
	return fmt.Errorf("running %s: %w", argv[0], err)
}

// searchPath is PATH as the system gives it, split.
func searchPath() []string { return filepath.SplitList(os.Getenv("PATH")) }

// findProgram returns the path of a program in the first of the folders that has it. A name with a slash is a path.
func findProgram(name string, folders []string) (path string, err error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	for _, dir := range folders {
		if path = filepath.Join(dir, name); filepath.IsAbs(path) && executable(path) == nil {
			return path, nil
		}
	}
	return "", errors.New("executable file not found in $PATH")
}

// executable says why a file is not a program that we may run.
func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return unix.EISDIR
	}
	return unix.Access(path, unix.X_OK)
}
