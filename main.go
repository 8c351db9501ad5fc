// Sesame is port knocking in one static file: the daemon that watches for knocks and opens doors, the client that
// knocks, and the small tools round them.
//
//	sesame serve [options]               watch for knocks; the same when the file is called knockd
//	sesame knock [options] HOST PORT ... knock; the same when the file is called knock
//	sesame ping [options] HOST           see whether a host answers to TCP packets, and how fast
//	sesame init [options] [NAME]         write a first door, and a line for the client
//	sesame add [NAME]                    make a profile of that line
//	sesame try [TIME] | --keep           put the configuration into force for a time, and keep it on Enter
//	sesame status [-s PATH] [--json]     show what is open, and how the daemon does
//	sesame close DOOR|--all [ADDRESS]    close doors before their time
//	sesame check [-v] [-c FILE]          read a configuration and say what is wrong with it
//	sesame flush [-c FILE]               close what a stopped daemon has left, and leave no trace in the firewall
//	sesame install [options]             put this file, its names and a service in place
//	sesame uninstall                     take that back
//	sesame demo                          show a hidden port open and close, in a network of its own
//	sesame completion bash|zsh|fish      print what a shell needs to complete words
//	sesame version                       print the version
//	sesame help [COMMAND | knockd.conf]  print the options of a command, or a manual
//
// The configuration is knockd's (/etc/knockd.conf), and so are the options and the log lines.
//
// The words: a knock is a port and its protocol, a sequence of them is a door's secret. A hit is a packet that came, an
// attempt a source's progress at a door, and a stage how many knocks of it have been matched. A grant is the matcher's
// word that a door may open for a source, an opening a door that is open for one. A decoy is a port near a knock that no
// honest client touches, and a link a network interface. A code is six digits that change every 30 seconds, its step.
//
// A packet goes down one line, and nothing calls back up:
//
//	packet        Hit              Grant              changes
//	ring --> parse --> matcher --> openings --> firewall, commands --> kernel
//	         (goroutine of Reader)  (goroutine of Doors; in the journal on the disk before anything opens)
//
// There are two owners, one channel of grants between them, and no lock. Neither waits for the log, whose goroutine
// writes the lines. What is pure (parser, filter, matcher, configuration, the firewalls' calls) knows no clock, socket or
// process, and so can be tried in every state. The client goes down a line, too: it reads what is asked for, sends knocks,
// and sees whether a port opens.
//
// The files, each of which uses only files below it or to its right; those with a * hold plain values, which are filled in
// by whoever makes them. A test keeps this list true:
//
//	main.go                                                                  the commands
//	serve.go serve_trial.go serve_config.go                                  the daemon's life; what is in force
//	init_command.go init_fwknop.go init_key.go init.go*                      the tools
//	try.go install.go flush.go check.go demo_linux.go daemon_other.go
//	install_init.go install_item.go completion.go* manual.go*
//	ping.go ping_linux.go ping_other.go ping_run.go                          ping
//	add.go* knock.go knock_connect.go knock_profiles.go knock_key.go         the client
//	knock_options.go*
//	knock_send_unix.go knock_send_windows.go knock_raw_linux.go              how a knock is sent
//	knock_socket_unix.go knock_send_linux.go knock_other.go
//	knock_icmp_linux.go knock_segment.go* knock_outcome.go* knock_send.go*   and what comes back
//	serve_state.go serve_folder.go serve_listener.go serve_logs.go           the daemon's parts
//	serve_options.go serve_detach.go serve_notify.go serve_capability.go
//	doors.go doors_openings.go doors_firewall.go doors_queue.go              what is open
//	doors_opening.go doors_onetime.go doors_packets.go doors_codes.go doors_journal.go doors_log.go doors_command.go
//	control.go                                                               status and close ask here
//	firewall_apply.go firewall_choose.go firewall_ending.go                  what is done to the firewall
//	firewall_bans.go firewall_host.go firewall_watch_linux.go
//	firewall_list.go firewall_rule.go nft.go* iptables.go firewall.go*
//	reader.go* capture_pace.go capture_linux.go capture_filter.go* matcher.go*   from the packet to the grant
//	links_linux.go* served.go sources_linux.go capture_packet.go*            what this host has
//	translated_linux.go netlink_linux.go
//	pidfile.go
//	config.go* config_lint.go onetime.go ini.go*                             what is read
//	status.go* log.go* log_names.go log_syslog.go                            what is said
//	key_packet.go* door.go* totp.go*                                         the words
//	exec.go exec_windows.go file.go file_unix.go file_windows.go             the ground
//	netns_linux.go cli.go*
//
// Exit status: 0 done, 1 failed, 2 wrong usage, 3 the port that the client was to see open did not.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

func main() { os.Exit(run(realEnv(), os.Args)) }

func realEnv() env {
	return env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, now: bootTime, date: time.Now,
		stateDirs: stateDirs(), socket: defaultControl,
		crash: func(string) {},
	}
}

// stateDirs are where the daemon may keep what outlives it. A package's service, or a user, may have no access to the first.
func stateDirs() []string {
	dirs := []string{"/var/lib/sesame"}
	if given, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); given != "" && given != dirs[0] { // systemd.exec(5)
		dirs = append(dirs, given)
	}
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, ".local/state/sesame"))
	}
	run := fmt.Sprint("/run/user/", os.Getuid())
	if _, err := os.Stat(run); err == nil {
		dirs = append(dirs, run+"/sesame")
	}
	return dirs
}

// The groups of subcommands, in the order of the help. Those for a server need Linux.
const (
	forServer = "On a server (Linux), as root"
	forClient = "On a client"
	forBoth   = "Other"
)

// subcommands is a function, as help refers to the table that it stands in.
func subcommands() []subcommand {
	return []subcommand{
		{"serve", "knockd", "[options]", "watch for knocks and open doors",
			forServer, "knockd -d -i eth0", func() []option { return new(serveOptions).options() }, serve},
		{"init", "", "[options] [NAME]", "write a first door, and a line for the client",
			forServer, "sesame init ssh --port 22", func() []option { return new(initOptions).options() }, initDoor},
		{"try", "", "[-s PATH] [TIME] | --keep", "put the configuration into force, and keep it on Enter",
			forServer, "sesame try 5m", func() []option { return new(tryOptions).options() }, tryConfig},
		{"status", "", "[-s PATH] [--json]", "show what is open, and how the daemon does",
			forServer, "sesame status", func() []option { return new(statusOptions).options() }, showStatus},
		{"close", "", "[-s PATH] DOOR|--all [ADDRESS]", "close doors before their time, or only for ADDRESS",
			forServer, "sesame close ssh 192.0.2.7", func() []option { return new(closeOptions).options() }, closeDoors},
		{"check", "", "[-v] [-c FILE]", "read a configuration and say what is wrong with it",
			forServer, "sesame check -v", func() []option { return new(checkOptions).options() }, check},
		{"flush", "", "[-c FILE]", "close what a stopped daemon has left open, and leave no trace",
			forServer, "sesame flush", func() []option { return new(flushOptions).options() }, flushAll},
		{"install", "", "[-n] [-p DIR] [-s KIND]", "put this file, a service and manuals in place; start nothing",
			forServer, "sesame install --dry-run", func() []option { return new(installOptions).options() }, install},
		{"uninstall", "", "", "flush, and take back what install has put in place",
			forServer, "sesame uninstall", helpOptions, uninstall},
		{"demo", "", "", "show a hidden port open and close, in a private network",
			forServer, "sesame demo", helpOptions, demo},
		{"knock", "knock", "[options] HOST PORT[:tcp|:udp] ... | PROFILE [-- COMMAND ...]", "knock on ports, see whether one opens, and run a command",
			forClient, "sesame knock -w 22 192.0.2.1 7000 18000:udp 9000", func() []option { return new(knockOptions).options() }, knock},
		{"add", "", "[NAME]", "make a profile of the line that init has printed",
			forClient, "sesame add home", helpOptions, addProfile},
		{"ping", "", "[options] HOST | PROFILE", "see whether a host answers to TCP packets, and how fast",
			forClient, "sesame ping -p 443 192.0.2.1", func() []option { return new(pingOptions).options() }, ping},
		{"completion", "", "bash|zsh|fish", "print what a shell needs to complete words of sesame",
			forBoth, "sesame completion bash >> ~/.bashrc", helpOptions, completion},
		{"version", "", "", "print the version",
			forBoth, "sesame version", helpOptions, showVersion},
		{"help", "", "[COMMAND | knockd.conf]", "print the options of a command, or a manual",
			forBoth, "sesame help knockd.conf", helpOptions, help},
	}
}

// run is the whole program: args[0] is the name it was called by. It returns the exit status.
func run(e env, args []string) int {
	name := filepath.Base(args[0])
	if runtime.GOOS == "windows" {
		name = strings.ToLower(name) // as its file names are the same in capitals
	}
	name = strings.TrimSuffix(name, ".exe")
	e.name = name
	args = args[1:]
	for _, c := range subcommands() {
		if name == c.alias {
			return e.finish(c, name, c.run(e, args))
		}
	}
	if len(args) == 0 {
		fmt.Fprint(e.stderr, whereToStart())
		return 2
	}
	switch args[0] {
	case "-h", "--help":
		args[0] = "help"
	case "-V", "--version":
		args[0] = "version"
	}
	for _, c := range subcommands() {
		if args[0] == c.name {
			return e.finish(c, name+" "+c.name, c.run(e, args[1:]))
		}
	}
	unknown := fmt.Sprintf("unknown command %q%s", args[0], didYouMean(args[0], commandNames(subcommands())))
	return e.finish(subcommand{}, name, usageError(unknown))
}

// finish prints what err says, once, and returns the exit status. Mistakes in a configuration are printed as they
// are, so that each line begins with file:line.
func (e env) finish(c subcommand, program string, err error) int {
	usage, isUsage := errors.AsType[usageError](err)
	mistakes, isMistakes := errors.AsType[configErrors](err)
	told, isTold := errors.AsType[toldStatus](err)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errHelp):
		e.printHelp(e.stdout, c, program)
		return 0
	case errors.Is(err, errVersion):
		_ = printVersion(e)
		return 0
	case errors.Is(err, errLogged):
	case isTold:
		return int(told)
	case isUsage:
		fmt.Fprintf(e.stderr, "%s: %s (%s --help shows what there is)\n", program, usage, program)
		return 2
	case isMistakes:
		fmt.Fprintln(e.stderr, mistakes)
	default:
		fmt.Fprintf(e.stderr, "%s: %v\n", program, err)
	}
	return 1
}

const oneSentence = "sesame: port knocking in one static file\n"

// whereToStart is for who has typed the program's name alone.
func whereToStart() string {
	s := oneSentence
	if runtime.GOOS == "linux" {
		s += "To see it work:        sesame demo\nOn a server, as root:  sesame install, start it as that says,\n" +
			"                       then sesame init, and then sesame try\n"
	}
	return s + "On a client:           sesame add, and then sesame knock PROFILE\nsesame help lists all commands.\n"
}

func (e env) printOverview(w io.Writer) {
	fmt.Fprint(w, oneSentence)
	group := ""
	for _, c := range subcommands() {
		if c.group == forServer && runtime.GOOS != "linux" {
			continue
		}
		if c.group != group {
			group = c.group
			fmt.Fprintf(w, "\n%s:\n", group)
		}
		fmt.Fprintf(w, "  %-11s %s\n", c.name, c.help)
	}
	fmt.Fprintln(w, "\nsesame help COMMAND prints the options of a command.")
}

func (e env) printHelp(w io.Writer, c subcommand, program string) {
	fmt.Fprint(w, wrap("usage: "+program, c.usage, 4), c.help, "\n")
	if opts := c.opts(); len(opts) > 0 {
		fmt.Fprintln(w)
		printOptions(w, opts)
	}
	fmt.Fprintf(w, "\nexample: %s\n", c.example)
}

func showVersion(e env, args []string) error {
	if _, err := getopt(args, helpOptions()); err != nil {
		return err
	}
	return printVersion(e)
}

func printVersion(e env) error {
	cpu := runtime.GOARCH
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "GOARM" || s.Key == "GOMIPS" { // of which there are several
				cpu += " " + s.Key + "=" + s.Value
			}
		}
	}
	_, err := fmt.Fprintf(e.stdout, "sesame %s (%s %s/%s)\n", versionName(), runtime.Version(), runtime.GOOS, cpu)
	return err
}

func completion(e env, args []string) error { return complete(e, args, subcommands()) }

func help(e env, args []string) error {
	args, err := getopt(args, helpOptions())
	if err != nil {
		return err
	}
	if len(args) == 0 {
		e.printOverview(e.stdout)
		return nil
	}
	for _, c := range subcommands() {
		if args[0] == c.name || c.alias != "" && args[0] == c.alias {
			e.printHelp(e.stdout, c, "sesame "+c.name)
			return nil
		}
	}
	if text, ok := findManual(args[0]); ok {
		return showManual(e, text)
	}
	return usageError(fmt.Sprintf("no command %q", args[0]))
}
