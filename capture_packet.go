package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// Frame is a packet in the ring. Bytes begins at the IP header and is valid until the function it is given to returns.
type Frame struct {
	Bytes    []byte
	Len      int           // of the packet itself, of which Bytes may have less
	Stamp    time.Duration // when the kernel had it, since 1970 by the host's clock
	Protocol uint16        // EtherType
	Link     int           // interface index
	Outgoing bool
	Tagged   bool // came with a VLAN tag other than 0
	Foreign  bool // to another hardware address than the link's
}

// IPv4 header (RFC 791, section 3.1). Offsets count bytes from the start of the header.
//
//	 0        1        2        3
//	+--------+--------+--------+--------+
//	|vers|ihl|  tos   |  total length   |
//	|  identification |flg| fragm. off. |
//	|  ttl   |protocol|    checksum     |
//	|          source address           |
//	|        destination address        |
//	|      options, up to 40 bytes      |
const (
	ipv4OffVersion     = 0
	ipv4OffTotalLen    = 2
	ipv4OffID          = 4
	ipv4OffFragment    = 6
	ipv4OffTTL         = 8
	ipv4OffProto       = 9
	ipv4OffSource      = 12
	ipv4OffDestination = 16
	ipv4MinLen         = 20
	ipv4FragmentMask   = 0x1fff // the offset, in units of 8 bytes
	ipv4DontFragment   = 0x4000
)

// IPv6 header (RFC 8200, section 3).
//
//	+--------+--------+--------+--------+
//	|vers| class |      flow label      |
//	|  payload length | next h.| hop l. |
//	|     source address, 16 bytes      |
//	|   destination address, 16 bytes   |
const (
	ipv6OffPayloadLen  = 4
	ipv6OffNextHeader  = 6
	ipv6OffSource      = 8
	ipv6OffDestination = 24
	ipv6Len            = 40
)

// IPv6 extension headers that may stand before TCP or UDP (RFC 8200, section 4; RFC 4302 for AH). Each begins with the
// next header's number; the second byte is its length.
const (
	ipv6HopByHop    = 0
	ipv6Routing     = 43
	ipv6Fragment    = 44
	ipv6AH          = 51
	ipv6DestOptions = 60

	ipv6FragmentLen     = 8
	ipv6FragmentOff     = 2      // offset and flags, within the fragment header
	ipv6FragmentMask    = 0xfff8 // the offset
	ipv6MaxExtensions   = 8
	ipv6MaxExtensionLen = 256 // of all of them together
)

// TCP header (RFC 9293, section 3.1) and UDP header (RFC 768). Both begin with the two ports.
const (
	portOffSource      = 0
	portOffDestination = 2
	tcpOffSeq          = 4
	tcpOffDataOffset   = 12
	tcpOffFlags        = 13
	tcpMinLen          = 20
	udpOffLen          = 4
	udpLen             = 8
)

// What a packet is rejected for. They are fixed values: nothing is allocated for a stranger's packet.
var (
	errShort     = errors.New("shorter than its headers")
	errVersion46 = errors.New("neither IPv4 nor IPv6")
	errProtocol  = errors.New("neither TCP nor UDP")
	errFragment  = errors.New("a fragment without ports")
	errLying     = errors.New("its lengths contradict each other")
	errExtension = errors.New("too many extension headers")
	errSource    = errors.New("its source is nobody's address")
)

// parsePacket reads a packet into hit, except When and Link. b begins at the IP header and may have been cut by the
// capture; length is the packet's own length. It is a pure function, and never looks past b.
func parsePacket(b []byte, length int, hit *Hit) error {
	if len(b) == 0 {
		return errShort
	}
	switch b[ipv4OffVersion] >> 4 {
	case 4:
		return parseIPv4(b, length, hit)
	case 6:
		return parseIPv6(b, length, hit)
	}
	return errVersion46
}

func parseIPv4(b []byte, length int, hit *Hit) error {
	if len(b) < ipv4MinLen {
		return errShort
	}
	headerLen := int(b[ipv4OffVersion]&0xf) * 4
	totalLen := int(binary.BigEndian.Uint16(b[ipv4OffTotalLen:]))
	if headerLen < ipv4MinLen || totalLen < headerLen || totalLen > length {
		return errLying
	}
	if binary.BigEndian.Uint16(b[ipv4OffFragment:])&ipv4FragmentMask != 0 {
		return errFragment
	}
	if len(b) < headerLen {
		return errShort
	}
	hit.From = mapped4([4]byte(b[ipv4OffSource:]))
	hit.To = mapped4([4]byte(b[ipv4OffDestination:]))
	// The kernel's ip_route_input_slow drops these too. Firewall tools may read 0.0.0.0 as "from anywhere".
	if first := b[ipv4OffSource]; first == 0 || first >= 224 {
		return errSource
	}
	return parsePorts(Protocol(b[ipv4OffProto]), b[headerLen:], totalLen-headerLen, hit)
}

func mapped4(a [4]byte) [16]byte {
	return [16]byte{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}
}

func parseIPv6(b []byte, length int, hit *Hit) error {
	if len(b) < ipv6Len {
		return errShort
	}
	payloadLen := int(binary.BigEndian.Uint16(b[ipv6OffPayloadLen:]))
	if ipv6Len+payloadLen > length {
		return errLying
	}
	hit.From = [16]byte(b[ipv6OffSource:])
	hit.To = [16]byte(b[ipv6OffDestination:])
	if netip.AddrFrom16(hit.From).Is4In6() {
		return errLying // RFC 4291, section 2.5.5.2: never on the wire; taken for IPv4 it would forge one
	}
	if hit.From == [16]byte{} || hit.From[0] == 0xff {
		return errSource // unspecified or multicast: ipv6_rcv drops the latter, and :: opens to everybody
	}
	next := b[ipv6OffNextHeader]
	b = b[ipv6Len:]
	extensions := 0
	for range ipv6MaxExtensions + 1 {
		if len(b) < 8 {
			return errShort // no extension header and no transport header is shorter
		}
		extLen := 0
		switch next {
		case ipv6HopByHop, ipv6Routing, ipv6DestOptions:
			extLen = (int(b[1]) + 1) * 8
		case ipv6AH:
			extLen = (int(b[1]) + 2) * 4
		case ipv6Fragment:
			if binary.BigEndian.Uint16(b[ipv6FragmentOff:])&ipv6FragmentMask != 0 {
				return errFragment
			}
			extLen = ipv6FragmentLen
		default:
			return parsePorts(Protocol(next), b, payloadLen-extensions, hit)
		}
		extensions += extLen
		if extensions > ipv6MaxExtensionLen {
			return errExtension
		}
		if extensions > payloadLen {
			return errLying
		}
		if len(b) < extLen {
			return errShort
		}
		next, b = b[0], b[extLen:]
	}
	return errExtension
}

// udpData is the data of a whole UDP packet that parsePacket has read; nil of a fragment, of one that was cut, and of one
// with IPv6 extension headers.
func udpData(b []byte) []byte {
	head := ipv6Len
	switch {
	case b[ipv4OffVersion]>>4 == 4:
		if head = int(b[ipv4OffVersion]&0xf) * 4; binary.BigEndian.Uint16(b[ipv4OffFragment:])&^ipv4DontFragment != 0 {
			return nil
		}
	case b[ipv6OffNextHeader] != byte(udp):
		return nil
	}
	b = b[head:]
	if n := int(binary.BigEndian.Uint16(b[udpOffLen:])); n <= len(b) {
		return b[udpLen:n]
	}
	return nil
}

// parsePorts reads a TCP or UDP header. length is what the IP header says there is of it and its data.
func parsePorts(proto Protocol, b []byte, length int, hit *Hit) error {
	hit.Flags, hit.Seq = 0, 0
	switch proto {
	case tcp:
		if len(b) < tcpMinLen {
			return errShort
		}
		headerLen := int(b[tcpOffDataOffset]>>4) * 4
		if headerLen < tcpMinLen || headerLen > length {
			return errLying
		}
		hit.Flags = b[tcpOffFlags]
		hit.Seq = binary.BigEndian.Uint32(b[tcpOffSeq:])
	case udp:
		if len(b) < udpLen {
			return errShort
		}
		udpLength := int(binary.BigEndian.Uint16(b[udpOffLen:]))
		if udpLength < udpLen || udpLength > length {
			return errLying
		}
	default:
		return errProtocol
	}
	hit.FromPort = binary.BigEndian.Uint16(b[portOffSource:])
	hit.Knock = Knock{binary.BigEndian.Uint16(b[portOffDestination:]), proto}
	return nil
}
