//go:build linux && !pure

package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// onDisk is a folder that outlives a reboot: /tmp may be in memory.
func onDisk(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("/var/tmp", "sesame-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return folder
}

// codesIn has the steps in a folder, at a time since 1970 and since the boot.
func codesIn(folder string, sinceEpoch, sinceBoot time.Duration, synced bool) *codeSteps {
	return &codeSteps{filepath.Join(folder, "codes"), func() time.Duration { return sinceBoot },
		func() time.Time { return time.Unix(0, int64(sinceEpoch)) }, func() bool { return synced }}
}

// TestCodeSteps has steps only go up, for each secret by itself, whatever the clock says, and after what is like a restart.
func TestCodeSteps(t *testing.T) {
	folder := filepath.Join(onDisk(t), "state")
	at := 1000 * codeTime
	for i, use := range []struct {
		key  string
		step uint32
		at   time.Duration
		want error
	}{
		{"a", 1000, at, nil}, {"a", 1000, at, errUsedCode}, {"a", 999, at, errUsedCode}, {"b", 999, at, nil}, {"a", 1001, at, nil},
		{"b", 999, at, errUsedCode}, {"a", 880, at - time.Hour, errUsedCode}, {"a", 1002, at, nil}, {"b", 1000, at, nil}, {"a", 1002, at, errUsedCode},
	} {
		if got := codesIn(folder, use.at, time.Minute, false).use(use.key, use.step); got != use.want {
			t.Errorf("%d: step %d of %s: got %v, want %v", i, use.step, use.key, got, use.want)
		}
	}
	want := sealed("a\t1002") + sealed("b\t1000")
	file := filepath.Join(folder, "codes")
	if got, err := os.ReadFile(file); string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 600", info, err)
	}
	for _, damage := range []string{strings.Replace(want, "1002", "0002", 1), want[:len(want)-1], "\n", "a\t\t\n"} {
		if err := os.WriteFile(file, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"a", "c"} {
			if err := codesIn(folder, at, time.Minute, true).use(key, 2000); err == nil || !strings.Contains(err.Error(), "is damaged") {
				t.Errorf("%q: got %v, want that it is damaged", damage, err)
			}
		}
		if got, _ := os.ReadFile(file); string(got) != damage {
			t.Errorf("%q has become %q", damage, got)
		}
	}
}

// TestCodeStepsRefused cannot write down a code: it opens nothing.
func TestCodeStepsRefused(t *testing.T) {
	file := filepath.Join(onDisk(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(onDisk(t), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for folder, want := range map[string]string{file: "not a directory", file + "/state": "not a directory", open: "must be writable by"} {
		if err := codesIn(folder, 1000*codeTime, time.Minute, true).use("a", 1000); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", folder, err, want)
		}
	}
}

// TestCodesInMemory has a folder that is gone after a reboot: what may have been used before it does not count, and nothing does while
// nobody knows what time it is.
func TestCodesInMemory(t *testing.T) {
	folder, err := os.MkdirTemp("/dev/shm", "sesame-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	now := 1000*codeTime + 10*time.Second
	for _, in := range []string{folder, filepath.Join(folder, "not", "there")} {
		// The clock is that of the last shutdown, as on a router, until NTP sets it.
		steps := codesIn(in, now-time.Hour, 3*time.Minute, false)
		if err := steps.use("a", 2000); err == nil || err.Error() != in+" is in memory, and the clock is not set yet: is there an NTP client?" {
			t.Errorf("not set: got %v", err)
		}
		// 190 s ago it booted, in step 994: what begins at its end, and a minute after that, is not known to be unused.
		for _, booted := range []struct {
			ago   time.Duration
			first uint32
		}{{190 * time.Second, 996}, {191 * time.Second, 996}, {189 * time.Second, 997}, {10 * time.Second, 1002}} {
			steps = codesIn(in, now, booted.ago, true)
			for step := booted.first - 3; step < booted.first; step++ {
				if err := steps.use("a", step); err == nil || !strings.HasPrefix(err.Error(), "its code is from before this boot") {
					t.Errorf("booted %v ago: step %d: got %v", booted.ago, step, err)
				}
			}
			if err := steps.use(booted.ago.String(), booted.first); err != nil {
				t.Errorf("booted %v ago: step %d: got %v", booted.ago, booted.first, err)
			}
		}
	}
	if got := codesIn(onDisk(t), now, time.Second, false).waits(); got != "" {
		t.Errorf("on a disk: got %q", got)
	}
}

// TestDoorsCodes has a grant that comes too late, or cannot be written down: nothing opens. One hit may open two doors of one secret.
func TestDoorsCodes(t *testing.T) {
	folder := onDisk(t)
	steps := codesIn(folder, 1000*codeTime, time.Hour, true)
	var full error
	d := newDoorsTest(t, "")
	d.oneTime.configure(nil, func(key string, step uint32) error {
		if full != nil {
			return full
		}
		return steps.use(key, step)
	}, nil)
	doors := testDoors(t, "[a] Sequence = 7000, totp | TOTP = "+testSecret+" | Command = a %IP%\n[b] Sequence = 7000, totp | TOTP = "+testSecret+" | Command = b %IP%")
	grant := func(door int, from string, hit uint64, step uint32, want string) {
		t.Helper()
		d.started = nil
		d.logged.Reset()
		g := Grant{Door: doors[door], Source: netip.MustParseAddr(from), Hit: hit, Step: step}
		d.grant(0, g)
		d.tick(0)
		for _, j := range d.commands.running {
			d.end(0, j, Outcome{})
		}
		if got := strings.Join(d.started, " ") + d.logged.String(); !strings.Contains(got, want) || strings.Contains(got, "not opened") != strings.Contains(want, "not opened") {
			t.Errorf("step %d for %s: got %q, want %q in it", step, from, got, want)
		}
	}
	grant(0, "192.0.2.7", 1, 1000, "a 192.0.2.7")
	grant(1, "192.0.2.7", 1, 1000, "b 192.0.2.7")
	grant(0, "192.0.2.8", 2, 1000, "192.0.2.8: a: not opened: its code, or a later one, has been used: the next one opens it")
	grant(1, "192.0.2.8", 2, 1000, "not opened")
	grant(0, "192.0.2.8", 3, 999, "not opened")
	full = errors.New("no space left on device")
	grant(0, "192.0.2.8", 4, 1001, "192.0.2.8: a: not opened: no space left on device")
	full = nil
	grant(0, "192.0.2.8", 5, 1001, "a 192.0.2.8")
}
