//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// State is what outlives the daemon: the journal, and our part of the firewall.
type State struct {
	journal   *Journal   // nil if there is no place for it
	recovered Recovered  // what was in it when it was opened
	others    []*Journal // of other daemons, and not locked
	left      []left     // open by daemons that have died
	notes     []string   // about the journals, for the log
	lock      *PidFile   // on the firewall; nil: it is not ours
	marked    bool       // not by an earlier daemon already, before lock was taken
	applier   *Applier   // the doors' goroutine has it work; nil: no door needs one
	told      bool       // of the firewall's changes, by the kernel
	codes     *codeSteps
}

// bring returns the state for another configuration, which shares with s what there is; s stays as it is. After an error
// it must be closed, too. At a reload the doors' goroutine will make the firewall; at the start (first) that is left to
// buildFirewall. file is the absolute path of the configuration.
func (s *State) bring(e env, l *Listener, file string, first bool) (next *State, err error) {
	next = new(*s)
	next.notes = nil
	closes, native := l.config.closes(), l.config.native()
	if s.journal == nil && (first || closes) {
		if err := next.openJournal(l.config, file, e.stateDirs); err != nil && (closes || next.journal != nil) {
			return next, err
		}
	}
	if first {
		next.codes = newCodeSteps(e, l.config, file)
	}
	if l.config.hasCodes() {
		if w := next.codes.warning(); w != "" {
			next.notes = append(next.notes, "warning: "+w)
		}
	}
	if first {
		_ = next.takeLeft(native, false)
		var noted []string
		for _, j := range next.journals() {
			if j == next.journal || native {
				noted = append(noted, j.autoLinks()...)
			}
		}
		l.recallAuto(noted)
		return next, nil
	}
	if !native {
		return next, nil
	}
	next.applier = newApplier(l.config).keeping(next.journal.keepTable)
	if _, err := pickFirewall(next.applier.option, next.applier.mark, l.rules(), next.applier.run); err != nil {
		return next, fmt.Errorf("setting up the firewall: %w", err)
	}
	return next, next.takeFirewall(e, l.auto)
}

// openJournal opens the configuration's journal and reads it. One that cannot be read is to be closed, too.
func (s *State) openJournal(c *Config, file string, dirs []string) (err error) {
	var passed error
	s.journal, passed, err = openFolder(c, file, dirs)
	s.others = nil
	for _, folder := range stateFolders(dirs) {
		if path := filepath.Join(folder, "journal"); s.journal == nil || path != s.journal.path {
			s.others = append(s.others, &Journal{path: path})
		}
	}
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

// takeLeft takes the journals of daemons that have died with doors open. Doors that this one cannot close are named in
// notes. With alone, a daemon that lives is an error.
func (s *State) takeLeft(native, alone bool) error {
	openings := s.recovered.Entries
	for _, o := range s.others {
		text, err := o.load()
		_, entries, damage := parseJournal(text)
		clean := damage == nil && len(entries) == 0
		if err != nil || clean && !alone {
			continue
		}
		l, err := o.take(s.journal, openings, native)
		held, lives := errors.AsType[*heldError](err)
		switch {
		case lives && alone && held.holder != strconv.Itoa(os.Getpid()): // which has it by another path
			return fmt.Errorf("%w: stop that one first, or name the configuration that is meant by -c", err)
		case lives, clean && err != nil:
		case err == nil:
			s.left, openings = append(s.left, l), append(openings, l.Entries...)
		default:
			note := fmt.Sprintf("warning: %s: a daemon that has ended may have left doors open, which are not closed: %v", o.path, err)
			for i, e := range entries {
				note += []string{": ", ", "}[min(i, 1)] + fmt.Sprintf("%s for %v", e.Door, e.Source)
			}
			s.notes = append(s.notes, note)
		}
	}
	return nil
}

// journals are those of all daemons.
func (s *State) journals() []*Journal {
	if s.journal == nil {
		return s.others
	}
	return append([]*Journal{s.journal}, s.others...)
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

// takeFirewall makes the firewall this daemon's, and notes that on the disk. What others have noted is ours, too.
func (s *State) takeFirewall(e env, auto []string) (err error) {
	if s.lock == nil {
		if s.lock, err = s.lockFirewall(e); err != nil {
			return err
		}
		s.marked = !slices.ContainsFunc(s.journals(), (*Journal).notesFirewall)
	}
	if s.journal != nil {
		err = s.journal.noteFirewall(auto)
	}
	for _, o := range s.others {
		if err == nil {
			o.forgetFirewall()
		}
	}
	return err
}

// forgetFirewall notes that nothing of any daemon's is in the firewall.
func (s *State) forgetFirewall() {
	for _, j := range s.journals() {
		j.forgetFirewall()
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
	if err := applier.keeping(s.journal.keepTable).build(rules); err != nil {
		err = fmt.Errorf("setting up the firewall: %w", err)
		if !s.marked || s.journal == nil { // or it is not known
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

// othersHide says so if a daemon of another configuration that does not run has left ports hidden, as it should have.
func (s *State) othersHide(e env, log *Log) {
	i := slices.IndexFunc(s.others, (*Journal).notesFirewall)
	if i < 0 {
		return
	}
	lock, err := s.lockFirewall(e)
	if err == nil {
		log.printf("warning: ports are still hidden by a daemon that does not run (%s): sesame flush shows them again", filepath.Dir(s.others[i].path))
	}
	if lock != nil {
		lock.remove()
	}
}

// clearFirewall removes what an earlier configuration has left, as no door needs the firewall any more.
func (s *State) clearFirewall(e env, log *Log, applier *Applier) error {
	if s.journal == nil || !s.journal.notesFirewall() {
		s.othersHide(e, log)
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
