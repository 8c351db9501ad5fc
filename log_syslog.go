//go:build linux

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// syslogSocket is where a log daemon listens: syslogd, rsyslogd, journald, OpenWrt's logd (syslog(3)).
const syslogSocket = "/dev/log"

// syslogPriority is facility daemon (3), severity notice (5), as with knockd (RFC 3164, section 4.1.1).
const syslogPriority = 3<<3 | 5

// Syslog sends lines to the system's log daemon. Each is a datagram addressed by the socket's path: a daemon that was
// restarted gets the next one, and one that is absent or busy delays nothing. log/syslog would wait for it.
type Syslog struct {
	fd     int
	socket string // its path
	ident  string // the program's name in each line
}

func openSyslog(ident string) (*Syslog, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a socket for the system log: %w", err)
	}
	return &Syslog{fd, syslogSocket, ident}, nil
}

// send writes the line as syslog(3) does: <29>Nov 22 15:38:59 knockd: line. It reports whether a daemon took it.
func (s *Syslog) send(at time.Time, line string) bool {
	text := fmt.Sprintf("<%d>%s %s: %s", syslogPriority, at.Format(time.Stamp), s.ident, line)
	return unix.Sendto(s.fd, []byte(text), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: s.socket}) == nil
}
