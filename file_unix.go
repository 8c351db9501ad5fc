//go:build unix

package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// runsAs is the user that this process runs as.
func runsAs() string {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Sprint("user ", uid)
	}
	return "root"
}

// errLocked is lockFile's error while somebody else has the lock.
const errLocked = unix.EWOULDBLOCK

// lockFile locks an open file (flock(2)), and does not wait.
func lockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

func unlockFile(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }

// openFile opens a file that may be replaced meanwhile.
func openFile(path string, flag int) (*os.File, error) {
	// Without O_NONBLOCK, opening a pipe waits for its other end.
	return os.OpenFile(path, flag|unix.O_NONBLOCK, 0)
}

// createTemp makes a file that renameFile can take.
func createTemp(dir, pattern string) (*os.File, error) { return os.CreateTemp(dir, pattern) }

// copyOwner gives a file the owner and mode of another.
func copyOwner(from, to *os.File) error {
	var owner unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &owner); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := to.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
		return err
	}
	return to.Chmod(os.FileMode(owner.Mode & 0o777))
}

// renameFile puts an open file in the place of path, in one step.
func renameFile(f *os.File, path string) error { return os.Rename(f.Name(), path) }

// syncDir makes a rename last (fsync(2), NOTES).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
