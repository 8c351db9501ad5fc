//go:build linux && !pure

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPidFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	ours := fmt.Sprintf("%d\n", os.Getpid())
	// One that was left behind is taken over.
	for _, before := range []string{"", "4194304\n", "7", "12345678 \n"} {
		if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := claimPidFile(path, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != ours {
			t.Errorf("after %q: got %q, want %q", before, got, ours)
		}
		_, err = claimPidFile(path, 0)
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
		_, err := claimPidFile(path, 0)
		if want := path + " is not a pid file and is left as it is: -p names another one"; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%s: got %q, want it as it was", name, got)
		}
		// The same for what would be locked.
		if err := os.Rename(path, path+".pid.lock"); err != nil {
			t.Fatal(err)
		}
		_, err = claimPidFile(path+".pid", 0)
		if want := path + ".pid.lock is not a pid file and is left as it is: -p names another one"; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
		if got, _ := os.ReadFile(path + ".pid.lock"); string(got) != text {
			t.Errorf("%s: got %q, want it as it was", name, got)
		}
	}
	pipe := filepath.Join(dir, "pipe") // as -p /dev/null would be, which must not be taken away
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := claimPidFile(pipe, 0); err == nil {
		t.Error("a pipe: got no error")
	}
	if info, err := os.Stat(pipe); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("a pipe: is now %v, %v", info, err)
	}
	target := filepath.Join(dir, "target")
	if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := claimPidFile(filepath.Join(dir, "link"), 0); err == nil {
		t.Error("a link: got no error")
	}
	if _, err := os.Stat(filepath.Join(dir, "link.lock")); err == nil {
		t.Error("a link: its lock is left")
	}
	if _, err := claimPidFile(filepath.Join(dir, "none", "pid"), 0); err == nil || !strings.Contains(err.Error(), "no such file or directory: -p names another one") {
		t.Errorf("no such folder: got %v", err)
	}
}

// TestPidFileOfAnother is not taken away by the one whose file it no longer is.
func TestPidFileOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p, err := claimPidFile(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".lock"} {
		if err := os.Rename(name, name+".old"); err != nil {
			t.Fatal(err)
		}
	}
	q, err := claimPidFile(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.remove()
	for _, name := range []string{path, path + ".lock"} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	q.remove()
}

// TestPidFileOfEarlierVersion is locked itself, by the process in it, which is ending at last. One that only reads it, and
// has it locked as well, is no daemon.
func TestPidFileOfEarlierVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	hold := func(number, redirection string) *exec.Cmd {
		if err := os.WriteFile(path, []byte(number), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", "exec 3"+redirection+"$0; flock -n 3 && echo locked; exec sleep 1000", path)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if line, _ := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
			t.Fatalf("got %q", line)
		}
		if number == "" {
			return cmd
		}
		if err := os.WriteFile(path, fmt.Appendln(nil, cmd.Process.Pid), 0o644); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	old := hold("1\n", "<>")
	for range 2 {
		_, err := claimPidFile(path, 0)
		if want := fmt.Sprintf("%s is held by another daemon, process %d: stop that one first, or name another file by -p", path, old.Process.Pid); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if got, _ := os.ReadFile(path); string(got) != fmt.Sprintln(old.Process.Pid) {
		t.Errorf("the file: got %q", got)
	}
	_, _ = old.Process.Kill(), old.Wait()

	hold("1\n", "<")
	before, err := os.Open(path) // or its inode number may come again
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	p, err := claimPidFile(path, 0)
	if err != nil {
		t.Fatalf("locked by a reader: %v", err)
	}
	if inPlace(path, before) == nil {
		t.Error("it is the same file still: an earlier version that is ending would take it away")
	}
	p.remove()

	// One that is ending has emptied it.
	hold("", "<>")
	if p, err = claimPidFile(path, 0); err != nil {
		t.Fatalf("ending: %v", err)
	}
	p.remove()
}

// TestPidFileRetired has a daemon that is ending: the next one waits for it, but not for ever.
func TestPidFileRetired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p, err := claimPidFile(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.retire()
	_, err = claimPidFile(path, 3*pidPause)
	if want := path + " is held by a daemon that was about to end, and has not: stop that one first, or name another file by -p"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	time.AfterFunc(3*pidPause, p.remove)
	q, err := claimPidFile(path, endTime)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != fmt.Sprintf("%d\n", os.Getpid()) {
		t.Errorf("got %q, want the number of the next daemon", got)
	}
	q.remove()
}
