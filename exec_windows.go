package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
)

// findCommand returns the path of a command that is to be run.
func findCommand(name string) (path string, err error) {
	path, err = exec.LookPath(name)
	if lookup, ok := errors.AsType[*exec.Error](err); ok {
		err = lookup.Err // it names the program, too
	}
	return path, err
}

// become runs a command to its end, as Windows cannot have it take the place of this program: its exit status is ours.
func become(path string, argv []string) error {
	// Ctrl-C goes to the command as well, which decides what to do. To ignore it would have the command ignore it.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	cmd := exec.Command(path, argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if cmd.ProcessState != nil {
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			return toldStatus(code)
		}
		return nil
	}
	return fmt.Errorf("running %s: %w", argv[0], err)
}
