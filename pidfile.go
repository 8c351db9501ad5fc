package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// defaultPidFile is where -d writes its process number (knockd's).
const defaultPidFile = "/var/run/knockd.pid"

// PidFile holds the daemon's process number in decimal and a newline. As long as the daemon lives it has the file
// locked (flock(2)), so that one that was left behind by a crash is told from one in use.
type PidFile struct {
	path string
	file *os.File
}

// takePidFile locks the file and writes the process number into it. A file that another daemon holds is refused, and so
// is one that holds something else than a number.
func takePidFile(path string) (*PidFile, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
		if err != nil {
			return nil, fmt.Errorf("opening the pid file: %w: -p names another one", err)
		}
		p := &PidFile{path, f}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			defer f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("%s is held by another daemon, process %s: stop that one first, or name another file by -p", path, p.holder())
			}
			return nil, fmt.Errorf("locking the pid file %s: %w", path, err)
		}
		// The one that held it may have taken the file away meanwhile.
		if err := inPlace(path, f); err != nil {
			_ = f.Close()
			continue
		}
		if err := p.write(); err != nil {
			_ = f.Close()
			return nil, err
		}
		return p, nil
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

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

func (p *PidFile) write() error {
	info, err := p.file.Stat()
	if err == nil && info.Size() > 0 && p.holder() == "?" {
		return fmt.Errorf("%s is no pid file, and stays as it is: -p names another one", p.path)
	}
	if err == nil {
		err = p.file.Truncate(0)
	}
	if err == nil {
		_, err = p.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return fmt.Errorf("writing the pid file: %w", err)
	}
	return nil
}

// remove takes the file away, if it still is this one, and then gives up the lock.
func (p *PidFile) remove() {
	if inPlace(p.path, p.file) == nil {
		_ = os.Remove(p.path)
	}
	_ = p.file.Close()
}
