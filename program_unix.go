//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// findCommand returns the path of a command that is to be run.
func findCommand(name string) (path string, err error) { return findProgram(name, searchPath()) }

// become has a command take the place of this program: its exit status is ours. It returns only if that cannot be.
func become(path string, argv []string) error {
	err := syscall.Exec(path, argv, os.Environ())
	if err == syscall.ENOEXEC { // a script that does not say by what (execvp(3))
		err = syscall.Exec("/bin/sh", append([]string{"sh", path}, argv[1:]...), os.Environ())
	}
	return fmt.Errorf("running %s: %w", argv[0], err)
}

// searchPath is PATH as the system gives it, split.
func searchPath() []string { return filepath.SplitList(os.Getenv("PATH")) }

// findProgram returns the path of a program in the first of the folders that has it. A name with a slash is a path.
func findProgram(name string, folders []string) (path string, err error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	for _, dir := range folders {
		if path = filepath.Join(dir, name); filepath.IsAbs(path) && executable(path) == nil {
			return path, nil
		}
	}
	return "", errors.New("executable file not found in $PATH")
}

// executable says why a file is not a program that we may run.
func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return unix.EISDIR
	}
	return unix.Access(path, unix.X_OK)
}
