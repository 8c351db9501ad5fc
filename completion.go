package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// completions are what each shell is told: to ask this program for the words that can come next.
var completions = []struct{ shell, file, script string }{
	{"bash", "bash-completion/completions/sesame", `_sesame() {
	mapfile -t COMPREPLY < <(sesame completion -- "${COMP_WORDS[@]:0:COMP_CWORD+1}" 2>/dev/null)
}
complete -o default -F _sesame sesame knock knockd
`},
	{"zsh", "zsh/site-functions/_sesame", `#compdef sesame knock knockd
local -a found
found=(${(f)"$(sesame completion -- "${(@)words[1,CURRENT]}" 2>/dev/null)"})
(( $#found )) && compadd -a found || _files
`},
	{"fish", "fish/vendor_completions.d/sesame.fish", `for command in sesame knock knockd
	complete -c $command -a '(sesame completion -- (commandline -opc) (commandline -ct) 2>/dev/null)'
end
`},
}

// complete prints a shell's script, or for a script, after --, the words that can be the last one.
func complete(e env, args []string, commands []subcommand) error {
	if len(args) > 0 && args[0] == "--" {
		for _, word := range candidates(args[1:], commands) {
			fmt.Fprintln(e.stdout, word)
		}
		return nil
	}
	rest, err := getopt(args, helpOptions())
	if err != nil {
		return err
	}
	var shells []string
	for _, c := range completions {
		if len(rest) == 1 && rest[0] == c.shell {
			_, err := io.WriteString(e.stdout, c.script)
			return err
		}
		shells = append(shells, c.shell)
	}
	return usageError("one shell is needed: " + strings.Join(shells, ", "))
}

// candidates are the words that can stand in the place of the last one, on a command line with a program's name before it.
func candidates(words []string, commands []subcommand) (found []string) {
	if len(words) < 2 {
		return nil
	}
	last, name := words[len(words)-1], filepath.Base(words[0])
	var all []string
	i := slices.IndexFunc(commands, func(c subcommand) bool { return c.alias == name && name != "" || len(words) > 2 && words[1] == c.name })
	switch {
	case i < 0 && len(words) == 2:
		all = commandNames(commands)
	case i < 0:
	default:
		c := commands[i]
		for _, o := range c.opts() {
			if strings.HasPrefix(last, "-") {
				all = append(all, "--"+o.long)
			}
		}
		all = append(all, argumentsOf(c.name, commands)...)
	}
	for _, word := range all {
		if strings.HasPrefix(word, last) && !slices.ContainsFunc([]byte(word), func(c byte) bool { return c < ' ' || c == 0x7f }) {
			found = append(found, word)
		}
	}
	return found
}

// argumentsOf are the names of doors, profiles, commands or shells that a command takes.
func argumentsOf(command string, commands []subcommand) (all []string) {
	switch command {
	case "knock", "ping":
		_, _, all, _ = findProfile("", io.Discard)
	case "close":
		if c, _ := openConfig(defaultConfigFile); c != nil {
			for _, d := range c.Doors {
				all = append(all, d.Name)
			}
		}
	case "help":
		all = commandNames(commands)
		for _, m := range manuals {
			all = append(all, m.file[:len(m.file)-2])
		}
	case "completion":
		for _, c := range completions {
			all = append(all, c.shell)
		}
	}
	return all
}

func commandNames(commands []subcommand) (all []string) {
	for _, c := range commands {
		all = append(all, c.name)
	}
	return all
}
