//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	openNonblock = unix.O_NONBLOCK // without it, opening a pipe waits for its other end
	errLocked    = unix.EWOULDBLOCK
)

// lockFile locks f (flock(2)) until unlockFile. It returns errLocked if another program has done so.
func lockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

func unlockFile(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }

// replaceFile puts another file with the next text in f's place, of the same owner and mode, in one step, unless f has
// another text than was by now. With an error too, replaced says whether it did.
func replaceFile(f *os.File, was, next []byte) (replaced bool, err error) {
	// As late as can be: what an editor saves from now on until the rename would be lost.
	return writeFile(f.Name(), next, f, func() error { return unchanged(f, was) })
}

// writeFile puts a file with that text in the place of the one called name, or makes one, in one step, and returns when
// it is on the disk. like says of what owner and mode it is; nil: ours, and 0600. ready, if there is one, is asked before
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
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
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
		if err := copyOwner(f, like); err != nil {
			return false, err
		}
	}
	if _, err := f.Write(text); err != nil {
		return false, err
	}
	if err := f.Sync(); err != nil {
		return false, err
	}
	if ready != nil {
		if err := ready(); err != nil {
			return false, err
		}
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return false, err
	}
	if err := syncDir(dir); err != nil {
		return true, err
	}
	return true, inPlace(name, f)
}

func copyOwner(to, from *os.File) error {
	var owner unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &owner); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := to.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
		return err
	}
	return to.Chmod(os.FileMode(owner.Mode & 0o777))
}

// syncDir makes a rename last (fsync(2), NOTES).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
