//go:build linux && !pure

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What a guest knows: one door or two, whose knocks are far from those of others.
var (
	guestKnocks   = []string{"1000,2000,3000", "1500,2500:udp,3000", "1000,1000", "4000"}
	foreignKnocks = []string{"7000,8000:udp,9000", "8000,7000:udp,9000", "7000", "9000,1000,7000", "9000:udp,7000"}
)

// guestDoors makes the doors of guests and of others, with options of all kinds.
func guestDoors(r *rand.Rand) (config string) {
	var s strings.Builder
	door := func(name, sequence string, options ...[]string) {
		fmt.Fprintf(&s, "[%s]\nsequence = %s\ncommand = true\nseq_timeout = %d\n", name, sequence, 5+r.IntN(10))
		for _, o := range options {
			s.WriteString(o[r.IntN(len(o))] + "\n")
		}
	}
	flags := []string{"", "", "tcpflags = syn", "tcpflags = syn,!ack", "tcpflags = fin,!ack", "tcpflags = ack"}
	decoys, strict, cooldown := []string{"", "decoys = no"}, []string{"", "strict = yes"}, []string{"", "", "seq_cooldown = 8"}
	only := []string{"", "", "allow = 192.0.2.0/24", "allow = 10.0.0.0/8", "target = 203.0.113.9", "interface = lo"}
	for i := range 1 + r.IntN(2) {
		door(fmt.Sprint("guest", i), guestKnocks[r.IntN(len(guestKnocks))], flags, decoys, strict, cooldown)
	}
	for i := range 1 + r.IntN(3) {
		door(fmt.Sprint("foreign", i), foreignKnocks[r.IntN(len(foreignKnocks))], flags, decoys, strict, cooldown, only)
	}
	return s.String()
}

// TestGuestLearnsNothing has a guest send knocks of their own doors, copies of them, and probes to some port, in any order
// and at any pace, while another one with the same door knocks, too. Through filter, reader and matcher, which of the
// guest's doors open when is the same whether the port is a knock of somebody else or nobody's.
func TestGuestLearnsNothing(t *testing.T) {
	opened := 0
	for seed := range seeds(6000) {
		seen := func(port uint16) (seen []string) {
			r := rand.New(rand.NewPCG(seed, 5)) // the same at each port
			config := guestDoors(r)
			c, err := parseConfig("guest", strings.NewReader(config))
			if err != nil {
				t.Fatalf("%v in\n%s", err, config)
			}
			grants := make(chan Grant, 9)
			reader := newTestReader(new(strings.Builder), grants)
			reader.plan.spec, reader.plan.matcher = filterSpec(c.Doors, nil, false), newMatcher(c.Doors, 200)
			reader.plan.links = map[int]*Link{1: {Index: 1, Name: "eth0"}, 3: {Index: 3, Name: "lo", Loopback: true}}
			apply(c.lists([]string{"*"}), reader.plan.links)
			served := r.IntN(3) == 0
			reader.served = func() (ports []Knock, err error) {
				if served {
					ports = []Knock{{port, tcp}, {port, udp}}
				}
				return ports, nil
			}
			prog, err := buildFilter(reader.plan.spec, maxFilterLen)
			if err != nil {
				t.Fatal(err)
			}
			vm, err := bpf.NewVM(prog)
			if err != nil {
				t.Fatal(err)
			}
			var sent []testPacket
			for n := range uint32(20) {
				reader.batchTime += time.Duration(r.IntN(3)*r.IntN(1500)) * time.Millisecond
				p := testSYN4.with(func(p *testPacket) { p.seq = n })
				d := c.Doors[r.IntN(len(c.Doors))]
				for !strings.HasPrefix(d.Name, "guest") {
					d = c.Doors[r.IntN(len(c.Doors))]
				}
				p.knock = d.Sequence[(int(n)+r.IntN(2))%len(d.Sequence)]
				if r.IntN(4) > 0 {
					p.flags = d.Flags.Value | flagSYN&^d.Flags.Mask
				} else {
					p.flags = []uint8{flagSYN, flagACK, flagFIN, flagSYN | flagACK, 0}[r.IntN(5)]
				}
				switch r.IntN(6) {
				case 0, 1:
					p.knock = Knock{port, []Protocol{tcp, tcp, udp}[r.IntN(3)]}
				case 2:
					if len(sent) > 0 {
						p = sent[r.IntN(len(sent))]
					}
				case 3:
					p.from = "192.0.2.8"
				}
				sent = append(sent, p)
				b := p.bytes()
				if size, err := vm.Run(b); err == nil && size > 0 {
					reader.receive(&Frame{Bytes: b, Len: len(b), Protocol: unix.ETH_P_IP, Link: 1})
				}
				for len(grants) > 0 {
					if g := <-grants; strings.HasPrefix(g.Door.Name, "guest") {
						seen = append(seen, fmt.Sprintf("%s by packet %d", g.Door.Name, n))
					}
				}
			}
			return seen
		}
		nobodys := seen(5000)
		opened += len(nobodys)
		for _, port := range []uint16{7000, 8000, 9000, 7001, 8990} {
			if got := seen(port); !slices.Equal(got, nobodys) {
				t.Fatalf("seed %d: port %d: the guest's doors open: %q, and with port 5000: %q, in\n%s", seed, port, got, nobodys, guestDoors(rand.New(rand.NewPCG(seed, 5))))
			}
		}
	}
	if opened < int(seeds(6000)) {
		t.Errorf("%d openings: the streams test too little", opened)
	}
}

// TestGuestOnTheWire has guests of the running daemon put a port between their knocks: a strict door never opens, the other
// one always, whosever knock it is.
func TestGuestOnTheWire(t *testing.T) {
	x := orderedWire(newWorld(t, 1))
	const foreign = "sequence = 7000,8000:udp,9000\n command = true\n"
	d := x.w.serve("[plain]\n sequence = 1000,2000,3000\n command = true\n[strict]\n sequence = 1500,2500,3500\n strict = yes\n command = true\n" +
		"[foreign]\n" + foreign + "[elsewhere]\n tcpflags = fin\n allow = 192.0.2.0/24\n" + strings.ReplaceAll(foreign, "000", "700") + marker)
	var want []string
	for i, probe := range []uint16{5000, 7000, 8000, 9000, 7001, 8990, 7700, 8700, 9700} {
		from := fmt.Sprintf("10.9.1.%d", i+1)
		for _, first := range []uint16{1000, 1500} {
			for n, k := range []Knock{{first, tcp}, {probe, tcp}, {first + 1000, tcp}, {probe, udp}, {first + 2000, tcp}} {
				x.send(testPacket{from: from, to: hostAddr, fromPort: first, knock: k, seq: uint32(n), flags: flagSYN}.bytes())
			}
		}
		want = append(want, from+": plain: OPEN SESAME")
	}
	x.send(markerPacket.bytes())
	d.await("marker: OPEN SESAME")
	var got []string
	for line := range strings.Lines(d.logged()) {
		if _, text, _ := strings.Cut(line, "] "); strings.HasSuffix(text, "OPEN SESAME\n") && !strings.Contains(text, "marker") {
			got = append(got, strings.TrimSpace(text))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("opened:\n%s", sideBySide(got, want))
	}
	d.stop()
}
