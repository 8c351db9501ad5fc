package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
)

// become runs a command and waits for its end, as Windows has no exec(2). The error is its exit status, for main to end
// with, or says why it cannot run.
func become(argv []string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signal.Ignore(os.Interrupt) // ctrl-C is for the command, which gets it, too
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return toldStatus(exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("running %s: %w", argv[0], err)
	}
	return nil
}
