//go:build linux && !pure

package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// debianService is what Debian's package of knockd starts it by, with our file in knockd's place. The folders that it
// writes to are the test's own.
func debianService(w *world, defaults string) (setUp string) {
	w.Helper()
	dir := w.TempDir()
	self, err := os.Executable()
	w.must(err)
	config := strings.Replace(sshDoor("ssh", "7000,8000", 600), "[ssh]", "[options]\n\tlogfile = /var/log/knockd.log\n[ssh]", 1)
	for name, text := range map[string]string{"knockd.conf": config, "default": defaults} {
		w.must(os.WriteFile(dir+"/"+name, []byte(text), 0o600))
	}
	// A copy, as start-stop-daemon goes by the file that a process runs, and the test is one of it.
	return "cp " + self + " " + dir + "/file && mount --bind " + dir + "/file /usr/sbin/knockd\n" +
		"mount --bind " + dir + "/knockd.conf /etc/knockd.conf\n" +
		"mount --bind " + dir + "/default /etc/default/knockd\n" +
		"mount -t tmpfs tmpfs /run\n" +
		"mkdir -p " + dir + "/log && mount --bind " + dir + "/log /var/log\n" +
		"ln -s " + dir + " /run/test\n"
}

// TestDebianInitScript starts, restarts and stops the daemon by the script of Debian's package.
func TestDebianInitScript(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	// Everything happens in one mount namespace, step by step as the shell is told. It has its own processes, too, as
	// start-stop-daemon takes every knockd for its own.
	steps := func() string {
		return debianService(w, "START_KNOCKD=1\nKNOCKD_OPTS=\"-i eth0\"\n") + `
script() { echo "script $1"; sh /etc/init.d/knockd $1; echo "status $?"; }
log() { for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do grep -q "$1" /var/log/knockd.log && return; sleep 0.1; done; echo "the log lacks $1"; }
script start
cat /run/knockd.pid > /run/test/pid
log "starting up, listening on eth0"
knock 10.9.0.1 1; touch /run/test/go1
script start; [ $(cat /run/knockd.pid) = $(cat /run/test/pid) ] || echo "a second daemon runs"
while [ ! -e /run/test/done1 ]; do sleep 0.1; done
script restart
[ $(cat /run/knockd.pid) != $(cat /run/test/pid) ] || echo "it was not restarted"
cat /run/knockd.pid > /run/test/pid
script stop
log "shutting down"
i=0; while [ -e /run/knockd.pid ] && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done
[ ! -e /run/knockd.pid ] || echo "the pid file is left"
echo oops > /etc/knockd.conf; script start
`
	}()
	dir := strings.Fields(steps[strings.Index(steps, "ln -s ")+6:])[0]
	cmd := exec.Command("unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c", steps)
	cmd.Env = sesame("").Env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	w.must(w.host.start(cmd))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the script:\n%s", out.String())
		}
		_ = cmd.Process.Kill() // and everything with it
	})
	w.eventually("the script's start", func() bool { _, err := os.Stat(dir + "/go1"); return err == nil })
	w.knock(0, hostAddr, "7000", "8000")
	w.awaitPort(0, hostSSH, reached)
	w.must(os.WriteFile(dir+"/done1", nil, 0o600))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	w.wantPort(0, hostSSH, filtered)
	want := `script start
Starting Port-knock daemon: knockd.
status 0
script start
Starting Port-knock daemon: knockd.
status 0
script restart
Stopping Port-knock daemon: knockd.
Starting Port-knock daemon: knockd.
status 0
script stop
Stopping Port-knock daemon: knockd.
status 0
script start
Starting Port-knock daemon: knockd failed (/etc/knockd.conf:1: "oops" is not a directive: a line is [section], Directive = value or # comment).
status 0
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestDebianUnit starts, reloads and stops the daemon as the service unit of Debian's package has it done: its command
// line, its capabilities, SIGHUP and SIGTERM.
func TestDebianUnit(t *testing.T) {
	w := newWorld(t, 1)
	w.hide()
	text, err := os.ReadFile("/lib/systemd/system/knockd.service")
	w.must(err)
	setting := func(name string) string {
		found := regexp.MustCompile("(?m)^" + name + "=(.*)$").FindSubmatch(text)
		if found == nil {
			t.Fatalf("the unit has no %s", name)
		}
		return string(found[1])
	}
	if got, want := setting("ExecReload"), "/bin/kill -HUP $MAINPID"; got != want {
		t.Errorf("ExecReload: got %q, want %q", got, want)
	}
	caps := strings.ToLower(strings.ReplaceAll(setting("CapabilityBoundingSet"), "CAP_", "+"))
	setUp := debianService(w, "START_KNOCKD=0\nKNOCKD_OPTS=\"-i eth0\"\n") + `. ` + strings.TrimPrefix(setting("EnvironmentFile"), "-") +
		"\nexec setpriv --bounding-set=-all," + strings.ReplaceAll(caps, " ", ",") + " " + setting("ExecStart") + "\n"
	dir := strings.Fields(setUp[strings.Index(setUp, "ln -s ")+6:])[0]
	cmd := exec.Command("unshare", "-m", "sh", "-ec", setUp)
	cmd.Env = sesame("").Env
	d := w.daemon(cmd, dir+"/knockd.conf", dir+"/log/knockd.log")
	d.await("starting up, listening on eth0")
	w.knock(0, hostAddr, "7000", "8000")
	w.awaitPort(0, hostSSH, reached)
	d.signal(unix.SIGHUP)
	d.await("re-reading config file: /etc/knockd.conf")
	began := time.Now()
	d.stop()
	if took := time.Since(began); took >= stopDeadline {
		t.Errorf("stopping took %v: it waited in vain for something", took)
	}
	w.wantPort(0, hostSSH, filtered)
}
