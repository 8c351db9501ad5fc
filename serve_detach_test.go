//go:build linux && !pure

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// detachedDaemon is one that -d has put in the background.
type detachedDaemon struct {
	w           *world
	dir         string
	config, log string // files
	pid         string
	caller      int // the process that has put it in the background, and is gone
}

// detach runs a daemon with -d on the host, by knockd's name, and waits for its caller. It ends with the test at the
// latest.
func (w *world) detach(config string, args ...string) *detachedDaemon {
	w.Helper()
	d := &detachedDaemon{w: w, dir: w.TempDir()}
	d.config, d.log = d.dir+"/knockd.conf", d.dir+"/log"
	w.must(os.WriteFile(d.config, []byte(config), 0o600))
	if out, status := d.start(args...); status != 0 || out != "" {
		w.Fatalf("knockd -d: exit status %d, %q", status, out)
	}
	d.pid = strings.TrimSpace(d.read("pid"))
	w.endPid(d.pid)
	return d
}

// start calls knockd -d in the daemon's folder, with paths relative to it, and waits until nobody holds its output.
func (d *detachedDaemon) start(args ...string) (out string, status int) {
	d.w.Helper()
	cmd := sesame("knockd", append([]string{"-d", "-i", "eth0", "-c", "knockd.conf", "-g", "log", "-p", "pid"}, args...)...)
	cmd.Dir = d.dir
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	d.w.must(d.w.host.start(cmd))
	d.caller = cmd.Process.Pid
	err := cmd.Wait() // and for the end of the pipe
	return b.String(), exitStatus(err)
}

func (d *detachedDaemon) read(file string) string {
	text, _ := os.ReadFile(filepath.Join(d.dir, file))
	return string(text)
}

func (d *detachedDaemon) await(text string) {
	d.w.Helper()
	d.w.eventually("log line "+text, func() bool { return strings.Contains(d.read("log"), text) })
}

func (d *detachedDaemon) signal(sig string) {
	d.w.Helper()
	d.w.must(exec.Command("kill", "-"+sig, d.pid).Run())
}

func (d *detachedDaemon) awaitEnd() {
	d.w.Helper()
	d.w.eventually("the daemon's end", func() bool { return ended(d.pid) })
}

// ended reports whether there is no such process, or only what nobody has waited for.
func ended(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// endPid ends a process that is nobody's child any more, with the test.
func (w *world) endPid(pid string) {
	w.Helper()
	if pid == "" {
		w.Fatal("no process number")
	}
	w.Cleanup(func() { _ = exec.Command("kill", "-9", pid).Run() })
}

// TestDetached follows a daemon in the background through its life.
func TestDetached(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	d := w.detach(sshDoor("ssh", "7000,8000", 600, "tcpflags = syn"))
	w.knock(0, hostAddr, "7000", "8000") // it listens already
	w.awaitPort(0, hostSSH, reached)

	proc := "/proc/" + d.pid
	if comm, _ := os.ReadFile(proc + "/comm"); string(comm) != "knockd\n" {
		t.Errorf("name of the process: got %q, want knockd", comm)
	}
	if env, _ := os.ReadFile(proc + "/environ"); len(env) == 0 {
		t.Error("no environment: the test shows nothing")
	}
	if cwd, _ := os.Readlink(proc + "/cwd"); cwd != "/" {
		t.Errorf("working directory: got %s, want /", cwd)
	}
	for fd := range 3 {
		if to, _ := os.Readlink(fmt.Sprintf("%s/fd/%d", proc, fd)); to != os.DevNull {
			t.Errorf("descriptor %d: got %s, want %s", fd, to, os.DevNull)
		}
	}
	fds, _ := filepath.Glob(proc + "/fd/*")
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, "pipe:") {
			t.Errorf("descriptor %s is still a pipe", filepath.Base(fd))
		}
	}
	stat, err := os.ReadFile(proc + "/stat")
	w.must(err)
	_, stat, _ = bytes.Cut(stat, []byte(") ")) // state, parent, process group, session (proc_pid_stat(5))
	if f := strings.Fields(string(stat)); f[2] != d.pid || f[3] != d.pid || f[1] == fmt.Sprint(d.caller) {
		t.Errorf("not the leader of a session of its own, without its caller: %s", stat)
	}

	// logrotate, and a reload with the relative paths it was started with.
	w.must(os.Rename(d.log, d.log+".1"))
	w.must(os.WriteFile(d.config, []byte(sshDoor("ssh", "5000,6000", 600, "tcpflags = syn")), 0o600))
	d.signal("HUP")
	d.await("re-opening log file: " + d.log)
	w.eventually("the sequence of the reload", func() bool {
		w.knock(0, "-d20", hostAddr, "5000", "6000")
		return strings.Contains(d.read("log"), "OPEN SESAME")
	})

	if out, status := d.start(); status != 1 || out != fmt.Sprintf("knockd: %s/pid is held by another daemon, process %s: "+
		"stop that one first, or name another file by -p\n", d.dir, d.pid) {
		t.Errorf("a second daemon: exit status %d, %q", status, out)
	}
	d.signal("TERM")
	d.awaitEnd()
	w.wantPort(0, hostSSH, filtered)
	if !strings.HasSuffix(d.read("log"), "] shutting down\n") {
		t.Errorf("at its end, the log has %q", d.read("log"))
	}
	if _, err := os.Stat(d.dir + "/pid"); err == nil {
		t.Error("the pid file is still there")
	}

	// After a kill -9 the next one takes the pid file over.
	if out, status := d.start(); status != 0 || out != "" {
		t.Fatalf("started again: exit status %d, %q", status, out)
	}
	d.pid = strings.TrimSpace(d.read("pid"))
	w.endPid(d.pid)
	d.signal("KILL")
	d.awaitEnd()
	w.eventually("a start after kill -9, when the last thread has ended", func() bool {
		out, status := d.start()
		return status == 0 && out == ""
	})
	if pid := strings.TrimSpace(d.read("pid")); pid == d.pid {
		t.Errorf("the pid file still has %s", pid)
	} else {
		w.endPid(pid)
	}
}

// TestPidFileLockedByNobody has a user without rights lock the pid file that a killed daemon has left, which everybody can
// read. The daemon starts all the same, and nobody but root can open what it locks.
func TestPidFileLockedByNobody(t *testing.T) {
	w := newWorld(t, 1)
	state := t.TempDir() // others can enter it
	w.must(os.Chmod(state, 0o755))
	w.must(os.WriteFile(state+"/lock", []byte("7\n"), 0o644))
	d := w.detach("[options]\n StateDir = " + state + "\n[a]\n sequence = 7000,8000\n start_command = true\n stop_command = true\n")
	d.signal("KILL")
	d.awaitEnd()
	open, err := os.Open(d.dir + "/pid")
	w.must(err)
	defer open.Close()
	nobody := exec.Command("/bin/sh", "-c", "flock 3 && echo locked && exec sleep 1000")
	nobody.ExtraFiles = []*os.File{open}
	nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := nobody.StdoutPipe()
	w.must(err)
	w.must(nobody.Start())
	w.Cleanup(func() {
		_ = nobody.Process.Kill()
		_ = nobody.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the lock of nobody: %q, %v", line, err)
	}

	w.eventually("a start, when the last thread of the one before has ended", func() bool {
		out, status := d.start()
		return status == 0 && out == ""
	})
	old := d.pid
	d.pid = strings.TrimSpace(d.read("pid"))
	w.endPid(d.pid)
	if d.pid == old || ended(d.pid) {
		t.Errorf("the pid file has %s after %s", d.pid, old)
	}
	if info, err := os.Stat(d.dir + "/pid"); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the pid file: got %v, %v, want mode 644", info, err)
	}
	for _, name := range []string{d.dir + "/pid.lock", state + "/lock"} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want mode 600", name, info, err)
		}
	}
	if out, status := d.start(); status != 1 || !strings.Contains(out, "/pid is held by another daemon, process "+d.pid+": ") {
		t.Errorf("a second daemon: exit status %d, %q", status, out)
	}
	d.signal("TERM")
	d.awaitEnd()
	for _, name := range []string{"/pid", "/pid.lock"} {
		if _, err := os.Stat(d.dir + name); err == nil {
			t.Errorf("%s is left", name)
		}
	}
}

// TestRestartWhileEnding starts the next daemon while the stop command of the one before still runs.
func TestRestartWhileEnding(t *testing.T) {
	w := newWorld(t, 1)
	d := w.detach("[a]\n sequence = 7000,8000\n start_command = true\n cmd_timeout = 600\n stop_command = sleep 2\n")
	w.knock(0, "-d20", hostAddr, "7000", "8000")
	d.await("a: command took")
	old := d.pid
	d.signal("TERM")
	d.await("running command: sleep 2")
	if out, status := d.start(); status != 0 || out != "" {
		t.Fatalf("started while the other one ends: exit status %d, %q", status, out)
	}
	d.pid = strings.TrimSpace(d.read("pid"))
	w.endPid(d.pid)
	if d.pid == old || !ended(old) {
		t.Errorf("processes: got %s after %s", d.pid, old)
	}
	if log := d.read("log"); !strings.Contains(log, "] shutting down\n") {
		t.Errorf("the first one was not waited for: %s", log)
	}
	d.signal("TERM")
	d.awaitEnd()
}

// TestCommandLineWins names a log and a pid file in the configuration and others by -g and -p.
func TestCommandLineWins(t *testing.T) {
	w := newWorld(t, 1)
	d := w.detach("[options]\n LogFile = log.config\n PidFile = pid.config\n[a]\n sequence = 7000,8000\n command = true\n")
	d.await("starting up")
	if files, _ := filepath.Glob(d.dir + "/*.config"); files != nil {
		t.Errorf("written: %v", files)
	}
	// Without the options, those of the configuration are taken, relative to the caller's folder.
	cmd := sesame("knockd", "-d", "-i", "eth0", "-c", "knockd.conf")
	cmd.Dir = d.dir
	w.must(w.host.start(cmd))
	w.must(cmd.Wait())
	w.endPid(strings.TrimSpace(d.read("pid.config")))
	w.eventually("the log", func() bool { return strings.Contains(d.read("log.config"), "starting up") })
}

// TestReadyWithoutDetach has -d's variable in the environment of a daemon in the foreground: it means nothing there.
func TestReadyWithoutDetach(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	w.must(os.WriteFile(dir+"/c", []byte("[a]\n sequence = 7000,8000\n command = true\n"), 0o600))
	cmd := sesame("knockd", "-i", "eth0", "-c", dir+"/c", "-p", dir+"/pid")
	cmd.Env = append(cmd.Env, detachedEnv+"=1")
	stderr, err := os.Create(dir + "/log")
	w.must(err)
	defer stderr.Close()
	cmd.Stderr = stderr
	d := w.daemon(cmd, dir+"/c", stderr.Name())
	d.await("starting up, listening on eth0")
	if _, err := os.Stat(dir + "/pid"); err == nil {
		t.Error("there is a pid file")
	}
	d.stop()
}

// TestDetachRefused has errors of the start: they are the caller's exit status and standard error, and no daemon is left.
func TestDetachRefused(t *testing.T) {
	w := newWorld(t, 1)
	d := &detachedDaemon{w: w, dir: t.TempDir()}
	const good = "[a]\n sequence = 7000,8000\n command = true\n"
	for _, tt := range []struct {
		name, config string
		args         []string
		status       int
		want         string
	}{
		{"bad configuration", "[a]\nsequence = x\n", nil, 1, d.dir + "/knockd.conf:2: door \"a\": Sequence: a port is a number from 1 to 65535\n"},
		{"no place for the log", good, []string{"-g", "none/log"}, 1, "knockd: opening the log file: open " + d.dir + "/none/log: no such file or directory: "},
		{"no place for the pid file", good, []string{"-p", "none/pid"}, 1, "knockd: opening the pid file: open " + d.dir + "/none/pid.lock: no such file or directory: -p names another one\n"},
		{"a pid file that is none", good, []string{"-p", "knockd.conf"}, 1, "knockd: " + d.dir + "/knockd.conf is not a pid file and is left as it is: -p names another one\n"},
		{"unknown option", good, []string{"-x"}, 2, "knockd: unknown option \"-x\" (knockd --help shows what there is)\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.must(os.WriteFile(d.dir+"/knockd.conf", []byte(tt.config), 0o600))
			out, status := d.start(tt.args...)
			if status != tt.status || !strings.HasPrefix(out, tt.want) || strings.Count(out, "\n") != 1 {
				t.Errorf("got exit status %d, %q, want %d, one line that begins %q", status, out, tt.status, tt.want)
			}
			if pid := d.read("pid"); pid != "" {
				t.Errorf("a pid file is left: %q", pid)
			}
		})
	}
	// Without a log at all there is one warning, and it runs.
	w.must(os.WriteFile(d.dir+"/knockd.conf", []byte(good), 0o600))
	out, status := d.start("-g", "")
	if want := "knockd: warning: nothing will be logged: LogFile, -g or UseSyslog says where to\n"; out != want || status != 0 {
		t.Errorf("no log: got exit status %d, %q, want 0, %q", status, out, want)
	}
	w.endPid(strings.TrimSpace(d.read("pid")))
}

// TestDetachAbandoned ends the caller of -d before the daemon is ready: there is no daemon then.
func TestDetachAbandoned(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	w.must(unix.Mkfifo(dir+"/knockd.conf", 0o600)) // the daemon waits for its configuration
	cmd := sesame("knockd", "-d", "-i", "eth0", "-c", dir+"/knockd.conf", "-g", dir+"/log", "-p", dir+"/pid")
	w.must(w.host.start(cmd))
	var daemon string
	w.eventually("the daemon", func() bool {
		out, _ := exec.Command("pgrep", "-P", fmt.Sprint(cmd.Process.Pid)).Output()
		daemon = strings.TrimSpace(string(out))
		return daemon != ""
	})
	w.endPid(daemon)
	w.must(cmd.Process.Kill())
	_ = cmd.Wait()
	config, err := os.OpenFile(dir+"/knockd.conf", os.O_WRONLY, 0)
	w.must(err)
	_, err = config.WriteString("[a]\n sequence = 7000,8000\n command = true\n")
	w.must(err)
	w.must(config.Close())
	w.eventually("the daemon's end", func() bool { return ended(daemon) })
	if _, err := os.Stat(dir + "/pid"); err == nil {
		t.Error("the pid file is still there")
	}
}
