//go:build linux && !pure

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keyFrame is a frame with a datagram.
func keyFrame(p testPacket, port uint16, datagram []byte) *Frame {
	p.knock, p.data = Knock{port, udp}, len(datagram)
	b := p.bytes()
	copy(b[len(b)-len(datagram):], datagram)
	f := &Frame{Bytes: b, Len: len(b), Protocol: unix.ETH_P_IP, Link: 1}
	if netip.MustParseAddr(p.from).Is6() {
		f.Protocol = unix.ETH_P_IPV6
	}
	return f
}

// TestReaderKeys gives packets to a reader with doors for keys.
func TestReaderKeys(t *testing.T) {
	var log strings.Builder
	grants := make(chan Grant, 9)
	r := newTestReader(&log, grants)
	r.refusals = Throttle{log: r.log, burst: 1, interval: time.Second}
	r.granted, r.ahead = map[[32]byte]bool{}, 1795362615*time.Second
	alice := aliceKey(t)
	strict := *alice
	strict.Strict, strict.Name = true, "strictly"
	web := &Door{Name: "web", OpenPorts: []Knock{{80, tcp}}, CmdTimeout: time.Minute, Target: netip.MustParseAddr("203.0.113.9")}
	ssh := &Door{Name: "ssh", OpenPorts: []Knock{{22, tcp}}, CmdTimeout: time.Minute}
	all := &Door{Name: "all", OpenPorts: []Knock{{22, tcp}, {80, tcp}}, CmdTimeout: time.Hour}
	r.plan.spec.KeyPort = defaultKeyPort
	for _, k := range []*keyTry{newKeyTry(web, alice), newKeyTry(ssh, &strict), newKeyTry(all, alice), newKeyTry(ssh, &Key{Name: "bob", Auth: []byte("b")})} {
		r.plan.keys = append(r.plan.keys, k)
	}
	own, at := netip.IPv4Unspecified(), netip.MustParseAddr("192.0.2.99")
	salt := byte(0)
	packet := func(address netip.Addr, port uint16) []byte {
		salt++
		return alice.seal(keyRequest{user: "al\x1bice", kind: keyAccess, time: 1795362615, address: address, ports: []Knock{{port, tcp}}}.plain(1), [8]byte{salt})
	}
	first := packet(at, 22)
	for _, tt := range []struct {
		name  string
		frame *Frame
		grant string // user, door, source, ports
		log   string
	}{
		{"for an address", keyFrame(testSYN4, 62201, first), "strictly ssh 192.0.2.99 [22:tcp]",
			"192.0.2.99: ssh: OPEN SESAME by the key of strictly (packet from 192.0.2.7, user \"al\\x1bice\")\n"},
		{"again", keyFrame(testSYN4, 62201, first), "", "192.0.2.7: all: packet by the key of alice refused: the packet is used\n"},
		{"for its own", keyFrame(testSYN4, 62201, packet(own, 22)), "alice all 192.0.2.7 [22:tcp]",
			"192.0.2.7: all: OPEN SESAME by the key of alice (packet from 192.0.2.7, user \"al\\x1bice\")\n"},
		{"by IPv6", keyFrame(testSYN6, 62201, packet(at, 80)), "alice all 2001:db8::7 [80:tcp]",
			"2001:db8::7: all: OPEN SESAME by the key of alice (packet from 2001:db8::7, user \"al\\x1bice\")\n"},
		{"to a Target", keyFrame(testSYN4.with(func(p *testPacket) { p.to = "203.0.113.9" }), 62201, packet(at, 80)), "alice web 192.0.2.99 [80:tcp]",
			"192.0.2.99: web: OPEN SESAME by the key of alice (packet from 192.0.2.7, user \"al\\x1bice\")\n"},
		{"to another port", keyFrame(testSYN4, 62202, packet(at, 22)), "", ""},
		{"of another port", keyFrame(testSYN4, 62201, packet(at, 23)), "", "2 lines left out, as there were too many\n192.0.2.7: all: packet by the key of alice refused: it asks for 23:tcp, which Open_Ports has not\n"},
		{"of nobody", keyFrame(testSYN4, 62201, (&Key{Auth: []byte("x")}).seal(strings.Repeat("x", 100), [8]byte{})), "", ""},
		{"too short", keyFrame(testSYN4, 62201, first[:100]), "", ""},
		{"empty", keyFrame(testSYN4, 62201, nil), "", ""},
	} {
		log.Reset()
		if tt.name == "of another port" {
			r.receive(tt.frame)
			r.receive(tt.frame)
			log.Reset()
			r.batchTime += time.Second
			r.receive(tt.frame)
		} else {
			r.receive(tt.frame)
		}
		got := ""
		if len(grants) > 0 {
			g := <-grants
			got = fmt.Sprint(g.User, " ", g.Door.Name, " ", g.Source, " ", g.Door.OpenPorts)
			if g.Packet == nil || g.Packet.Time != 1795362615 || g.Packet.Tag == [32]byte{} || g.Packet.Wall != r.ahead || g.Link != "br0" {
				t.Errorf("%s: got %+v", tt.name, g.Packet)
			}
		}
		if got != tt.grant || !strings.HasSuffix(log.String(), tt.log) || tt.log == "" && log.String() != "" {
			t.Errorf("%s: got %q and log %q\nwant %q and %q", tt.name, got, log.String(), tt.grant, tt.log)
		}
	}
	junk := keyFrame(testSYN4, 62201, (&Key{Auth: []byte("x")}).seal(strings.Repeat("x", 100), [8]byte{}))
	if n := testing.AllocsPerRun(100, func() { r.receive(junk) }); n != 0 {
		t.Errorf("got %v allocations for a packet of nobody", n)
	}

	// Where trying takes half of the time, packets are passed over, and after a while tried again.
	at2 := time.Duration(0)
	r.now = func() time.Duration { at2 += 10 * time.Millisecond; return at2 }
	r.tryCost, r.tried = 0, 0
	for range 3 {
		r.receive(junk)
	}
	r.receive(keyFrame(testSYN4, 62201, packet(at, 22)))
	if len(grants) != 0 {
		t.Error("in a flood that takes all of the time, a packet is tried")
	}
	r.batchTime += tryBurst
	r.receive(keyFrame(testSYN4, 62201, packet(at, 22)))
	if len(grants) != 1 {
		t.Error("after the flood, a packet does not open")
	}
}
