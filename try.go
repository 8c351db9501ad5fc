//go:build linux

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type tryOptions struct {
	socket string
	keep   bool
}

func (o *tryOptions) options() []option {
	return append([]option{
		socketOption(&o.socket),
		flagOption(0, "keep", "keep what is being tried, also from another session", &o.keep),
	}, helpOptions()...)
}

const (
	defaultTry       = 2 * time.Minute
	leastTry, maxTry = time.Second, time.Hour
)

// tryConfig has the daemon take up its configuration for a time, and keep it if somebody presses Enter. The daemon counts
// for itself: whatever becomes of this program, the kept configuration is in force again after that time.
func tryConfig(e env, args []string) error {
	var o tryOptions
	rest, err := getopt(args, o.options())
	if err != nil {
		return err
	}
	limit := defaultTry
	if len(rest) > 0 {
		if limit, err = time.ParseDuration(rest[0]); err != nil {
			limit, err = time.ParseDuration(rest[0] + "s")
		}
	}
	switch {
	case len(rest) > 1:
		return usageError(fmt.Sprintf("unexpected argument %q", rest[1]))
	case err != nil || limit < leastTry || limit > maxTry:
		return usageError(fmt.Sprintf("a time from 1s to 1h is needed, such as 2m, not %q", rest[0]))
	case o.keep && len(rest) > 0:
		return usageError("--keep takes no time")
	case o.keep:
		return askDaemon(e, o.socket, "keep")
	}
	if hasUCI() { // of which the script makes the configuration
		if _, _, err := execute([]string{"/etc/init.d/sesame", "check"}, "", installLimit); err != nil {
			return err
		}
	}
	// First, as what is in force may be what takes the terminal away.
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGPIPE)
	if err := askDaemon(e, o.socket, fmt.Sprintf("try %d", seconds(limit))); err != nil {
		return err
	}
	if f, ok := e.stdin.(*os.File); ok {
		_ = unix.IoctlSetInt(int(f.Fd()), unix.TCFLSH, unix.TCIFLUSH) // what was pasted with the command is no answer to it
	}
	entered := make(chan error, 1)
	go func() {
		for in := bufio.NewReader(e.stdin); ; {
			line, err := in.ReadString('\n')
			if err != nil || strings.TrimSpace(line) == "" { // else it was meant for another program
				entered <- err
				return
			}
		}
	}()
	fmt.Fprintln(e.stderr, "See from another machine whether you get in by knocking. This session stays connected.")
	progress, line := isTerminal(e.stderr), ""
	clear := func() { fmt.Fprint(e.stderr, strings.Repeat("\b \b", len(line))) }
	if !progress {
		fmt.Fprintln(e.stderr, "Press Enter to keep it.")
	}
	for tick, left := time.NewTicker(time.Second), limit; ; left -= time.Second {
		if progress {
			clear()
			line = fmt.Sprintf("Press Enter to keep it: %d s left ", seconds(left))
			fmt.Fprint(e.stderr, line)
		}
		select {
		case err := <-entered:
			if err == nil {
				return askDaemon(e, o.socket, "keep")
			}
		case <-ends:
		case <-tick.C:
			if left > 0 {
				continue
			}
		}
		clear()
		if err := askDaemon(e, o.socket, "back"); err != nil { // which says, too, what has become of it meanwhile
			return err
		}
		return toldStatus(1)
	}
}
