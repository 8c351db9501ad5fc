//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	maxOutput = 4096 // bytes of a command's output that are kept for the log
	// maxPrinted is how many bytes of a program's output are read. More is an error: half of a list would be misread.
	maxPrinted = 4 << 20
	// heldOutput is how long after a program's end its output is waited for, where a process that has left its group
	// holds the pipe open.
	heldOutput = time.Second
)

// notInherited are the beginnings of variables that are not for commands: ours, and what a service manager tells the
// daemon alone (systemd.exec(5), sd_listen_fds(3), sd_notify(3)).
var notInherited = []string{
	"KNOCK_", "LISTEN_", "WATCHDOG_", "JOURNAL_STREAM=", "CREDENTIALS_DIRECTORY=", "NOTIFY_SOCKET=",
}

// inherited is the environment that commands get from the daemon. Its PATH begins with rootPath: that of the user who
// has started the daemon may lack root's programs, or have others of the same name.
func inherited(environ []string) (env []string) {
	path := "/usr/local/bin:/usr/bin:/bin"
	for _, v := range environ {
		switch value, isPath := strings.CutPrefix(v, "PATH="); {
		case isPath && value == "", slices.ContainsFunc(notInherited, func(begin string) bool { return strings.HasPrefix(v, begin) }):
		case isPath:
			path = value
		default:
			env = append(env, v)
		}
	}
	return append(env, "PATH="+strings.Join(rootPath, ":")+":"+path)
}

// Why the output of a program, which may be there and work, is not known.
var (
	errTooMuch = fmt.Errorf("it prints more than %d bytes", maxPrinted)
	errTooLong = errors.New("it did not end by itself, and was ended")
	errHeld    = errors.New("it has ended, and a process that it left behind holds its output open")
)

// exhausted is whether a program could not be started for want of descriptors, processes or memory: nothing is known of
// it then.
func exhausted(err error) bool {
	return slices.ContainsFunc([]error{syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.ENOMEM}, func(lack error) bool {
		return errors.Is(err, lack)
	})
}

// statusOf is the exit status that an error of execute's tells of, -1 if it tells of none.
func statusOf(err error) int {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return -1
}

// printed is what a program prints, up to maxPrinted bytes. After that its pipe is closed.
type printed struct {
	bytes.Buffer
	take    func(line string) // gets it line by line as it comes, however much it is; nil: it is kept
	tooMuch bool
}

// ReadFrom is what io.Copy makes use of, which would else take 32 KB for each pipe.
func (p *printed) ReadFrom(pipe io.Reader) (n int64, err error) {
	if p.take == nil {
		n, err = p.Buffer.ReadFrom(io.LimitReader(pipe, maxPrinted+1))
		if p.tooMuch = n > maxPrinted; p.tooMuch {
			err = errTooMuch
		}
		return n, err
	}
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, maxPrinted)
	for lines.Scan() {
		p.take(lines.Text())
	}
	p.tooMuch = errors.Is(lines.Err(), bufio.ErrTooLong)
	return 0, lines.Err()
}

// execution is a program to be run to its end, without a shell and in English.
type execution struct {
	argv  []string
	input string
	limit time.Duration     // then it is ended, and whatever it has started
	take  func(line string) // gets its standard output; nil: run returns that
	pid   int               // that it had
}

// execute runs a program and returns what it has printed.
func execute(argv []string, input string, limit time.Duration) (stdout, stderr string, err error) {
	p := execution{argv: argv, input: input, limit: limit}
	return p.run()
}

// run runs the program and returns what it has printed. An error is for an exit status other than 0 as well, and says
// what the program said.
func (p *execution) run() (stdout, stderr string, err error) {
	argv := p.argv
	path, err := findProgram(argv[0], append(searchPath(), rootPath...))
	if err != nil {
		return "", "", fmt.Errorf("running %s: %w", argv[0], err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.limit)
	defer cancel()
	out, complaint := printed{take: p.take}, printed{}
	late := false
	cmd := exec.CommandContext(ctx, path)
	cmd.Args = argv
	cmd.Env = append(inherited(os.Environ()), "LC_ALL=C")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(p.input), &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		late = true
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	cmd.WaitDelay = heldOutput
	if err = cmd.Start(); err == nil {
		p.pid = cmd.Process.Pid
		err = cmd.Wait()
	}
	switch {
	case out.tooMuch || complaint.tooMuch:
		err = errTooMuch
	case late:
		err = fmt.Errorf("%w after %v", errTooLong, p.limit)
	case errors.Is(err, exec.ErrWaitDelay):
		err = errHeld
	}
	stdout, stderr = out.String(), complaint.String()
	if err == nil {
		return stdout, stderr, nil
	}
	said := strings.TrimSpace(stderr)
	if said == "" && !out.tooMuch {
		said = strings.TrimSpace(stdout)
	}
	if said = strings.ToValidUTF8(said[:min(len(said), maxOutput)], "?"); said != "" {
		said = ": " + strings.ReplaceAll(said, "\n", "; ") // one line of a log
	}
	return stdout, stderr, fmt.Errorf("%s: %w%s", strings.Join(quoteWords(argv), " "), err, said)
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
// exec.LookPath alone knows no folders but those of PATH, and fails at one of PATH that is relative.
func findProgram(name string, folders []string) (path string, err error) {
	if strings.Contains(name, "/") {
		path, err = exec.LookPath(name)
		return path, errors.Unwrap(err) // which names the program, too
	}
	for _, dir := range folders {
		if path, err = exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(dir) {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}
