package main

import (
	"os"

	"golang.org/x/sys/windows"
)

const (
	openNonblock = 0
	errLocked    = windows.ERROR_LOCK_VIOLATION
)

// lockOffset is the byte that is locked: far behind the text, as others cannot read what is locked here.
const lockOffset = 1 << 30

// lockFile locks f until unlockFile. It returns errLocked if another program has done so.
func lockFile(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
		&windows.Overlapped{Offset: lockOffset})
}

func unlockFile(f *os.File) {
	_ = windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, &windows.Overlapped{Offset: lockOffset})
}

// replaceFile writes the next text over the one that f has, unless that is another one than was by now: what is open
// cannot be replaced in one step here.
func replaceFile(f *os.File, was, next []byte) (replaced bool, err error) {
	if err := unchanged(f, was); err != nil {
		return false, err
	}
	if _, err := f.WriteAt(next, 0); err != nil {
		return false, err
	}
	return true, f.Sync()
}
