//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Each daemon has a folder for its journal. If the configuration names none (StateDir), it is in the first of
// env.stateDirs that can be used: that folder itself for the default configuration, as in earlier versions for every one,
// and for any other a folder in it that is named after the configuration's path.

// stateFolder is the folder in dir for a configuration, whose path is absolute.
func stateFolder(dir, config string) string {
	if config == defaultConfigFile {
		return dir
	}
	return filepath.Join(dir, strings.NewReplacer("%", "%25", "/", "%2F").Replace(config))
}

// stateFolders are those of all configurations: each of dirs, and the folders in it.
func stateFolders(dirs []string) (folders []string) {
	for _, dir := range dirs {
		folders = append(folders, dir)
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "%2F") {
				folders = append(folders, filepath.Join(dir, e.Name()))
			}
		}
	}
	return folders
}

// openFolder opens the configuration's journal. A folder that only a default names is passed over if it cannot be used:
// passed says why the first one was. There may be no other, and then no journal.
func openFolder(c *Config, config string, dirs []string) (j *Journal, passed, err error) {
	if c.StateDir != "" {
		j, err = openJournal(c.StateDir)
		return j, nil, err
	}
	for _, dir := range dirs {
		j, err = openJournal(stateFolder(dir, config))
		if _, isHeld := errors.AsType[*heldError](err); err == nil || isHeld {
			return j, passed, err
		}
		passed = cmp.Or(passed, err)
	}
	return nil, passed, nil
}

// otherJournals are those of other configurations and in other folders than j, which may be nil. They are not locked.
func otherJournals(j *Journal, dirs []string) (others []*Journal) {
	for _, folder := range stateFolders(dirs) {
		o := &Journal{path: filepath.Join(folder, "journal")}
		if j == nil || o.path != j.path {
			others = append(others, o)
		}
	}
	return others
}

// held is an error if a daemon that lives has the journal.
func (j *Journal) held() error {
	folder := filepath.Dir(j.path)
	if _, err := os.Stat(folder + "/lock"); err != nil {
		return nil
	}
	lock, err := lockPidFile(folder+"/lock", endTime)
	if held, isHeld := errors.AsType[*heldError](err); isHeld {
		return fmt.Errorf("%w: stop that one first, or name the configuration that is meant by -c", &heldError{folder, held.holder})
	}
	if err == nil {
		_ = lock.file.Close()
	}
	return nil
}

// left is what a daemon that has died has left open, to be closed at once. Its journal is locked until this daemon's own
// has that.
type left struct {
	Recovered
	journal *Journal
}

// takeLeft locks and reads the journals of daemons that have died with doors open. Doors that this daemon, with journal j
// and these openings, cannot close are named in lines for the log. Those with Open_Ports are for the one daemon that has
// such doors (native).
func takeLeft(others []*Journal, j *Journal, openings []Entry, native bool) (all []left, named []string) {
	for _, o := range others {
		r, err := o.peek()
		if err != nil && !errors.Is(err, errNewer) || err == nil && r.Damage == "" && len(r.Entries) == 0 {
			continue // after a clean end, too: a lock might keep that one from starting
		}
		var l left
		if err == nil {
			l, err = o.take(j, openings, native)
		}
		_, lives := errors.AsType[*heldError](err)
		switch {
		case lives:
		case err == nil:
			all, openings = append(all, l), append(openings, l.Entries...)
		default:
			text := fmt.Sprintf("warning: %s: a daemon that has ended may have left doors open, which are not closed: %v", o.path, err)
			for i, e := range r.Entries {
				text += []string{": ", ", "}[min(i, 1)] + fmt.Sprintf("%s for %v", e.Door, e.Source)
			}
			named = append(named, text)
		}
	}
	return all, named
}

// take locks and reads a journal whose daemon may have died, for the one with journal by. The lock is empty, as if that
// one was about to end: if it is started now, it waits until we have closed its journal.
func (j *Journal) take(by *Journal, openings []Entry, native bool) (l left, err error) {
	if by == nil {
		return l, errors.New("there is no folder for this daemon's own journal")
	}
	dir := filepath.Dir(j.path)
	if err := makeStateDir(dir); err != nil { // which is there, and must be ours alone
		return l, err
	}
	lock, err := lockPidFile(filepath.Join(dir, "lock"), 0)
	if err != nil {
		return l, err
	}
	lock.retire()
	l.journal = &Journal{j.path, lock, by.at}
	l.Recovered, err = l.journal.read()
	for i, e := range l.Entries {
		e.Until = 0 // closed
		l.Entries[i] = e
		switch {
		case e.Ports != nil && !native:
			err = errors.New("one has Open_Ports: a daemon with such doors closes it, or sesame flush")
		case slices.ContainsFunc(openings, e.same): // each has a rule of its own, and needs a stop command of its own
			err = errors.New("one is open for the same source in another journal: the next start closes it, or sesame flush")
		}
	}
	if err != nil {
		l.journal.close()
	}
	return l, err
}

// same reports whether two entries may be one opening to the doors.
func (e Entry) same(o Entry) bool {
	return e.Door == o.Door && e.Source == o.Source && e.Stop == o.Stop
}

// peek reads a journal as it is, and changes nothing.
func (j *Journal) peek() (r Recovered, err error) {
	text, err := j.load()
	if err != nil {
		return r, err
	}
	_, r.Entries, err = parseJournal(text)
	if damage, ok := err.(*damagedJournal); ok {
		r.Damage, err = damage.Error(), nil
	}
	return r, err
}

// discard removes a journal whose openings are in another one.
func (j *Journal) discard() {
	_ = os.Remove(j.path)
	j.lock.remove()
}
