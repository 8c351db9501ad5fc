package main

import (
	"errors"
	"strings"
	"testing"
)

func TestGetopt(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "", "|"},
		{"no option", "host 7000", "| host 7000"},
		{"flags", "-v --debug", "verbose debug |"},
		{"joined flags", "-vD", "verbose debug |"},
		{"value joined to its option", "-d100", "delay=100 |"},
		{"value joined to several", "-vd100", "verbose delay=100 |"},
		{"value behind several", "-vd 100 host", "verbose delay=100 | host"},
		{"value behind its option", "-d 100 host", "delay=100 | host"},
		{"value with =", "--delay=100", "delay=100 |"},
		{"value behind a long option", "--delay 100 host", "delay=100 | host"},
		{"empty value", "--delay= -d  host", "delay= delay= | host"},
		{"value with = in it", "--delay=a=b -dc=d", "delay=a=b delay=c=d |"},
		{"value like an option", "-d -v --delay --", "delay=-v delay=-- |"},
		{"twice: both are set, in their order", "-d 1 -d 2", "delay=1 delay=2 |"},
		{"shortened", "--verb --del 5 --deb", "verbose delay=5 debug |"},
		{"shortened with a value", "--del=5", "delay=5 |"},
		{"whole name that begins another", "--log --logfile=a", "log logfile=a |"},
		{"behind the arguments", "host 7000 -d 500 8000 -v", "delay=500 verbose | host 7000 8000"},
		{"behind --", "-v -- -d --debug host", "verbose | -d --debug host"},
		{"behind -- among the arguments", "host -- -v", "| host -v"},
		{"second --", "-- --", "| --"},
		{"lone -", "- -v", "verbose | -"},
		{"without a short name", "--all --al", "all all |"},

		{"help", "-h", "help asked for"},
		{"help among others", "-vh --unknown", "help asked for"},
		{"version", "--version host", "version asked for"},

		{"ambiguous", "--de", `option "--de" is not clear: it begins --delay and --debug`},
		{"ambiguous with a value", "--de=5", `option "--de" is not clear: it begins --delay and --debug`},
		{"unknown", "--colour", `unknown option "--colour"`},
		{"misspelt", "--verbsoe", `unknown option "--verbsoe" (did you mean verbose?)`},
		{"misspelt with a value", "--dleay=5", `unknown option "--dleay" (did you mean delay?)`},
		{"unknown short", "-vx", `unknown option "-x"`},
		{"digit", "-4", `unknown option "-4"`},
		{"NUL", "-\x00", `unknown option "-\x00"`},
		{"no value", "host --delay", `option --delay needs a value: --delay=MS`},
		{"no value for a shortened one", "--del", `option --delay needs a value: --delay=MS`},
		{"no value for a short one", "-vd", `option -d needs a value: -d MS`},
		{"value for a flag", "--verbose=yes", `option --verbose takes no value`},
		{"empty value for a flag", "--verb=", `option --verbose takes no value`},
		{"value refused", "-vdx", `option -d: not "x"`},
		{"value refused, long", "--del x", `option --delay: not "x"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var set []string
			note := func(what string) func(string) error {
				return func(value string) error {
					if value == "x" {
						return errors.New(`not "x"`)
					}
					set = append(set, what+value)
					return nil
				}
			}
			opts := append([]option{
				{'d', "delay", "MS", "", note("delay=")},
				{'v', "verbose", "", "", note("verbose")},
				{'D', "debug", "", "", note("debug")},
				{'l', "log", "", "", note("log")},
				{'g', "logfile", "FILE", "", note("logfile=")},
				{0, "all", "", "", note("all")},
			}, helpOptions()...)
			var args []string
			if test.in != "" {
				args = strings.Split(test.in, " ")
			}
			rest, err := getopt(args, opts)
			got := strings.TrimSpace(strings.Join(set, " ") + " | " + strings.Join(rest, " "))
			if err != nil {
				got = err.Error()
				if wrong := !errors.Is(err, errHelp) && !errors.Is(err, errVersion); wrong && !errors.As(err, new(usageError)) {
					t.Errorf("got a %T, want a usageError", err)
				}
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestPrintOptions(t *testing.T) {
	var got strings.Builder
	printOptions(&got, []option{{'d', "delay", "MS", "wait", nil}, {'v', "verbose", "", "say more", nil}, {0, "json", "", "for programs", nil}})
	want := "  -d, --delay=MS               wait\n  -v, --verbose                say more\n      --json                   for programs\n"
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}
