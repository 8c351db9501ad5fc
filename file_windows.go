package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// errLocked is lockFile's error while somebody else has the lock.
const errLocked = windows.ERROR_LOCK_VIOLATION

// lockedByte is far behind the end of any file, as nobody else could read what is locked (LockFileEx).
var lockedByte = windows.Overlapped{OffsetHigh: 1 << 30}

// lockFile locks an open file, and does not wait.
func lockFile(f *os.File) error {
	at := lockedByte
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
}

func unlockFile(f *os.File) {
	at := lockedByte
	_ = windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, &at)
}

// openFile opens a file that others can rename and replace meanwhile: so an os.Root opens it, and os.OpenFile does not.
func openFile(path string, flag int) (*os.File, error) {
	path, err := filepath.EvalSymlinks(path) // a root's file must not lead out of it
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(filepath.Base(path), flag, 0)
}

// createTemp makes a file that renameFile can take.
func createTemp(dir, pattern string) (*os.File, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	_ = f.Close()
	shared, err := openFile(f.Name(), os.O_RDWR)
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return shared, err
}

// copyOwner lets the same people at a file as at another. Both are in the same folder, and ours.
func copyOwner(from, to *os.File) error {
	sd, err := windows.GetNamedSecurityInfo(from.Name(), windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return os.NewSyscallError("GetNamedSecurityInfo", err)
	}
	control, _, err := sd.Control()
	if err != nil {
		return os.NewSyscallError("GetSecurityDescriptorControl", err)
	}
	what := windows.SECURITY_INFORMATION(windows.DACL_SECURITY_INFORMATION | windows.UNPROTECTED_DACL_SECURITY_INFORMATION)
	if control&windows.SE_DACL_PROTECTED != 0 { // the folder's does not count for it
		what = windows.DACL_SECURITY_INFORMATION | windows.PROTECTED_DACL_SECURITY_INFORMATION
	}
	acl, _, err := sd.DACL()
	if err != nil {
		return os.NewSyscallError("GetSecurityDescriptorDacl", err)
	}
	return os.NewSyscallError("SetNamedSecurityInfo",
		windows.SetNamedSecurityInfo(to.Name(), windows.SE_FILE_OBJECT, what, nil, nil, acl, nil))
}

// renameFile puts an open file in the place of path, in one step, also while that one is open: which an os.Root does since
// Windows 10 and on NTFS. It is on the disk then.
func renameFile(f *os.File, path string) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Rename(filepath.Base(f.Name()), filepath.Base(path)); err != nil {
		return fmt.Errorf("replacing %s: %w: begin its lines with a blank, and it need not be replaced", path, err)
	}
	return f.Sync()
}

// syncDir is renameFile's work here: a folder cannot be flushed.
func syncDir(string) error { return nil }
