//go:build mips || mipsle

package main

import (
	"errors"
	"net/netip"
)

type pingOptions struct{}

func (*pingOptions) options() []option { return helpOptions() }

// ping is left out of the files for small routers, where it would take 30 KB.
func ping(_ env, args []string) error {
	if _, err := getopt(args, helpOptions()); err != nil {
		return err
	}
	return errors.New("the file for this machine has no ping, to be small: the other files have it")
}

// sendRaw is left out, too: 10 KB.
func sendRaw(netip.Addr, sentKnock, route) error {
	return errors.New("the file for this machine sends no flags other than syn, to be small: the other files do")
}
