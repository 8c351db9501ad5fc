//go:build unix

package main

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// bind has what a socket sends leave by the route, from its source.
func (r route) bind(fd int, is6 bool) error {
	if err := r.apply(fd, is6); err != nil || !r.source.IsValid() {
		return err
	}
	_, source, err := sockaddr(r.source, 0)
	if err == nil {
		err = unix.Bind(fd, source)
	}
	if err == unix.EADDRNOTAVAIL {
		return fmt.Errorf("%v is not an address of this host", r.source)
	}
	return os.NewSyscallError("bind", err)
}

// sockaddr is an address and a port as the system wants them, and its family.
func sockaddr(addr netip.Addr, port uint16) (family int, to unix.Sockaddr, err error) {
	if addr.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(port), Addr: addr.As4()}, nil
	}
	zone, err := zoneID(addr.Zone())
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: addr.As16(), ZoneId: zone}, err
}
