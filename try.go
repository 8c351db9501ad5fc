//go:build linux

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
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
	maxGone          = 10
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
	gone := 0 // seconds since the daemon has last answered, which may be started anew
	for tick := time.NewTicker(time.Second); ; {
		var left bytes.Buffer
		err := askDaemon(env{stdout: &left}, o.socket, "left")
		switch gone++; {
		case err == nil:
			gone = 0
		case gone > maxGone || !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT):
			clear()
			return err
		}
		text := strings.TrimSpace(left.String())
		if progress {
			clear()
			line = fmt.Sprintf("Press Enter to keep it: %s s left ", cmp.Or(text, "?"))
			fmt.Fprint(e.stderr, line)
		}
		if text == "kept" {
			clear()
			_, err := fmt.Fprintln(e.stdout, "it was kept by another session")
			return err
		}
		select {
		case err := <-entered:
			if err == nil {
				return askDaemon(e, o.socket, "keep")
			}
		case <-ends:
		case <-tick.C:
			continue
		}
		clear()
		if err := askDaemon(e, o.socket, "back"); err != nil {
			return err
		}
		return toldStatus(1)
	}
}
