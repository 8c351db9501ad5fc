//go:build linux

package main

import (
	"os"
	"strings"
	"testing"
)

// TestStateJournal says when a journal is needed. One that cannot be opened keeps a door that closes from working.
func TestStateJournal(t *testing.T) {
	opens := []*Door{{Name: "opens", Start: "true"}}
	closes := []*Door{{Name: "closes", Start: "true", Stop: "true"}}
	for _, test := range []struct {
		name  string
		doors []*Door
		dir   string
		first bool
		want  string // there is a journal, or what is wrong
	}{
		{"at the start", opens, t.TempDir(), true, "journal"},
		{"at the start, with no place for it", opens, "/dev/null", true, ""},
		{"at the start, with no place for it, and a door to close", closes, "/dev/null", true, "not a directory"},
		{"at a reload", opens, t.TempDir(), false, ""},
		{"at a reload, with a door to close", closes, t.TempDir(), false, "journal"},
		{"at a reload, with a door to close and no place for it", closes, "/dev/null", false, "not a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var none State
			next, err := none.bring(env{}, &Listener{config: &Config{Doors: test.doors, StateDir: test.dir + "/state"}}, "/a.conf", test.first)
			got := ""
			switch {
			case err != nil && strings.Contains(err.Error(), "not a directory"):
				got = "not a directory"
			case err != nil:
				got = err.Error()
			case next.journal != nil:
				got = "journal"
			}
			if got != test.want || none.journal != nil {
				t.Errorf("got %q, want %q", got, test.want)
			}
			next.close(&none)
		})
	}
}

// TestStateClose: of what is not committed nothing is left, and what the one in force has stays.
func TestStateClose(t *testing.T) {
	if _, err := currentScope(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	e := env{stateDirs: []string{dir + "/state"}, socket: dir + "/control"}
	bring := func(s *State) *State {
		t.Helper()
		next, err := s.bring(e, &Listener{config: &Config{}}, defaultConfigFile, true)
		if err == nil {
			err = next.takeFirewall(e, []string{"eth0"})
		}
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	marked := func() bool {
		_, err := os.Stat(dir + "/state/firewall")
		return err == nil
	}
	none := &State{}
	first := bring(none)
	bring(first).close(first)
	if !marked() {
		t.Error("the mark of the one in force is gone")
	}
	first.close(none)
	if marked() {
		t.Error("the mark of what has never been in force is there")
	}
	second := bring(none) // nothing is locked any more
	second.lock.remove()
	second.journal.close()
	third := bring(none)
	third.close(none)
	if !marked() {
		t.Error("the mark of an earlier daemon is gone")
	}
}
