//go:build !linux

package main

import (
	"errors"
	"time"
)

// The daemon and what goes with it is for Linux alone. Elsewhere its subcommands say so.

var errNeedsLinux = errors.New("needs Linux: here there is the client, sesame knock")

// needsLinux stands for the options of a subcommand that needs Linux.
type needsLinux struct{}

func (*needsLinux) options() []option { return helpOptions() }

type (
	serveOptions   = needsLinux
	statusOptions  = needsLinux
	closeOptions   = needsLinux
	checkOptions   = needsLinux
	flushOptions   = needsLinux
	installOptions = needsLinux
	initOptions    = needsLinux
	tryOptions     = needsLinux
)

func serve(_ env, args []string) error      { return refuse(args) }
func showStatus(_ env, args []string) error { return refuse(args) }
func closeDoors(_ env, args []string) error { return refuse(args) }
func check(_ env, args []string) error      { return refuse(args) }
func flushAll(_ env, args []string) error   { return refuse(args) }
func install(_ env, args []string) error    { return refuse(args) }
func uninstall(_ env, args []string) error  { return refuse(args) }
func initDoor(_ env, args []string) error   { return refuse(args) }
func tryConfig(_ env, args []string) error  { return refuse(args) }
func demo(_ env, args []string) error       { return refuse(args) }

// refuse says that Linux is needed, whatever the options are, unless help or the version is asked for.
func refuse(args []string) error {
	if _, err := getopt(args, helpOptions()); err == errHelp || err == errVersion {
		return err
	}
	return errNeedsLinux
}

const defaultControl = ""

var began = time.Now()

func bootTime() time.Duration { return time.Since(began) }
