//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
)

// filterCase is a random set of doors and addresses, and packets that mostly go near them.
type filterCase struct {
	*rand.Rand
	doors     []*Door
	addresses []netip.Addr
	onlyIPv4  bool
	served    []Knock
	notOn     int
}

// newFilterCase makes doors of three knocks with one of nFlags different TCPFlags each, and addresses of both families.
func newFilterCase(seed uint64, nDoors, nFlags, nAddresses int) *filterCase {
	c := &filterCase{Rand: rand.New(rand.NewPCG(seed, 0))}
	flags := make([]TCPFlags, nFlags)
	for i := range flags {
		mask := uint8(c.IntN(64))
		flags[i] = TCPFlags{Mask: mask, Value: uint8(c.IntN(64)) & mask}
	}
	for range nDoors {
		d := &Door{}
		if nFlags > 0 {
			d.Flags = flags[c.IntN(nFlags)]
		}
		for range 3 {
			d.Sequence = append(d.Sequence, Knock{uint16(1 + c.IntN(65535)), c.protocol()})
		}
		c.doors = append(c.doors, d)
	}
	for i, d := range c.doors {
		d.Decoys, d.Strict = c.IntN(2) == 0, nDoors < 3 && c.IntN(4) == 0
		if k := d.Sequence[c.IntN(3)]; i < 20 {
			c.served = append(c.served, Knock{k.Port + uint16(c.IntN(5)), k.Proto}, Knock{k.Port - uint16(c.IntN(40)), k.Proto})
		}
	}
	for range nAddresses {
		c.addresses = append(c.addresses, c.address())
	}
	c.notOn = c.IntN(2)
	return c
}

// vm runs the filter on packets that come in on a link. bpf.VM does not know of links.
func (c *filterCase) vm(prog []bpf.Instruction, link int) (*bpf.VM, error) {
	prog = slices.Clone(prog)
	if i := slices.Index(prog, bpf.Instruction(bpf.LoadExtension{Num: bpf.ExtInterfaceIndex})); i >= 0 {
		prog[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: uint32(link)}
	}
	return bpf.NewVM(prog)
}

func (c *filterCase) protocol() Protocol {
	if c.IntN(3) == 0 {
		return udp
	}
	return tcp
}

// address makes one that differs from its like in one of its bytes.
func (c *filterCase) address() netip.Addr {
	if c.IntN(2) == 0 {
		a := [4]byte{198, 51, 100, 0}
		a[c.IntN(4)] = byte(c.IntN(256))
		return netip.AddrFrom4(a)
	}
	a := netip.MustParseAddr("2001:db8::").As16()
	a[1+c.IntN(15)] = byte(c.IntN(256))
	return netip.AddrFrom16(a)
}

func (c *filterCase) packet() testPacket {
	to := c.address()
	if len(c.addresses) > 0 && c.IntN(4) > 0 {
		to = c.addresses[c.IntN(len(c.addresses))]
	}
	p := testPacket{from: "192.0.2.7", to: to.String(), fromPort: uint16(c.IntN(65536)), seq: c.Uint32(), data: c.IntN(3) * c.IntN(100)}
	if to.Is6() {
		p.from = "2001:db8::7"
		if c.IntN(4) == 0 {
			p.extensions = [][]extension{
				{ext(ipv6HopByHop, 8)}, {ext(ipv6Routing, 24)}, {fragment(0, true)}, {ext(ipv6AH, 24)},
				{fragment(uint16(c.IntN(3)), true)}, {ext(ipv6DestOptions, 8), ext(ipv6DestOptions, 248)},
			}[c.IntN(6)]
		}
	} else {
		p.options = max(0, c.IntN(16)-5) * 4
		p.fragment = []uint16{0, 0, 0, 0x4000, 0x2000, 1, 0x1fff}[c.IntN(7)]
	}
	d := c.doors[c.IntN(len(c.doors))]
	p.knock = d.Sequence[c.IntN(len(d.Sequence))]
	switch c.IntN(6) {
	case 0:
		p.knock.Port += uint16(c.IntN(3) - 1)
	case 3:
		p.knock.Port += uint16(c.IntN(2*decoyReach+9) - decoyReach - 4)
	case 1:
		p.knock.Port = uint16(c.IntN(65536))
	case 2:
		p.knock.Proto = []Protocol{tcp, udp, 1, 132}[c.IntN(4)]
	}
	p.flags = d.Flags.Value | uint8(c.IntN(256))&^d.Flags.Mask
	switch c.IntN(3) {
	case 0:
		p.flags = uint8(c.IntN(256))
	case 1:
		p.flags = flagSYN
	}
	return p
}

// counts tells whether a door listens for the hit, straight from what the configuration means.
func (c *filterCase) counts(hit Hit) bool {
	to := netip.AddrFrom16(hit.To).Unmap()
	if len(c.addresses) > 0 && !slices.Contains(c.addresses, to) || c.onlyIPv4 && to.Is6() {
		return false
	}
	listens := func(d *Door) bool { return slices.Contains(d.Sequence, hit.Knock) }
	fits := func(d *Door) bool { return hit.Knock.Proto == udp || d.Flags.fit(hit.Flags) }
	knock := slices.ContainsFunc(c.doors, listens)
	if knock && slices.ContainsFunc(c.doors, fits) {
		return true
	}
	for _, d := range c.doors {
		if d.Strict && hit.Knock.Proto == tcp && hit.Flags&(flagRST|flagACK) == 0 {
			return true
		}
		for _, k := range d.Sequence {
			apart := int(k.Port) - int(hit.Knock.Port)
			if d.Decoys && k.Proto == hit.Knock.Proto && apart >= -32 && apart <= 32 && !slices.Contains(c.served, hit.Knock) &&
				slices.ContainsFunc(c.doors, fits) {
				return true
			}
		}
	}
	return false
}

func (c *filterCase) spec() FilterSpec {
	s := filterSpec(c.doors, c.addresses, c.onlyIPv4)
	s.Served, s.NotOn = c.served, c.notOn
	return s
}

// check sends packets through the filter. It must not drop one that counts, nor cut it short; and if it is an exact
// one, nothing else passes but what is left to the parser.
func (c *filterCase) check(t *testing.T, prog []bpf.Instruction, exact bool, packets int) (passed, dropped int) {
	t.Helper()
	vm, err := c.vm(prog, 2)
	on1, err1 := c.vm(prog, 1)
	if err := errors.Join(err, err1); err != nil {
		t.Fatal(err)
	}
	for range packets {
		p := c.packet()
		b := p.bytes()
		var hit, cut Hit
		reject := parsePacket(b, len(b), &hit)
		counts := reject == nil && c.counts(hit)
		n, err := vm.Run(b)
		n1, err1 := on1.Run(b)
		if err := errors.Join(err, err1); err != nil {
			t.Fatal(err)
		}
		switch {
		case n1 > 0 && c.notOn == 1, n1 != n && c.notOn == 0:
			t.Fatalf("on link 1, let through is %d, with NotOn %d: %+v", n1, c.notOn, p)
		case counts && n == 0:
			t.Fatalf("dropped: %+v", p)
		case counts && (parsePacket(b[:min(n, len(b))], len(b), &cut) != nil || cut != hit):
			t.Fatalf("cut short to %d bytes: %+v", n, p)
		case !counts && n > 0 && exact && len(p.extensions) == 0:
			t.Fatalf("let through (parser: %v): %+v", reject, p)
		}
		if n > 0 {
			passed++
		} else {
			dropped++
		}
	}
	return passed, dropped
}

func TestFilterExact(t *testing.T) {
	passed, dropped := 0, 0
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newFilterCase(seed, 1+r.IntN(60), r.IntN(maxFilterFlags+1), r.IntN(maxFilterAddr+1))
		c.onlyIPv4 = r.IntN(4) == 0
		prog, err := buildFilter(c.spec(), maxFilterLen)
		if err != nil {
			t.Fatal(err)
		}
		p, d := c.check(t, prog, true, 200)
		passed, dropped = passed+p, dropped+d
	}
	if min(passed, dropped) < 20000 {
		t.Errorf("got %d packets passed and %d dropped, want many of both", passed, dropped)
	}
}

// Whatever has to be left to the parser and the matcher, no program is too long and no knock is lost.
func TestFilterCoarse(t *testing.T) {
	for _, limit := range []int{minFilterLen, 397, 823, maxFilterLen} {
		for _, doors := range []int{1, 10, 100, 1000} {
			for _, addresses := range []int{0, 1, 2 * maxFilterAddr, 200} {
				for _, flags := range []int{0, maxFilterFlags, 60} {
					t.Run(fmt.Sprintf("%d instructions, %d doors, %d addresses, %d flags", limit, doors, addresses, flags), func(t *testing.T) {
						c := newFilterCase(uint64(doors), doors, flags, addresses)
						spec := c.spec()
						whole, err := buildFilter(spec, math.MaxInt)
						if err != nil {
							t.Fatal(err)
						}
						prog, err := buildFilter(spec, limit)
						if err != nil {
							t.Fatal(err)
						}
						if len(prog) > limit {
							t.Errorf("got %d instructions of %d, want at most %d", len(prog), len(whole), limit)
						}
						if least := min(limit, len(whole)) * 6 / 10; addresses == 0 && len(prog) < least {
							t.Errorf("got %d instructions of %d, want at least %d: no coarser than need be", len(prog), len(whole), least)
						}
						if _, err := bpf.Assemble(prog); err != nil {
							t.Error(err)
						}
						c.check(t, prog, false, int(seeds(300)))
					})
				}
			}
		}
	}
}

func TestFilterSpec(t *testing.T) {
	syn, synAck := TCPFlags{flagSYN, flagSYN}, TCPFlags{flagSYN | flagACK, flagSYN | flagACK}
	sequence := []Knock{{8001, tcp}, {7000, udp}, {8000, tcp}, {8001, tcp}}
	var many []*Door
	for i := range uint8(maxFilterFlags + 1) {
		many = append(many, &Door{Flags: TCPFlags{0x3f, i}})
	}
	tests := []struct {
		name  string
		doors []*Door
		want  string
	}{
		{"no door", nil, "{TCP:[] UDP:[] DecoyTCP:[] DecoyUDP:[] Strict:false Served:[] Flags:[] Addresses:[] OnlyIPv4:true NotOn:0 KeyPort:0}"},
		{"ports", []*Door{{Sequence: sequence, Flags: syn}}, "{TCP:[{lo:8000 hi:8001}] UDP:[{lo:7000 hi:7000}] DecoyTCP:[] DecoyUDP:[] Strict:false Served:[] Flags:[{Mask:2 Value:2}] Addresses:[] OnlyIPv4:true NotOn:0 KeyPort:0}"},
		{"decoys", []*Door{{Sequence: sequence, Decoys: true}, {Sequence: []Knock{{65530, tcp}, {40, tcp}, {20, udp}}, Decoys: true, Strict: true}},
			"{TCP:[{lo:40 hi:40} {lo:8000 hi:8001} {lo:65530 hi:65530}] UDP:[{lo:20 hi:20} {lo:7000 hi:7000}] " +
				"DecoyTCP:[{lo:8 hi:72} {lo:7968 hi:8033} {lo:65498 hi:65535}] DecoyUDP:[{lo:0 hi:52} {lo:6968 hi:7032}] " +
				"Strict:true Served:[] Flags:[] Addresses:[] OnlyIPv4:true NotOn:0 KeyPort:0}"},
		{"decoys that nobody needs", []*Door{{Sequence: sequence, Decoys: true, Allow: []netip.Prefix{{}}}},
			"{TCP:[{lo:8000 hi:8001}] UDP:[{lo:7000 hi:7000}] DecoyTCP:[] DecoyUDP:[] Strict:false Served:[] Flags:[] Addresses:[] OnlyIPv4:true NotOn:0 KeyPort:0}"},
		{"nor one knock", []*Door{{Sequence: sequence[:1], Decoys: true}},
			"{TCP:[{lo:8001 hi:8001}] UDP:[] DecoyTCP:[] DecoyUDP:[] Strict:false Served:[] Flags:[] Addresses:[] OnlyIPv4:true NotOn:0 KeyPort:0}"},
		{"a code", []*Door{{Sequence: []Knock{{7000, tcp}, {0, udp}, {0, udp}, {9000, tcp}}, CodeAt: 1, TOTP: TOTP{"secret", 64536}, Decoys: true}},
			"{TCP:[{lo:7000 hi:7000} {lo:9000 hi:9000}] UDP:[{lo:64536 hi:65535}] DecoyTCP:[{lo:6968 hi:7032} {lo:8968 hi:9032}] DecoyUDP:[] Strict:false Served:[] Flags:[] Addresses:[] OnlyIPv4:true NotOn:0 KeyPort:0}"},
		{"flags once", []*Door{{Flags: syn}, {Flags: synAck}, {Flags: syn}}, "{TCP:[] UDP:[] DecoyTCP:[] DecoyUDP:[] Strict:false Served:[] Flags:[{Mask:2 Value:2} {Mask:18 Value:18}] Addresses:[] OnlyIPv4:true NotOn:0 KeyPort:0}"},
		{"a door that takes any flags", []*Door{{Flags: syn}, {}}, "{TCP:[] UDP:[] DecoyTCP:[] DecoyUDP:[] Strict:false Served:[] Flags:[] Addresses:[] OnlyIPv4:true NotOn:0 KeyPort:0}"},
		{"too many flags", many, "{TCP:[] UDP:[] DecoyTCP:[] DecoyUDP:[] Strict:false Served:[] Flags:[] Addresses:[] OnlyIPv4:true NotOn:0 KeyPort:0}"},
	}
	for _, test := range tests {
		spec := filterSpec(test.doors, nil, true)
		if got := fmt.Sprintf("%+v", spec); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

func TestMergeIntervals(t *testing.T) {
	tests := []struct{ in, want []interval }{
		{nil, nil},
		{[]interval{{5, 5}}, []interval{{5, 5}}},
		{[]interval{{9, 9}, {5, 5}, {5, 5}}, []interval{{5, 5}, {9, 9}}},
		{[]interval{{6, 6}, {5, 5}, {8, 8}, {7, 7}}, []interval{{5, 8}}},
		{[]interval{{1, 100}, {2, 3}, {50, 120}}, []interval{{1, 120}}},
		{[]interval{{65535, 65535}, {0, 0}, {65534, 65534}}, []interval{{0, 0}, {65534, 65535}}},
		{[]interval{{10, 65535}, {20, 20}}, []interval{{10, 65535}}},
	}
	for _, test := range tests {
		if got := mergeIntervals(slices.Clone(test.in)); !slices.Equal(got, test.want) {
			t.Errorf("%v: got %v, want %v", test.in, got, test.want)
		}
	}
}

func TestCut(t *testing.T) {
	in := []interval{{10, 20}, {30, 30}, {65000, 65535}}
	for _, test := range []struct {
		ports []uint16
		want  []interval
	}{
		{nil, in},
		{[]uint16{15}, []interval{{10, 14}, {16, 20}, {30, 30}, {65000, 65535}}},
		{[]uint16{20, 10, 30}, []interval{{11, 19}, {65000, 65535}}},
		{[]uint16{9, 21, 25, 64999}, in},
		{[]uint16{65535, 65000, 12, 11}, []interval{{10, 10}, {13, 20}, {30, 30}, {65001, 65534}}},
	} {
		ports := []Knock{{18, udp}}
		for _, p := range test.ports {
			ports = append(ports, Knock{p, tcp})
		}
		if got := cut(in, ports, tcp); !slices.Equal(got, test.want) {
			t.Errorf("without %v: got %v, want %v", test.ports, got, test.want)
		}
	}
}

func TestCoarsen(t *testing.T) {
	in := []interval{{1, 1}, {10, 12}, {14, 14}, {20, 20}, {65535, 65535}}
	tests := []struct {
		n    int
		want []interval
	}{
		{9, in},
		{5, in},
		{4, []interval{{1, 1}, {10, 14}, {20, 20}, {65535, 65535}}},
		{3, []interval{{1, 1}, {10, 20}, {65535, 65535}}},
		{2, []interval{{1, 20}, {65535, 65535}}},
		{1, []interval{{1, 65535}}},
	}
	before := slices.Clone(in)
	for _, test := range tests {
		if got := coarsen(in, test.n); !slices.Equal(got, test.want) {
			t.Errorf("to %d: got %v, want %v", test.n, got, test.want)
		}
	}
	if got := coarsen(nil, 1); got != nil {
		t.Errorf("nothing: got %v, want nothing", got)
	}
	if !slices.Equal(in, before) {
		t.Errorf("got its argument changed to %v, want %v", in, before)
	}
}

func TestAssembler(t *testing.T) {
	// ahead jumps over n instructions.
	ahead := func(n int, jump func(a *assembler)) func(a *assembler) {
		return func(a *assembler) {
			jump(a)
			for range n {
				a.ret(0)
			}
			a.label("x")
			a.ret(1)
		}
	}
	ifTrue := func(a *assembler) { a.jump(bpf.JumpEqual, 0, "x", "") }
	ifFalse := func(a *assembler) { a.jump(bpf.JumpEqual, 1, "", "x") }
	always := func(a *assembler) { a.jumpTo("x") }
	tests := []struct {
		name  string
		build func(a *assembler)
		want  string // of the error, "" for a program that returns 1
	}{
		{"conditional, 0 ahead", ahead(0, ifTrue), ""},
		{"conditional, 255 ahead", ahead(255, ifTrue), ""},
		{"conditional, 256 ahead", ahead(256, ifTrue), "filter: instruction 0 jumps 256 ahead, more than 255"},
		{"if false, 255 ahead", ahead(255, ifFalse), ""},
		{"if false, 256 ahead", ahead(256, ifFalse), "filter: instruction 0 jumps 256 ahead, more than 255"},
		{"unconditional, 3000 ahead", ahead(3000, always), ""},
		{"no label", func(a *assembler) { a.jump(bpf.JumpEqual, 0, "y", "") }, `filter: instruction 0 jumps to "y", which is not ahead`},
		{"no label if false", func(a *assembler) { a.jump(bpf.JumpEqual, 0, "", "y") }, `filter: instruction 0 jumps to "y", which is not ahead`},
		{"label behind", func(a *assembler) { a.label("x"); a.ret(0); a.jumpTo("x") }, `filter: instruction 1 jumps to "x", which is not ahead`},
		{"label here", func(a *assembler) { a.label("x"); a.jumpTo("x") }, `filter: instruction 0 jumps to "x", which is not ahead`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var a assembler
			test.build(&a)
			prog, err := a.assemble()
			if got := fmt.Sprint(err); test.want != "" {
				if got != test.want {
					t.Errorf("got error %s, want %s", got, test.want)
				}
				return
			}
			vm, vmErr := bpf.NewVM(prog)
			if err := errors.Join(err, vmErr); err != nil {
				t.Fatal(err)
			}
			if got, err := vm.Run([]byte{0}); got != 1 || err != nil {
				t.Errorf("got %d (%v), want 1", got, err)
			}
		})
	}
}

// A packet costs a search, not a list: the longest way through grows with the logarithm of the number of doors.
func TestFilterIsASearch(t *testing.T) {
	for _, test := range []struct{ doors, want int }{{1, 32}, {400, 60}, {1000, 60}} {
		c := newFilterCase(1, test.doors, 1, 2)
		prog, err := buildFilter(filterSpec(c.doors, c.addresses, false), maxFilterLen)
		if err != nil {
			t.Fatal(err)
		}
		longest := make([]int, len(prog)) // from each instruction to the end
		for i, ins := range slices.Backward(prog) {
			switch ins := ins.(type) {
			case bpf.RetConstant:
				longest[i] = 1
			case bpf.Jump:
				longest[i] = 1 + longest[i+1+int(ins.Skip)]
			case bpf.JumpIf:
				longest[i] = 1 + max(longest[i+1+int(ins.SkipTrue)], longest[i+1+int(ins.SkipFalse)])
			default:
				longest[i] = 1 + longest[i+1]
			}
		}
		if longest[0] > test.want {
			t.Errorf("%d doors: got up to %d steps of %d instructions, want at most %d", test.doors, longest[0], len(prog), test.want)
		}
	}
}

func BenchmarkFilterVM(b *testing.B) {
	for _, doors := range []int{1, 100, 1000} {
		c := newFilterCase(1, doors, 1, 0)
		c.addresses = []netip.Addr{netip.MustParseAddr(testSYN4.to)}
		prog, err := buildFilter(filterSpec(c.doors, c.addresses, false), maxFilterLen)
		if err != nil {
			b.Fatal(err)
		}
		vm, err := bpf.NewVM(prog)
		if err != nil {
			b.Fatal(err)
		}
		hit := testSYN4.with(func(p *testPacket) { p.knock, p.flags = c.doors[0].Sequence[0], c.doors[0].Flags.Value })
		for _, bench := range []struct {
			name string
			in   testPacket
			want int
		}{
			{"hit", hit, snapShort},
			{"to another port", hit.with(func(p *testPacket) { p.knock.Port ^= 1 }), 0},
			{"to another host", hit.with(func(p *testPacket) { p.to = "203.0.113.1" }), 0},
		} {
			b.Run(fmt.Sprintf("%s, %d doors", bench.name, doors), func(b *testing.B) {
				b.ReportAllocs()
				packet := bench.in.bytes()
				for b.Loop() {
					if got, _ := vm.Run(packet); got != bench.want {
						b.Fatalf("got %d, want %d", got, bench.want)
					}
				}
			})
		}
	}
}

// TestCounts asks of every port whether it counts, with each door's own flags, and whether the wide spec has it
// in both protocols.
func TestCounts(t *testing.T) {
	doors := []*Door{
		{Sequence: []Knock{{1, tcp}, {7000, udp}, {7001, udp}, {65535, tcp}}, Flags: TCPFlags{flagSYN, flagSYN}},
		{Sequence: []Knock{{2, tcp}, {1, tcp}}, Flags: TCPFlags{flagFIN, flagFIN}},
		{Sequence: []Knock{{3, tcp}}},
		{Sequence: []Knock{{3, tcp}, {0, udp}, {0, udp}}, CodeAt: 1, TOTP: TOTP{"secret", 30000}},
	}
	spec, m := filterSpec(doors, nil, false), newMatcher(doors, 1)
	wide := spec.wide()
	for port := 0; port <= 65535; port++ {
		for _, proto := range []Protocol{tcp, udp} {
			for _, flags := range []uint8{0, flagSYN, flagFIN, flagACK} {
				h := &Hit{Knock: Knock{uint16(port), proto}, Flags: flags}
				want := slices.ContainsFunc(doors, func(d *Door) bool {
					half := d.CodeAt > 0 && proto == udp && port >= 30000 && port < 31000
					return port > 0 && (slices.Contains(d.Sequence, h.Knock) || half) && (proto == udp || d.Flags.fit(flags))
				})
				if got := m.counts(h); got != want {
					t.Errorf("%v with flags %s counts: got %v, want %v", h.Knock, h.flags(), got, want)
				}
			}
		}
		in := func(ports []interval) bool {
			return slices.ContainsFunc(ports, func(i interval) bool { return int(i.lo) <= port && port <= int(i.hi) })
		}
		want := in(spec.TCP) || in(spec.UDP)
		if in(wide.TCP) != want || in(wide.UDP) != want {
			t.Errorf("%d is in the wide spec: got %v for TCP and %v for UDP, want %v", port, in(wide.TCP), in(wide.UDP), want)
		}
	}
	if wide.Flags != nil {
		t.Errorf("flags of the wide spec: got %v, want none", wide.Flags)
	}
}

// FuzzFilter gives any bytes to the filters of some configurations: what parser and doors count passes, whole enough, and
// of what the parser reads nothing else does, but packets with extension headers.
func FuzzFilter(f *testing.F) {
	type filter struct {
		*filterCase
		vm *bpf.VM
	}
	var filters []filter
	for seed := range uint64(16) {
		c := newFilterCase(seed, 1+int(seed)*2, int(seed)%3, int(seed)%4*2)
		prog, err := buildFilter(c.spec(), maxFilterLen)
		if err != nil {
			f.Fatal(err)
		}
		vm, err := c.vm(prog, 2)
		if err != nil {
			f.Fatal(err)
		}
		filters = append(filters, filter{c, vm})
		for range 5 {
			f.Add(uint8(seed), c.packet().bytes())
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		c := filters[int(which)%len(filters)]
		var hit, cut Hit
		read := parsePacket(b, len(b), &hit) == nil
		n, err := c.vm.Run(b)
		if err != nil && len(b) > 0 {
			t.Fatal(err)
		}
		extended := len(b) > ipv6OffNextHeader && b[0]>>4 == 6 && b[ipv6OffNextHeader] != uint8(tcp) && b[ipv6OffNextHeader] != uint8(udp)
		switch counts := read && c.counts(hit); {
		case counts && (n == 0 || parsePacket(b[:min(n, len(b))], len(b), &cut) != nil || cut != hit):
			t.Errorf("%+v: got %d bytes of %d", hit, n, len(b))
		case read && !counts && n > 0 && !extended:
			t.Errorf("let through: %+v", hit)
		}
	})
}
