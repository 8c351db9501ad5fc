package main

import (
	"fmt"
	"os"
	"syscall"
)

// become has a command take the place of this program: its exit status is ours. It returns only if that cannot be.
func become(argv []string) error {
	path, err := findProgram(argv[0], searchPath())
	if err == nil {
		err = syscall.Exec(path, argv, os.Environ())
	}
	return fmt.Errorf("running %s: %w", argv[0], err)
}
