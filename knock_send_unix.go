//go:build unix

package main

import (
	"cmp"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const errRefused = unix.ECONNREFUSED

// keepTime is how long a connection is kept that has not been refused: less than the second after which the system would
// send its first packet again (RFC 6298, section 2).
const keepTime = 900 * time.Millisecond

// sendKnock sends one knock and does not wait for an answer. Where that has begun a connection, keep keeps it for
// keepTime, or until it is refused.
func sendKnock(addr netip.Addr, k sentKnock, from route) (keep func(), err error) {
	if k.Proto == tcp && k.Flags != flagSYN {
		return nil, sendRaw(addr, k, from)
	}
	kind := unix.SOCK_STREAM
	if k.Proto == udp {
		kind = unix.SOCK_DGRAM
	}
	family, to, err := sockaddr(addr, k.Port)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer func() {
		if keep == nil {
			_ = unix.Close(fd)
		}
	}()
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := from.bind(fd, addr.Is6()); err != nil {
		return nil, err
	}
	if k.Proto == udp {
		return nil, os.NewSyscallError("sendto", unix.Sendto(fd, []byte(cmp.Or(k.data, "\x00")), 0, to))
	}
	switch err := unix.Connect(fd, to); err {
	case unix.ECONNREFUSED: // sent, and on loopback answered at once
		return nil, nil
	case nil, unix.EINPROGRESS:
		end := time.Now().Add(keepTime)
		return func() { keepUntil(end, fd) }, nil
	default:
		return nil, os.NewSyscallError("connect", err)
	}
}

// keepUntil closes a socket at the end of its time, or once its connection has failed.
func keepUntil(end time.Time, fd int) {
	defer unix.Close(fd)
	for left := keepTime; left > 0; left = time.Until(end) {
		// When it is asked for nothing, poll(2) tells of errors.
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, int(left.Milliseconds())); err != unix.EINTR {
			return
		}
	}
}
