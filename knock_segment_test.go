package main

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

// TestSegment has headers byte by byte. Their checksums were computed by another program, from RFC 9293, section 3.1.
func TestSegment(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to string
		seq, ack uint32
		flags    uint8
		want     string
	}{
		{"syn", "192.0.2.1:1024", "192.0.2.2:80", 1, 0, flagSYN, "0400 0050 00000001 00000000 5002 0200 258e 0000"},
		{"none", "192.0.2.1:1024", "192.0.2.2:80", 1, 0, 0, "0400 0050 00000001 00000000 5000 0200 2590 0000"},
		{"all", "192.0.2.1:65535", "192.0.2.2:65535", 0xffffffff, 0xffffffff, 0x3f, "ffff ffff ffffffff ffffffff 503f 0200 29a2 0000"},
		{"IPv6", "[2001:db8::1]:1024", "[2001:db8::2]:80", 1, 2, flagFIN | flagURG | flagACK, "0400 0050 00000001 00000002 5031 0200 4dec 0000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, to := netip.MustParseAddrPort(tt.from), netip.MustParseAddrPort(tt.to)
			got := hex.EncodeToString(segment{from, to, tt.seq, tt.ack, tt.flags}.bytes())
			if want := strings.ReplaceAll(tt.want, " ", ""); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// answerPacket is a packet for parseAnswer from 192.0.2.1 or 2001:db8::1, port 80.
func answerPacket(p testPacket, change func(b []byte)) []byte {
	p.fromPort, p.knock.Proto = 80, max(p.knock.Proto, tcp)
	b := p.bytes()
	if change != nil {
		change(b)
	}
	if p.from == "2001:db8::1" {
		b = b[ipv6Len:]
	}
	return b
}

func TestParseAnswer(t *testing.T) {
	four := testPacket{from: "192.0.2.1", to: "192.0.2.2", knock: Knock{5000, tcp}, flags: flagSYN | flagACK}
	six := testPacket{from: "2001:db8::1", to: "2001:db8::2", knock: Knock{5000, tcp}, flags: flagRST}
	options := four
	options.options, options.data, options.flags, options.fragment = 8, 4, 0xff, ipv4DontFragment
	for _, tt := range []struct {
		name   string
		in     []byte
		want   string // "": it is no answer
		window string
	}{
		{"IPv4", answerPacket(four, func(b []byte) {
			b[ipv4OffTTL] = 57
			binary.BigEndian.PutUint16(b[ipv4OffID:], 40000)
			binary.BigEndian.PutUint16(b[ipv4MinLen+tcpOffWindow:], 64240)
		}), "len=40 ip=192.0.2.1 ttl=57 id=40000 sport=80 flags=SA", "win=64240 "},
		{"options, and all flags", answerPacket(options, func(b []byte) { b[ipv4MinLen+8+tcpOffWindow+1] = 7 }),
			"len=52 ip=192.0.2.1 ttl=0 DF id=0 sport=80 flags=RSAFPUXY", "win=7 "},
		{"IPv6", answerPacket(six, nil), "len=60 ip=2001:db8::1 ttl=64 sport=80 flags=R", "win=0 "},

		{"from another port", answerPacket(four, func(b []byte) { b[ipv4MinLen+1] = 81 }), "", ""},
		{"IPv6, from another port", answerPacket(six, func(b []byte) { b[ipv6Len] = 81 }), "", ""},
		{"short", answerPacket(four, nil)[:ipv4MinLen+tcpMinLen-1], "", ""},
		{"IPv6, short", answerPacket(six, nil)[:tcpMinLen-1], "", ""},
		{"empty", nil, "", ""},
		{"header longer than the packet", answerPacket(four, func(b []byte) { b[0] = 0x4f }), "", ""},
		{"UDP", answerPacket(testPacket{from: "192.0.2.1", to: "192.0.2.2", knock: Knock{5000, udp}, data: 20}, nil), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from := netip.MustParseAddrPort("192.0.2.1:80")
			if strings.HasPrefix(tt.name, "IPv6") {
				from = netip.MustParseAddrPort("[2001:db8::1]:80")
			}
			var got answer
			if ok := parseAnswer(tt.in, from, 64, &got); ok != (tt.want != "") {
				t.Fatalf("got %v, %+v", ok, got)
			}
			if tt.want != "" && got != (answer{5000, tt.want, tt.window}) {
				t.Errorf("got %+v, want %s and %s", got, tt.want, tt.window)
			}
		})
	}
}

// FuzzParseAnswer looks at the bounds of what strangers send, and that it is from the port that is asked for.
func FuzzParseAnswer(f *testing.F) {
	f.Add(answerPacket(testPacket{from: "192.0.2.1", to: "192.0.2.2", knock: Knock{5000, tcp}, options: 8, data: 9}, nil))
	f.Add(answerPacket(testPacket{from: "2001:db8::1", to: "2001:db8::2", knock: Knock{5000, tcp}}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, from := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
			var a answer
			if parseAnswer(b, netip.MustParseAddrPort(from), 1, &a) && !strings.Contains(a.text, " sport=80 flags=") {
				t.Errorf("%x: got %+v", b, a)
			}
		}
	})
}
