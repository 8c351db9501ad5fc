//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Notifier is the socket of a service manager that waits to be told how far the daemon is (sd_notify(3)): a path, or a name
// without file that begins with @. "" is none.
type Notifier string

// newNotifier is that of the manager that has started this process. It is not the environment's any more: commands have no say.
// Who is not its child has got the variable from somebody who is.
func newNotifier() Notifier {
	name := os.Getenv("NOTIFY_SOCKET")
	_ = os.Unsetenv("NOTIFY_SOCKET")
	if os.Getppid() != 1 {
		return ""
	}
	return Notifier(name)
}

// tell sends a line such as READY=1. A manager that cannot be told ends the daemon, and its log says why it waited.
func (n Notifier) tell(state string) {
	if n == "" {
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	_ = unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: string(n)})
	_ = unix.Close(fd)
}

// endedByUnit is whether this process is the main one of a systemd unit whose Type= takes its end for the daemon's.
func endedByUnit() bool {
	if os.Getenv("INVOCATION_ID") == "" || os.Getppid() != 1 {
		return false
	}
	text, _ := os.ReadFile("/proc/self/cgroup") // 0::/system.slice/knockd.service
	unit := filepath.Base(strings.TrimSpace(string(text)))
	kind, _, _ := execute([]string{"systemctl", "show", "--property=Type", unit}, "", inspectLimit)
	return strings.TrimSpace(kind) != "Type=forking"
}
