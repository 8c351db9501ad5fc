//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Setup is a configuration with all that it needs. One is in force; another is brought, and then committed or closed.
type Setup struct {
	env
	options  *serveOptions
	config   *Config // nil before the start
	off      []*Door // those of it that have no one-time sequence left
	listener *Listener
	state    *State
	read     time.Time // the configuration
	trouble  string    // why it is the kept one, without secrets; "": it is not
	refused  string    // what was wrong at the last reload, as trouble
}

// bring gets ready what a configuration needs; s, which is in force, stays as it is. With an error nothing is left of it.
// trouble is why it is the kept one.
func (s *Setup) bring(c *Config, trouble string) (*Setup, error) {
	if err := missingCapability(c); err != nil {
		return nil, err
	}
	on, off, err := sequences(c)
	if err != nil && c.File != s.options.keep { // whose one-time files may have mistakes: its other doors are to open
		return nil, err
	}
	next := &Setup{env: s.env, options: s.options, config: c, off: off, state: s.state, read: s.date(), trouble: trouble}
	if next.listener, err = s.listener.bring(c, on); err == nil {
		err = next.open(s)
	}
	if err != nil {
		next.close(s)
		return nil, err
	}
	return next, nil
}

// open opens captures, journal and firewall, in the order that loses or doubles no knock.
func (s *Setup) open(inForce *Setup) (err error) {
	first := inForce.config == nil
	if first { // a knock counts that comes while an earlier daemon is ending, and has the journal
		if err = s.listener.openCaptures(); err != nil {
			return err
		}
	}
	file, _ := filepath.Abs(s.options.config)
	if s.state, err = inForce.state.bring(s.env, s.listener, file, first); err != nil || first {
		return err
	}
	return s.listener.openCaptures() // last: what comes while old and new ones are there counts twice
}

// close gives up what s has and the one in force has not.
func (s *Setup) close(inForce *Setup) {
	s.state.close(inForce.state)
	s.listener.close(inForce.listener)
}

// settings are what changes for the doors when s comes into force after another one.
func (s *Setup) settings(before *Setup) doorSettings {
	var (
		rules   = s.listener.rules()
		state   = s.state
		save    func([]Entry) error
		packets string
	)
	if state.journal != before.state.journal {
		save, packets = state.journal.write, state.journal.packetsFile()
	}
	settings := doorSettings{
		reload: true, about: s.status(), rules: &rules, watched: state.told, save: save, packets: packets, recovered: state.recovered,
	}
	if state.applier != before.state.applier {
		settings.work, settings.report = state.applier.inBackground, state.applier.report
	}
	return settings
}

// status is what the daemon says of itself, but for what the doors know.
func (s *Setup) status() Status {
	return Status{
		Version: versionName(), Pid: os.Getpid(),
		Listening: s.listener.String(), Links: linkStates(s.listener.lists(), s.listener.links),
		Config: s.config.File, ConfigRead: s.read, ConfigError: s.trouble, ReloadError: s.refused,
	}
}

func (s *Setup) addTrouble(err error) { s.trouble += "\n" + err.Error() }

// refuse notes what was wrong with another configuration: s stays in force.
func (s *Setup) refuse(log *Log, err error) {
	s.refused = withoutSecrets(err).Error()
	logLines(log, "", s.refused)
	log.printf("the configuration stays as it was")
}

// followLinks takes up what has changed of the links, and tells the doors.
func (s *Setup) followLinks(doors chan<- doorSettings) {
	auto, rules := s.listener.auto, s.listener.rules()
	if !s.listener.follow(s.now()) {
		return
	}
	if s.state.lock != nil && s.state.journal != nil && !slices.Equal(auto, s.listener.auto) {
		if err := s.state.journal.noteFirewall(s.listener.auto); err != nil {
			s.listener.log.printf(s.now(), "%v", err)
		}
	}
	var changed *Ruleset
	if next := s.listener.rules(); fmt.Sprint(next) != fmt.Sprint(rules) {
		changed = &next
	}
	doors <- doorSettings{about: s.status(), rules: changed}
}

// sequences returns the doors that can be knocked at, with the next line of one-time files, and those that have no line
// left. With an error they are what could be read.
func sequences(c *Config) (on, off []*Door, err error) {
	unused, mistakes, unreadable := c.oneTimeFiles()
	if mistakes = append(mistakes, unreadable...); mistakes != nil {
		err = mistakes
	}
	on, off = inForce(c.Doors, unused)
	return on, off, err
}

// nextSequences brings the next one-time sequences into force after one was used. A file that cannot be read disables
// its doors, and a line with a mistake is passed over: nobody could knock it.
func (s *Setup) nextSequences(log *Log) {
	on, off, err := sequences(s.config)
	if err != nil {
		logLines(log, "", withoutSecrets(err).Error())
	}
	logDisabled(log, off, s.off)
	s.off = off
	s.listener.knockAt(on)
}

// logWarnings tells of what may surprise.
func (s *Setup) logWarnings(log *Log) {
	for _, note := range s.state.notes {
		log.printf("%s", note)
	}
	s.listener.logOdd(log)
	for _, w := range s.config.Warnings {
		log.printf("warning: %s", w)
	}
	for _, door := range s.config.Doors {
		if s.options.onlyIPv4 && door.Target.Is6() {
			log.printf("warning: %s:%d: door %q: Target is an IPv6 address, which -4 ignores: it cannot open",
				s.config.File, door.Line, door.Name)
		}
	}
	logDisabled(log, s.off, nil)
}

// logDisabled names, once and in knockd's words, the doors that have no one-time sequence left.
func logDisabled(log *Log, off, before []*Door) {
	for _, door := range off {
		if !slices.Contains(before, door) {
			log.printf("no more sequences left in the one time sequences file for door %s --> disabling the door", door.Name)
		}
	}
}

// logLines logs each line of a text.
func logLines(log *Log, prefix, text string) {
	for line := range strings.Lines(text) {
		log.printf("%s%s", prefix, strings.TrimSuffix(line, "\n"))
	}
}

// keep keeps the configuration for a start at which the one asked for does not work. What is there already is not written
// again: a router's flash wears out, and the file's time says since when it has worked.
func (s *Setup) keep(log *Log) {
	if s.options.keep == "" || s.config.File == s.options.keep || s.options.tried(s.config.text) {
		return
	}
	_ = os.Remove(s.options.keep + triedSuffix)
	if was, err := os.ReadFile(s.options.keep); err == nil && bytes.Equal(was, s.config.text) {
		return
	}
	err := makeStateDir(filepath.Dir(s.options.keep))
	if err == nil {
		_, err = writeFile(s.options.keep, s.config.text, nil, nil)
	}
	if err != nil {
		log.printf("warning: keeping the configuration: %v: a start with a mistake in it takes an older one, or fails", err)
	}
}

// tried reports whether a text is one that was tried and not kept, and there is a kept one to take instead.
func (o *serveOptions) tried(text []byte) bool {
	_, err := os.Stat(o.keep)
	return o.keep != "" && err == nil && hasText(o.keep+triedSuffix, o.written(text)) && !hasText(o.keep, text)
}

// written is the text that a person changes: on OpenWrt it is not the configuration, which also names the WAN's device.
func (o *serveOptions) written(text []byte) []byte {
	if uci, err := os.ReadFile(uciFile); err == nil && o.config == uciRendered {
		return uci
	}
	return text
}

func hasText(file string, text []byte) bool {
	has, err := os.ReadFile(file)
	return err == nil && bytes.Equal(has, text)
}

func (o *serveOptions) triedError() error {
	return fmt.Errorf("%s was tried, and not kept: sesame try tries it again", o.config)
}

// trouble says that it is the kept configuration that is in force, and why.
func (o *serveOptions) trouble(why error) (string, error) {
	kept, err := os.Stat(o.keep)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%v; running with the configuration of %s", withoutSecrets(why), kept.ModTime().Format(time.DateTime)), nil
}
