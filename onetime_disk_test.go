//go:build linux && !pure

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestUseOneTime(t *testing.T) {
	for _, tt := range []struct{ name, before, use, after string }{
		{"leading blank", " 1,2\n 3,4\n", "1,2", "#1,2\n 3,4\n"},
		{"leading tab, CRLF", "\t1,2\r\n\t3,4\r\n", "1,2", "#1,2\r\n\t3,4\r\n"},
		{"no leading blank", "1,2\n3,4\n", "1,2", "#1,2\n3,4\n"},
		{"byte order mark", "\ufeff1,2\n3,4\n", "1,2", "\ufeff#1,2\n3,4\n"},
		{"byte order mark and a blank", "\ufeff 1,2\n3,4\n", "1,2", "\ufeff#1,2\n3,4\n"},
		{"after a used one", "#1,2\n3,4", "3,4", "#1,2\n#3,4"},
		{"not the first one any more", " 5,6\n 1,2\n", "1,2", " 5,6\n#1,2\n"},
		{"the first of two alike", " 1,2\n 1,2\n", "1,2", "#1,2\n 1,2\n"},
		{"with a mistake elsewhere", " 9,x\n 1,2\n", "1,2", " 9,x\n#1,2\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "once")
			if err := os.WriteFile(file, []byte(tt.before), 0o640); err != nil {
				t.Fatal(err)
			}
			link := file + ".link"
			if err := os.Symlink("once", link); err != nil {
				t.Fatal(err)
			}
			if err := useOneTime(link, sequence(t, tt.use)); err != nil {
				t.Fatal(err)
			}
			got, _ := os.ReadFile(file)
			if string(got) != tt.after {
				t.Errorf("got %q, want %q", got, tt.after)
			}
			if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
				t.Errorf("the link to the file: %v, %v", info.Mode(), err)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode: got %v, want 640", info.Mode())
			}
			if files, _ := os.ReadDir(filepath.Dir(file)); len(files) != 2 {
				t.Errorf("files left: %v", files)
			}
			if tt.name == "the first of two alike" {
				return
			}
			if err := useOneTime(link, sequence(t, tt.use)); err != errUsed {
				t.Errorf("used again: got %v, want %v", err, errUsed)
			}
		})
	}
}

// TestUseOneTimeRefused has files that cannot be marked: they stay as they are.
func TestUseOneTimeRefused(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	w := &world{T: t}
	// A file system of the test's own: first read-only, then full.
	w.must(onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return err
		}
		for _, step := range []error{
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"),
			os.WriteFile(dir+"/once", []byte("1,2\n"), 0o600),
			unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""),
		} {
			if step != nil {
				return step
			}
		}
		if err := useOneTime(dir+"/once", sequence(t, "1,2")); !errors.Is(err, unix.EROFS) {
			t.Errorf("read-only: got %v, want EROFS", err)
		}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=16k"); err != nil {
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
		if err := useOneTime(dir+"/once", sequence(t, "1,2")); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("full: got %v, want ENOSPC", err)
		}
		if got, err := os.ReadFile(dir + "/once"); string(got) != "1,2\n" {
			t.Errorf("after all that: got %q, %v", got, err)
		}
		if files, _ := os.ReadDir(dir); len(files) != 2 {
			t.Errorf("files left: %v", files)
		}
		return nil
	}))
	if err := useOneTime(filepath.Join(dir, "none"), sequence(t, "1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
}

// TestUseOneTimeByTwo has two daemons that use the same line at the same time: one of them gets it.
func TestUseOneTimeByTwo(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{" 1,2\n", "1,2\n"} {
		for i := range 100 {
			file := filepath.Join(dir, fmt.Sprint(len(text), i))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			outcome := make(chan error)
			for range 2 {
				go func() { outcome <- useOneTime(file, []Knock{{1, tcp}, {2, tcp}}) }()
			}
			one, other := <-outcome, <-outcome
			if one != nil {
				one, other = other, one
			}
			if one != nil || other != errUsed {
				t.Fatalf("%q: got %v and %v, want one success, and %v", text, one, other, errUsed)
			}
		}
	}
}

// TestUseOneTimeEqual has several that use equal lines at the same time: each gets one, and none two.
func TestUseOneTimeEqual(t *testing.T) {
	const users, lines = 4, 6
	dir := t.TempDir()
	for i := range 100 {
		file := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(file, []byte(strings.Repeat("1,2\n", lines)), 0o600); err != nil {
			t.Fatal(err)
		}
		outcome := make(chan error)
		for range users {
			go func() { outcome <- useOneTime(file, []Knock{{1, tcp}, {2, tcp}}) }()
		}
		for range users {
			if err := <-outcome; err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if unused, _ := parseOneTime(file, text); err != nil || len(unused) != lines-users {
			t.Fatalf("got %d lines left, %v, want %d:\n%s", len(unused), err, lines-users, text)
		}
	}
}

// TestUseOneTimeLocked has a file that somebody else has locked, for a while and for ever.
func TestUseOneTimeLocked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "once")
	if err := os.WriteFile(file, []byte(" 1,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	fd := int(other.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	want := "locking " + file + ": another program has held it for 1s: lsof " + file + " names it"
	if err := useOneTime(file, sequence(t, "1,2")); err == nil || err.Error() != want {
		t.Errorf("locked: got %v, want %s", err, want)
	}
	timer := time.AfterFunc(lockTime/10, func() { _ = unix.Flock(fd, unix.LOCK_UN) })
	defer timer.Stop()
	if err := useOneTime(file, sequence(t, "1,2")); err != nil {
		t.Errorf("locked for a while: got %v", err)
	}
	if err := useOneTime(file, sequence(t, "1,2")); err != errUsed {
		t.Errorf("used again: got %v, want %v", err, errUsed)
	}
}

// TestUseOneTimeEdited has an editor save the file after it was read: what it has saved stays.
func TestUseOneTimeEdited(t *testing.T) {
	const was, saved = " 1,2\n 3,4\n", " 5,6\n 1,2\n 3,4\n"
	overwrite := func(f *os.File) (bool, error) { return overwriteBlank(f, []byte(was), 0) }
	replace := func(f *os.File) (bool, error) { return replaceFile(f, []byte(was), []byte("#"+was)) }
	inPlace := func(path string) error { return os.WriteFile(path, []byte(saved), 0) }
	anew := func(path string) error {
		if err := os.WriteFile(path+"~", []byte(saved), 0o600); err != nil {
			return err
		}
		return os.Rename(path+"~", path)
	}
	for _, tt := range []struct {
		name string
		mark func(*os.File) (bool, error)
		edit func(path string) error
	}{
		{"a blank, in place", overwrite, inPlace},
		{"a blank, another file", overwrite, anew},
		{"another file, in place", replace, inPlace},
		{"another file, another file", replace, anew},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "once")
			if err := os.WriteFile(path, []byte(was), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := openOneTime(path, os.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := tt.edit(path); err != nil {
				t.Fatal(err)
			}
			if marked, err := tt.mark(f); marked || err != errReplaced {
				t.Errorf("got %v, %v, want false, %v", marked, err, errReplaced)
			}
			if got, _ := os.ReadFile(path); string(got) != saved {
				t.Errorf("got %q, want what the editor saved", got)
			}
			if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
				t.Errorf("files left: %v", files)
			}
		})
	}
}

// TestUntilInPlace goes through what may come of an editor's saving at the same time.
func TestUntilInPlace(t *testing.T) {
	type attempt struct {
		marked bool
		err    error
	}
	for _, tt := range []struct {
		name     string
		attempts []attempt
		want     error
	}{
		{"marked", []attempt{{true, nil}}, nil},
		{"not there", []attempt{{false, errUsed}}, errUsed},
		{"replaced after it was marked, and there again", []attempt{{true, errReplaced}, {true, nil}}, nil},
		{"replaced after it was marked, and not there", []attempt{{true, errReplaced}, {false, errReplaced}, {false, errUsed}}, nil},
		{"replaced before it was marked, and not there", []attempt{{false, errReplaced}, {false, errUsed}}, errUsed},
		{"another error", []attempt{{true, errReplaced}, {false, unix.EROFS}}, unix.EROFS},
		{"again and again", slices.Repeat([]attempt{{true, errReplaced}}, 1+maxReplaced), errReplaced},
	} {
		t.Run(tt.name, func(t *testing.T) {
			left := tt.attempts
			got := untilInPlace(func() (bool, error) {
				a := left[0]
				left = left[1:]
				return a.marked, a.err
			})
			if got != tt.want || len(left) > 0 {
				t.Errorf("got %v with %d attempts left, want %v", got, len(left), tt.want)
			}
		})
	}
}

// TestOneTimePipe names what is no regular file: it is refused, and nobody waits for it.
func TestOneTimePipe(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, os.DevNull} {
		want := path + " is not a regular file, and used lines are marked in it: name one that is"
		if _, err := readOneTime(path); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := useOneTime(pipe, sequence(t, "1")); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("use: got %v", err)
	}
}

// TestOneTimeSequences follows a file through its use, by real knocks.
func TestOneTimeSequences(t *testing.T) {
	w := newWorld(t, 2)
	dir := t.TempDir()
	once := filepath.Join(dir, "once")
	write := func(text string) { w.must(os.WriteFile(once, []byte(text), 0o600)) }
	want := func(text string) {
		t.Helper()
		if got, _ := os.ReadFile(once); string(got) != text {
			t.Errorf("file: got %q, want %q", got, text)
		}
	}
	write(" 7001,7002\n8003,8004\n 9005:udp,9006\n")
	config := "[a]\n one_time_sequences = " + once + "\n command = echo a\n[b]\n one_time_sequences = " + once + "\n command = echo b\n" +
		"[static]\n sequence = 9001,9002,9003\n command = true\n"
	d := w.serve(config)
	ran := func() int { return strings.Count(d.logged(), "a: running command: echo a") }
	// The next line comes into force a moment after the one before was used.
	knock := func(openings int, knocks ...string) {
		t.Helper()
		w.eventually(fmt.Sprintf("opening %d", openings), func() bool {
			w.knock(0, append([]string{"-d20", hostAddr}, knocks...)...)
			return ran() == openings
		})
	}
	// One knock opens both doors of the file. It ends neither the attempts at other doors nor those of other sources.
	w.knock(1, hostAddr, "9001", "9002")
	w.knock(0, hostAddr, "7001", "7002")
	d.await("b: command took")
	w.knock(1, hostAddr, "9003")
	d.await("10.9.0.3: static: OPEN SESAME")
	want("#7001,7002\n8003,8004\n 9005:udp,9006\n")
	w.knock(0, hostAddr, "7001", "7002") // used
	knock(2, "8003", "8004")
	want("#7001,7002\n#8003,8004\n 9005:udp,9006\n")
	// The file is edited while the daemon runs: another line is in force with the next opening.
	write(" 9005:udp,9006\n 16007,16008\n")
	knock(3, "9005:udp", "9006")
	knock(4, "16007", "16008")
	d.await("no more sequences left in the one time sequences file for door a --> disabling the door")
	d.await("no more sequences left in the one time sequences file for door b --> disabling the door")
	w.knock(0, hostAddr, "16007", "16008")
	// A line that is taken out of the file opens nothing, and a reload brings new ones into force.
	write(" 17011,17012\n 18013,18014\n")
	d.signal(unix.SIGHUP)
	d.await("re-opening log file") // it has read everything
	write(" 18013,18014\n")
	w.eventually("the line in force after the reload", func() bool {
		w.knock(0, hostAddr, "17011", "17012")
		return strings.Contains(d.logged(), "a: not opened: its sequence has been used, or taken out of the file: "+once)
	})
	want(" 18013,18014\n")
	knock(5, "18013", "18014")
	if regexp.MustCompile(`\b(7001|7002|8003|8004|9005|9006|16007|16008|17011|17012|18013|18014)\b`).MatchString(d.logged()) {
		t.Error("the log has a sequence")
	}
	d.stop()
}

// TestOneTimeReadOnly has a file that cannot be written: the door does not open until it can be.
func TestOneTimeReadOnly(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	once := filepath.Join(t.TempDir(), "once")
	w.must(os.WriteFile(once, []byte(" 7001,7002\n"), 0o600))
	// Root may write what its mode forbids; not so a file that is immutable (chattr(1)) or on a read-only mount.
	d := w.serveIn("mount --bind "+once+" "+once+" && mount -o remount,ro,bind "+once,
		strings.Replace(sshDoor("ssh", "1", 60), "sequence      = 1\n", "one_time_sequences = "+once+"\n", 1))
	w.knock(0, hostAddr, "7001", "7002")
	d.await("ssh: not opened: its sequence cannot be marked as used: open " + once + ": read-only file system")
	w.wantPort(0, hostSSH, hidden)
	w.must(exec.Command("nsenter", "-m", "-t", fmt.Sprint(d.cmd.Process.Pid), "umount", once).Run())
	w.knock(0, hostAddr, "7001", "7002")
	w.awaitPort(0, hostSSH, reached)
	d.stop()
}

// TestOneTimeKilled kills the daemon between the use of a sequence and the end of its command: it is used.
func TestOneTimeKilled(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	once := filepath.Join(dir, "once")
	w.must(os.WriteFile(once, []byte("7001,7002\n8003,8004\n"), 0o600))
	config := "[a]\n one_time_sequences = " + once + "\n command = cp " + once + " " + dir + "/seen; kill -9 $PPID\n"
	d := w.serve(config)
	w.knock(0, hostAddr, "7001", "7002")
	d.wantExit(-1)
	if seen, _ := os.ReadFile(dir + "/seen"); string(seen) != "#7001,7002\n8003,8004\n" {
		t.Errorf("the command found the file as %q", seen)
	}
	d = w.serve(strings.Replace(config, "kill -9 $PPID", "true", 1))
	w.knock(0, hostAddr, "7001", "7002")
	w.knock(0, hostAddr, "8003", "8004")
	d.await("a: command took")
	if n := strings.Count(d.logged(), "OPEN SESAME"); n != 1 {
		t.Errorf("openings after the restart: got %d, want 1", n)
	}
	d.stop()
}
