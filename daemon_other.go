//go:build !linux

package main

import (
	"errors"
	"time"
)

// The daemon, and what is for hosts that run it, is for Linux alone.

const defaultControl = ""

type onlyLinux struct{}

func (onlyLinux) options() []option { return helpOptions() }

type (
	serveOptions   struct{ onlyLinux }
	statusOptions  struct{ onlyLinux }
	closeOptions   struct{ onlyLinux }
	checkOptions   struct{ onlyLinux }
	flushOptions   struct{ onlyLinux }
	installOptions struct{ onlyLinux }
)

func needLinux(_ env, args []string) error {
	if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
		return errHelp
	}
	return errors.New("this needs Linux: the file for this system has the client alone")
}

var serve, showStatus, closeDoors, check, flushAll, install, uninstall, demo = needLinux, needLinux, needLinux, needLinux, needLinux,
	needLinux, needLinux, needLinux

var started = time.Now()

// bootTime is monotonic.
func bootTime() time.Duration { return time.Since(started) }
