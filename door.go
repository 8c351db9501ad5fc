package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Protocol is an IP protocol number (RFC 791, section 3.1): tcp or udp.
type Protocol uint8

const (
	tcp Protocol = 6
	udp Protocol = 17
)

func (p Protocol) String() string {
	switch p {
	case tcp:
		return "tcp"
	case udp:
		return "udp"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// Knock is one port of a sequence, from 1 to 65535, and its protocol. It prints as 7000:tcp. Port 0 stands for half of a code: two
// of these follow each other, and print as totp:tcp.
type Knock struct {
	Port  uint16
	Proto Protocol
}

func (k Knock) String() string {
	if k.half() {
		return fmt.Sprintf("%s:%v", totpItem, k.Proto)
	}
	return fmt.Sprintf("%d:%v", k.Port, k.Proto)
}

func (k Knock) half() bool { return k.Port == 0 }

// decoyReach is how far from a knock decoys stand.
const decoyReach = 32

// decoys are the ports from the lowest to the highest decoy of the knock, in its protocol.
func (k Knock) decoys() (lowest, highest uint16) {
	return uint16(max(int(k.Port)-decoyReach, 0)), uint16(min(int(k.Port)+decoyReach, math.MaxUint16))
}

// near reports whether the other one is this knock, or on a decoy of it.
func (k Knock) near(o Knock) bool {
	lowest, highest := k.decoys()
	return o.Proto == k.Proto && o.Port >= lowest && o.Port <= highest
}

// Behind is a port that a door opens on a host behind this one. It prints as in Open_Ports: 8443:tcp -> 192.168.77.10:443 is
// forwarded here, 192.0.2.7:443:tcp is one of a host that is routed here.
type Behind struct {
	Knock                     // the port that is asked for
	At         netip.Prefix   // whose: a routed host or network, masked; with To an address of this host, or the zero Prefix: any
	To         netip.AddrPort // where it is forwarded to, or the zero AddrPort
	Masquerade bool           // with this host as the source
}

func (b Behind) String() string {
	s := b.Knock.String()
	if b.At.IsValid() {
		at := strings.TrimSuffix(b.At.String(), fmt.Sprint("/", b.At.Addr().BitLen()))
		if b.At.Addr().Is6() {
			at = "[" + at + "]"
		}
		s = at + ":" + s
	}
	if b.forwarded() {
		s += " -> " + b.To.String()
	}
	if b.Masquerade {
		s += " masquerade"
	}
	return s
}

// forwarded is whether this host translates it; else it is routed.
func (b Behind) forwarded() bool { return b.To.IsValid() }

// target is where its packets go, once they are translated.
func (b Behind) target() (hosts netip.Prefix, port uint16) {
	if b.forwarded() {
		return netip.PrefixFrom(b.To.Addr(), b.To.Addr().BitLen()), b.To.Port()
	}
	return b.At, b.Port
}

func (b Behind) is4() bool {
	hosts, _ := b.target()
	return hosts.Addr().Is4()
}

// fits is whether a source can reach it: it is of the same family, and no address of one link alone.
func (b Behind) fits(source netip.Addr) bool {
	return source.Is4() == b.is4() && !(source.Is6() && source.IsLinkLocalUnicast())
}

// maxKnocks bounds a sequence, as in knockd. An attempt's bit mask has one bit for each.
const maxKnocks = 32

// The TCP flags (RFC 9293, section 3.1), as they stand in byte 13 of the header.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
	flagURG
)

var flagBits = map[string]uint8{
	"fin": flagFIN, "syn": flagSYN, "rst": flagRST, "psh": flagPSH, "ack": flagACK, "urg": flagURG,
}

// TCPFlags is what a door asks of a TCP packet's flags: those in Mask must be as in Value. The zero value asks nothing.
type TCPFlags struct{ Mask, Value uint8 }

func (f TCPFlags) fit(flags uint8) bool { return flags&f.Mask == f.Value }

// Door is one section of the configuration: who knocks its sequence gets its command run, or its ports opened, or both.
type Door struct {
	Name     string
	Line     int            // of the section in the file
	Lines    map[string]int // of its directives; a door that is not from a file has none
	Sequence []Knock
	// SeqTimeout is how long after its first knock the sequence must be complete.
	SeqTimeout time.Duration
	Flags      TCPFlags
	// Start and Stop are shell lines for IPv4 sources, Start6 and Stop6 for IPv6 ones; "" is none. Stop runs
	// CmdTimeout after Start has ended.
	Start, Start6, Stop, Stop6 string
	CmdTimeout                 time.Duration
	// OpenPorts are those that the firewall lets the source reach for CmdTimeout. With Hide it lets nobody else reach
	// them, but for sources in HideExcept.
	OpenPorts  []Knock
	Behind     []Behind // the same, on hosts behind this one
	Hide       bool
	HideExcept []netip.Prefix // masked, and none is IPv4 in IPv6 form
	// Cooldown is how long after an opening the door takes no notice of knocks.
	Cooldown time.Duration
	OneTime  string     // file of one-time sequences, or ""
	TOTP     TOTP       // of the code in the sequence
	CodeAt   int        // the place of its first half there; 0: there is none
	Keys     []Key      // of people who open it by one packet
	Target   netip.Addr // the address knocked on, or the zero Addr: this host's own
	// Interfaces are those that it may be knocked on from; none: those of the configuration. List is the number of
	// that list in Config.lists.
	Interfaces []string
	List       uint8
	// Allow are the sources that may knock; none: all. Masked, and none is IPv4 in IPv6 form.
	Allow []netip.Prefix
	// Decoys has a hit near a knock count as a scan, and Strict has a stray TCP packet end an attempt.
	Decoys, Strict bool
	MaxOpen        int // sources that it is open for at once; 0: defaultMaxOpen
}

// Key is one person's key to a door: it is in fwknop's packets that open it, and in no log.
type Key struct {
	Name   string
	Secret []byte // what they are encrypted with
	Auth   []byte // the key of their HMAC
	Strict bool   // they must say for which address
}

// hears reports whether the door listens to the source, to the address that was knocked on, and to the link.
func (d *Door) hears(h *Hit) bool {
	if h.Outside>>d.List&1 != 0 || d.Allow != nil && !contains(d.Allow, h.source()) {
		return false
	}
	if d.Target.IsValid() {
		return h.To == d.Target.As16()
	}
	return !h.Routed
}

// fits reports whether the flags are those that the door asks for.
func (d *Door) fits(h *Hit) bool { return h.Knock.Proto != tcp || d.Flags.fit(h.Flags) }

func contains(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// hasDecoys reports whether there are decoys around the door's knocks. Where only some sources may knock, none are needed;
// and a single knock is a trap for scans, which they would disarm.
func (d *Door) hasDecoys() bool { return d.Decoys && d.Allow == nil && len(d.Sequence) > 1 }

// decoy reports whether a hit that is no knock is on one of the door's decoys. What would count at a knock counts there.
func (d *Door) decoy(h *Hit) bool {
	if !d.hasDecoys() || !d.fits(h) || d.takesHalf(h.Knock) {
		return false
	}
	for _, knock := range d.Sequence { // a closure here takes twice the time
		if knock.near(h.Knock) && !knock.half() {
			return true
		}
	}
	return false
}

func (d *Door) hasCode() bool { return d.CodeAt > 0 }

// takesHalf reports whether a knock can be a half of some code.
func (d *Door) takesHalf(k Knock) bool {
	return d.hasCode() && k.Proto == d.Sequence[d.CodeAt].Proto && k.Port-d.TOTP.base < codeHalves
}

// line is where a directive stands in the file, or the section if it does not.
func (d *Door) line(directive string) int {
	if n := d.Lines[directive]; n != 0 {
		return n
	}
	return d.Line
}

// commands returns the start and stop line for a source.
func (d *Door) commands(source netip.Addr) (start, stop string) {
	if source.Is4() {
		return d.Start, d.Stop
	}
	return d.Start6, d.Stop6
}

// native reports whether the door has ports that we open by ourselves.
func (d *Door) native() bool { return len(d.OpenPorts)+len(d.Behind) > 0 }

// opens are all of them as Open_Ports has them: 22:tcp, 8443:tcp -> 192.168.77.10:443.
func (d *Door) opens() (ports []string) {
	for _, k := range d.OpenPorts {
		ports = append(ports, k.String())
	}
	for _, b := range d.Behind {
		ports = append(ports, b.String())
	}
	return ports
}

// knockedAs reports whether an attempt at one door goes on at the other.
func (d *Door) knockedAs(o *Door) bool {
	return d.Name == o.Name && slices.Equal(d.Sequence, o.Sequence) && d.SeqTimeout == o.SeqTimeout &&
		d.TOTP == o.TOTP && d.Flags == o.Flags && d.Target == o.Target && slices.Equal(d.Interfaces, o.Interfaces) &&
		slices.Equal(d.Allow, o.Allow)
}

// nextOneTime reports whether the other door is this one with another line of its one-time file in force.
func (d *Door) nextOneTime(o *Door) bool {
	return d.OneTime != "" && d.Name == o.Name && d.OneTime == o.OneTime
}

// mask has a bit for each place of the sequence where knock stands, bit 0 for the first one.
func (d *Door) mask(knock Knock) (mask uint32) {
	for i, k := range d.Sequence {
		if k == knock {
			mask |= 1 << i
		}
	}
	return mask
}

// sequence prints the secret: 7000:tcp,8000:udp.
func (d *Door) sequence() string { return joinKnocks(d.Sequence) }

func joinKnocks(knocks []Knock) string {
	var s []string
	for i, k := range knocks {
		if !k.half() || !knocks[i-1].half() {
			s = append(s, k.String())
		}
	}
	return strings.Join(s, ",")
}

// In a list of interfaces, autoInterface stands for those that hold a default route, and everyInterface for all but
// loopback.
const (
	autoInterface  = "auto"
	everyInterface = "*"
	maxLinkName    = 15 // IFNAMSIZ of Linux, without the NUL
)

// parseKnock reads PORT or PORT:PROTOCOL. The error tells what is allowed, and not what was given: it may be a secret.
func parseKnock(s string) (Knock, error) {
	port, proto, hasProto := strings.Cut(s, ":")
	k := Knock{Proto: tcp}
	switch proto = strings.ToLower(strings.TrimSpace(proto)); {
	case proto == "udp":
		k.Proto = udp
	case proto != "tcp" && hasProto, strings.Contains(port, "/"):
		return Knock{}, fmt.Errorf("a knock is PORT, PORT:tcp or PORT:udp")
	}
	n, err := strconv.ParseUint(strings.TrimSpace(port), 10, 16)
	if err != nil || n == 0 {
		return Knock{}, fmt.Errorf("a port is a number from 1 to 65535")
	}
	k.Port = uint16(n)
	return k, nil
}

// parseItem reads an item of a sequence, which is a knock, or totp or totp:PROTOCOL: then it is to stand there twice.
func parseItem(s string) (k Knock, err error) {
	name, _, _ := strings.Cut(s, ":")
	if !strings.EqualFold(strings.TrimSpace(name), totpItem) {
		return parseKnock(s)
	}
	k, err = parseKnock("1" + s[len(name):])
	k.Port = 0
	return k, err
}

var errPort = errors.New("ports are numbers from 1 to 65535 with commas between them, each optionally followed by :tcp or :udp")

// parseOpenPort reads [ADDRESS:]PORT[:PROTOCOL] [-> ADDRESS[:PORT] [masquerade]], IPv6 addresses in brackets. Of a port of this
// host neither At nor To is set.
func parseOpenPort(s string) (b Behind, err error) {
	const form = "a port is [ADDRESS:]PORT[:udp], or [ADDRESS:]PORT[:udp] -> ADDRESS[:PORT] [masquerade], with IPv6 addresses in brackets"
	asked, to, forwarded := strings.Cut(s, "->")
	at, port := cutAddress(strings.TrimSpace(asked))
	if at != "" {
		if b.At, err = parsePrefix(at); err != nil || b.At.Bits() == 0 || !behindable(b.At.Addr()) {
			return b, fmt.Errorf("%q is no address or network of hosts", at)
		}
	}
	if b.Knock, err = parseKnock(port); err != nil && (at != "" || forwarded || strings.Count(port, ":") > 1) {
		return b, errors.New(form)
	} else if err != nil {
		return b, errPort
	}
	if !forwarded {
		return b, nil
	}
	words := strings.Fields(to)
	if len(words) == 2 && strings.EqualFold(words[1], "masquerade") {
		b.Masquerade, words = true, words[:1]
	}
	if len(words) != 1 {
		return b, errors.New("after the arrow: ADDRESS[:PORT], optionally masquerade")
	}
	host, number := cutAddress(words[0])
	addr, err := netip.ParseAddr(host)
	switch {
	case host == "":
		return b, fmt.Errorf("%q is no ADDRESS or ADDRESS:PORT with IPv6 addresses in brackets", words[0])
	case err != nil || !behindable(addr):
		return b, fmt.Errorf("%q is no address of a host to forward to", host)
	}
	target := b.Knock
	if number != "" {
		if target, err = parseKnock(number); err != nil || strings.Contains(number, ":") {
			return b, errors.New("after the arrow, a port is a number from 1 to 65535; the protocol is before the arrow")
		}
	}
	b.To = netip.AddrPortFrom(addr.Unmap(), target.Port)
	switch {
	case b.At.IsValid() && !b.At.IsSingleIP():
		return b, fmt.Errorf("%v is a network: what is forwarded is asked of one address of this host, or of all: PORT -> ADDRESS", b.At)
	case b.At.IsValid() && b.At.Addr().Is4() != b.is4():
		return b, errors.New("what is asked over IPv4 cannot be forwarded over IPv6, or the other way round")
	}
	return b, nil
}

// cutAddress splits ADDRESS:REST, or [ADDRESS]:REST, or [ADDRESS]. address is "" where there is none.
func cutAddress(s string) (address, rest string) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		address, rest, ok = strings.Cut(inner, "]")
		port, hasPort := strings.CutPrefix(rest, ":")
		if ok && (hasPort || rest == "") {
			return address, port
		}
		return "", s
	}
	if address, rest, _ = strings.Cut(s, ":"); strings.ContainsAny(address, "./") {
		return strings.TrimSpace(address), rest
	}
	return "", s
}

// behindable is whether packets can be routed to an address.
func behindable(a netip.Addr) bool {
	return a.Zone() == "" && (a.IsGlobalUnicast() || a.IsPrivate()) && !a.Unmap().IsLoopback() && !a.Unmap().IsLinkLocalUnicast() && !a.Unmap().IsMulticast()
}

// parsePrefix reads a network, or an address as a network of that one alone. IPv4 in IPv6 form is IPv4.
func parsePrefix(s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		if addr.Zone() != "" {
			return netip.Prefix{}, errors.New("an address has no zone here")
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	const before = 128 - 32
	if prefix.Addr().Is4In6() && prefix.Bits() >= before {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-before)
	}
	return prefix, nil
}

func plainLink(name string) bool {
	return name != "" && len(name) <= maxLinkName && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("._-@", r))
	})
}

// Grant is the matcher's word that a door may be opened for a source.
type Grant struct {
	Door   *Door
	Source netip.Addr
	Link   string        // the interface that the last knock came in on
	When   time.Duration // monotonic, of the last knock
	Hit    uint64        // the number of the last knock among all hits
	Step   uint32        // of the code, if the door has one
	User   string        // whose key has opened it, or ""
	Packet *KeyPacket    // that has, or nil
}

// KeyPacket is one that was read, and may open a door once.
type KeyPacket struct {
	Tag  [32]byte      // its HMAC, which tells it from all others
	Time int64         // Unix, by its sender's clock
	Wall time.Duration // since 1970 by this host's clock, when it came
}

// Hit is a packet that may be a knock.
type Hit struct {
	When     time.Duration // monotonic
	Link     int           // index of the network interface it came in on
	From, To [16]byte      // source and destination; IPv4 as in ::ffff:192.0.2.7
	FromPort uint16
	Knock    Knock
	Flags    uint8  // TCP only
	Seq      uint32 // TCP only: the sequence number
	Step     uint32 // that codes are in now
	Routed   bool   // To is no address of this host, but the Target of a door
	Foreign  bool   // the frame was to another hardware address than the link's
	// Outside has a bit for each list of interfaces (Config.lists) for which the hit does not count.
	Outside uint64
}

// answerMask are the flags of which every packet of a connection but the first has one (RFC 9293, section 3.10).
const answerMask = flagRST | flagACK

// source is the sender's address, never an IPv4-mapped one.
func (h *Hit) source() netip.Addr { return netip.AddrFrom16(h.From).Unmap() }

// flags prints the TCP flags: syn,ack.
func (h *Hit) flags() string {
	var flags []string
	for i, name := range []string{"fin", "syn", "rst", "psh", "ack", "urg"} {
		if h.Flags&(1<<i) != 0 {
			flags = append(flags, name)
		}
	}
	return strings.Join(flags, ",")
}
