package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
)

// A one-time file has one sequence a line. The first line that is neither empty nor a comment (#) is in force. Once it
// has been knocked, a # is written before it, and the next one is in force. The file is what counts, not the memory of
// the daemon: it may be edited at any time, and a line that is not in it any more opens nothing.

// maxOneTimeSize bounds a one-time file, in bytes.
const maxOneTimeSize = 1 << 20

var (
	errReplaced    = errors.New("the file is being replaced again and again")
	errOneTimeSize = fmt.Errorf("a file of one-time sequences is at most %d bytes", maxOneTimeSize)
)

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxOneTimeSize+1))
	if err == nil && len(text) > maxOneTimeSize {
		err = errOneTimeSize
	}
	return text, err
}

// unchanged returns errReplaced unless f still is in place and has that text.
func unchanged(f *os.File, text []byte) error {
	if err := inPlace(f.Name(), f); err != nil {
		return err
	}
	now, err := readAll(io.NewSectionReader(f, 0, math.MaxInt64))
	if err != nil || !bytes.Equal(now, text) {
		return errReplaced
	}
	return nil
}

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

// replaceFile puts another file with the next text in f's place, of the same owner and mode, in one step, unless f has
// another text than was by now. With an error too, replaced says whether it did.
func replaceFile(f *os.File, was, next []byte) (replaced bool, err error) {
	// As late as can be: what an editor saves from now on until the rename would be lost.
	return writeFile(f.Name(), next, f, func() error { return unchanged(f, was) })
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
