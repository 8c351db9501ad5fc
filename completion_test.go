//go:build linux && !pure

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestCompletion has words completed in this program, and by each shell.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	const profiles = "[home]\nhost = h\nsequence = 7\n[$(touch %s/oops)]\nhost = h\nsequence = 7\n"
	if err := errors.Join(os.Mkdir(dir+"/bin", 0o700), os.Mkdir(dir+"/sesame", 0o700), os.WriteFile(dir+"/sesame/profiles", fmt.Appendf(nil, profiles, dir), 0o600)); err != nil {
		t.Fatal(err)
	}
	self := sesame("sesame")
	if err := os.Symlink(self.Path, dir+"/bin/sesame"); err != nil {
		t.Fatal(err)
	}
	shells := map[string]string{
		"bash": `. <(sesame completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sesame; printf '%s\n' "${COMPREPLY[@]}"`,
		"zsh":  `compadd() { print -l -- $found; }; _files() { :; }; words=("$@"); CURRENT=$#; . =(sesame completion zsh)`,
		"fish": `sesame completion fish | source; complete -C (string join ' ' -- $argv[2..])`,
	}
	for _, tt := range []struct{ line, want string }{
		{"sesame st", "status"},
		{"sesame un", "uninstall"},
		{"sesame knock ho", "home"},
		{"knock ho", "home"},
		{"sesame knock --verb", "--verbose"},
		{"sesame completion f", "fish"},
		{"sesame help knockd.", "knockd.conf"},
	} {
		for shell, script := range shells {
			cmd := exec.Command(shell, append([]string{"-c", script, shell}, strings.Fields(tt.line)...)...)
			if shell == "fish" {
				cmd.Args = append([]string{shell, "-N", "-c", script, shell}, strings.Fields(tt.line)...)
			}
			cmd.Env = append(self.Env, "PATH="+dir+"/bin:"+os.Getenv("PATH"), "XDG_CONFIG_HOME="+dir, "HOME="+dir)
			cmd.Dir = dir + "/bin" // fish offers files, too
			out, err := cmd.CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
				t.Errorf("%s: %s: got %v, %q, want %q", shell, tt.line, err, got, tt.want)
			}
		}
	}
	// All of them: a name is no command of the shell's.
	cmd := exec.Command("bash", "-c", shells["bash"], "bash", "knock", "")
	cmd.Env = append(self.Env, "PATH="+dir+"/bin:"+os.Getenv("PATH"), "XDG_CONFIG_HOME="+dir)
	out, err := cmd.CombinedOutput()
	if _, oops := os.Stat(dir + "/oops"); err != nil || string(out) != "home\n$(touch "+dir+"/oops)\n" || oops == nil {
		t.Errorf("got %v, %q, %v", err, out, oops)
	}
	if got := runProgram("sesame", "completion", "ksh"); got.status != 2 || !strings.Contains(got.stderr, "one shell is needed: bash, zsh, fish") {
		t.Errorf("got %+v", got)
	}
}
