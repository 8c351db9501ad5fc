package main

import (
	"fmt"
	"os"
	"unsafe"

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

// openFile opens a file that may be replaced meanwhile.
func openFile(path string, flag int) (*os.File, error) {
	access := uint32(windows.GENERIC_READ)
	if flag&os.O_RDWR != 0 {
		access |= windows.GENERIC_WRITE
	}
	return openShared(path, access)
}

// openShared opens a file so that others can rename and replace it. os.OpenFile does not.
func openShared(path string, access uint32) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	h, err := windows.CreateFile(name, access, share, nil, windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// createTemp makes a file that renameFile can take.
func createTemp(dir, pattern string) (*os.File, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	_ = f.Close()
	shared, err := openShared(f.Name(), windows.GENERIC_READ|windows.GENERIC_WRITE|windows.DELETE|windows.WRITE_DAC)
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return shared, err
}

// copyOwner lets the same people at a file as at another. Both are in the same folder, and ours.
func copyOwner(from, to *os.File) error {
	sd, err := windows.GetSecurityInfo(windows.Handle(from.Fd()), windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return os.NewSyscallError("GetSecurityInfo", err)
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
	return os.NewSyscallError("SetSecurityInfo",
		windows.SetSecurityInfo(windows.Handle(to.Fd()), windows.SE_FILE_OBJECT, what, nil, nil, acl, nil))
}

// fileRenameInfo is FILE_RENAME_INFO of winbase.h.
type fileRenameInfo struct {
	flags  uint32
	root   windows.Handle
	length uint32 // of the name, in bytes
	name   [windows.MAX_LONG_PATH]uint16
}

// renameFile puts an open file in the place of path, in one step, also while that one is open: which is what
// POSIX semantics are here, since Windows 10 and on NTFS. It is on the disk then.
func renameFile(f *os.File, path string) error {
	name, err := windows.UTF16FromString(path)
	if err != nil {
		return &os.PathError{Op: "rename", Path: path, Err: err}
	}
	to := fileRenameInfo{flags: windows.FILE_RENAME_REPLACE_IF_EXISTS | windows.FILE_RENAME_POSIX_SEMANTICS}
	to.length = 2 * uint32(copy(to.name[:len(to.name)-1], name)-1)
	h := windows.Handle(f.Fd())
	err = windows.SetFileInformationByHandle(h, windows.FileRenameInfoEx, (*byte)(unsafe.Pointer(&to)), uint32(unsafe.Sizeof(to)))
	switch err {
	case nil:
		return f.Sync()
	case windows.ERROR_INVALID_PARAMETER, windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED:
		// The file system does not know that: it replaces no file that is open.
	default:
		return &os.LinkError{Op: "rename", Old: f.Name(), New: path, Err: err}
	}
	from, err := windows.UTF16PtrFromString(f.Name())
	if err != nil {
		return &os.PathError{Op: "rename", Path: f.Name(), Err: err}
	}
	if err := windows.MoveFileEx(from, &name[0], windows.MOVEFILE_REPLACE_EXISTING|windows.MOVEFILE_WRITE_THROUGH); err != nil {
		return fmt.Errorf("replacing %s: %w: begin its lines with a blank, and it need not be replaced", path, err)
	}
	return nil
}

// syncDir is renameFile's work here: a folder cannot be flushed.
func syncDir(string) error { return nil }
