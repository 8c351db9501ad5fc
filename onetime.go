package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A one-time file has one sequence a line. The first line that is neither empty nor a comment (#) is in force. Once it
// has been knocked, a # is written before it, and the next one is in force. The file is what counts, not the memory of
// the daemon: it may be edited at any time, and a line that is not in it any more opens nothing.

// maxOneTimeSize bounds a one-time file, in bytes.
const maxOneTimeSize = 1 << 20

// maxReplaced is how often a file that is replaced while it is marked is marked anew.
const maxReplaced = 10

// oneTimeLine is a sequence that has not been used.
type oneTimeLine struct {
	sequence []Knock
	at       int // offset of the line in the file
}

var (
	errUsed        = errors.New("its sequence has been used, or taken out of the file")
	errReplaced    = errors.New("the file is being replaced again and again")
	errOneTimeSize = fmt.Errorf("a file of one-time sequences is at most %d bytes", maxOneTimeSize)
)

// parseOneTime reads the lines not yet used, and says what is wrong with others. name stands in messages.
func parseOneTime(name string, text []byte) (unused []oneTimeLine, mistakes configErrors) {
	p := parser{config: &Config{File: name}}
	at := 0
	for line := range bytes.Lines(text) {
		p.line++
		if s := strings.TrimSpace(string(line)); s != "" && s[0] != '#' {
			before := len(p.errors)
			sequence := p.parseSequence(s)
			if len(p.errors) == before {
				unused = append(unused, oneTimeLine{sequence, at})
			}
		}
		at += len(line)
	}
	return unused, p.errors[:min(len(p.errors), maxConfigErrors)]
}

// oneTimeFiles reads the one-time files of all doors. Beside the mistakes in them it returns what is wrong with a file
// as a whole, each with the line of the door that names it.
func (c *Config) oneTimeFiles() (unused map[string][]oneTimeLine, mistakes, unreadable configErrors) {
	unused = map[string][]oneTimeLine{}
	for _, d := range c.Doors {
		if _, known := unused[d.OneTime]; known || d.OneTime == "" {
			continue
		}
		unused[d.OneTime] = nil
		text, err := readOneTime(d.OneTime)
		if err != nil {
			unreadable = append(unreadable, configError{text: fmt.Sprintf("%s:%d: door %q: One_Time_Sequences: %v", c.File, d.Line, d.Name, err)})
			continue
		}
		lines, wrong := parseOneTime(d.OneTime, text)
		unused[d.OneTime], mistakes = lines, append(mistakes, wrong...)
	}
	return unused, mistakes, unreadable
}

// inForce returns the doors with their sequences: those of one-time files as copies with the line in force, and apart
// the ones that have no line left.
func inForce(doors []*Door, unused map[string][]oneTimeLine) (on, off []*Door) {
	for _, d := range doors {
		switch lines := unused[d.OneTime]; {
		case d.OneTime == "":
			on = append(on, d)
		case len(lines) == 0:
			off = append(off, d)
		default:
			copied := *d
			copied.Sequence = lines[0].sequence
			on = append(on, &copied)
		}
	}
	return on, off
}

func readOneTime(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func readAll(f *os.File) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(f, maxOneTimeSize+1))
	if err == nil && len(text) > maxOneTimeSize {
		err = errOneTimeSize
	}
	return text, err
}

// useOneTime marks the line with the sequence as used, and returns when that is on the disk. It returns errUsed if there
// is no such line.
func useOneTime(path string, sequence []Knock) error {
	err := markOneTime(path, sequence)
	// An editor may have put another file in the place of the one that is marked now.
	for again := 0; err == errReplaced; again++ {
		if err = markOneTime(path, sequence); err == errUsed {
			return nil
		}
		if again == maxReplaced {
			return err
		}
	}
	return err
}

func markOneTime(path string, sequence []Knock) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := readAll(f)
	if err != nil {
		return err
	}
	unused, _ := parseOneTime(path, text) // a mistake in another line is no reason to keep the owner out
	i := slices.IndexFunc(unused, func(l oneTimeLine) bool { return slices.Equal(l.sequence, sequence) })
	if i < 0 {
		return errUsed
	}
	at := unused[i].at
	if c := text[at]; c == ' ' || c == '\t' {
		// One byte is written whole or not at all, whatever happens to the power.
		if _, err := f.WriteAt([]byte("#"), int64(at)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return inPlace(path, f)
	}
	// The # needs a place of its own, so that the digits stay readable.
	return replaceFile(f, slices.Insert(text, at, '#'))
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

// replaceFile puts another file with that text in f's place, of the same owner and mode, in one step.
func replaceFile(f *os.File, text []byte) (err error) {
	path, err := filepath.EvalSymlinks(f.Name())
	if err != nil {
		return err
	}
	var was unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &was); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	dir := filepath.Dir(path)
	next, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		_ = next.Close()
		if err != nil {
			_ = os.Remove(next.Name())
		}
	}()
	if err := next.Chown(int(was.Uid), int(was.Gid)); err != nil {
		return err
	}
	if err := next.Chmod(os.FileMode(was.Mode & 0o777)); err != nil {
		return err
	}
	if _, err := next.Write(text); err != nil {
		return err
	}
	if err := next.Sync(); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), path); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return inPlace(path, next)
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
