package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// openRaw has the packets sent by a raw socket, and a goroutine hear what comes of them. Their source ports are a run
// of pingSlots ports, below those that Linux takes for connections (ip_local_port_range), and seldom those of another
// ping.
func (p *pinger) openRaw() error {
	first := uint16(4096 + randomNumber()%24576)
	is6 := p.to.Addr().Is6()
	raw, err := openRaw(p.to.Addr(), p.from, pingFilter(is6, p.to.Port(), first))
	if err != nil {
		return err
	}
	if err = askForErrors(raw.fd, is6); err == nil && is6 {
		err = unix.SetsockoptInt(raw.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
	}
	if err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	p.sendBy(func(slot int) error { return raw.send(first+uint16(slot), p.to.Port(), p.flags) })
	l := &pingListener{pinger: p, raw: raw, first: first}
	go l.listen()
	return nil
}

// pingFilter lets packets in that come from a port to one of pingSlots ports. They begin at their IPv4 header, but over
// IPv6 at their TCP header (raw(7); rawv6_rcv in net/ipv6/raw.c).
func pingFilter(is6 bool, port, first uint16) []bpf.Instruction {
	toTCP := bpf.Instruction(bpf.LoadMemShift{Off: ipv4OffVersion})
	if is6 {
		toTCP = bpf.LoadConstant{Dst: bpf.RegX}
	}
	return []bpf.Instruction{
		toTCP,
		bpf.LoadIndirect{Off: portOffSource, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 4},
		bpf.LoadIndirect{Off: portOffDestination, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(first), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(first) + pingSlots, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
}

// pingListener hears what comes of the packets from a run of ports.
type pingListener struct {
	*pinger
	raw   *rawTCP
	first uint16
}

// listen hears for ever. Packets that come faster than they are taken are dropped by the kernel.
func (l *pingListener) listen() {
	fds := []unix.PollFd{{Fd: int32(l.raw.fd), Events: unix.POLLIN}}
	b, oob := make([]byte, 1<<16), make([]byte, 512)
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		h := &heard{at: l.now()}
		clear(b[:portOffDestination+2])
		if e, ok := readError(l.raw.fd, b); ok && binary.BigEndian.Uint16(b[portOffDestination:]) == l.to.Port() {
			l.tell(&heard{failed: fmt.Sprint(e), answer: answer{port: binary.BigEndian.Uint16(b[portOffSource:])}})
		}
		n, oobLen, _, _, err := syscall.Recvmsg(l.raw.fd, b, oob, unix.MSG_DONTWAIT)
		// Else there is none, or the error has been read from its queue.
		if err == nil && parseAnswer(b[:n], l.to, hopLimit(oob[:oobLen]), &h.answer) {
			l.tell(h)
		}
	}
}

// tell gives what was heard for a packet from one of our ports.
func (l *pingListener) tell(h *heard) {
	told := *h
	if told.slot = int(h.port) - int(l.first); told.slot >= 0 && told.slot < pingSlots {
		l.pinger.heard <- &told
	}
}

// hopLimit is what a packet of IPv6 has come with (ipv6(7), IPV6_RECVHOPLIMIT), or 0.
func hopLimit(oob []byte) int {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}
