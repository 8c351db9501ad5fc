package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// errReplaced is that another file, or another text, is in the place of the one that was opened.
var errReplaced = errors.New("the file is being replaced again and again")

// inPlace returns errReplaced unless path still is the file f.
func inPlace(path string, f *os.File) error {
	was, err := f.Stat()
	if err != nil {
		return err
	}
	if is, err := os.Stat(path); err != nil || !os.SameFile(was, is) {
		return errReplaced
	}
	return nil
}

const (
	// lockTime is how long another program's lock on a file is waited for: a while for one that marks a line, or makes a
	// socket. Anybody who can read a file can lock it, and must not hold up the doors for long.
	lockTime  = time.Second
	lockPause = 5 * time.Millisecond
)

// openLocked opens a file that others may replace, and locks it against other daemons. It is unlocked when it is closed.
func openLocked(path string, open func() (*os.File, error)) (*os.File, error) {
	for began := time.Now(); ; time.Sleep(lockPause) {
		f, err := open()
		if err != nil {
			return nil, err
		}
		if err = lockFile(f); err == nil {
			// The one that had the lock may have put another file in its place.
			err = inPlace(path, f)
		}
		if err == nil {
			return f, nil
		}
		_ = f.Close()
		if err != errLocked && err != errReplaced {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if time.Since(began) > lockTime {
			return nil, fmt.Errorf("locking %s: another program has held it for %v: lsof %[1]s names it", path, lockTime)
		}
	}
}

// notWritten is for writeFile, where a file that was read, or was not there, is to be replaced: errReplaced if somebody
// else has written it meanwhile.
func notWritten(path string, was []byte) func() error {
	return func() error {
		if is, err := os.ReadFile(path); err != nil && !errors.Is(err, os.ErrNotExist) || !bytes.Equal(is, was) {
			return errReplaced
		}
		return nil
	}
}

// writeFile puts a file with that text in the place of the one called name, or makes one, in one step, and returns when
// it is on the disk. It gets the owner and mode of like; nil: ours, and 0600. ready, if there is one, is asked before
// the step, and its error calls it off. With an error too, replaced says whether the new file is in place.
func writeFile(name string, text []byte, like *os.File, ready func() error) (replaced bool, err error) {
	path, err := filepath.EvalSymlinks(name)
	if errors.Is(err, os.ErrNotExist) {
		path, err = name, nil
	}
	if err != nil {
		return false, err
	}
	dir := filepath.Dir(path)
	f, err := createTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return false, err
	}
	defer func() {
		_ = f.Close()
		if !replaced {
			_ = os.Remove(f.Name())
		}
	}()
	if like != nil {
		err = copyOwner(like, f)
	}
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil && ready != nil {
		err = ready()
	}
	if err == nil {
		err = renameFile(f, path)
	}
	if err != nil {
		return false, err
	}
	if err := syncDir(dir); err != nil {
		return true, err
	}
	return true, inPlace(name, f)
}
