//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// defaultPidFile is where -d writes its process number (knockd's).
const defaultPidFile = "/var/run/knockd.pid"

// endTime is how long a daemon that has been told to end may take: for its commands, and its log.
const endTime = stopDeadline + lastWords + time.Second

// pidPause is the pause between two looks at the pid file of a daemon that is ending.
const pidPause = 20 * time.Millisecond

// PidFile holds the daemon's process number in decimal and a newline. As long as the daemon lives it has the file
// locked (flock(2)), so that one that was left behind by a crash is told from one in use. The file of a daemon that is
// ending is locked and empty.
type PidFile struct {
	path string
	file *os.File
}

// heldError is that another daemon has the file.
type heldError struct{ path, holder string }

func (e *heldError) Error() string {
	if e.holder == "" {
		return fmt.Sprintf("%s is held by a daemon that was about to end, and has not", e.path)
	}
	return fmt.Sprintf("%s is held by another daemon, process %s", e.path, e.holder)
}

// takePidFile locks the file and writes the process number into it. A file that another daemon holds is refused, unless
// that one is ending: it is waited for. A file that holds something else than a number is refused, too.
func takePidFile(path string, patience time.Duration) (*PidFile, error) {
	p, err := lockPidFile(path, patience)
	if err == nil {
		if err = p.write(); err != nil {
			_ = p.file.Close()
		}
	}
	_, isHeld := errors.AsType[*heldError](err)
	switch {
	case isHeld:
		return nil, fmt.Errorf("%w: stop that one first, or name another file by -p", err)
	case err != nil:
		return nil, fmt.Errorf("%w: -p names another one", err)
	}
	return p, nil
}

// lockPidFile locks the file, and makes it if there is none. Its error is a heldError if another daemon has it, and does
// not let go of it within patience where it is about to end.
func lockPidFile(path string, patience time.Duration) (*PidFile, error) {
	for began := time.Now(); ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
		if err != nil {
			return nil, fmt.Errorf("opening the pid file: %w", err)
		}
		p := &PidFile{path, f}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			// Empty also is the file of one that is about to write its number.
			ending, holder := p.empty(), p.holder()
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
			return p, nil
		}
		_ = f.Close()
	}
}

// holder is the number in the file, or "?" for what is none.
func (p *PidFile) holder() string {
	b := make([]byte, 32)
	n, _ := p.file.ReadAt(b, 0)
	if text := string(bytes.TrimSpace(b[:n])); text != "" && isNumber(text) {
		return text
	}
	return "?"
}

func (p *PidFile) empty() bool {
	info, err := p.file.Stat()
	return err == nil && info.Size() == 0
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

// write puts the process number into the file, unless that holds something else than a number.
func (p *PidFile) write() error {
	if !p.empty() && p.holder() == "?" {
		return fmt.Errorf("%s is no pid file, and stays as it is", p.path)
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
func (p *PidFile) retire() { _ = p.file.Truncate(0) }

// remove takes the file away, if it still is this one, and then gives up the lock.
func (p *PidFile) remove() {
	if inPlace(p.path, p.file) == nil {
		_ = os.Remove(p.path)
	}
	_ = p.file.Close()
}
