package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// apply has what a socket sends leave by the route's link, with its TTL. The source is for bind(2).
func (r route) apply(fd int, is6 bool) error {
	if r.link != "" {
		switch err := unix.BindToDevice(fd, r.link); err {
		case nil:
		case unix.ENODEV:
			return fmt.Errorf("there is no interface %q", r.link)
		case unix.EPERM: // before Linux 5.7
			return fmt.Errorf("the interface %q can be chosen by root alone here", r.link)
		default:
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if r.ttl == 0 {
		return nil
	}
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if is6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, r.ttl))
}
