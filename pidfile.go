//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// defaultPidFile is where -d writes its process number (knockd's).
	defaultPidFile = "/var/run/knockd.pid"
	// stopDeadline is how long the daemon waits for commands when it stops.
	stopDeadline = 10 * time.Second
	// endTime is how long a daemon that has been told to end may take: for its commands, and its log.
	endTime = stopDeadline + lastWords + time.Second
	// pidPause is the pause between two looks at the pid file of a daemon that is ending.
	pidPause = 20 * time.Millisecond
)

// PidFile holds the daemon's process number in decimal and a newline. As long as the daemon lives it has the file
// locked (flock(2)), so that one that was left behind by a crash is told from one in use. The file of a daemon that is
// ending is locked and empty. Nobody else may open it: to read a file is enough to lock it, and keep the daemon out.
type PidFile struct {
	path  string
	file  *os.File
	shown *PidFile // the same for everybody to read, and not locked; nil: there is none
}

// heldError is that another daemon has the file.
type heldError struct{ path, holder string }

func (e *heldError) Error() string {
	if e.holder == "" {
		return fmt.Sprintf("%s is held by a daemon that was about to end, and has not", e.path)
	}
	return fmt.Sprintf("%s is held by another daemon, process %s", e.path, e.holder)
}

// claimPidFile writes the process number into the file, and locks another one beside it. A file that another daemon holds
// is refused, unless that one is ending: it is waited for. A file that holds something else than a number is refused, too.
func claimPidFile(path string, patience time.Duration) (*PidFile, error) {
	p, err := lockPidFile(path+".lock", patience)
	if err == nil {
		if err = p.write(); err != nil {
			_ = p.file.Close()
		} else if err = p.show(path); err != nil {
			p.remove()
		}
	}
	held, isHeld := errors.AsType[*heldError](err)
	switch {
	case isHeld:
		return nil, fmt.Errorf("%w: stop that one first, or name another file by -p", &heldError{path, held.holder})
	case err != nil:
		return nil, fmt.Errorf("%w: -p names another one", err)
	}
	return p, nil
}

// lockPidFile locks the file, and makes it if there is none. Its error is a heldError if another daemon has it, and does
// not let go of it within patience where it is about to end.
func lockPidFile(path string, patience time.Duration) (*PidFile, error) {
	for began := time.Now(); ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening the pid file: %w", err)
		}
		p := &PidFile{path: path, file: f}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			// Empty also is the file of one that is about to write its number; and with that of a dead daemon, another one
			// has just locked it.
			holder := p.holder()
			n, err2 := strconv.Atoi(holder)
			ending := p.empty() || err2 == nil && unix.Kill(n, 0) == unix.ESRCH
			_ = f.Close()
			switch {
			case !errors.Is(err, unix.EWOULDBLOCK):
				return nil, fmt.Errorf("locking the pid file %s: %w", path, err)
			case !ending:
				return nil, &heldError{path, holder}
			case time.Since(began) >= patience:
				return nil, &heldError{path, ""}
			}
			time.Sleep(pidPause)
			continue
		}
		// The one that held it may have taken the file away meanwhile.
		if inPlace(path, f) == nil {
			_ = f.Chmod(0o600) // an earlier version made it for everybody to read
			return p, nil
		}
		_ = f.Close()
	}
}

// show writes the process number into a file for everybody to read, in the place of what an earlier daemon has left.
func (p *PidFile) show(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err == nil {
		defer f.Close()
		left := PidFile{path: path, file: f}
		if holder := left.holder(); writes(holder, f) {
			return &heldError{path, holder}
		}
		if err := left.write(); err != nil {
			return err
		}
		// Not just written to: an earlier version that is ending would take it away.
		err = os.Remove(path)
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	}
	if err != nil {
		return fmt.Errorf("opening the pid file: %w", err)
	}
	p.shown = &PidFile{path: path, file: f}
	return p.shown.write()
}

// writes is whether another process has the file open for writing, as a daemon of an earlier version has, which locked
// this file. Others may have it open for reading, and locked.
func writes(pid string, f *os.File) bool {
	fds, _ := filepath.Glob("/proc/" + pid + "/fd/*")
	return pid != strconv.Itoa(os.Getpid()) && slices.ContainsFunc(fds, func(fd string) bool {
		info, err := os.Lstat(fd)
		return err == nil && info.Mode()&0o200 != 0 && inPlace(fd, f) == nil // proc_pid_fd(5)
	})
}

// holder is the number in the file, or "?" for what is none.
func (p *PidFile) holder() string {
	b := make([]byte, 32)
	n, _ := p.file.ReadAt(b, 0)
	text := string(bytes.TrimSpace(b[:n]))
	if _, err := strconv.ParseUint(text, 10, 31); err != nil {
		return "?"
	}
	return text
}

func (p *PidFile) empty() bool {
	info, err := p.file.Stat()
	return err == nil && info.Size() == 0
}

// write puts the process number into the file, unless that holds something else than a number.
func (p *PidFile) write() error {
	if !p.empty() && p.holder() == "?" {
		return fmt.Errorf("%s is not a pid file and is left as it is", p.path)
	}
	err := p.file.Truncate(0)
	if err == nil {
		_, err = p.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return fmt.Errorf("writing the pid file: %w", err)
	}
	return nil
}

// retire empties the file, as the daemon is about to end: whoever starts the next one need not wait until this one has
// run its commands.
func (p *PidFile) retire() {
	_ = p.file.Truncate(0)
	if p.shown != nil {
		p.shown.retire()
	}
}

// remove takes the file away, if it still is this one, and then gives up the lock.
func (p *PidFile) remove() {
	if p.shown != nil {
		p.shown.remove()
	}
	if inPlace(p.path, p.file) == nil {
		_ = os.Remove(p.path)
	}
	_ = p.file.Close()
}
