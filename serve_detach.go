//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// detachedEnv is set in the environment of the daemon in the background: the descriptor of the pipe by which it says
// that it is ready.
const detachedEnv = "SESAME_READY"

// A Go program cannot fork. So -d starts the program once more, in a session of its own, and waits: the daemon says
// over a pipe that it listens, and lets go of the caller's descriptors. If it ends before that, it has said why on the
// caller's standard error, and its exit status becomes the caller's.

// detach runs the program in the background and returns when it is ready.
func detach() error {
	ready, child, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	defer ready.Close()
	// What else the caller has left open, say the pipe of a shell's $(...), is not the daemon's.
	closeOnExec()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), detachedEnv+"=3")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{child} // from descriptor 3 on
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the daemon in the background: %w", err)
	}
	_ = child.Close()
	if n, _ := ready.Read(make([]byte, 1)); n == 1 {
		return nil
	}
	err = cmd.Wait()
	if status := statusOf(err); status > 0 {
		return toldStatus(status)
	}
	if err != nil {
		return fmt.Errorf("the daemon in the background: %w", err)
	}
	return errors.New("the daemon in the background has ended")
}

// detached is the daemon's end of the pipe, or nil for the caller of -d.
func detached() *os.File {
	fd, err := strconv.Atoi(os.Getenv(detachedEnv))
	if err != nil {
		return nil
	}
	_ = os.Unsetenv(detachedEnv)
	unix.CloseOnExec(fd)
	// Commands such as killall and pgrep find it by this name (proc_pid_comm(5)); it would be "exe".
	// With a file's capabilities, /proc/self/comm is root's.
	_ = os.WriteFile(fmt.Sprintf("/proc/self/task/%d/comm", os.Getpid()), []byte(filepath.Base(os.Args[0])), 0)
	return os.NewFile(uintptr(fd), "pipe to the caller")
}

// letGo closes what the daemon has from the caller of -d, and tells him that it is ready: after that it must not fail. If
// he is not there any more, nobody has asked for a daemon.
func letGo(pipe *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	// So that no file system is kept in use.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	if _, err := pipe.Write([]byte{1}); err != nil {
		return fmt.Errorf("whoever started the daemon has not waited for it: %w", err)
	}
	_ = pipe.Close()
	return nil
}

// closeOnExec keeps what others have left open from the programs that are started. It needs Linux 5.9; before that they
// inherit it, as with knockd.
func closeOnExec() { _ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) }
