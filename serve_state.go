//go:build linux

package main

import (
	"cmp"
	"fmt"
	"path/filepath"
)

// State is what outlives the daemon: the journal, and our part of the firewall.
type State struct {
	journal   *Journal  // nil if there is no place for it, and nothing to write
	recovered Recovered // what was in it when it was opened
	lock      *PidFile  // on the firewall; nil: it is not ours
	marked    bool      // not by an earlier daemon already, before lock was taken
	applier   *Applier  // the doors' goroutine has it work; nil: no door needs one
	told      bool      // of the firewall's changes, by the kernel
}

// readJournal opens the configuration's journal and reads what is in it. otherwise is its folder where the configuration
// names none. A journal that cannot be read is to be closed, too.
func readJournal(c *Config, otherwise string) (j *Journal, r Recovered, err error) {
	if j, err = openJournal(cmp.Or(c.StateDir, otherwise)); err == nil {
		r, err = j.read()
	}
	return j, r, err
}

// bring returns the state for another configuration, which shares with s what there is; s stays as it is. After an error
// it must be closed, too. At a reload the doors' goroutine will make the firewall; at the start (first) that is left to
// buildFirewall.
func (s *State) bring(e env, l *Listener, first bool) (next *State, err error) {
	next = new(*s)
	if closes := l.config.closes(); s.journal == nil && (first || closes) {
		next.journal, next.recovered, err = readJournal(l.config, e.stateDir)
		if err != nil && (closes || next.journal != nil) {
			return next, err
		}
	}
	if first && next.journal != nil {
		l.addAuto(next.journal.autoLinks())
	}
	if first || !l.config.native() {
		return next, nil
	}
	next.applier = newApplier(l.config).keeping(next.journal.keepTable)
	if _, err := pickFirewall(next.applier.option, next.applier.mark, l.rules(), next.applier.run); err != nil {
		return next, fmt.Errorf("setting up the firewall: %w", err)
	}
	return next, next.takeFirewall(e, l.auto)
}

// close gives up what s has and the state in force has not. The journal, and what an earlier daemon has in the firewall,
// are left as they are.
func (s *State) close(inForce *State) {
	if s.lock != inForce.lock {
		if s.marked {
			s.journal.forgetFirewall()
		}
		s.lock.remove()
	}
	if s.journal != nil && s.journal != inForce.journal {
		s.journal.close()
	}
}

// takeFirewall makes the firewall this daemon's, and notes that on the disk.
func (s *State) takeFirewall(e env, auto []string) (err error) {
	if s.lock == nil {
		if s.lock, err = lockFirewall(filepath.Dir(e.socket)); err != nil {
			return err
		}
		s.marked = !s.journal.notesFirewall()
	}
	return s.journal.noteFirewall(auto)
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
	if err := applier.keeping(s.journal.keepTable).build(rules); err != nil {
		err = fmt.Errorf("setting up the firewall: %w", err)
		if !s.marked {
			return fmt.Errorf("%w: what is hidden stays hidden: sesame flush leaves no trace", err)
		}
		_ = applier.do(firewallTask{kind: taskFlush})
		return err
	}
	for _, line := range applier.report().news(firewallReport{}) {
		log.printf("%s", line)
	}
	s.applier = applier
	return nil
}

// clearFirewall removes what an earlier configuration has left, as no door needs the firewall any more.
func (s *State) clearFirewall(e env, log *Log, applier *Applier) error {
	if s.journal == nil || !s.journal.notesFirewall() {
		return nil
	}
	lock, err := lockFirewall(filepath.Dir(e.socket))
	if err != nil {
		log.printf("warning: what an earlier configuration has left in the firewall stays: %v", err)
		return nil
	}
	defer lock.remove()
	log.printf("firewall: no door needs it any more: what is left there is removed")
	if err := applier.do(firewallTask{kind: taskFlush}); err != nil {
		return fmt.Errorf("removing what is left in the firewall: %w", err)
	}
	s.journal.forgetFirewall()
	return nil
}

// watchFirewall has news told of the firewall's changes, where the kernel tells of them, until stop.
func (s *State) watchFirewall(news chan<- []firewallNews) (stop func()) {
	stop, err := watchFirewall(news)
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
