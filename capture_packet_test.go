package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// testPacket describes a packet to build. Its addresses decide about the IP version.
type testPacket struct {
	from, to   string
	fromPort   uint16
	knock      Knock // of any protocol: one that is not UDP gets a TCP header
	flags      uint8
	seq        uint32
	options    int         // bytes of IPv4 options
	fragment   uint16      // IPv4: flags and offset
	extensions []extension // IPv6
	data       int         // bytes behind the TCP or UDP header
	padding    int         // bytes behind the packet, as in a short Ethernet frame
}

// extension is an IPv6 extension header without its next header byte, which bytes puts in.
type extension struct {
	number uint8
	header []byte
}

// ext makes an extension header of length bytes.
func ext(number uint8, length int) extension {
	h := make([]byte, length)
	h[1] = uint8(length/8 - 1)
	switch number {
	case ipv6AH:
		h[1] = uint8(length/4 - 2)
	case ipv6Fragment:
		h[1] = 0
	}
	return extension{number, h}
}

// fragment makes an IPv6 fragment header. offset is in units of 8 bytes.
func fragment(offset uint16, more bool) extension {
	e := ext(ipv6Fragment, ipv6FragmentLen)
	binary.BigEndian.PutUint16(e.header[2:], offset<<3)
	if more {
		e.header[3] |= 1
	}
	return e
}

// headers is how many bytes of the packet are headers.
func (p testPacket) headers() int { return len(p.bytes()) - p.data - p.padding }

func (p testPacket) bytes() []byte {
	from, to := netip.MustParseAddr(p.from), netip.MustParseAddr(p.to)
	var transport []byte
	if p.knock.Proto == udp {
		transport = make([]byte, udpLen+p.data)
		binary.BigEndian.PutUint16(transport[udpOffLen:], uint16(len(transport)))
	} else {
		transport = make([]byte, tcpMinLen+p.data)
		binary.BigEndian.PutUint32(transport[tcpOffSeq:], p.seq)
		transport[tcpOffDataOffset] = tcpMinLen / 4 << 4
		transport[tcpOffFlags] = p.flags
	}
	binary.BigEndian.PutUint16(transport[portOffSource:], p.fromPort)
	binary.BigEndian.PutUint16(transport[portOffDestination:], p.knock.Port)

	var b []byte
	if from.Is4() {
		b = make([]byte, ipv4MinLen+p.options)
		b[ipv4OffVersion] = 4<<4 | uint8(len(b)/4)
		binary.BigEndian.PutUint16(b[ipv4OffTotalLen:], uint16(len(b)+len(transport)))
		binary.BigEndian.PutUint16(b[ipv4OffFragment:], p.fragment)
		b[ipv4OffProto] = uint8(p.knock.Proto)
		copy(b[ipv4OffSource:], from.AsSlice())
		copy(b[ipv4OffDestination:], to.AsSlice())
	} else {
		b = make([]byte, ipv6Len)
		b[ipv4OffVersion] = 6 << 4
		copy(b[ipv6OffSource:], from.AsSlice())
		copy(b[ipv6OffDestination:], to.AsSlice())
		next := ipv6OffNextHeader
		for _, e := range p.extensions {
			b[next], next = e.number, len(b)
			b = append(b, e.header...)
		}
		b[next] = uint8(p.knock.Proto)
		binary.BigEndian.PutUint16(b[ipv6OffPayloadLen:], uint16(len(b)-ipv6Len+len(transport)))
	}
	return append(append(b, transport...), make([]byte, p.padding)...)
}

// hit is what the parser should make of the packet.
func (p testPacket) hit() Hit {
	h := Hit{
		From: netip.MustParseAddr(p.from).As16(), To: netip.MustParseAddr(p.to).As16(),
		FromPort: p.fromPort, Knock: p.knock,
	}
	if p.knock.Proto == tcp {
		h.Flags, h.Seq = p.flags, p.seq
	}
	return h
}

// with returns a copy that change has been applied to.
func (p testPacket) with(change func(p *testPacket)) testPacket {
	change(&p)
	return p
}

var (
	testSYN4 = testPacket{from: "192.0.2.7", to: "198.51.100.1", fromPort: 40001, knock: Knock{7000, tcp}, flags: flagSYN, seq: 0xfedcba98}
	testUDP4 = testPacket{from: "223.255.255.254", to: "198.51.100.1", fromPort: 40002, knock: Knock{65535, udp}, data: 1}
	testSYN6 = testPacket{from: "2001:db8::7", to: "2001:db8:1::1", fromPort: 40003, knock: Knock{7000, tcp}, flags: flagSYN, seq: 1}
	testUDP6 = testPacket{from: "fe80::7", to: "fe80::1", fromPort: 40004, knock: Knock{1, udp}, data: 3}
)

// extended is testSYN6 with extension headers.
func extended(e ...extension) testPacket {
	return testSYN6.with(func(p *testPacket) { p.extensions = e })
}

var validPackets = []struct {
	name string
	in   testPacket
}{
	{"SYN", testSYN4},
	{"all flags", testSYN4.with(func(p *testPacket) { p.flags = 0xff })},
	{"TCP with data", testSYN4.with(func(p *testPacket) { p.data = 100 })},
	{"all IPv4 options", testSYN4.with(func(p *testPacket) { p.options = 40 })},
	{"padding", testSYN4.with(func(p *testPacket) { p.padding = 6 })},
	{"options and padding", testUDP4.with(func(p *testPacket) { p.options, p.padding = 4, 14 })},
	{"first IPv4 fragment", testSYN4.with(func(p *testPacket) { p.fragment = 0x2000 })},
	{"do not fragment", testSYN4.with(func(p *testPacket) { p.fragment = 0x4000 })},
	{"UDP", testUDP4},
	{"UDP without data", testUDP4.with(func(p *testPacket) { p.data = 0 })},
	{"source 1.0.0.0", testUDP4.with(func(p *testPacket) { p.from = "1.0.0.0" })},
	{"IPv6 SYN", testSYN6},
	{"IPv6 UDP", testUDP6},
	{"IPv6 padding", testUDP6.with(func(p *testPacket) { p.padding = 9 })},
	{"hop by hop", extended(ext(ipv6HopByHop, 8))},
	{"routing", extended(ext(ipv6Routing, 24))},
	{"destination options", extended(ext(ipv6DestOptions, 16))},
	{"AH", extended(ext(ipv6AH, 24))},
	{"AH of 12 bytes", extended(ext(ipv6AH, 12))},
	{"first fragment", extended(fragment(0, true))},
	{"the only fragment", extended(fragment(0, false))},
	{"all of them", extended(ext(ipv6HopByHop, 8), ext(ipv6DestOptions, 8), ext(ipv6Routing, 24), fragment(0, true), ext(ipv6AH, 24), ext(ipv6DestOptions, 16))},
	{"UDP behind an extension", testUDP6.with(func(p *testPacket) { p.extensions = []extension{ext(ipv6DestOptions, 8)} })},
	{"as many extensions as may be", extended(slices.Repeat([]extension{ext(ipv6DestOptions, 8)}, ipv6MaxExtensions)...)},
	{"extensions as long as may be", extended(ext(ipv6DestOptions, ipv6MaxExtensionLen))},
}

func TestParsePacket(t *testing.T) {
	for _, test := range validPackets {
		t.Run(test.name, func(t *testing.T) {
			b, want := test.in.bytes(), test.in.hit()
			var got Hit
			if err := parsePacket(b, len(b), &got); err != nil || got != want {
				t.Errorf("got %+v (%v), want %+v", got, err, want)
			}
			if source := netip.MustParseAddr(test.in.from); got.source() != source {
				t.Errorf("got source %v, want %v", got.source(), source)
			}
			// A capture may have cut it behind the headers, not within them.
			for n := range len(b) {
				var cut Hit
				switch err := parsePacket(b[:n:n], len(b), &cut); {
				case n < test.in.headers() && err != errShort:
					t.Errorf("cut to %d bytes: got %v, want %v", n, err, errShort)
				case n >= test.in.headers() && (err != nil || cut != want):
					t.Errorf("cut to %d bytes: got %+v (%v), want %+v", n, cut, err, want)
				}
			}
			// A packet shorter than it says is rejected at every length.
			for n := range len(b) - test.in.padding {
				if err := parsePacket(b[:n:n], n, new(Hit)); err != errShort && err != errLying {
					t.Errorf("%d bytes: got %v, want %v or %v", n, err, errShort, errLying)
				}
			}
		})
	}
}

var invalidPackets = []struct {
	name string
	in   testPacket
	edit func(b []byte)
	want error
}{
	{"version 0", testSYN4, func(b []byte) { b[0] = 0x05 }, errVersion46},
	{"version 5", testSYN4, func(b []byte) { b[0] = 0x55 }, errVersion46},
	{"ARP", testSYN4, func(b []byte) { copy(b, "\x00\x01\x08\x00\x06\x04") }, errVersion46},
	{"header of 16 bytes", testSYN4, func(b []byte) { b[0] = 0x44 }, errLying},
	{"header of 0 bytes", testSYN4, func(b []byte) { b[0] = 0x40 }, errLying},
	{"header longer than the packet", testUDP4.with(func(p *testPacket) { p.data = 0 }), func(b []byte) { b[0] = 0x4f }, errLying},
	{"total length 0", testSYN4, func(b []byte) { put16(b, ipv4OffTotalLen, 0) }, errLying},
	{"total length one less than TCP", testSYN4, func(b []byte) { put16(b, ipv4OffTotalLen, 39) }, errLying},
	{"total length longer than the frame", testSYN4, func(b []byte) { put16(b, ipv4OffTotalLen, 41) }, errLying},
	{"TCP in the padding only", testSYN4.with(func(p *testPacket) { p.padding = 20 }), func(b []byte) { put16(b, ipv4OffTotalLen, 20) }, errLying},
	{"later fragment", testSYN4.with(func(p *testPacket) { p.fragment = 1 }), nil, errFragment},
	{"last possible fragment", testSYN4.with(func(p *testPacket) { p.fragment = 0x1fff }), nil, errFragment},
	{"ICMP", testSYN4.with(func(p *testPacket) { p.knock.Proto = 1 }), nil, errProtocol},
	{"AH in IPv4", testSYN4.with(func(p *testPacket) { p.knock.Proto = ipv6AH }), nil, errProtocol},
	{"source 0.0.0.0", testSYN4.with(func(p *testPacket) { p.from = "0.0.0.0" }), nil, errSource},
	{"source 0.1.2.3", testSYN4.with(func(p *testPacket) { p.from = "0.1.2.3" }), nil, errSource},
	{"source 224.0.0.1", testUDP4.with(func(p *testPacket) { p.from = "224.0.0.1" }), nil, errSource},
	{"source 255.255.255.255", testUDP4.with(func(p *testPacket) { p.from = "255.255.255.255" }), nil, errSource},
	{"data offset of 16 bytes", testSYN4, func(b []byte) { b[20+tcpOffDataOffset] = 0x40 }, errLying},
	{"data offset beyond the packet", testSYN4, func(b []byte) { b[20+tcpOffDataOffset] = 0x60 }, errLying},
	{"data offset into the padding", testSYN4.with(func(p *testPacket) { p.padding = 40 }), func(b []byte) { b[20+tcpOffDataOffset] = 0x60 }, errLying},
	{"UDP length 7", testUDP4, func(b []byte) { put16(b, 20+udpOffLen, 7) }, errLying},
	{"UDP length beyond the packet", testUDP4, func(b []byte) { put16(b, 20+udpOffLen, 10) }, errLying},
	{"UDP length into the padding", testUDP4.with(func(p *testPacket) { p.padding = 9 }), func(b []byte) { put16(b, 20+udpOffLen, 10) }, errLying},

	{"payload length 0", testSYN6, func(b []byte) { put16(b, ipv6OffPayloadLen, 0) }, errLying},
	{"payload length one less than TCP", testSYN6, func(b []byte) { put16(b, ipv6OffPayloadLen, 19) }, errLying},
	{"payload length longer than the frame", testSYN6, func(b []byte) { put16(b, ipv6OffPayloadLen, 21) }, errLying},
	{"IPv6 UDP length", testUDP6, func(b []byte) { put16(b, 40+udpOffLen, 12) }, errLying},
	{"ICMPv6", testSYN6.with(func(p *testPacket) { p.knock.Proto = 58 }), nil, errProtocol},
	{"ESP", testSYN6.with(func(p *testPacket) { p.knock.Proto = 50 }), nil, errProtocol},
	{"source ::", testSYN6.with(func(p *testPacket) { p.from = "::" }), nil, errSource},
	{"source ff02::1", testSYN6.with(func(p *testPacket) { p.from = "ff02::1" }), nil, errSource},
	{"source ::ffff:192.0.2.7", testSYN6.with(func(p *testPacket) { p.from = "::ffff:192.0.2.7" }), nil, errLying},
	{"later IPv6 fragment", extended(fragment(1, false)), nil, errFragment},
	{"last possible IPv6 fragment", extended(ext(ipv6HopByHop, 8), fragment(0x1fff, true)), nil, errFragment},
	{"too many extensions", extended(slices.Repeat([]extension{ext(ipv6DestOptions, 8)}, ipv6MaxExtensions+1)...), nil, errExtension},
	{"too long extensions", extended(ext(ipv6DestOptions, ipv6MaxExtensionLen), ext(ipv6HopByHop, 8)), nil, errExtension},
	{"extension beyond the payload", extended(ext(ipv6DestOptions, 8)), func(b []byte) { b[ipv6Len+1] = 10 }, errLying},
	{"payload ends with the extension", extended(ext(ipv6DestOptions, 8)), func(b []byte) { put16(b, ipv6OffPayloadLen, 8) }, errLying},
}

func put16(b []byte, at int, n uint16) { binary.BigEndian.PutUint16(b[at:], n) }

func TestParsePacketRejects(t *testing.T) {
	for _, test := range invalidPackets {
		t.Run(test.name, func(t *testing.T) {
			b := test.in.bytes()
			if test.edit != nil {
				test.edit(b)
			}
			if err := parsePacket(b, len(b), new(Hit)); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	if err := parsePacket(nil, 0, new(Hit)); err != errShort {
		t.Errorf("no bytes: got %v, want %v", err, errShort)
	}
}

// A Hit is used again for the next packet: what one left must not show in another.
func TestParsePacketLeavesNothing(t *testing.T) {
	syn, datagram := testSYN4.bytes(), testUDP4.bytes()
	var hit Hit
	for range 2 {
		for i, b := range [][]byte{syn, datagram} {
			want := []testPacket{testSYN4, testUDP4}[i].hit()
			if err := parsePacket(b, len(b), &hit); err != nil || hit != want {
				t.Errorf("got %+v (%v), want %+v", hit, err, want)
			}
		}
	}
}

func TestParsePacketAllocatesNothing(t *testing.T) {
	var packets [][]byte
	for _, test := range validPackets {
		packets = append(packets, test.in.bytes())
	}
	for _, test := range invalidPackets {
		b := test.in.bytes()
		if test.edit != nil {
			test.edit(b)
		}
		packets = append(packets, b)
	}
	var hit Hit
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range packets {
			_ = parsePacket(b, len(b), &hit)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func TestHitSource(t *testing.T) {
	for _, want := range []string{"192.0.2.7", "2001:db8::7", "fe80::7"} {
		hit := Hit{From: netip.MustParseAddr(want).As16()}
		if got := hit.source().String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	for _, test := range validPackets {
		b := test.in.bytes()
		f.Add(b, len(b))
		f.Add(b[:len(b)/2], len(b))
	}
	for _, test := range invalidPackets {
		b := test.in.bytes()
		if test.edit != nil {
			test.edit(b)
		}
		f.Add(b, len(b))
	}
	f.Fuzz(func(t *testing.T, b []byte, length int) {
		b = append(make([]byte, 0, len(b)), b...)[:len(b):len(b)] // a read beyond its end panics
		var hit, again Hit
		if parsePacket(b, length, &hit) != nil {
			return
		}
		if hit.Knock.Proto != tcp && hit.Knock.Proto != udp {
			t.Errorf("got protocol %v, want TCP or UDP", hit.Knock.Proto)
		}
		switch from := hit.source(); {
		case b[0]>>4 == 4 != from.Is4():
			t.Errorf("got source %v from IP version %d", from, b[0]>>4)
		case !from.IsValid(), from.IsUnspecified(), from.IsMulticast(), strings.HasPrefix(from.String(), "0."):
			t.Errorf("got source %v, which is nobody's address", from)
		}
		if err := parsePacket(append(b, 1, 2, 3), length+3, &again); err != nil || again != hit {
			t.Errorf("with padding: got %+v (%v), want %+v", again, err, hit)
		}
		// What the filter leaves of a packet must be enough.
		snap := snapShort
		if b[0]>>4 == 6 && b[ipv6OffNextHeader] != uint8(tcp) && b[ipv6OffNextHeader] != uint8(udp) {
			snap = snapLong
		}
		if err := parsePacket(b[:min(snap, len(b))], length, &again); err != nil || again != hit {
			t.Errorf("cut to %d bytes: got %+v (%v), want %+v", snap, again, err, hit)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.Run("IPv4", benchParse(testSYN4))
	b.Run("IPv6", benchParse(testSYN6))
	b.Run("extensions", benchParse(extended(ext(ipv6HopByHop, 8), ext(ipv6DestOptions, 8))))
}

func benchParse(in testPacket) func(b *testing.B) {
	return func(b *testing.B) {
		b.ReportAllocs()
		packet := in.bytes()
		var hit Hit
		for b.Loop() {
			if err := parsePacket(packet, len(packet), &hit); err != nil {
				b.Fatal(err)
			}
		}
	}
}
