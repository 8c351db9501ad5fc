package main

import (
	"encoding/binary"
	"net/netip"
)

// Where the rest stands in a TCP header, of which packet.go names what a knock needs.
const (
	tcpOffAck      = 8
	tcpOffWindow   = 14
	tcpOffChecksum = 16
	// sentWindow is the window of the packets that we make.
	sentWindow = 512
)

// segment is a TCP header without options or data (RFC 9293, section 3.1).
type segment struct {
	from, to netip.AddrPort
	seq, ack uint32
	flags    uint8
}

// bytes are the header as it is sent, with its checksum.
func (s segment) bytes() []byte {
	b := make([]byte, tcpMinLen)
	binary.BigEndian.PutUint16(b[portOffSource:], s.from.Port())
	binary.BigEndian.PutUint16(b[portOffDestination:], s.to.Port())
	binary.BigEndian.PutUint32(b[tcpOffSeq:], s.seq)
	binary.BigEndian.PutUint32(b[tcpOffAck:], s.ack)
	b[tcpOffDataOffset] = tcpMinLen / 4 << 4
	b[tcpOffFlags] = s.flags
	binary.BigEndian.PutUint16(b[tcpOffWindow:], sentWindow)
	binary.BigEndian.PutUint16(b[tcpOffChecksum:], tcpChecksum(s.from.Addr(), s.to.Addr(), b))
	return b
}

// tcpChecksum is the checksum of a segment whose own is 0. The pseudo header's sum is the same for both families, as zeros
// add nothing: the addresses, the protocol and the length (RFC 9293, section 3.1; RFC 8200, section 8.1).
func tcpChecksum(from, to netip.Addr, b []byte) uint16 {
	sum := uint32(tcp) + uint32(len(b))
	add := func(b []byte) {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(from.AsSlice())
	add(to.AsSlice())
	add(b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
