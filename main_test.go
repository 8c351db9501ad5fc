package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Linux takes /proc/self/net for that of the first thread: no test may take it to another network (runtime.LockOSThread).
func init() { runtime.LockOSThread() }

// TestMain lets the test binary be the program itself, for tests that need it as a process.
func TestMain(m *testing.M) {
	if os.Getenv("SESAME_TEST_RUN") == "1" {
		runtime.UnlockOSThread()
		os.Exit(run(childEnv(), os.Args))
	}
	root, err := os.MkdirTemp("", "sesame-test-")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv("SESAME_TEST_ROOT", root)
	_ = os.Setenv("XDG_CONFIG_HOME", root+"/config") // there are no profiles
	_ = os.Chmod(root, 0o777)                        // some run as nobody
	status := m.Run()
	_ = os.RemoveAll(root)
	os.Exit(status)
}

// childEnv is the outside world of the program as a process of its own: with folders of its own, and killed where the
// test wants it to be, at SESAME_TEST_CRASH=POINT:N the N-th time that it comes to POINT.
func childEnv() env {
	e := realEnv()
	own := filepath.Join(os.Getenv("SESAME_TEST_ROOT"), strconv.FormatInt(time.Now().UnixNano(), 36)) // process numbers come again
	e.stateDirs, e.socket = []string{own + "-state"}, own+"-control/socket"
	if dirs := os.Getenv("SESAME_TEST_STATE"); dirs != "" {
		e.stateDirs = filepath.SplitList(dirs)
	}
	if os.Getenv("SESAME_TEST_CLOCK") == "jumps" { // a year back and forth, with each look at it
		years := 1
		e.date = func() time.Time {
			years = -years
			return time.Now().AddDate(years, 0, 0)
		}
	}
	if file := os.Getenv("SESAME_TEST_CLOCK"); filepath.IsAbs(file) { // which stands still, at the seconds since 1970 that the file has
		e.date = func() time.Time {
			text, _ := os.ReadFile(file)
			seconds, _ := strconv.ParseInt(string(text), 10, 64)
			return time.Unix(seconds, 0)
		}
	}
	wanted, times, _ := strings.Cut(os.Getenv("SESAME_TEST_CRASH"), ":")
	left, _ := strconv.Atoi(times)
	e.crash = func(point string) {
		if point != wanted {
			return
		}
		if left--; left == 0 {
			self, _ := os.FindProcess(os.Getpid())
			_ = self.Kill()
			select {}
		}
	}
	return e
}

// output is what a run of the program leaves.
type output struct {
	status         int
	stdout, stderr string
}

// runProgram runs the program in this process; args[0] is the name it is called by.
func runProgram(args ...string) output {
	var stdout, stderr bytes.Buffer
	status := run(env{stdout: &stdout, stderr: &stderr, now: func() time.Duration { return 0 }}, args)
	return output{status, stdout.String(), stderr.String()}
}

// writeConfig writes a configuration that only its owner can read, and returns its path.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "knockd.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHelpOfEachCommand(t *testing.T) {
	for _, c := range subcommands() {
		for _, args := range [][]string{{"help", c.name}, {c.name, "--help"}, {c.name, "-h"}, {"--help", c.name}} {
			t.Run(strings.Join(args, " "), func(t *testing.T) {
				got := runProgram(append([]string{"sesame"}, args...)...)
				if got.status != 0 || got.stderr != "" {
					t.Errorf("got status %d and %q, want 0 and nothing on standard error", got.status, got.stderr)
				}
				for line := range strings.Lines(got.stdout) {
					if len(line) > columnsWide+1 {
						t.Errorf("wider than %d columns: %s", columnsWide, line)
					}
				}
				want := []string{c.help + "\n", "\nexample: " + c.example + "\n"}
				if usage := strings.TrimSpace("usage: sesame " + c.name + " " + c.usage); !strings.HasPrefix(strings.Join(strings.Fields(got.stdout), " "), usage) {
					t.Errorf("got:\n%s\nwant it to begin with %q", got.stdout, usage)
				}
				for _, o := range c.opts() {
					if o.short == 0 {
						want = append(want, "      --"+o.long)
					} else {
						want = append(want, "  -"+string(o.short)+", --"+o.long)
					}
				}
				for _, w := range want {
					if !strings.Contains(got.stdout, w) {
						t.Errorf("got:\n%s\nwant %q in it", got.stdout, w)
					}
				}
			})
		}
	}
}

func TestVersionOfEachCommand(t *testing.T) {
	want := runProgram("sesame", "version")
	if want.status != 0 || !strings.HasPrefix(want.stdout, "sesame "+versionName()+" (go") || want.stderr != "" {
		t.Fatalf("version: got %+v", want)
	}
	for cpu, variant := range map[string]string{"arm": " GOARM=5", "mips": " GOMIPS=softfloat", "mipsle": " GOMIPS=softfloat"} { // as make arch-test builds
		if runtime.GOARCH == cpu && !strings.HasSuffix(want.stdout, "linux/"+cpu+variant+")\n") {
			t.Errorf("got %q, want%s in it", want.stdout, variant)
		}
	}
	calls := [][]string{{"sesame", "-V"}, {"sesame", "--version"}, {"knock", "-V"}, {"knockd", "--version"}, {"knock", "-v", "--vers"}}
	for _, c := range subcommands() {
		calls = append(calls, []string{"sesame", c.name, "-V"}, []string{"sesame", c.name, "--version"})
	}
	for _, args := range calls {
		if got := runProgram(args...); got != want {
			t.Errorf("%q: got %+v, want %+v", args, got, want)
		}
	}
}

func TestCalledBy(t *testing.T) {
	const overview = "sesame: port knocking in one static file"
	tests := []struct{ name, want string }{
		{"knockd", "usage: knockd [options]"},
		{"/usr/sbin/knockd", "usage: knockd [options]"},
		{"knock", "usage: knock [options] HOST PORT[:tcp|:udp] ... | PROFILE [-- COMMAND ...]"},
		{"./knock", "usage: knock [options] HOST PORT[:tcp|:udp] ... | PROFILE [-- COMMAND ...]"},
		{`knock.exe`, "usage: knock [options] HOST PORT[:tcp|:udp] ... | PROFILE [-- COMMAND ...]"},
		{"sesame", overview},
		{"/opt/knock/sesame-mipsle", overview},
		{"knockd-old", overview},
		{"check", overview},
		{"", overview},
	}
	capitals := struct{ name, want string }{"Knock", overview}
	if runtime.GOOS == "windows" {
		capitals = struct{ name, want string }{`C:\bin\KNOCK.EXE`, "usage: knock [options] HOST PORT[:tcp|:udp] ... | PROFILE [-- COMMAND ...]"}
	}
	for _, test := range append(tests, capitals) {
		got := runProgram(test.name, "--help")
		if first, _, _ := strings.Cut(got.stdout, "\n"); first != test.want || got.status != 0 || got.stderr != "" {
			t.Errorf("%q --help: got %+v, want status 0 and %q", test.name, got, test.want)
		}
	}
}

func TestOverview(t *testing.T) {
	asked, none := runProgram("sesame", "help"), runProgram("sesame")
	for line := range strings.Lines(asked.stdout + none.stderr) {
		if len(line) > columnsWide+1 {
			t.Errorf("wider than %d columns: %s", columnsWide, line)
		}
	}
	for _, c := range subcommands() {
		works := c.group != forServer || runtime.GOOS == "linux"
		if line := fmt.Sprintf("\n  %-11s %s\n", c.name, c.help); strings.Contains(asked.stdout, line) != works {
			t.Errorf("help: got:\n%s\n%q in it: want %v", asked.stdout, line, works)
		}
		if _, rest, _ := strings.Cut(c.example+" ", " "+c.name); rest == "" && !strings.HasPrefix(c.example, c.alias) {
			t.Errorf("%s: its example is of something else: %s", c.name, c.example)
		}
	}
	if none.status != 2 || none.stdout != "" || !strings.Contains(none.stderr, "sesame add, and then sesame knock PROFILE\n") || !strings.Contains(none.stderr, "then sesame init, and then sesame try\n") ||
		strings.Contains(none.stderr, "sesame init") != (runtime.GOOS == "linux") {
		t.Errorf("no arguments: got %+v", none)
	}
}

func TestExitStatus(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("most of these are of the daemon, which needs Linux: TestNeedsLinux has the rest")
	}
	good := writeConfig(t, "[a]\nSequence = 7000,3000,9000\nCommand = true\n")
	bad := writeConfig(t, "[a]\nSequence = x\nColour = red\n")
	missing := filepath.Join(t.TempDir(), "none.conf")
	tests := []struct {
		args       string
		wantStatus int
		wantStderr string
	}{
		{"sesame help", 0, ""},
		{"sesame version", 0, ""},
		{"sesame check -c " + good, 0, ""},

		{"sesame check -c " + bad, 1, bad + ":2: door \"a\": Sequence: a port is a number from 1 to 65535, not \"x\"\n" +
			bad + ":3: door \"a\": unknown directive \"Colour\"\n"},
		{"sesame check -c " + missing, 1, "sesame check: opening the configuration: open " + missing + ": no such file or directory: -c names another file\n"},
		{"knockd -c " + missing, 1, "knockd: opening the configuration: open " + missing + ": no such file or directory: -c names another file\n"},
		{"/usr/bin/knock -d 0 fe80::1%nosuch0 7000", 1, ""},

		{"sesame chekc", 2, "sesame: unknown command \"chekc\" (did you mean check?) (sesame --help shows what there is)\n"},
		{"sesame dance", 2, "sesame: unknown command \"dance\" (sesame --help shows what there is)\n"},
		{"sesame -v", 2, "sesame: unknown command \"-v\" (sesame --help shows what there is)\n"},
		{"sesame help sing", 2, "sesame help: no command \"sing\" (sesame help --help shows what there is)\n"},
		{"sesame help ", 2, "sesame help: no command \"\" (sesame help --help shows what there is)\n"},
		{"sesame check --verbsoe", 2, "sesame check: unknown option \"--verbsoe\" (did you mean verbose?) (sesame check --help shows what there is)\n"},
		{"sesame check " + good, 2, "sesame check: unexpected argument \"" + good + "\": a file is named by -c (sesame check --help shows what there is)\n"},
		{"knockd --interface= -c " + good, 2, ""},
		{"knockd eth0", 2, "knockd: unexpected argument \"eth0\" (knockd --help shows what there is)\n"},
		{"knockd -i eth0/1", 2, "knockd: option -i: \"eth0/1\" is no interface: names with commas between them (eth0, ppp*), any, or auto (knockd --help shows what there is)\n"},
		{"/usr/bin/knock host", 2, "knock: no profile \"host\": " + os.Getenv("XDG_CONFIG_HOME") + "/sesame/profiles does not exist: sesame add makes one; otherwise the ports to knock on are needed: host 7000 8000:udp 9000 (knock --help shows what there is)\n"},
	}
	for _, test := range tests {
		got := runProgram(strings.Split(test.args, " ")...)
		if got.status != test.wantStatus {
			t.Errorf("%s: got status %d (%q), want %d", test.args, got.status, got.stderr, test.wantStatus)
		}
		if test.wantStderr != "" && got.stderr != test.wantStderr {
			t.Errorf("%s: got %q, want %q", test.args, got.stderr, test.wantStderr)
		}
		if failed := got.status != 0; failed != (got.stderr != "") || failed && got.stdout != "" {
			t.Errorf("%s: status %d, yet got %q on standard output and %q on standard error", test.args, got.status, got.stdout, got.stderr)
		}
	}
}
