//go:build linux && !pure

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSyslog logs to busybox's syslogd, which is not there at first, is stopped, and is started again: only the lines
// meanwhile are lost, and doors open all the same.
func TestSyslog(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	config := filepath.Join(dir, "knockd.conf")
	w.must(os.WriteFile(config, []byte("[options]\n UseSyslog\n[a]\n sequence = 7000,8000,9000\n command = echo $KNOCK_IP >> "+dir+"/opened\n"), 0o600))
	// A /dev of the test's own, for its /dev/log. The daemon's process stays the test's child.
	cmd := w.inMounts("mount -t tmpfs tmpfs /dev\nmknod /dev/null c 1 3", sesame("knockd", "-v", "-i", "eth0", "-c", config))
	printed, err := os.Create(dir + "/printed")
	w.must(err)
	defer printed.Close()
	cmd.Stdout, cmd.Stderr = printed, printed
	d := w.daemon(cmd, config, printed.Name())
	d.await("starting up, listening on eth0")

	messages := dir + "/messages"
	logged := func() string {
		text, _ := os.ReadFile(messages)
		return string(text)
	}
	openings := 0
	knock := func() {
		t.Helper()
		w.knock(0, "-d20", hostAddr, "7000", "8000", "9000")
		openings++
		w.eventually("the command", func() bool {
			opened, _ := os.ReadFile(dir + "/opened")
			// Its last line, too: syslogd may be stopped next.
			return strings.Count(string(opened), "10.9.0.2\n") == openings && strings.Count(d.logged(), "command took") == openings
		})
	}
	var syslogd *exec.Cmd
	start := func() {
		t.Helper()
		before := strings.Count(logged(), "syslogd started")
		syslogd = exec.Command("nsenter", "-m", "-t", fmt.Sprint(d.cmd.Process.Pid), "busybox", "syslogd", "-n", "-S", "-O", messages)
		w.must(syslogd.Start())
		t.Cleanup(func() { _ = syslogd.Process.Kill() })
		w.eventually("syslogd", func() bool { return strings.Count(logged(), "syslogd started") > before })
	}
	stop := func() {
		t.Helper()
		w.must(syslogd.Process.Kill())
		_ = syslogd.Wait()
	}
	knock()
	start()
	knock()
	w.eventually("the opening in the system log", func() bool { return strings.Contains(logged(), "command took") })
	stop()
	knock()
	start()
	knock()
	d.stop()
	w.eventually("the end in the system log", func() bool { return strings.Contains(logged(), "knockd: shutting down\n") })
	stop()

	var lines []string
	for line := range strings.Lines(logged()) {
		_, text, ours := strings.Cut(line, " knockd: ")
		if !ours {
			continue
		}
		if !regexp.MustCompile(`^\w{3} [ \d]\d \d\d:\d\d:\d\d $`).MatchString(line[:16]) {
			t.Errorf("line %q begins with no date", line)
		}
		lines = append(lines, regexp.MustCompile(`took \d.*`).ReplaceAllString(text, "took N"))
	}
	opening := "10.9.0.2: a: Stage 1\n10.9.0.2: a: Stage 2\n10.9.0.2: a: Stage 3\n10.9.0.2: a: OPEN SESAME\n" +
		"a: running command: echo $KNOCK_IP >> " + dir + "/opened\na: command took N\n"
	want := "N log lines lost, as nobody took them\n" + opening + "N log lines lost, as nobody took them\n" + opening + "shutting down\n"
	got := regexp.MustCompile(`(?m)^\d+ log`).ReplaceAllString(strings.Join(lines, ""), "N log")
	if got != want {
		t.Errorf("system log: got\n%s\nwant\n%s", got, want)
	}
	if n := strings.Count(d.logged(), "OPEN SESAME"); n != openings {
		t.Errorf("openings printed by -v: got %d, want %d", n, openings)
	}
}

// TestSyslogLine has a log daemon's socket of its own: there, absent, busy, and there again.
func TestSyslogLine(t *testing.T) {
	s, err := openSyslog("knockd")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s.fd)
	s.socket = filepath.Join(t.TempDir(), "log")
	line := logLine{at: autumn(), text: "10.9.0.2: openSSH: Stage 1"}
	if s.send(line.at, line.text) {
		t.Error("nobody is there, yet the line was taken")
	}
	for range 2 {
		daemon, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.socket, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		if !s.send(line.at, line.text) {
			t.Error("the line was not taken")
		}
		b := make([]byte, 1000)
		n, err := daemon.Read(b)
		if want := "<29>Nov 22 15:38:59 knockd: 10.9.0.2: openSSH: Stage 1"; err != nil || string(b[:n]) != want {
			t.Errorf("got %q, %v, want %q", b[:n], err, want)
		}
		busy := false
		for range 10000 {
			busy = busy || !s.send(line.at, line.text)
		}
		if !busy {
			t.Error("a daemon that reads nothing took 10000 lines")
		}
		_ = daemon.Close()
		_ = os.Remove(s.socket)
	}
}
