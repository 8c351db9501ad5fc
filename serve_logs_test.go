//go:build linux

package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestLogs opens the log, opens it anew, and asks for a file that cannot be written: the one that was open stays.
func TestLogs(t *testing.T) {
	dir := t.TempDir()
	var out, errors strings.Builder
	e := env{name: "sesame", stdout: &out, stderr: &errors, date: func() time.Time { return time.Date(2026, 11, 22, 15, 38, 0, 0, time.UTC) }}
	l, err := openLogs(e, &serveOptions{verbose: true}, &Config{LogFile: dir + "/one"}, false)
	if err != nil {
		t.Fatal(err)
	}
	l.log.printf("1")
	l.reopen(&Config{LogFile: dir + "/two"})
	l.reopen(&Config{LogFile: "/dev/null/three"})
	l.finish()
	wrong := "opening the log file: open /dev/null/three: not a directory: LogFile or -g must name a file that root can write: the one that was open stays\n"
	again := "re-opening log file: " + dir + "/two\n"
	one, _ := os.ReadFile(dir + "/one")
	two, _ := os.ReadFile(dir + "/two")
	if got := strings.ReplaceAll(string(one)+string(two), "[2026-11-22 15:38] ", ""); got != "1\n"+again+wrong || out.String() != got || errors.Len() > 0 {
		t.Errorf("got %q, with -v %q, want %q", got, out.String(), "1\n"+again+wrong)
	}
}

// TestLogsToNobody has a daemon in the background that has nowhere to log to: that is said while somebody can read it.
func TestLogsToNobody(t *testing.T) {
	var errors strings.Builder
	e := env{name: "sesame", stderr: &errors}
	for config, want := range map[*Config]string{
		{}:                            "sesame: warning: nothing will be logged: LogFile, -g or UseSyslog says where to\n",
		{LogFile: t.TempDir() + "/l"}: "",
		{UseSyslog: true}:             "",
	} {
		errors.Reset()
		l, err := openLogs(e, &serveOptions{}, config, true)
		if err != nil {
			t.Fatal(err)
		}
		l.finish()
		if errors.String() != want {
			t.Errorf("%+v: got %q, want %q", config, errors.String(), want)
		}
	}
}
