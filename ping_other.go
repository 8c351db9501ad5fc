//go:build !linux

package main

func (*pinger) openRaw() error { return errNoRaw }
