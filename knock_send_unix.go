//go:build unix

package main

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const errRefused = unix.ECONNREFUSED

// sendKnock sends one knock and does not wait for an answer.
func sendKnock(addr netip.Addr, k sentKnock, from route) error {
	if k.Proto == tcp && k.Flags != flagSYN {
		return sendRaw(addr, k, from)
	}
	kind := unix.SOCK_STREAM
	if k.Proto == udp {
		kind = unix.SOCK_DGRAM
	}
	family, to, err := sockaddr(addr, k.Port)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if err := from.apply(fd, addr.Is6()); err != nil {
		return err
	}
	if err := from.bind(fd); err != nil {
		return err
	}
	if k.Proto == udp {
		return os.NewSyscallError("sendto", unix.Sendto(fd, []byte{0}, 0, to))
	}
	switch err := unix.Connect(fd, to); err {
	case unix.EINPROGRESS, unix.ECONNREFUSED: // sent, and on loopback answered at once
		return nil
	default:
		return os.NewSyscallError("connect", err)
	}
}
