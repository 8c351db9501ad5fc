//go:build linux && !pure

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const held = " is held by another daemon, process %d: one daemon watches several interfaces (-i eth0,eth1); a second one needs another configuration, and another StateDir if that names one"

// testDir is a folder for a journal, and a journal in it. They last as long as the test.
func testDir(t *testing.T) (string, *Journal) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	return dir, mustOpen(t, dir)
}

func mustOpen(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.close)
	return j
}

func mustWrite(t *testing.T, j *Journal, entries []Entry) {
	t.Helper()
	if err := j.write(entries); err != nil {
		t.Fatal(err)
	}
}

// wantFiles fails unless these files are in the folder, besides the lock.
func wantFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	var got []string
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if f.Name() != "lock" {
			got = append(got, f.Name())
		}
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("files: got %q, want %q", got, names)
	}
}

func wantRead(t *testing.T, j *Journal, want Recovered) {
	t.Helper()
	got, err := j.read()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestJournal(t *testing.T) {
	top := filepath.Join(t.TempDir(), "lib")
	dir := filepath.Join(top, "state")
	old := unix.Umask(0o022)
	j := mustOpen(t, dir+"/")
	unix.Umask(old)
	for path, want := range map[string]os.FileMode{top: 0o755, dir: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	if got, _ := os.ReadFile(dir + "/lock"); string(got) != fmt.Sprintf("%d\n", os.Getpid()) {
		t.Errorf("lock: got %q", got)
	}
	wantRead(t, j, Recovered{})
	wantFiles(t, dir)
	mustWrite(t, j, testEntries())
	wantRead(t, j, Recovered{Entries: testEntries()})
	mustWrite(t, j, testEntries()[1:])
	j.close()
	// What a killed one has left behind goes; what is somebody's own stays.
	for _, name := range []string{"journal.123", "journal.damaged.4294967295", "journal.old", "journal.damaged"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j = mustOpen(t, dir)
	wantFiles(t, dir, "journal", "journal.damaged", "journal.old")
	wantRead(t, j, Recovered{Entries: testEntries()[1:]})
	mustWrite(t, j, nil)
	wantRead(t, j, Recovered{})
	if info, err := os.Stat(j.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("journal: got %v, %v, want mode 600", info.Mode(), err)
	}
	wantFiles(t, dir, "journal", "journal.damaged", "journal.old")
}

func TestJournalElsewhere(t *testing.T) {
	dir, j := testDir(t)
	here := j.at
	if len(here.boot) != 36 || here.netns == 0 {
		t.Errorf("this scope: got %+v", here)
	}
	for name, at := range map[string]scope{"another boot": {"another", here.netns}, "another network namespace": {here.boot, here.netns + 1}, "nowhere": unknownScope} {
		j.at = at
		mustWrite(t, j, testEntries())
		j.at = here
		got, err := j.read()
		if want := (Recovered{Entries: testEntries(), Stale: true}); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	needRoot(t)
	n, err := newNetns()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	j.close()
	if err := n.do(func() error {
		j, err := openJournal(dir)
		if err != nil {
			return err
		}
		defer j.close()
		if err := j.write(testEntries()); err != nil {
			return err
		}
		if r, err := j.read(); err != nil || r.Stale {
			t.Errorf("inside: got %+v, %v", r, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wantRead(t, mustOpen(t, dir), Recovered{Entries: testEntries(), Stale: true})
}

func TestJournalDamaged(t *testing.T) {
	dir, j := testDir(t)
	if err := os.WriteFile(j.path+".damaged", []byte("an older one"), 0o644); err != nil {
		t.Fatal(err)
	}
	good := formatJournal(j.at, testEntries())
	bad := bytes.Replace(good, []byte("ssh"), []byte("ssj"), 1)
	noFirst := good[1:]
	for _, tt := range []struct {
		name      string
		text      []byte
		entries   []Entry
		elsewhere bool
		damage    string
		lost      string
	}{
		{"an entry of the firewall's alone", bad, testEntries()[1:], false, "line 2: its checksum is another one", ""},
		{"an entry", bytes.Replace(good, []byte("\t\"x\"\t"), []byte("\t\"y\"\t"), 1), testEntries()[:2], false, "line 4: its checksum is another one", `"c"`},
		{"an entry whose name cannot be read", bytes.Replace(good, []byte(`"c"`), []byte(`"c`), 1), testEntries()[:2], false, "line 4: its checksum is another one", unknownDoor},
		{"two entries", bytes.Replace(bytes.Replace(good, []byte("\n\"a"), []byte("\n\x00\"a"), 1), []byte(`"x"`), []byte(`"x`), 1), testEntries()[:1], false,
			"line 3: its checksum is another one (the first of 2 damaged lines)", unknownDoor + `, "c"`},
		{"no newline", bytes.Replace(good, []byte("\n\"c"), []byte("\t\"c"), 1), testEntries()[:1], false, "line 3: its checksum is another one", `"a \"b\"\t€\n\xff", ` + unknownDoor},
		{"the first line", noFirst, testEntries(), true, "line 1: it is not the first line of a journal", ""},
		{"no newline after the first", bytes.Replace(good, []byte("\n"), nil, 1), testEntries()[1:], true, "line 1: it is not the first line of a journal", unknownDoor},
		{"no end", good[:bytes.LastIndex(good, []byte("end "))], testEntries(), false, "line 5: the end is missing", unknownDoor},
		{"an entry less", append(bytes.Clone(good[:bytes.Index(good, []byte(`"c"`))]), good[bytes.Index(good, []byte("end 3")):]...), testEntries()[:2], false,
			"line 4: the end is not that of the 2 entries before it", unknownDoor},
		{"empty", nil, nil, true, "line 1: the end is missing", unknownDoor},
		{"too long", append(bytes.Repeat([]byte("x"), maxJournalSize), good...), nil, true, "line 1: it is not the first line of a journal (the first of 2 damaged lines)", unknownDoor},
	} {
		if err := os.WriteFile(j.path, tt.text, 0o600); err != nil {
			t.Fatal(err)
		}
		lost := ""
		if tt.lost != "" {
			lost = "these doors may still be open, because the journal lines that say how to close them are damaged: " + tt.lost + ": see " + j.path + ".damaged"
		}
		wantRead(t, j, Recovered{tt.entries, tt.elsewhere, j.path + ": " + tt.damage + ": it is kept as " + j.path + ".damaged", lost})
		if kept, _ := os.ReadFile(j.path + ".damaged"); !bytes.Equal(kept, tt.text[:min(len(tt.text), maxJournalSize)]) {
			t.Errorf("%s: what was kept is not what was there", tt.name)
		}
		// What could be read is on the disk still, should the daemon be killed now.
		wantRead(t, j, Recovered{Entries: tt.entries, Stale: tt.elsewhere})
		wantFiles(t, dir, "journal", "journal.damaged")
		if info, err := os.Stat(j.path + ".damaged"); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: journal.damaged: got %v, %v, want mode 600", tt.name, info.Mode(), err)
		}
	}
}

func TestJournalNewer(t *testing.T) {
	dir, j := testDir(t)
	for _, text := range []string{"sesame journal 2", "sesame journal 2\n{}\n", "sesame journal 10 a 1\t0\nend 0\t0\n", string(seal(strings.Replace(testJournal, "1", "3", 1)))} {
		if err := os.WriteFile(j.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		version := strings.Fields(text)[2]
		_, err := j.read()
		want := j.path + ": written by a newer sesame (journal " + version + "): run that one, for it knows how to close what is open; or, if nothing is, delete the file"
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
		if got, _ := os.ReadFile(j.path); string(got) != text {
			t.Errorf("%q: it has become %q", text, got)
		}
		wantFiles(t, dir, "journal")
	}
}

func TestJournalRefused(t *testing.T) {
	top := t.TempDir()
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(top, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o770); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(top, "foreign")
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Mkdir(foreign, 0o700), os.Chown(foreign, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	const others = " must be writable by root only, because stored commands are run from it (chown, chmod 700): StateDir names another folder"
	for dir, want := range map[string]string{
		file:            "opening the pid file: open " + file + "/lock: not a directory: StateDir names another folder",
		file + "/below": "mkdir " + file + ": not a directory: StateDir names another folder",
		open:            open + others,
		foreign:         foreign + others,
	} {
		if dir == foreign && os.Geteuid() != 0 {
			continue // nobody else's folder to be had
		}
		if _, err := openJournal(dir); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", dir, err, want)
		}
	}
	dir, j := testDir(t)
	if err := os.Mkdir(j.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := j.read(); err == nil || !strings.HasSuffix(err.Error(), "is a directory: StateDir names another folder") {
		t.Errorf("a folder for a journal: got %v", err)
	}
	if err := j.write(nil); err == nil || !strings.HasSuffix(err.Error(), ": StateDir names another folder") {
		t.Errorf("a folder for a journal: got %v", err)
	}
	wantFiles(t, dir, "journal")
	// What could not be read again is not written.
	if err := j.write([]Entry{{Start: strings.Repeat("x", maxJournalSize)}}); err == nil || !strings.Contains(err.Error(), "must not have more than 16777216") {
		t.Errorf("too much: got %v", err)
	}
}

// TestJournalDiskFull has a folder that is read-only, and then full. What the journal has stays as it is, and can be
// read.
func TestJournalDiskFull(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return err
		}
		for _, step := range []error{
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32k,mode=700"),
		} {
			if step != nil {
				return step
			}
		}
		j, err := openJournal(dir)
		if err != nil {
			return err
		}
		if err := j.write(testEntries()); err != nil {
			return err
		}
		j.close()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return err
		}
		if err := j.write(nil); !errors.Is(err, unix.EROFS) {
			t.Errorf("read-only: got %v, want EROFS", err)
		}
		if _, err := openJournal(dir); !errors.Is(err, unix.EROFS) || !strings.HasSuffix(err.Error(), ": read-only file system: StateDir names another folder") {
			t.Errorf("read-only: got %v, want EROFS and what to do", err)
		}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=32k"); err != nil {
			return err
		}
		filler, err := os.Create(dir + "/filler")
		if err != nil {
			return err
		}
		defer filler.Close()
		for err == nil {
			_, err = filler.Write(make([]byte, 4096))
		}
		if j, err = openJournal(dir); err != nil { // the lock is there still
			return err
		}
		defer j.close()
		if err := j.write(nil); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("full: got %v, want ENOSPC", err)
		}
		wantRead(t, j, Recovered{Entries: testEntries()})
		wantFiles(t, dir, "filler", "journal")
		// A damaged one stays where it is.
		f, err := os.OpenFile(j.path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("S"), 0); err != nil {
			return err
		}
		r, err := j.read()
		if err != nil || len(r.Entries) != 3 || !r.Stale || !strings.HasSuffix(r.Damage, "no space left on device") {
			t.Errorf("full and damaged: got %+v, %v", r, err)
		}
		wantFiles(t, dir, "filler", "journal")
		// The lock of a new folder needs no room either.
		below, err := openJournal(dir + "/below")
		if err != nil {
			return err
		}
		below.close()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestJournalHeld(t *testing.T) {
	dir, j := testDir(t)
	want := fmt.Sprintf(dir+held, os.Getpid())
	if _, err := openJournal(dir); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	// A command that is still running does not hold it.
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
	j.close()
	mustOpen(t, dir).close()
	// A lock with something else in it is one all the same, and stays as it is.
	if err := os.WriteFile(dir+"/lock", []byte("mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir)
	if got, _ := os.ReadFile(dir + "/lock"); string(got) != "mine\n" {
		t.Errorf("lock: got %q", got)
	}
	if _, err := openJournal(dir); err == nil || !strings.Contains(err.Error(), " process ?: ") {
		t.Errorf("got %v", err)
	}
}

// TestJournalKilled kills a daemon that writes its journal again and again: what is left is what it wrote last, or was
// about to write, and the lock is free.
func TestJournalKilled(t *testing.T) {
	if dir := os.Getenv("SESAME_TEST_JOURNAL"); dir != "" {
		writeForever(dir)
	}
	dir, j := testDir(t)
	j.close()
	for round := range 20 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestJournalKilled$")
		cmd.Env = append(os.Environ(), "SESAME_TEST_JOURNAL="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 2 + rand.IntN(20) {
			lines.Scan()
		}
		if round == 0 {
			want := fmt.Sprintf(dir+held, cmd.Process.Pid)
			if _, err := openJournal(dir); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		var last string
		for ok := true; ok; ok = lines.Scan() {
			if lines.Text() != "" {
				last = lines.Text()
			}
		}
		_ = cmd.Wait()
		j := mustOpen(t, dir)
		r, err := j.read()
		if err != nil || r.Damage != "" || r.Stale || len(r.Entries) == 0 {
			t.Fatalf("after %q: got %d entries, %q, %v, %v", last, len(r.Entries), r.Damage, r.Stale, err)
		}
		var written int
		_, _ = fmt.Sscan(last, &written)
		if n := r.Entries[0].Tries; n != written && n != written+1 || len(r.Entries) != 1+n%7 {
			t.Errorf("got %d entries of %d, want those of %d or the next one", len(r.Entries), n, written)
		}
		wantFiles(t, dir, "journal")
		j.close()
	}
}

// writeForever writes journals, each of another size, and says which ones are on the disk.
func writeForever(dir string) {
	j, err := openJournal(dir)
	if err != nil {
		panic(err)
	}
	for n := 1; ; n++ {
		e := testEntries()[0]
		e.Tries = n
		entries := []Entry{e}
		for range n % 7 {
			entries = append(entries, e)
		}
		if err := j.write(entries); err != nil {
			panic(err)
		}
		fmt.Println(n)
	}
}
