package main

import (
	"strings"
	"testing"
)

// TestManual prints each page without man: nothing of its macros is left, and no word of its text is lost.
func TestManual(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, name := range []string{"sesame", "sesame.8", "knockd.conf", "knockd.conf.5", "knock.1"} {
		got := runProgram("sesame", "help", name)
		page, _ := findManual(name)
		if got.status != 0 || !strings.HasPrefix(got.stdout, "NAME\n    ") || got.stdout != plainManual(page) {
			t.Errorf("%s: got %d, %.200s", name, got.status, got.stdout)
		}
		words := strings.Fields(got.stdout)
		for _, w := range words {
			if len(w) == 2 && strings.Contains(" Ar Ic Cm Pa Fl Op Ns Nm Xr Ev Ql Sx Pq ", " "+w+" ") {
				t.Errorf("%s: a macro is left: %s", name, w)
			}
		}
		for line := range strings.Lines(page) {
			if line[0] == '.' || strings.ContainsAny(line, `\`) {
				continue
			}
			if text := strings.Join(strings.Fields(line), " "); !strings.Contains(strings.Join(words, " "), text) {
				t.Errorf("%s: lost: %s", name, text)
			}
		}
	}
	for in, want := range map[string]string{
		"Fl c , Fl -config Ns = Ns Ar file": "-c, --config=file",
		"Op Fl w Ar port":                   "[-w port]",
		"Pq Fl vd Ns Cm 100 ,":              "(-vd100),",
		"Xr knock 1 .":                      "knock 1.",
		"Nm sesame Cm close":                "sesame close",
	} {
		if got := mdocLine(in); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
	if !strings.Contains(plainManual(manKnock), "\n        knock sends one packet to each port of host, in the order given") {
		t.Error("knock(1) does not say its own name")
	}
	if got := runProgram("sesame", "help", "knock"); !strings.HasPrefix(got.stdout, "usage: sesame knock ") {
		t.Errorf("help knock: got %.100s", got.stdout)
	}
}
