//go:build !linux

package main

import (
	"strings"
	"testing"
)

// TestNeedsLinux calls what is for Linux alone, with and without options.
func TestNeedsLinux(t *testing.T) {
	for _, c := range []string{"serve", "status", "close", "check", "flush", "install", "uninstall", "init", "try", "demo"} {
		for _, rest := range []string{"", " -c file", " --no-such-option"} {
			got := runProgram(strings.Fields("sesame " + c + rest)...)
			if want := (output{1, "", "sesame " + c + ": " + errNeedsLinux.Error() + "\n"}); got != want {
				t.Errorf("%s%s: got %+v, want %+v", c, rest, got, want)
			}
		}
	}
	for args, want := range map[string]int{"sesame": 2, "sesame sing": 2, "knock": 2, "knock host": 2, "knockd": 1, "knock fe80::1%nosuch0 7000": 1} {
		if got := runProgram(strings.Fields(args)...); got.status != want || got.stderr == "" || got.stdout != "" {
			t.Errorf("%s: got %+v, want status %d", args, got, want)
		}
	}
}
