package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLockFile has a file opened twice: one of them has the lock, and the other can read all the same.
func TestLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	var f [2]*os.File
	for i := range f {
		var err error
		if f[i], err = openFile(path, os.O_RDWR); err != nil {
			t.Fatal(err)
		}
		defer f[i].Close()
	}
	if err := lockFile(f[0]); err != nil {
		t.Fatal(err)
	}
	if err := lockFile(f[1]); err != errLocked {
		t.Errorf("locked by another: got %v, want %v", err, errLocked)
	}
	if text, err := readOneTime(path); string(text) != "text" || err != nil {
		t.Errorf("while it is locked: got %q, %v", text, err)
	}
	unlockFile(f[0])
	if err := lockFile(f[1]); err != nil {
		t.Errorf("locked by nobody: got %v", err)
	}
}

// TestReplaceOpenFile has a file replaced while it is open: whoever has it open still reads the old one.
func TestReplaceOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := openFile(path, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if replaced, err := replaceFile(f, []byte("old"), []byte("new")); !replaced || err != nil {
		t.Fatalf("got %v, %v", replaced, err)
	}
	if text, err := os.ReadFile(path); string(text) != "new" {
		t.Errorf("in its place: got %q, %v", text, err)
	}
	if text, err := readAll(f); string(text) != "old" {
		t.Errorf("in the open one: got %q, %v", text, err)
	}
	if err := inPlace(path, f); err != errReplaced {
		t.Errorf("the open one is in place: got %v, want %v", err, errReplaced)
	}
}

// TestUseOneTimeAnywhere uses up a file's lines on every system, each by two at once.
func TestUseOneTimeAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "once")
	if err := os.WriteFile(path, []byte(" 1,2\r\n3\n4,5:udp"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range [][]Knock{{{1, tcp}, {2, tcp}}, {{3, tcp}}, {{4, tcp}, {5, udp}}} {
		outcome := make(chan error)
		for range 2 {
			go func() { outcome <- useOneTime(path, s) }()
		}
		one, other := <-outcome, <-outcome
		if one != nil {
			one, other = other, one
		}
		if one != nil || other != errUsed {
			t.Fatalf("%v: got %v and %v, want one success, and %v", s, one, other, errUsed)
		}
	}
	const want = "#1,2\r\n#3\n#4,5:udp"
	if text, err := os.ReadFile(path); string(text) != want {
		t.Errorf("got %q, %v, want %q", text, err, want)
	}
	if files, err := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("files left: %v, %v", files, err)
	}
}
