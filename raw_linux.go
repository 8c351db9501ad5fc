package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The local ports of packets that we make: above those that Linux gives its own connections (ip_local_port_range), so
// that no answer is taken for one of theirs.
const (
	rawFirstPort = 61000
	rawPorts     = 4096
)

// errNoRaw is the error of openRaw where the system does not allow raw sockets.
var errNoRaw = errors.New("this needs CAP_NET_RAW: run it as root")

// rawTCP sends TCP headers of our own making to one address, and gets what comes back from there (raw(7)).
type rawTCP struct {
	fd       int
	from, to netip.Addr
}

// openRaw opens a raw socket to an address. What comes back goes through the filter first: at IPv4 it sees the packet from
// the IP header on, at IPv6 from the TCP header on.
func openRaw(to netip.Addr, way route, filter []bpf.Instruction) (r *rawTCP, err error) {
	r = &rawTCP{to: to, from: way.source}
	if !r.from.IsValid() {
		if r.from, err = sourceFor(to, way); err != nil {
			return nil, err
		}
	}
	family, peer, err := sockaddr(to, 0)
	if err != nil {
		return nil, err
	}
	_, own, err := sockaddr(r.from, 0)
	if err != nil {
		return nil, err
	}
	r.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err == unix.EPERM || err == unix.EACCES {
		return nil, errNoRaw
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	program, err := bpf.Assemble(filter)
	if err == nil {
		err = attachFilter(r.fd, program)
	}
	if err == nil {
		err = way.apply(r.fd, to.Is6())
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(r.fd, own))
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		err = fmt.Errorf("%v is not an address of this host", r.from)
	}
	if err == nil {
		err = os.NewSyscallError("connect", unix.Connect(r.fd, peer))
	}
	if err != nil {
		_ = unix.Close(r.fd)
		return nil, err
	}
	return r, nil
}

// sourceFor is the address that packets to another one leave from. Connecting a UDP socket asks the routes, and sends nothing.
func sourceFor(to netip.Addr, way route) (source netip.Addr, err error) {
	family, peer, err := sockaddr(to, 9)
	if err != nil {
		return source, err
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return source, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := way.apply(fd, to.Is6()); err != nil {
		return source, err
	}
	if err := unix.Connect(fd, peer); err != nil {
		return source, os.NewSyscallError("connect", err)
	}
	name, err := syscall.Getsockname(fd) // x/sys/unix would bring 4 KB
	if err != nil {
		return source, os.NewSyscallError("getsockname", err)
	}
	switch name := name.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrFrom4(name.Addr), nil
	case *syscall.SockaddrInet6:
		return netip.AddrFrom16(name.Addr).WithZone(to.Zone()), nil
	}
	return source, errors.New("getsockname: neither IPv4 nor IPv6")
}

// send sends a header from the own port, with a sequence number of its own.
func (r *rawTCP) send(ownPort, port uint16, flags uint8) error {
	s := segment{from: netip.AddrPortFrom(r.from, ownPort), to: netip.AddrPortFrom(r.to, port), seq: random32(), flags: flags}
	if flags&flagACK != 0 {
		s.ack = random32()
	}
	return os.NewSyscallError("send", unix.Send(r.fd, s.bytes(), 0))
}

func random32() uint32 {
	var b [4]byte
	_, _ = unix.Getrandom(b[:], 0) // it fails before Linux 3.17 alone, and then 0 will do
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// sendRaw sends one knock with any flags.
func sendRaw(addr netip.Addr, k sentKnock, from route) error {
	r, err := openRaw(addr, from, []bpf.Instruction{bpf.RetConstant{Val: 0}})
	if err == errNoRaw {
		return errors.New("flags other than syn need CAP_NET_RAW: run it as root")
	}
	if err != nil {
		return err
	}
	defer unix.Close(r.fd)
	return r.send(uint16(rawFirstPort+random32()%rawPorts), k.Port, k.Flags)
}
