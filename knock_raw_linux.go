package main

import (
	"hash/maphash"
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

// rawTCP sends TCP headers of our own making to one address, and gets what comes back from there (raw(7)).
type rawTCP struct {
	fd       int
	from, to netip.Addr
}

// openRaw opens a raw socket to an address; without the right to do so, the error is errNoRaw. The kernel finds the way,
// and with it the source. What comes back goes through the filter first: at IPv4 it sees the packet from the IP header on,
// at IPv6 from the TCP header on.
func openRaw(to netip.Addr, way route, filter []bpf.Instruction) (r *rawTCP, err error) {
	family, peer, err := sockaddr(to, 0)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err == unix.EPERM || err == unix.EACCES {
		return nil, errNoRaw
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	r = &rawTCP{fd: fd, to: to}
	program, err := bpf.Assemble(filter)
	if err == nil {
		err = attachFilter(fd, program)
	}
	if err == nil {
		err = way.bind(fd, to.Is6())
	}
	if err == nil {
		err = os.NewSyscallError("connect", unix.Connect(fd, peer))
	}
	if err == nil {
		r.from, err = localAddress(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return r, nil
}

// localAddress is what a connected socket sends from.
func localAddress(fd int) (netip.Addr, error) {
	at, err := syscall.Getsockname(fd)
	switch at := at.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrFrom4(at.Addr), nil
	case *syscall.SockaddrInet6:
		return netip.AddrFrom16(at.Addr), nil
	}
	return netip.Addr{}, os.NewSyscallError("getsockname", err)
}

// send sends a header from the own port, with random numbers.
func (r *rawTCP) send(ownPort, port uint16, flags uint8) error {
	n := randomNumber()
	s := segment{from: netip.AddrPortFrom(r.from, ownPort), to: netip.AddrPortFrom(r.to, port), seq: uint32(n), flags: flags}
	if flags&flagACK != 0 {
		s.ack = uint32(n >> 32)
	}
	b := s.bytes()
	_, err := unix.Write(r.fd, b)
	if err != nil {
		// It may be about an earlier packet: each error is told once (sock_alloc_send_pskb in net/core/sock.c).
		_, err = unix.Write(r.fd, b)
	}
	return os.NewSyscallError("send", err)
}

// randomNumber is random as seeds are. getrandom(2) is not there before Linux 3.17.
func randomNumber() uint64 { return maphash.Bytes(maphash.MakeSeed(), []byte{1}) }

// sendRaw sends one knock with any flags.
func sendRaw(addr netip.Addr, k sentKnock, from route) error {
	r, err := openRaw(addr, from, []bpf.Instruction{bpf.RetConstant{Val: 0}})
	if err != nil {
		return err
	}
	defer unix.Close(r.fd)
	return r.send(uint16(rawFirstPort+randomNumber()%rawPorts), k.Port, k.Flags)
}
