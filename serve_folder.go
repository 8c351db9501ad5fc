//go:build linux

package main

import (
	"cmp"
	"errors"
	"io/fs"
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
		names, _ := fs.Glob(os.DirFS(dir), "%2F*")
		for _, name := range names {
			folders = append(folders, filepath.Join(dir, name))
		}
	}
	return folders
}

// newCodeSteps are in the folder that is named, or in the best of the defaults: another one does not take its place.
func newCodeSteps(e env, c *Config, config string) *codeSteps {
	dir := c.StateDir
	for _, best := range e.stateDirs {
		dir = cmp.Or(dir, stateFolder(best, config))
	}
	return &codeSteps{filepath.Join(dir, "codes"), e.now, e.date, clockSynced}
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

// left is what a daemon that has died has left open, to be closed at once. Its journal is locked until this daemon's own
// has that.
type left struct {
	Recovered
	journal *Journal
}

// take locks and reads a journal for the daemon with journal by and these openings, if its own daemon has died. The lock is
// empty, as if that one was about to end: if it is started now, it waits until we have closed its journal. Open_Ports are
// for the one daemon that has such doors (native): no other must keep it off the firewall.
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
		same := func(o Entry) bool { return o.Door == e.Door && o.Source == e.Source && o.Stop == e.Stop }
		switch {
		case e.native() && !native:
			err = errors.New("one has Open_Ports: a daemon with such doors closes it, or sesame flush")
		case slices.ContainsFunc(openings, same): // each may have a rule, and needs a stop command of its own
			err = errors.New("one is open for the same source in another journal: the next start closes it, or sesame flush")
		}
		e.Until = 0
		l.Entries[i] = e
	}
	if err != nil {
		l.journal.close()
	}
	return l, err
}

// discard removes a journal whose openings are in another one.
func (j *Journal) discard() {
	_ = os.Remove(j.path)
	j.lock.remove()
}
