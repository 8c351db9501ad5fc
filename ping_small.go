//go:build mips || mipsle

package main

import "errors"

type pingOptions struct{}

func (*pingOptions) options() []option { return helpOptions() }

// ping is left out of the files for small routers, where it would take 30 KB.
func ping(_ env, args []string) error {
	if _, err := getopt(args, helpOptions()); err != nil {
		return err
	}
	return errors.New("the file for this machine has no ping, to be small: the other files have it")
}
