//go:build linux

package main

import (
	"fmt"
	"path/filepath"
)

// oneTimeUses are the one-time sequences and codes that the latest hit has used: it opens every door that has the same file, or secret.
type oneTimeUses struct {
	use  func(file string, sequence []Knock) error // marks a sequence as used
	step func(key string, step uint32) error       // notes a code as used
	used chan<- struct{}                           // told that a sequence was
	hit  uint64                                    // the number of the hit
	uses map[[2]string]bool                        // by file and sequence, or by secret and step
}

// configure says what marks a sequence and notes a code, and whom to tell of a sequence.
func (u *oneTimeUses) configure(use func(file string, sequence []Knock) error, step func(key string, step uint32) error, used chan<- struct{}) {
	u.use, u.step, u.used = use, step, used
}

// useUp marks the sequence that was knocked as used, if the door has one-time sequences, or its code: with an error it must
// not open. It tells of sequences that are no longer the one in force.
func (u *oneTimeUses) useUp(g Grant) (err error) {
	if g.Hit != u.hit {
		u.hit = g.Hit
		clear(u.uses)
	}
	use := [2]string{g.Door.OneTime, g.Door.sequence()}
	switch {
	case g.Door.hasCode():
		use = [2]string{g.Door.TOTP.key(), fmt.Sprint(g.Step)}
		if !u.uses[use] {
			err = u.step(use[0], g.Step)
			u.uses[use] = err == nil
		}
		return err
	case g.Door.OneTime == "":
		return nil
	}
	if file, err := filepath.EvalSymlinks(g.Door.OneTime); err == nil { // doors may name it by different links
		use[0] = file
	}
	if u.uses[use] {
		return nil
	}
	err = u.use(g.Door.OneTime, g.Door.Sequence)
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
