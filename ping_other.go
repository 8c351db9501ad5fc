//go:build !linux

package main

func (*pinging) openRaw() error { return errNoRaw }
