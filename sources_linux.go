package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sourceMemory is how long an answer about a source is good for, and maxSources how many are remembered.
const (
	sourceMemory = time.Second
	maxSources   = 1024
)

// Sources asks the kernel whether a packet can have come from where it says. A capture sees packets before rp_filter
// drops those whose source is on another interface (ip-sysctl in the kernel's documentation).
type Sources struct {
	fd     int // rtnetlink(7)
	until  time.Duration
	known  map[sourceOnLink]error
	answer [4096]byte // one route
}

// sourceOnLink is what the kernel is asked about: addresses of IPv4, and the index of the link.
type sourceOnLink struct {
	from, to [4]byte
	link     int
}

func openSources() (*Sources, error) {
	// The kernel answers before sendto returns; where it has no memory for an answer, none ever comes.
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a socket to ask for routes: %w", err)
	}
	return &Sources{fd: fd, known: map[sourceOnLink]error{}}, nil
}

// refuses says why the kernel would not take a packet from a source that came in on a link, or returns nil.
func (s *Sources) refuses(now time.Duration, q sourceOnLink) error {
	if now >= s.until {
		clear(s.known)
		s.until = now + sourceMemory
	}
	why, asked := s.known[q]
	if !asked {
		why = s.ask(q)
		if len(s.known) < maxSources {
			s.known[q] = why
		}
	}
	return why
}

// ask has the kernel route the packet as if it came in. It is refused with EXDEV by rp_filter, and with EINVAL if the
// source is an address of this host (__fib_validate_source in net/ipv4/fib_frontend.c).
func (s *Sources) ask(q sourceOnLink) error {
	const hostPrefix = 32
	// struct rtmsg: family, lengths of destination and source, and nine bytes that are 0.
	b := append([]byte{unix.AF_INET, hostPrefix, hostPrefix}, make([]byte, unix.SizeofRtMsg-3)...)
	b = appendAttribute(b, unix.RTA_DST, q.to[:])
	b = appendAttribute(b, unix.RTA_SRC, q.from[:])
	b = appendAttribute(b, unix.RTA_IIF, binary.NativeEndian.AppendUint32(nil, uint32(q.link)))
	if err := askNetlink(s.fd, unix.RTM_GETROUTE, 0, b); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	n, err := unix.Read(s.fd, s.answer[:])
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	_, err = takeAnswers(s.answer[:n], unix.RTM_NEWROUTE, unix.SizeofRtMsg, func([]byte) {})
	return err
}

func (s *Sources) close() { _ = unix.Close(s.fd) }
