//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	thisProgram = "/proc/self/exe"
	staged      = ".sesame-new" // at the end of a name: not in place yet
	// installLimit is how long dpkg and systemctl may take. dpkg waits for nobody who has its lock.
	installLimit = time.Minute
)

// The kinds of items.
const (
	kindDir     = "dir"     // made, as something else had to go there
	kindFile    = "file"    // ours, until somebody changes it
	kindProgram = "program" // ours: this program
	kindExample = "example" // never put over another
	kindLink    = "link"
	kindDivert  = "divert" // a package's file is out of the way (dpkg-divert(1))
)

// item is what install puts in place.
type item struct {
	kind string
	path string // without destdir
	text string // of a file
	mode fs.FileMode
	sum  string // in the manifest: a file's checksum, where a link points, or -
}

func (t item) name() string {
	if t.kind == kindDivert {
		return "the diversion of " + t.path
	}
	return t.path
}

// String says what is done to put the item in place.
func (t item) String() string {
	switch t.kind {
	case kindDir:
		return "make " + t.path
	case kindLink:
		return "link " + t.path + " to " + t.sum
	case kindDivert:
		return "divert the package's " + t.path + " to " + t.sum
	}
	return "put " + t.path
}

// is reports whether the other one is this item, perhaps with another text.
func (t item) is(o item) bool { return t.kind == o.kind && t.path == o.path }

// present is the checksum of what stands in the item's place, or where it points; "" for nothing.
func (t item) present(destdir string) (sum string, err error) {
	path := destdir + t.path
	if t.kind == kindDivert {
		to, err := dpkg("dpkg-divert", "--truename", path)
		if to = strings.TrimSpace(to); to == path {
			to = ""
		}
		return to, err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case info.Mode()&fs.ModeSymlink != 0:
		return os.Readlink(path)
	case !info.Mode().IsRegular():
		return "?", nil
	}
	return sumOfFile(path)
}

// stage writes a file or link beside its place, or makes a folder.
func (t item) stage(destdir string) (err error) {
	path := destdir + t.path
	switch t.kind {
	case kindDir:
		if err = os.Mkdir(path, 0o755); err == nil {
			err = os.Chmod(path, 0o755) // whatever the umask
		}
	case kindLink:
		_ = os.Remove(path + staged)
		err = os.Symlink(t.sum, path+staged)
	case kindDivert:
	default:
		err = t.write(path + staged)
	}
	return err
}

func (t item) write(path string) error {
	_ = os.Remove(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, t.mode)
	if err != nil {
		return err
	}
	if t.kind == kindProgram {
		err = copyFile(f, thisProgram)
	} else {
		_, err = f.WriteString(t.text)
	}
	return cmp.Or(err, f.Chmod(t.mode), f.Sync(), f.Close())
}

// unstage removes what stage has made and what has not come to its place: a folder that is in use stays.
func (t item) unstage(destdir string) {
	if t.kind == kindDir {
		_ = unix.Rmdir(destdir + t.path)
	} else {
		_ = os.Remove(destdir + t.path + staged)
	}
}

// place moves what is staged to its place, where a daemon may run from what was there.
func (t item) place(destdir string) (err error) {
	path := destdir + t.path
	switch t.kind {
	case kindDir:
	case kindDivert:
		_, err = dpkg("dpkg-divert", "--local", "--rename", "--add", path)
	default:
		err = os.Rename(path+staged, path)
	}
	return err
}

// remove takes the item away; a folder that is in use is an error.
func (t item) remove() (err error) {
	switch t.kind {
	case kindDir:
		return unix.Rmdir(t.path)
	case kindDivert:
		_, err = dpkg("dpkg-divert", "--local", "--rename", "--remove", t.path)
		return err
	}
	return os.Remove(t.path)
}

// dpkg runs one of its tools.
func dpkg(argv ...string) (stdout string, err error) {
	stdout, _, err = execute(argv, "", installLimit)
	return stdout, err
}

// sumOfFile is the checksum of a file, of which no more than a part is in memory at once.
func sumOfFile(path string) (sum string, err error) {
	h := fnv.New64a()
	err = copyFile(h, path)
	return fmt.Sprintf("%016x", h.Sum64()), err
}

func copyFile(to io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(struct{ io.Writer }{to}, f) // by write(2), whose errors name the file alone
	return err
}
