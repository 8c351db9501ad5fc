package main

import (
	"fmt"
	"io"
	"strings"
)

// option is one command-line option in the manner of getopt_long(3), which knock and knockd use: short ones may be
// joined (-vd100), options may come after positional arguments, and long names may be shortened while unambiguous.
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
				o, ok := shortOption(arg[i], opts)
				if !ok {
					return nil, wrong("unknown option %q", "-"+arg[i:i+1])
				}
				name, value := "-"+arg[i:i+1], ""
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

func shortOption(c byte, opts []option) (option, bool) {
	for _, o := range opts {
		if o.short == c && c != 0 {
			return o, true
		}
	}
	return option{}, false
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
		fmt.Fprintf(w, "  %s %-24s %s\n", short, long, o.help)
	}
}
