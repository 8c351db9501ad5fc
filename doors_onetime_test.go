//go:build linux

package main

import (
	"errors"
	"testing"
)

// TestOneTimeUses has one hit open several doors by a line, and the next one need another.
func TestOneTimeUses(t *testing.T) {
	marked, answer, told := 0, error(nil), make(chan struct{}, 1)
	u := oneTimeUses{used: told, uses: map[[2]string]bool{}, use: func(string, []Knock) error {
		marked++
		return answer
	}}
	use := func(hit uint64, port uint16) error {
		return u.useUp(Grant{Door: &Door{OneTime: "/none/once", Sequence: []Knock{{port, tcp}}}, Hit: hit})
	}
	if err := u.useUp(Grant{Door: &Door{}, Hit: 1}); err != nil || marked > 0 {
		t.Errorf("another door: got %v, and %d lines marked", err, marked)
	}
	for range 2 {
		if err := use(1, 7); err != nil || marked != 1 || len(told) != 1 {
			t.Errorf("got %v, and %d lines marked by a hit, want one", err, marked)
		}
	}
	if use(1, 8) != nil || use(2, 8) != nil || marked != 3 {
		t.Errorf("got %d lines marked, want one by each hit and sequence", marked)
	}
	<-told
	if answer = errUsed; !errors.Is(use(3, 8), errUsed) || len(told) != 1 {
		t.Error("a line that is used opens, or nobody is told")
	}
	<-told
	if answer = errFake; !errors.Is(use(4, 8), errFake) || len(told) != 0 {
		t.Error("a line that cannot be marked opens, or somebody is told")
	}
}
