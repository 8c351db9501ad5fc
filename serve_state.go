//go:build linux

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// State is what outlives the daemon: the journal, and our part of the firewall.
type State struct {
	journal   *Journal  // nil if there is no place for it
	recovered Recovered // what was in it when it was opened
	others    []*Journal
	left      []left   // open by daemons that have died
	notes     []string // about the journals, for the log
	lock      *PidFile // on the firewall; nil: it is not ours
	marked    bool     // not by an earlier daemon already, before lock was taken
	applier   *Applier // the doors' goroutine has it work; nil: no door needs one
	firewall  string   // which one and why; "": no door needs one
	told      bool     // of the firewall's changes, by the kernel
	silent    bool     // but not of all
}

// bring returns the state for another configuration, which shares with s what there is; s stays as it is. After an error
// it must be closed, too. At a reload it has the firewall chosen, and the doors' goroutine will make it; at the start
// (first) it leaves that to buildFirewall. file is the absolute path of the configuration.
func (s *State) bring(e env, l *Listener, file string, first bool) (next *State, err error) {
	next = new(*s)
	next.notes = nil
	if s.journal == nil && (first || l.config.closes()) {
		if err := next.readJournal(l.config, file, e.stateDirs); err != nil && (l.config.closes() || next.journal != nil) {
			return next, err
		}
	}
	if first {
		var named []string
		next.left, named = takeLeft(next.others, next.journal, next.recovered.Entries, l.config.native())
		next.notes = append(next.notes, named...)
		l.addAuto(next.autoLinks(l.config.native()))
	}
	if first || !l.config.native() {
		return next, nil
	}
	applier := newApplier(l.config)
	if err := applier.choose(l.rules()); err != nil {
		return next, fmt.Errorf("setting up the firewall: %w", err)
	}
	next.applier, next.firewall, next.silent = newApplier(l.config).after(s.applier), applier.choice.Reason, applier.silent
	return next, next.takeFirewall(e, l.auto)
}

// readJournal opens the configuration's journal and reads it. One that cannot be read is to be closed, too.
func (s *State) readJournal(c *Config, file string, dirs []string) (err error) {
	var passed error
	s.journal, passed, err = openFolder(c, file, dirs)
	s.others = otherJournals(s.journal, dirs)
	switch {
	case err == nil && s.journal != nil:
		s.recovered, err = s.journal.read()
		if passed != nil {
			s.notes = append(s.notes, fmt.Sprintf("the journal is %s: %v", s.journal.path, passed))
		}
	case err == nil && c.closes():
		s.notes = append(s.notes, fmt.Sprintf("warning: doors stay open after a crash, as there is no place for the journal: %v", passed))
	}
	return err
}

// autoLinks are those where "auto" has hidden ports before: of every daemon, if this is the one with Open_Ports.
func (s *State) autoLinks(native bool) (names []string) {
	if s.journal != nil {
		names = s.journal.autoLinks()
	}
	for _, o := range s.others {
		if native {
			names = append(names, o.autoLinks()...)
		}
	}
	return names
}

// resume has the doors take up what earlier daemons have left open. With their own journal's first writing, the others are
// done with.
func (s *State) resume(doors *Doors, now time.Duration) {
	journal, others := s.journal, s.left
	if journal != nil {
		doors.journal.configure(func(entries []Entry) error {
			err := journal.write(entries)
			if err == nil {
				for _, l := range others {
					l.journal.discard()
				}
				others = nil
			}
			return err
		})
	}
	doors.resume(now, s.recovered)
	for _, l := range others {
		doors.resume(now, l.Recovered)
	}
}

// close gives up what s has and the state in force has not. The journal, and what an earlier daemon has in the firewall,
// are left as they are.
func (s *State) close(inForce *State) {
	if s.lock != inForce.lock {
		if s.marked {
			s.forgetFirewall()
		}
		s.lock.remove()
	}
	if s.journal != nil && s.journal != inForce.journal {
		s.journal.close()
		for _, l := range s.left {
			l.journal.close()
		}
	}
}

// takeFirewall makes the firewall this daemon's, and notes that on the disk.
func (s *State) takeFirewall(e env, auto []string) (err error) {
	if s.lock == nil {
		if s.lock, err = s.lockFirewall(e); err != nil {
			return err
		}
		s.marked = (s.journal == nil || !s.journal.notesFirewall()) && !slices.ContainsFunc(s.others, (*Journal).notesFirewall)
	}
	if s.journal == nil {
		return nil
	}
	if err = s.journal.noteFirewall(auto); err == nil {
		s.forgetOthers() // what they have left there is ours now
	}
	return err
}

// forgetFirewall notes that nothing of anybody's is in the firewall any more.
func (s *State) forgetFirewall() {
	s.forgetOthers()
	if s.journal != nil {
		s.journal.forgetFirewall()
	}
}

func (s *State) forgetOthers() {
	for _, o := range s.others {
		o.forgetFirewall()
	}
}

// lockFirewall has no lock where there is no place for it.
func (s *State) lockFirewall(e env) (*PidFile, error) {
	folders := append([]string{filepath.Dir(e.socket)}, e.stateDirs...)
	if s.journal != nil {
		folders = append(folders, filepath.Dir(s.journal.path))
	}
	for _, folder := range folders {
		lock, err := lockFirewall(folder)
		if _, isHeld := errors.AsType[*heldError](err); err == nil || isHeld {
			return lock, err
		}
	}
	return nil, nil
}

// buildFirewall makes our part of the firewall at the start, if a door needs one, or else removes what is left of an
// earlier configuration that needed one.
func (s *State) buildFirewall(e env, log *Log, l *Listener, rules Ruleset) error {
	applier := newApplier(l.config)
	if !l.config.native() && len(rules.Open) == 0 {
		return s.clearFirewall(e, log, applier)
	}
	if err := s.takeFirewall(e, l.auto); err != nil {
		return err
	}
	if err := applier.build(rules); err != nil {
		err = fmt.Errorf("setting up the firewall: %w", err)
		if !s.marked {
			return fmt.Errorf("%w: what is hidden stays hidden: sesame flush leaves no trace", err)
		}
		_ = applier.do(firewallTask{kind: taskFlush})
		return err
	}
	log.printf("firewall: %s", applier.choice.Reason)
	for _, w := range applier.choice.Warnings {
		log.printf("warning: firewall: %s", w)
	}
	s.applier, s.firewall, s.silent = applier, applier.choice.Reason, applier.silent
	return nil
}

// clearFirewall removes what an earlier configuration has left, as no door needs the firewall any more.
func (s *State) clearFirewall(e env, log *Log, applier *Applier) error {
	if s.journal == nil || !s.journal.notesFirewall() {
		return nil
	}
	lock, err := s.lockFirewall(e)
	if err != nil {
		log.printf("warning: what an earlier configuration has left in the firewall stays: %v", err)
		return nil
	}
	if lock != nil {
		defer lock.remove()
	}
	log.printf("firewall: no door needs it any more: what is left there is removed")
	if err := applier.do(firewallTask{kind: taskFlush}); err != nil {
		return fmt.Errorf("removing what is left in the firewall: %w", err)
	}
	s.forgetFirewall()
	return nil
}

// watchFirewall has changed told of the firewall's changes, where the kernel tells of them, until stop.
func (s *State) watchFirewall(changed chan<- struct{}) (stop func()) {
	stop, err := watchFirewall(changed)
	if s.told = err == nil; !s.told {
		return func() {}
	}
	return stop
}

// retire has a daemon that is started now wait for this one's end.
func (s *State) retire() {
	if s.lock != nil {
		s.lock.retire()
	}
	if s.journal != nil {
		s.journal.lock.retire()
	}
}
