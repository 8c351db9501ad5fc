package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
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

// tcpChecksum is the checksum of a segment of even length whose own is 0. The pseudo header's sum is the same for both families, as zeros
// add nothing: the addresses, the protocol and the length (RFC 9293, section 3.1; RFC 8200, section 8.1).
func tcpChecksum(from, to netip.Addr, b []byte) uint16 {
	sum := uint32(tcp) + uint32(len(b))
	for rest := slices.Concat(from.AsSlice(), to.AsSlice(), b); len(rest) > 0; rest = rest[2:] {
		sum += uint32(binary.BigEndian.Uint16(rest))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// answer is a TCP packet that has come, as hping shows it: in text what stands before the number of the packet that it
// is for, and in window what stands behind.
type answer struct {
	port         uint16 // that it has come to
	text, window string
}

// parseAnswer reads a packet from an address and a port, and reports whether it is one. Over IPv4 it begins at its IP
// header, and over IPv6 at its TCP header, and has had that hop limit.
func parseAnswer(b []byte, from netip.AddrPort, hopLimit int, a *answer) bool {
	var hit Hit
	length, ip := len(b), ""
	if from.Addr().Is4() {
		if len(b) < ipv4MinLen || parseIPv4(b, len(b), &hit) != nil {
			return false
		}
		hopLimit = int(b[ipv4OffTTL])
		if binary.BigEndian.Uint16(b[ipv4OffFragment:])&ipv4DontFragment != 0 {
			ip = "DF "
		}
		ip += fmt.Sprintf("id=%d ", binary.BigEndian.Uint16(b[ipv4OffID:]))
		b = b[int(b[ipv4OffVersion]&0xf)*4:]
	} else {
		length += ipv6Len
		if parsePorts(tcp, b, len(b), &hit) != nil {
			return false
		}
	}
	if hit.FromPort != from.Port() || hit.Knock.Proto != tcp {
		return false
	}
	a.port = hit.Knock.Port
	a.text = fmt.Sprintf("len=%d ip=%v ttl=%d %ssport=%d flags=%s", length, from.Addr(), hopLimit, ip, from.Port(), lettersOf(hit.Flags))
	a.window = fmt.Sprintf("win=%d ", binary.BigEndian.Uint16(b[tcpOffWindow:]))
	return true
}

// flagLetters are the flags in the order that hping shows them in, with its letters and names. The last two are of RFC
// 3168.
var flagLetters = [...]struct {
	bit    uint8
	letter byte
	name   string
}{
	{flagRST, 'R', "rst"}, {flagSYN, 'S', "syn"}, {flagACK, 'A', "ack"}, {flagFIN, 'F', "fin"}, {flagPSH, 'P', "push"},
	{flagURG, 'U', "urg"}, {0x40, 'X', "xmas"}, {0x80, 'Y', "ymas"},
}

// lettersOf are flags as hping shows them, in its order: RA.
func lettersOf(flags uint8) string {
	var letters []byte
	for _, f := range &flagLetters {
		if flags&f.bit != 0 {
			letters = append(letters, f.letter)
		}
	}
	return string(letters)
}
