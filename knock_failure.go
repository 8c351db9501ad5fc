package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// cameTo says in words what a connection came to that failed, where the system tells nothing but the error.
func cameTo(err error) string {
	if os.IsTimeout(err) || errors.Is(err, context.Canceled) {
		return filtered
	}
	if code, ok := errors.AsType[syscall.Errno](err); ok {
		if code == errRefused {
			return refusedWords()
		}
		return fmt.Sprintf("%s (%v)", unreachable, error(code))
	}
	return fmt.Sprintf("%s (%v)", unreachable, err)
}
