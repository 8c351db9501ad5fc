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
