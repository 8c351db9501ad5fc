//go:build linux && !pure

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPidFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	ours := fmt.Sprintf("%d\n", os.Getpid())
	// One that was left behind is taken over.
	for _, before := range []string{"", "4194304\n", "7", "12345678 \n"} {
		if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := takePidFile(path, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != ours {
			t.Errorf("after %q: got %q, want %q", before, got, ours)
		}
		_, err = takePidFile(path, 0)
		if want := fmt.Sprintf("%s is held by another daemon, process %d: ", path, os.Getpid()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("taken twice: got %v, want %s...", err, want)
		}
		p.remove()
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("after its removal: %v", err)
		}
	}
}

// TestPidFileIsNone names files by mistake: they stay as they are.
func TestPidFileIsNone(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"configuration": "[options]\n", "negative": "-1\n", "two numbers": "1 2\n"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := takePidFile(path, 0)
		if want := path + " is no pid file, and stays as it is: -p names another one"; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%s: got %q, want it as it was", name, got)
		}
	}
	target := filepath.Join(dir, "target")
	if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := takePidFile(filepath.Join(dir, "link"), 0); err == nil {
		t.Error("a link: got no error")
	}
	if _, err := takePidFile(filepath.Join(dir, "none", "pid"), 0); err == nil || !strings.Contains(err.Error(), "no such file or directory: -p names another one") {
		t.Errorf("no such folder: got %v", err)
	}
}

// TestPidFileOfAnother is not taken away by the one whose file it no longer is.
func TestPidFileOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p, err := takePidFile(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	q, err := takePidFile(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.remove()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	q.remove()
}

// TestPidFileRetired has a daemon that is ending: the next one waits for it, but not for ever.
func TestPidFileRetired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p, err := takePidFile(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.retire()
	_, err = takePidFile(path, 3*pidPause)
	if want := path + " is held by a daemon that was about to end, and has not: stop that one first, or name another file by -p"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	time.AfterFunc(3*pidPause, p.remove)
	q, err := takePidFile(path, endTime)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != fmt.Sprintf("%d\n", os.Getpid()) {
		t.Errorf("got %q, want the number of the next daemon", got)
	}
	q.remove()
}
