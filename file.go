package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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
		if err := copyOwner(like, f); err != nil {
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
	if err := renameFile(f, path); err != nil {
		return false, err
	}
	if err := syncDir(dir); err != nil {
		return true, err
	}
	return true, inPlace(name, f)
}
