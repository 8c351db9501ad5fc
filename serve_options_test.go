//go:build linux

package main

import (
	"fmt"
	"os"
	"testing"
)

// TestServeReadConfig: the command line wins, and paths begin where the caller of -d was.
func TestServeReadConfig(t *testing.T) {
	file := t.TempDir() + "/knockd.conf"
	for _, test := range []struct {
		name, config string
		args         []string
		dir          string
		want         string // log file, pid file, interfaces and one-time file
	}{
		{"defaults", "", nil, "", "  [*] once"},
		{"the configuration's", "LogFile = /log\nPidFile = /pid\nInterface = eth0", nil, "", "/log /pid [eth0] once"},
		{"the command line's", "LogFile = /log\nPidFile = /pid\nInterface = eth0", []string{"-g", "log", "-p", "pid", "-i", "eth1,eth2"}, "", "log pid [eth1 eth2] once"},
		{"in the background", "LogFile = log", []string{"-p", "/pid"}, "/home", "/home/log /pid [*] /home/once"},
		{"in the background, by the command line", "", []string{"-g", "log", "-p", "pid"}, "/home", "/home/log /home/pid [*] /home/once"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := "[options]\n" + test.config + "\n[door]\nOne_Time_Sequences = once\nCommand = true\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			o := serveOptions{dir: test.dir}
			if _, err := getopt(test.args, o.options()); err != nil {
				t.Fatal(err)
			}
			c, err := o.readConfig(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(c.LogFile, " ", c.PidFile, " ", c.Interfaces, " ", c.Doors[0].OneTime); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestServeSaveMem: knockd 0.8.2 has -s without a value, and sesame serve with one.
func TestServeSaveMem(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want string // the socket, and what is left
	}{
		{"knockd", []string{"-s", "-i", "eth0"}, " []"},
		{"knockd", []string{"-sd"}, " []"},
		{"knockd", []string{"--save-mem", "--socket=/a"}, "/a []"},
		{"serve", []string{"-s", "/a"}, "/a []"},
		{"serve", []string{"--save-mem"}, " []"},
	} {
		var o serveOptions
		rest, err := getopt(test.args, o.optionsAs(test.name))
		if got := fmt.Sprint(o.socket, " ", rest); err != nil || got != test.want {
			t.Errorf("%s %q: got %s, %v, want %s", test.name, test.args, got, err, test.want)
		}
	}
}
