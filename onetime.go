package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
)

// A one-time file has one sequence a line. The first line that is neither empty nor a comment (#) is in force. Once it
// has been knocked, a # is written before it, and the next one is in force. The file is what counts, not the memory of
// the daemon: it may be edited at any time, and a line that is not in it any more opens nothing.

const (
	// maxOneTimeSize bounds a one-time file, in bytes.
	maxOneTimeSize = 1 << 20
	// maxReplaced is how often a file that is replaced while it is marked is marked anew.
	maxReplaced = 10
)

// oneTimeLine is a sequence that has not been used.
type oneTimeLine struct {
	sequence []Knock
	at       int // offset of the line in the file
}

var errUsed = errors.New("its sequence has been used, or taken out of the file")

// parseOneTime reads the lines not yet used, and says what is wrong with others. name stands in messages.
func parseOneTime(name string, text []byte) (unused []oneTimeLine, mistakes configErrors) {
	p := ini{file: name}
	for at, line := range p.lines(text) {
		before := len(p.errors)
		sequence := readSequence(&p, line, parseKnock)
		if len(p.errors) == before {
			unused = append(unused, oneTimeLine{sequence, at})
		}
		p.forget()
	}
	return unused, p.errors
}

// inForce returns the doors with their sequences: those of one-time files as copies with the line in force, and apart
// the ones that have no line left. These are among both where they have a Key.
func inForce(doors []*Door, unused map[string][]oneTimeLine) (on, off []*Door) {
	for _, d := range doors {
		switch lines := unused[d.OneTime]; {
		case d.OneTime == "":
			on = append(on, d)
		case len(lines) == 0:
			if off = append(off, d); d.Keys != nil {
				on = append(on, d)
			}
		default:
			copied := *d
			copied.Sequence = lines[0].sequence
			on = append(on, &copied)
		}
	}
	return on, off
}

func readOneTime(path string) ([]byte, error) {
	f, err := openOneTime(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxOneTimeSize+1))
	if err == nil && len(text) > maxOneTimeSize {
		err = fmt.Errorf("a file of one-time sequences is at most %d bytes", maxOneTimeSize)
	}
	return text, err
}

func openOneTime(path string, flag int) (*os.File, error) {
	f, err := openFile(path, flag)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file, and used lines are marked in it: name one that is", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// useOneTime marks the line with the sequence as used, and returns when that is on the disk. It returns errUsed if there
// is no such line.
func useOneTime(path string, sequence []Knock) error {
	had := 0
	return untilInPlace(func() (bool, error) {
		marked, equal, err := markOneTime(path, sequence, had)
		if marked {
			had = equal
		}
		return marked, err
	})
}

// untilInPlace marks a line anew as long as an editor puts another text in the place of the one that was marked. If the
// line is in none of them any more, it is used, provided that it was marked once.
func untilInPlace(mark func() (marked bool, err error)) error {
	once := false
	for again := 0; ; again++ {
		marked, err := mark()
		once = once || marked
		switch {
		case err == errUsed && once:
			return nil
		case err != errReplaced || again == maxReplaced:
			return err
		}
	}
}

// markOneTime does it once. With an error too, marked says whether the line was marked in what was the file then,
// and equal how many lines had the sequence. had is that number where it was marked once, or 0: if there are fewer now,
// the mark is in the file that somebody else has put there to mark another line, and the next one is not ours.
func markOneTime(path string, sequence []Knock, had int) (marked bool, equal int, err error) {
	f, err := openLocked(path, func() (*os.File, error) { return openOneTime(path, os.O_RDWR) })
	if err != nil {
		return false, 0, err
	}
	defer func() {
		// A command that is just being started has the descriptor, too, so that closing it is not enough.
		unlockFile(f)
		_ = f.Close()
	}()
	text, err := readAll(f)
	if err != nil {
		return false, 0, err
	}
	unused, _ := parseOneTime(path, text) // a mistake in another line is no reason to keep the owner out
	at := 0
	for _, l := range unused {
		if slices.Equal(l.sequence, sequence) {
			if equal++; equal == 1 {
				at = l.at
			}
		}
	}
	if equal == 0 || equal < had {
		return false, equal, errUsed
	}
	if c := text[at]; c == ' ' || c == '\t' {
		marked, err = overwriteBlank(f, text, at)
	} else {
		// The # needs a place of its own, so that the digits stay readable.
		marked, err = replaceFile(f, text, []byte(string(text[:at])+"#"+string(text[at:])))
	}
	return marked, equal, err
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

// replaceFile puts another file with the next text in f's place, of the same owner and mode, in one step, unless f has
// another text than was by now. With an error too, replaced says whether it did.
func replaceFile(f *os.File, was, next []byte) (replaced bool, err error) {
	// As late as can be: what an editor saves from now on until the rename would be lost.
	return writeFile(f.Name(), next, f, func() error { return unchanged(f, was) })
}

// overwriteBlank puts a # in the place of the blank that the line at that offset begins with.
func overwriteBlank(f *os.File, text []byte, at int) (marked bool, err error) {
	if err = unchanged(f, text); err == nil {
		// One byte is written whole or not at all, whatever happens to the power.
		_, err = f.WriteAt([]byte("#"), int64(at))
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return false, err
	}
	// An editor that writes the file where it stands may have done so since.
	line, _, _ := bytes.Cut(text[at:], []byte("\n"))
	from := max(at-1, 0)
	want := bytes.Clone(text[from : at+len(line)])
	want[at-from] = '#'
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, int64(from)); err != nil || !bytes.Equal(got, want) {
		return false, errReplaced
	}
	return true, inPlace(f.Name(), f)
}
