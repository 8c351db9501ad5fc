//go:build linux

package main

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/net/bpf"
)

// TestFilterKeys has the kernel's filter let through whole what may be a key packet, and nothing else; and parser and filter
// agree on what that is.
func TestFilterKeys(t *testing.T) {
	const port = 7777
	spec := FilterSpec{KeyPort: port, UDP: []interval{{port + 1, port + 1}}}
	prog, err := buildFilter(spec, maxFilterLen)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	to4, to6 := testSYN4, testSYN6
	passed := 0
	for name, p := range map[string]testPacket{
		"IPv4":                     to4,
		"IPv4 with options":        to4.with(func(p *testPacket) { p.options = 40 }),
		"IPv4, not to be split":    to4.with(func(p *testPacket) { p.fragment = ipv4DontFragment }),
		"IPv6":                     to6,
		"IPv4, a first fragment":   to4.with(func(p *testPacket) { p.fragment = 0x2000 }),
		"IPv4, a later fragment":   to4.with(func(p *testPacket) { p.fragment = 1 }),
		"IPv6, a fragment":         to6.with(func(p *testPacket) { p.extensions = []extension{fragment(0, true)} }),
		"IPv6 with another header": to6.with(func(p *testPacket) { p.extensions = []extension{ext(ipv6HopByHop, 8)} }),
		"a short frame's padding":  to4.with(func(p *testPacket) { p.padding = 20 }),
	} {
		whole := len(p.extensions) == 0 && p.fragment&^ipv4DontFragment == 0
		for n := range 500 {
			for _, first := range []byte("89+/A0\x00") {
				for _, to := range []uint16{port, port + 1, port - 1} {
					p.knock, p.data = Knock{to, udp}, n
					b := p.bytes()
					data := b[p.headers():][:n]
					copy(data, bytes.Repeat([]byte("A"), n))
					if n > 0 {
						data[0] = first
					}
					got, err := vm.Run(b)
					if err != nil {
						t.Fatal(err)
					}
					var hit Hit
					parsed := parsePacket(b, len(b), &hit) == nil
					what := fmt.Sprintf("%s, to %d, %d bytes from %q on", name, to, n, first)
					switch shaped := keyShaped(data); {
					case parsed && whole && !bytes.Equal(udpData(b), data):
						t.Fatalf("%s: its data are %q", what, udpData(b))
					case parsed && !whole && udpData(b) != nil:
						t.Fatalf("%s: it counts as a whole packet", what)
					case whole && shaped && to == port && got < len(b)-p.padding:
						t.Fatalf("%s: cut to %d bytes", what, got)
					case whole && shaped && to == port:
						passed++
						for cut := range len(b) - p.padding {
							if cut >= p.headers() && udpData(b[:cut]) != nil {
								t.Fatalf("%s: cut to %d bytes, it counts as whole", what, cut)
							}
						}
					case to != port+1 && got == snapKey && p.fragment&ipv4FragmentMask == 0 && !shaped,
						to == port-1 && got > 0 && len(p.extensions) == 0:
						t.Fatalf("%s: let through, %d bytes", what, got)
					case to == port+1 && got == 0 && p.fragment&ipv4FragmentMask == 0:
						t.Fatalf("%s: a knock is dropped", what)
					}
				}
			}
		}
	}
	if passed != 5*4*13 {
		t.Errorf("%d packets have passed as keys", passed)
	}
}
