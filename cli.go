package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// never is when something is due that is not.
const never = time.Duration(math.MaxInt64)

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// didYouMean names the nearest of the names, if one is near, or else the first that ends with _ and the word:
// ` (did you mean Sequence?)`.
func didYouMean(word string, names []string) string {
	best, at := 3, ""
	for _, name := range names {
		if longer := len(word) - len(name); longer >= best || -longer >= best {
			continue
		}
		if d := editDistance(strings.ToLower(word), strings.ToLower(name)); d < best {
			best, at = d, name
		}
	}
	for _, name := range names {
		if at == "" && strings.HasSuffix(strings.ToLower(name), "_"+strings.ToLower(word)) {
			at = name
		}
	}
	if at == "" {
		return ""
	}
	return " (did you mean " + at + "?)"
}

// editDistance counts the letters to insert, delete or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// quoteWords puts words with a space in them in double quotes. iptables-restore reads them so, too.
func quoteWords(words []string) (quoted []string) {
	for _, w := range words {
		if strings.Contains(w, " ") {
			w = `"` + w + `"`
		}
		quoted = append(quoted, w)
	}
	return quoted
}

// option is one command-line option in the manner of getopt_long(3), which knock and knockd use: short ones may be
// joined (-vd100), options may come after positional arguments, and long names may be shortened while unambiguous.
// Package flag has none of that.
type option struct {
	short byte // 0: it has no short name
	long  string
	arg   string // the name of its argument in the help, or "" for none
	help  string
	set   func(value string) error
}

func flagOption(short byte, long, help string, to *bool) option {
	return option{short, long, "", help, func(string) error { *to = true; return nil }}
}

func stringOption(short byte, long, arg, help string, to *string) option {
	return option{short, long, arg, help, func(v string) error { *to = v; return nil }}
}

// numberOption takes a number from least to most; unit is such as " of milliseconds".
func numberOption(short byte, long, arg, help, unit string, least, most int, set func(n int)) option {
	return option{short, long, arg, help, func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("a number%s from %d to %d is needed, not %q", unit, least, most, v)
		}
		set(n)
		return nil
	}}
}

func helpOptions() []option {
	return []option{
		{'V', "version", "", "print the version", func(string) error { return errVersion }},
		{'h', "help", "", "print this help", func(string) error { return errHelp }},
	}
}

// getopt sets the options in args and returns the other arguments in their order. What follows "--" is no option.
// It returns errHelp, errVersion or a usageError.
func getopt(args []string, opts []option) (rest []string, err error) {
	wrong := func(format string, a ...any) error {
		return usageError(fmt.Sprintf(format, a...))
	}
	apply := func(o option, name, value string) error {
		err := o.set(value)
		if err == nil || err == errHelp || err == errVersion {
			return err
		}
		return wrong("option %s: %v", name, err)
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return append(rest, args...), nil
		case strings.HasPrefix(arg, "--"):
			name, value, joined := strings.Cut(arg[2:], "=")
			o, err := longOption(name, opts)
			if err != nil {
				return nil, wrong("%v", err)
			}
			switch {
			case o.arg == "" && joined:
				return nil, wrong("option --%s takes no value", o.long)
			case o.arg != "" && !joined && len(args) == 0:
				return nil, wrong("option --%s needs a value: --%s=%s", o.long, o.long, o.arg)
			case o.arg != "" && !joined:
				value, args = args[0], args[1:]
			}
			if err := apply(o, "--"+o.long, value); err != nil {
				return nil, err
			}
		case len(arg) > 1 && arg[0] == '-':
			for i := 1; i < len(arg); i++ {
				at := slices.IndexFunc(opts, func(o option) bool { return o.short == arg[i] && arg[i] != 0 })
				if at < 0 {
					return nil, wrong("unknown option %q", "-"+arg[i:i+1])
				}
				o, name, value := opts[at], "-"+arg[i:i+1], ""
				if o.arg != "" {
					if value = arg[i+1:]; value == "" {
						if len(args) == 0 {
							return nil, wrong("option %s needs a value: %s %s", name, name, o.arg)
						}
						value, args = args[0], args[1:]
					}
					i = len(arg)
				}
				if err := apply(o, name, value); err != nil {
					return nil, err
				}
			}
		default:
			rest = append(rest, arg)
		}
	}
	return rest, nil
}

// onlyOptions sets the options in args, where other arguments are a usageError: hint says how to give them.
func onlyOptions(args []string, opts []option, hint string) error {
	rest, err := getopt(args, opts)
	if err == nil && len(rest) > 0 {
		err = usageError(fmt.Sprintf("unexpected argument %q%s", rest[0], hint))
	}
	return err
}

func longOption(name string, opts []option) (option, error) {
	var found []option
	var names []string
	for _, o := range opts {
		if o.long == name {
			return o, nil
		}
		if strings.HasPrefix(o.long, name) {
			found = append(found, o)
		}
		names = append(names, o.long)
	}
	switch len(found) {
	case 0:
		return option{}, fmt.Errorf("unknown option %q%s", "--"+name, didYouMean(name, names))
	case 1:
		return found[0], nil
	}
	return option{}, fmt.Errorf("option %q is not clear: it begins --%s and --%s", "--"+name, found[0].long, found[1].long)
}

func printOptions(w io.Writer, opts []option) {
	for _, o := range opts {
		long := "--" + o.long
		if o.arg != "" {
			long += "=" + o.arg
		}
		short := "   "
		if o.short != 0 {
			short = fmt.Sprintf("-%c,", o.short)
		}
		fmt.Fprint(w, wrap(fmt.Sprintf("  %s %-24s", short, long), o.help, 31))
	}
}

const columnsWide = 80

// wrap is a text after first, in lines of 80 columns, of which all but the first begin with indent blanks.
func wrap(first, text string, indent int) string {
	s, line := "", first
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > columnsWide && strings.TrimSpace(line) != "" {
			s += strings.TrimRight(line, " ") + "\n"
			line = strings.Repeat(" ", indent-1)
		}
		line += " " + word
	}
	return s + strings.TrimRight(line, " ") + "\n"
}

// printable replaces what could forge a line or drive a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// version is set by the build (-ldflags -X main.version=...).
var version string

// env is the outside world as the program sees it.
type env struct {
	name           string // what the program is called by, without its folder
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Duration // monotonic
	date           func() time.Time     // of the wall clock, which may jump: for people alone
	stateDirs      []string             // for the journal, where the configuration names none: the best one first
	socket         string               // for status and close, where -s names none
	crash          func(point string)   // told how far things are; a test may end the daemon there
}

// subcommand is one row of the table that main goes by.
type subcommand struct {
	name           string
	alias          string // the file name that means this subcommand, or ""
	usage          string // what stands after the program's name
	help           string // one line
	group, example string
	opts           func() []option
	run            func(e env, args []string) error
}

// usageError says why a command line cannot be understood.
type usageError string

func (u usageError) Error() string { return string(u) }

// toldStatus is an error that has been told already, and is the exit status to end with.
type toldStatus int

func (s toldStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

var (
	// errHelp asks for the subcommand's help on standard output, errVersion for the version.
	errHelp    = errors.New("help asked for")
	errVersion = errors.New("version asked for")
	// errLogged is an error that the log has told already, and standard error may not be there to tell.
	errLogged = errors.New("see the log")
)

// versionName is the version that the build has set, or that of the module (go install MODULE@version).
func versionName() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "" && info.Main.Version != "(devel)" {
		return cmp.Or(info.Main.Version, "unreleased")
	}
	return cmp.Or(version, "unreleased")
}
