//go:build linux && !pure

package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNotifier tells managers of both kinds how far the daemon is, and one that is not there.
func TestNotifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	for _, name := range []string{path, "@sesame-test-" + filepath.Base(os.Getenv("SESAME_TEST_ROOT"))} {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		Notifier(name).tell("READY=1")
		buf := make([]byte, 100)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(buf)
		if got := string(buf[:n]); err != nil || got != "READY=1" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	Notifier(path + "-none").tell("READY=1")
	Notifier("").tell("READY=1")
}

// TestNotifierOfOthers wants a variable that was set for another process to be left alone, and not to be handed on.
func TestNotifierOfOthers(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/nonexistent")
	if m := newNotifier(); m != "" {
		t.Errorf("got %q: this process was not started by process 1", m)
	}
	if v, set := os.LookupEnv("NOTIFY_SOCKET"); set {
		t.Errorf("got NOTIFY_SOCKET=%s, want none", v)
	}
}

// TestBackgroundInUnit starts units that have the daemon go to the background. systemd ends one at once whose unit does not
// say so, and the daemon warns of that.
func TestBackgroundInUnit(t *testing.T) {
	w := newWorld(t, 0)
	m := boot(t, w.host, systemdInit, "")
	m.run("ln -s /machine/sesame /usr/local/sbin/knockd; printf '[a]\nsequence = 7000,8000\ncommand = true\n' > /etc/game.conf")
	for unit, test := range map[string]struct{ kind, warns string }{"simple": {"", "1\n"}, "forking": {"Type=forking", "0\n"}} {
		m.run("printf '[Service]\n" + test.kind + "\nExecStart=/usr/local/sbin/knockd -d -c /etc/game.conf -g /run/" + unit + ".log -p /run/game.pid\n' > /etc/systemd/system/" + unit + ".service")
		m.run("systemctl daemon-reload; systemctl start " + unit)
		w.eventually("the daemon of "+unit, func() bool {
			_, err := m.output("grep -q 'starting up' /run/" + unit + ".log")
			return err == nil
		})
		m.run("systemctl stop " + unit)
		m.want(unit, m.run("journalctl -q -b -u "+unit+" | grep -c 'warning: systemd ends a daemon that goes to the background: leave out -d, or write Type=forking into the unit' || true"), test.warns)
	}
}
