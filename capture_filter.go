package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sort"

	"golang.org/x/net/bpf"
)

// The filter is a classic BPF program that the kernel runs on every packet before it reaches the ring. It lets through
// what the matcher would count, and may let through more, as it looks at addresses, ports and flags apart, and may be
// coarse: parser and matcher decide. A and X are BPF's two registers;
// offsets are those of packet.go, as both see the packet from its IP header on (SOCK_DGRAM).
//
//	      ld   #ifidx; jeq #lo, drop    where lo is not listened on
//	      ldb  [0]; rsh #4              the IP version
//	      jeq  #4, v4 ; jeq #6, v6      anything else: ret #0
//	v4:   ld   [16]                     the destination is one of our own addresses
//	      jeq  #ADDRESS, ours ...       else: ret #0
//	ours: ldh  [6]; jset #0x1fff, drop  a later fragment has no ports
//	      ldx  4*([0]&0xf)              X = length of the IP header
//	      ldb  [9]                      the protocol; go to tcp, udp or drop
//	v6:   ld   [24] ... ld [36]         the destination, word by word
//	      ldb  [6]                      next header
//	      jeq  extension header, long   rare, and of many shapes: the parser reads them
//	      ldx  #40                      X = length of the IP header; go to tcp, udp or drop
//	tcp:  ldb  [x+13]; jset rst,ack     for a strict door alone: what has neither counts at all ports
//	      and; jeq ...                  flags that at least one door asks for
//	      ldh  [x+2]                    the destination port, searched by halving in sorted intervals
//	udp:  ldh  [x+2]; jeq #KEY, keys    where there are keys
//	      ldh  [x+2]                    the same in those of UDP
//	keys: ldh  [x+4]; ldb [x+8]         a length that a key packet can have, and its first character; else to the ports
//	long: ret  #snapLong
const (
	// snapShort holds an IPv4 header with all options and a TCP header; snapLong IPv6 with extension headers.
	snapShort = 60 + tcpMinLen
	snapLong  = ipv6Len + ipv6MaxExtensionLen + tcpMinLen
	snapKey   = 60 + udpLen + keyMaxLen // a whole key packet

	maxFilterLen   = 4096 // BPF_MAXINSNS in linux/bpf_common.h
	minFilterLen   = 128  // enough for any filter at its coarsest
	maxFilterAddr  = 24   // of one family; with more, the addresses are left to the matcher
	maxFilterFlags = 16   // different TCPFlags; with more, they are left to the matcher
	linearPorts    = 4    // intervals that are compared one by one at the end of the search
)

// interval is a range of ports, both ends included.
type interval struct{ lo, hi uint16 }

// FilterSpec is what a filter lets through: knocks and decoys of each protocol, in sorted intervals that neither touch
// nor overlap, for packets to one of the addresses.
type FilterSpec struct {
	TCP, UDP           []interval
	DecoyTCP, DecoyUDP []interval // with the knocks that they stand around
	Strict             bool       // every TCP packet with neither RST nor ACK is let through
	Served             []Knock    // no decoys: Ignore_Ports, ports of doors, what nat translates, and where something on this host listens
	Flags              []TCPFlags // a TCP packet fits at least one of them
	Addresses          []netip.Addr
	OnlyIPv4           bool
	NotOn              int    // index of a link that shall not even wake the reader; 0: none
	KeyPort            uint16 // of UDP, where key packets come; 0: none do
}

// filterSpec says what doors listen to.
func filterSpec(doors []*Door, addresses []netip.Addr, onlyIPv4 bool) FilterSpec {
	spec := FilterSpec{Addresses: addresses, OnlyIPv4: onlyIPv4}
	for _, d := range doors {
		for _, k := range d.Sequence {
			ports, decoys := &spec.TCP, &spec.DecoyTCP
			if k.Proto == udp {
				ports, decoys = &spec.UDP, &spec.DecoyUDP
			}
			if k.half() {
				*ports = append(*ports, interval{d.TOTP.base, d.TOTP.base + codeHalves - 1})
				continue
			}
			*ports = append(*ports, interval{k.Port, k.Port})
			if d.hasDecoys() {
				lowest, highest := k.decoys()
				*decoys = append(*decoys, interval{lowest, highest})
			}
		}
		spec.Strict = spec.Strict || d.Strict
		if !slices.Contains(spec.Flags, d.Flags) {
			spec.Flags = append(spec.Flags, d.Flags)
		}
	}
	spec.TCP, spec.UDP = mergeIntervals(spec.TCP), mergeIntervals(spec.UDP)
	spec.DecoyTCP, spec.DecoyUDP = mergeIntervals(spec.DecoyTCP), mergeIntervals(spec.DecoyUDP)
	if slices.Contains(spec.Flags, TCPFlags{}) || len(spec.Flags) > maxFilterFlags {
		spec.Flags = nil
	}
	return spec
}

// strayAt reports whether packets to a port may matter that are no door's knock: decoys are there, or a door is strict.
func (s FilterSpec) strayAt(k Knock) bool {
	decoys := s.DecoyUDP
	if k.Proto == tcp {
		if s.Strict {
			return true
		}
		decoys = s.DecoyTCP
	}
	// The first interval that does not end before the port.
	i := sort.Search(len(decoys), func(i int) bool { return decoys[i].hi >= k.Port })
	return i < len(decoys) && decoys[i].lo <= k.Port
}

// wide is the spec that lets through whatever -D can say something about: both protocols and any flags.
func (s FilterSpec) wide() FilterSpec {
	s.TCP = mergeIntervals(s.TCP, s.UDP)
	s.UDP, s.Flags = s.TCP, nil
	return s
}

// mergeIntervals sorts intervals and joins those that overlap or touch.
func mergeIntervals(lists ...[]interval) (out []interval) {
	in := slices.Concat(lists...)
	sort.SliceStable(in, func(i, j int) bool { return in[i].lo < in[j].lo })
	for _, iv := range in {
		if n := len(out); n > 0 && int(iv.lo) <= int(out[n-1].hi)+1 {
			out[n-1].hi = max(out[n-1].hi, iv.hi)
		} else {
			out = append(out, iv)
		}
	}
	return out
}

// cut takes ports of one protocol out of sorted intervals.
func cut(in []interval, ports []Knock, proto Protocol) (out []interval) {
	hole := map[Knock]bool{}
	for _, k := range ports {
		hole[k] = true
	}
	for _, iv := range in {
		for port := int(iv.lo); port <= int(iv.hi); port++ {
			if p := uint16(port); !hole[Knock{p, proto}] {
				out = append(out, interval{p, p})
			}
		}
	}
	return mergeIntervals(out)
}

// coarsen joins the intervals with the smallest gaps between them until at most n are left.
func coarsen(in []interval, n int) (out []interval) {
	if len(in) <= n {
		return in
	}
	gap := func(i int) int { return int(in[i].lo) - int(in[i-1].hi) } // before interval i
	byGap := make([]int, len(in)-1)
	for i := range byGap {
		byGap[i] = i + 1
	}
	sort.SliceStable(byGap, func(i, j int) bool { return gap(byGap[i]) < gap(byGap[j]) })
	apart := byGap[len(in)-n:]
	slices.Sort(apart)
	for _, end := range append(apart, len(in)) {
		first := 0
		if n := len(out); n > 0 {
			first = apart[n-1]
		}
		out = append(out, interval{in[first].lo, in[end-1].hi})
	}
	return out
}

// buildFilter makes the program, of at most limit instructions (at least minFilterLen): where the exact one is longer,
// a coarser one that lets more through. The error can only be a mistake in this file.
func buildFilter(spec FilterSpec, limit int) ([]bpf.Instruction, error) {
	exact := spec
	exact.TCP = mergeIntervals(spec.TCP, cut(spec.DecoyTCP, spec.Served, tcp))
	exact.UDP = mergeIntervals(spec.UDP, cut(spec.DecoyUDP, spec.Served, udp))
	for _, spec.Addresses = range [][]netip.Addr{exact.Addresses, nil} {
		for n := max(len(exact.TCP), len(exact.UDP), 1); n > 0; n = n * 3 / 4 {
			spec.TCP, spec.UDP = coarsen(exact.TCP, n), coarsen(exact.UDP, n)
			prog, err := assembleFilter(spec)
			if err != nil || len(prog) <= limit {
				return prog, err
			}
		}
	}
	return nil, fmt.Errorf("filter: no program has %d instructions or less", limit)
}

// assembleFilter makes the program, for the ports in TCP and UDP.
func assembleFilter(spec FilterSpec) ([]bpf.Instruction, error) {
	var a assembler
	v4 := slices.DeleteFunc(slices.Clone(spec.Addresses), netip.Addr.Is6)
	v6 := slices.DeleteFunc(slices.Clone(spec.Addresses), netip.Addr.Is4)
	if spec.NotOn != 0 {
		a.add(bpf.LoadExtension{Num: bpf.ExtInterfaceIndex})
		a.add(bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(spec.NotOn), SkipTrue: 1})
		a.ret(0)
	}
	a.add(bpf.LoadAbsolute{Off: ipv4OffVersion, Size: 1})
	a.add(bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
	a.jump(bpf.JumpEqual, 4, "v4", "")
	if !spec.OnlyIPv4 {
		a.jump(bpf.JumpEqual, 6, "v6", "")
	}
	a.ret(0)

	a.label("v4")
	if len(spec.Addresses) > 0 && len(v4) <= maxFilterAddr {
		a.add(bpf.LoadAbsolute{Off: ipv4OffDestination, Size: 4})
		for _, addr := range v4 {
			b := addr.As4()
			a.jump(bpf.JumpEqual, binary.BigEndian.Uint32(b[:]), "ours4", "")
		}
		a.ret(0)
	}
	a.label("ours4")
	a.add(bpf.LoadAbsolute{Off: ipv4OffFragment, Size: 2})
	a.jump(bpf.JumpBitsSet, ipv4FragmentMask, "drop4", "")
	a.add(bpf.LoadMemShift{Off: ipv4OffVersion})
	a.add(bpf.LoadAbsolute{Off: ipv4OffProto, Size: 1})
	a.jumpTransport()
	a.label("drop4")
	a.ret(0)

	if !spec.OnlyIPv4 {
		a.label("v6")
		if len(spec.Addresses) > 0 && len(v6) <= maxFilterAddr {
			for i, addr := range v6 {
				next := fmt.Sprint("v6 address ", i+1)
				b := addr.As16()
				for w := range 4 {
					a.add(bpf.LoadAbsolute{Off: ipv6OffDestination + uint32(w)*4, Size: 4})
					word := binary.BigEndian.Uint32(b[w*4:])
					if w < 3 {
						a.jump(bpf.JumpEqual, word, "", next)
					} else {
						a.jump(bpf.JumpEqual, word, "ours6", next)
					}
				}
				a.label(next)
			}
			a.ret(0)
		}
		a.label("ours6")
		a.add(bpf.LoadConstant{Dst: bpf.RegX, Val: ipv6Len})
		a.add(bpf.LoadAbsolute{Off: ipv6OffNextHeader, Size: 1})
		for _, ext := range []uint32{ipv6HopByHop, ipv6Routing, ipv6Fragment, ipv6AH, ipv6DestOptions} {
			a.jump(bpf.JumpEqual, ext, "long", "")
		}
		a.jumpTransport()
		a.ret(0)
		a.label("long")
		a.ret(snapLong)
	}

	a.label("tcp")
	if spec.Strict {
		a.add(bpf.LoadIndirect{Off: tcpOffFlags, Size: 1})
		a.add(bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: answerMask, SkipTrue: 1})
		a.ret(snapShort)
	}
	if len(spec.TCP) > 0 {
		for _, f := range spec.Flags {
			a.add(bpf.LoadIndirect{Off: tcpOffFlags, Size: 1})
			a.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(f.Mask)})
			a.jump(bpf.JumpEqual, uint32(f.Value), "tcp ports", "")
		}
		if len(spec.Flags) > 0 {
			a.ret(0)
		}
		a.label("tcp ports")
		a.add(bpf.LoadIndirect{Off: portOffDestination, Size: 2})
	}
	a.searchPorts(spec.TCP)
	a.label("udp")
	if spec.KeyPort != 0 {
		a.add(bpf.LoadIndirect{Off: portOffDestination, Size: 2})
		a.jump(bpf.JumpNotEqual, uint32(spec.KeyPort), "udp ports", "")
		a.add(bpf.LoadIndirect{Off: udpOffLen, Size: 2})
		a.jump(bpf.JumpLessThan, udpLen+keyMinLen, "udp ports", "")
		a.jump(bpf.JumpGreaterThan, udpLen+keyMaxLen, "udp ports", "")
		a.add(bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: udpLen})
		a.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 63})
		for _, n := range keyLengths {
			a.jump(bpf.JumpEqual, uint32(n), "key", "")
		}
		a.jumpTo("udp ports")
		a.label("key")
		a.add(bpf.LoadIndirect{Off: udpLen, Size: 1})
		for _, first := range keyFirsts {
			a.jump(bpf.JumpEqual, uint32(first), "whole", "")
		}
		a.jumpTo("udp ports")
		a.label("whole")
		a.ret(snapKey)
	}
	a.label("udp ports")
	if len(spec.UDP) > 0 {
		a.add(bpf.LoadIndirect{Off: portOffDestination, Size: 2})
	}
	a.searchPorts(spec.UDP)
	return a.assemble()
}

// assembler collects instructions whose jumps go forward to labels.
type assembler struct {
	prog   []bpf.Instruction
	jumps  []pendingJump
	labels map[string]int
}

// pendingJump is a jump at prog[at]. It is a long one if isTrue and isFalse are the same label.
type pendingJump struct {
	at              int
	isTrue, isFalse string // labels, "" for the next instruction
}

func (a *assembler) add(i bpf.Instruction) { a.prog = append(a.prog, i) }

func (a *assembler) ret(n uint32) { a.add(bpf.RetConstant{Val: n}) }

func (a *assembler) label(name string) {
	if a.labels == nil {
		a.labels = map[string]int{}
	}
	a.labels[name] = len(a.prog)
}

// jump compares A with val. A label is "" for the next instruction.
func (a *assembler) jump(cond bpf.JumpTest, val uint32, isTrue, isFalse string) {
	a.jumps = append(a.jumps, pendingJump{len(a.prog), isTrue, isFalse})
	a.add(bpf.JumpIf{Cond: cond, Val: val})
}

// jumpTo is an unconditional jump, whose distance has 32 bits.
func (a *assembler) jumpTo(label string) {
	a.jumps = append(a.jumps, pendingJump{len(a.prog), label, label})
	a.add(bpf.Jump{})
}

// jumpTransport goes on by the protocol in A, and falls through if it is neither.
func (a *assembler) jumpTransport() {
	a.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(tcp), SkipFalse: 1})
	a.jumpTo("tcp")
	a.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(udp), SkipFalse: 1})
	a.jumpTo("udp")
}

// searchPorts returns snapShort if A is in one of the intervals and else 0. It halves the intervals until few are
// left, and compares those one by one.
func (a *assembler) searchPorts(ports []interval) {
	if len(ports) > linearPorts {
		half := len(ports) / 2
		upper := fmt.Sprint("upper ", len(a.prog))
		a.add(bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(ports[half].lo), SkipFalse: 1})
		a.jumpTo(upper)
		a.searchPorts(ports[:half])
		a.label(upper)
		a.searchPorts(ports[half:])
		return
	}
	found := fmt.Sprint("found ", len(a.prog))
	for _, p := range ports {
		if p.lo == p.hi {
			a.jump(bpf.JumpEqual, uint32(p.lo), found, "")
			continue
		}
		next := fmt.Sprint("next ", len(a.prog))
		a.jump(bpf.JumpGreaterOrEqual, uint32(p.lo), "", next)
		a.jump(bpf.JumpLessOrEqual, uint32(p.hi), found, "")
		a.label(next)
	}
	a.ret(0)
	if len(ports) > 0 {
		a.label(found)
		a.ret(snapShort)
	}
}

// assemble puts in the distances. A conditional jump reaches 255 instructions; one that would have to go further is an
// error, as the kernel would read the distance modulo 256.
func (a *assembler) assemble() ([]bpf.Instruction, error) {
	for _, j := range a.jumps {
		var skip [2]int
		for i, label := range []string{j.isTrue, j.isFalse} {
			if label == "" {
				continue
			}
			to, ok := a.labels[label]
			if !ok || to <= j.at {
				return nil, fmt.Errorf("filter: instruction %d jumps to %q, which is not ahead", j.at, label)
			}
			skip[i] = to - j.at - 1
		}
		cond, isCond := a.prog[j.at].(bpf.JumpIf)
		switch {
		case !isCond:
			a.prog[j.at] = bpf.Jump{Skip: uint32(skip[0])}
		case max(skip[0], skip[1]) > 255:
			return nil, fmt.Errorf("filter: instruction %d jumps %d ahead, more than 255", j.at, max(skip[0], skip[1]))
		default:
			cond.SkipTrue, cond.SkipFalse = uint8(skip[0]), uint8(skip[1])
			a.prog[j.at] = cond
		}
	}
	return a.prog, nil
}
