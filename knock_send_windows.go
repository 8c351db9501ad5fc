package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// errRefused is how a connection fails that was answered by an RST.
const errRefused = windows.WSAECONNREFUSED

const (
	fionbio = 0x8004667e // FIONBIO of winsock2.h
	// keepTime is how long a connection is kept: less than the 500 ms after which Windows sends its first packet again
	// when it was refused.
	keepTime = 400 * time.Millisecond
)

// sendKnock sends one knock and does not wait for an answer. Where that has begun a connection, keep keeps it for
// keepTime.
func sendKnock(addr netip.Addr, k sentKnock, from route) (keep func(), err error) {
	if k.Proto == tcp && k.Flags != flagSYN {
		return nil, sendRaw(addr, k, from)
	}
	// Counted by the system, so that it may be done for each.
	if err := windows.WSAStartup(0x202, new(windows.WSAData)); err != nil {
		return nil, os.NewSyscallError("WSAStartup", err)
	}
	s := windows.InvalidHandle
	end := func() {
		_ = windows.Closesocket(s)
		_ = windows.WSACleanup()
	}
	defer func() {
		if keep == nil {
			end()
		}
	}()
	kind := int32(windows.SOCK_STREAM)
	if k.Proto == udp {
		kind = windows.SOCK_DGRAM
	}
	family, to, err := sockaddr(addr, k.Port)
	if err != nil {
		return nil, err
	}
	s, err = windows.WSASocket(family, kind, 0, nil, 0, windows.WSA_FLAG_OVERLAPPED|windows.WSA_FLAG_NO_HANDLE_INHERIT)
	if err != nil {
		return nil, os.NewSyscallError("WSASocket", err)
	}
	if err := from.apply(0, addr.Is6()); err != nil {
		return nil, err
	}
	if from.source.IsValid() {
		_, source, err := sockaddr(from.source, 0)
		if err == nil {
			err = windows.Bind(s, source)
		}
		if err == windows.WSAEADDRNOTAVAIL {
			return nil, fmt.Errorf("%v is not an address of this host", from.source)
		}
		if err != nil {
			return nil, os.NewSyscallError("bind", err)
		}
	}
	if k.Proto == udp {
		return nil, os.NewSyscallError("sendto", windows.Sendto(s, []byte(cmp.Or(k.data, "\x00")), 0, to))
	}
	on, done := uint32(1), uint32(0)
	err = windows.WSAIoctl(s, fionbio, (*byte)(unsafe.Pointer(&on)), uint32(unsafe.Sizeof(on)), nil, 0, &done, nil, 0)
	if err != nil {
		return nil, os.NewSyscallError("WSAIoctl", err)
	}
	switch err := windows.Connect(s, to); err {
	case windows.WSAEWOULDBLOCK, windows.WSAECONNREFUSED, nil:
		return func() {
			time.Sleep(keepTime)
			end()
		}, nil
	default:
		return nil, os.NewSyscallError("connect", err)
	}
}

// sockaddr is an address and a port as the system wants them, and its family.
func sockaddr(addr netip.Addr, port uint16) (family int32, to windows.Sockaddr, err error) {
	if addr.Is4() {
		return windows.AF_INET, &windows.SockaddrInet4{Port: int(port), Addr: addr.As4()}, nil
	}
	zone, err := zoneID(addr.Zone())
	return windows.AF_INET6, &windows.SockaddrInet6{Port: int(port), Addr: addr.As16(), ZoneId: zone}, err
}
