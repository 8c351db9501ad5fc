//go:build linux

package main

import (
	"fmt"
	"path/filepath"
)

// oneTimeUses are the one-time sequences that the latest hit has used: it opens every door that has the same file.
type oneTimeUses struct {
	use  func(file string, sequence []Knock) error // marks a sequence as used
	used chan<- struct{}                           // told that one was
	hit  uint64                                    // the number of the hit
	uses map[[2]string]bool                        // by file and sequence
}

// configure says what marks a sequence, and whom to tell of it.
func (u *oneTimeUses) configure(use func(file string, sequence []Knock) error, used chan<- struct{}) {
	u.use, u.used = use, used
}

// useUp marks the sequence that was knocked as used, if the door has one-time sequences: with an error it must not open.
// It tells of sequences that are no longer the one in force.
func (u *oneTimeUses) useUp(g Grant) error {
	if g.Door.OneTime == "" {
		return nil
	}
	use := [2]string{g.Door.OneTime, g.Door.sequence()}
	if file, err := filepath.EvalSymlinks(g.Door.OneTime); err == nil { // doors may name it by different links
		use[0] = file
	}
	if g.Hit != u.hit {
		u.hit = g.Hit
		clear(u.uses)
	}
	if u.uses[use] {
		return nil
	}
	err := u.use(g.Door.OneTime, g.Door.Sequence)
	switch err {
	case nil:
		u.uses[use] = true
	case errUsed:
		err = fmt.Errorf("%w: %s", err, g.Door.OneTime)
	default:
		return fmt.Errorf("its sequence cannot be marked as used: %w", err)
	}
	select {
	case u.used <- struct{}{}:
	default: // the one before has not been looked at yet
	}
	return err
}
