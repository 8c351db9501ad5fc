//go:build linux && (mips || mipsle)

package main

import "errors"

// demo is left out of the files for small routers: it would take 40 KB there, and they have neither ip(8) in full nor
// private networks to show it in.
func demo(_ env, args []string) error {
	if _, err := getopt(args, helpOptions()); err != nil {
		return err
	}
	return errors.New("the file for this machine has no demo, to be small: the files for PCs have it")
}
