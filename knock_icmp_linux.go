package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// icmpErrors are the ICMP errors that a TCP connection gets while it is being made. The kernel keeps them for a socket
// that asks for them since Linux 6.0 (ip(7), IP_RECVERR; tcp_v4_err and tcp_v6_err). The zero value is that of none.
type icmpErrors struct {
	fd int // a second descriptor of the socket, as a connection that fails closes its own; 0: none
}

// watch asks for the errors of a socket that is about to connect to an address.
func (e *icmpErrors) watch(fd uintptr, to netip.Addr) (err error) {
	if err := askForErrors(int(fd), to.Is6()); err != nil {
		return err
	}
	e.close() // net makes another socket where a port has connected to itself
	e.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	return err
}

// close has an established connection outlive such errors again, as others do: with the option each one would end it.
func (e *icmpErrors) close() {
	if e.fd != 0 {
		_ = unix.SetsockoptInt(e.fd, unix.IPPROTO_IP, unix.IP_RECVERR, 0)
		_ = unix.SetsockoptInt(e.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 0)
		_ = unix.Close(e.fd)
	}
}

// words says what a connection that failed came to by such an error; "": there was none.
func (e *icmpErrors) words() string {
	if e.fd != 0 {
		if icmp, ok := readError(e.fd, nil); ok {
			return fmt.Sprintf("%s (%v)", unreachable, icmp)
		}
	}
	return ""
}

// refusedWords are for a connection that was refused, and no ICMP error came. Before Linux 6.0 it may have come unseen.
func refusedWords() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil || name.Release[1] == '.' && name.Release[0] < '6' {
		return "closed (refused)"
	}
	return refused
}

// askForErrors has the kernel keep the ICMP errors that come for a socket.
func askForErrors(fd int, is6 bool) error {
	if is6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
}

// readError takes the next ICMP error off the socket's queue. The packet that it is about, from its transport header
// on, is copied to packet.
func readError(fd int, packet []byte) (e icmpError, ok bool) {
	// struct sock_extended_err of 16 bytes (linux/errqueue.h), and after it a sockaddr of who sent it.
	const offOrigin, offKind, offCode, length = 4, 5, 6, 16
	oob := make([]byte, 512)
	_, n, _, _, err := syscall.Recvmsg(fd, packet, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return e, false
	}
	messages, _ := syscall.ParseSocketControlMessage(oob[:n])
	for _, m := range messages {
		b := m.Data
		if len(b) < length || b[offOrigin] != unix.SO_EE_ORIGIN_ICMP && b[offOrigin] != unix.SO_EE_ORIGIN_ICMP6 {
			continue
		}
		e = icmpError{v6: b[offOrigin] == unix.SO_EE_ORIGIN_ICMP6, kind: b[offKind], code: b[offCode]}
		switch sender := b[length:]; {
		case len(sender) >= unix.SizeofSockaddrInet4 && binary.NativeEndian.Uint16(sender) == unix.AF_INET:
			e.from = netip.AddrFrom4([4]byte(sender[4:]))
		case len(sender) >= unix.SizeofSockaddrInet6 && binary.NativeEndian.Uint16(sender) == unix.AF_INET6:
			e.from = netip.AddrFrom16([16]byte(sender[8:])).Unmap()
		}
		return e, true
	}
	return e, false
}
