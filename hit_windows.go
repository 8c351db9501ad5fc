package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

const errRefused = windows.WSAECONNREFUSED

// fionbio makes a socket return at once (winsock2.h, FIONBIO).
const fionbio = 0x8004667e

// hit sends one knock and does not wait for an answer.
func hit(addr netip.Addr, k sentKnock, from route) error {
	kind, proto := windows.SOCK_STREAM, windows.IPPROTO_TCP
	switch {
	case k.Proto == udp:
		kind, proto = windows.SOCK_DGRAM, windows.IPPROTO_UDP
	case k.Flags != flagSYN:
		return sendRaw(addr, k, from)
	}
	family, to, err := sockaddr(addr, k.Port)
	if err != nil {
		return err
	}
	fd, err := windows.Socket(family, kind, proto)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer windows.Closesocket(fd)
	if err := from.apply(int(fd), family); err != nil {
		return err
	}
	if from.source.IsValid() {
		_, source, err := sockaddr(from.source, 0)
		if err == nil {
			err = windows.Bind(fd, source)
		}
		if err == windows.WSAEADDRNOTAVAIL {
			return fmt.Errorf("%v is not an address of this host", from.source)
		}
		if err != nil {
			return os.NewSyscallError("bind", err)
		}
	}
	if k.Proto == udp {
		return os.NewSyscallError("sendto", windows.Sendto(fd, []byte{0}, 0, to))
	}
	yes, returned := uint32(1), uint32(0)
	err = windows.WSAIoctl(fd, fionbio, (*byte)(unsafe.Pointer(&yes)), uint32(unsafe.Sizeof(yes)), nil, 0, &returned, nil, 0)
	if err != nil {
		return os.NewSyscallError("ioctl", err)
	}
	switch err := windows.Connect(fd, to); err {
	case windows.WSAEWOULDBLOCK, windows.WSAECONNREFUSED: // sent
		return nil
	default:
		return os.NewSyscallError("connect", err)
	}
}

// sockaddr is an address and a port as the system wants them, and its family.
func sockaddr(addr netip.Addr, port uint16) (family int, to windows.Sockaddr, err error) {
	if addr.Is4() {
		return windows.AF_INET, &windows.SockaddrInet4{Port: int(port), Addr: addr.As4()}, nil
	}
	in6 := &windows.SockaddrInet6{Port: int(port), Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		link, err := net.InterfaceByName(zone)
		if err != nil {
			return 0, nil, fmt.Errorf("interface %q: %w", zone, err)
		}
		in6.ZoneId = uint32(link.Index)
	}
	return windows.AF_INET6, in6, nil
}
