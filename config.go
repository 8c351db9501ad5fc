package main

import (
	"bytes"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Config is a configuration as read by parseConfig.
type Config struct {
	File       string
	text       []byte // of the file
	Doors      []*Door
	Interfaces []string // as parseInterfaces returns them
	// InterfaceLine is where they stand; 0: nowhere.
	InterfaceLine int
	LogFile       string
	PidFile       string
	UseSyslog     bool
	// Firewall is what native doors are opened by: auto, iptables or nft; FirewallMark the bit of a packet's mark that
	// nft uses.
	Firewall     string
	FirewallMark uint32
	StateDir     string  // absolute, or ""
	IgnorePorts  []Knock // that are no decoys, and no stray ones for Strict
	RingSize     int     // of all captures together, in bytes
	// Warnings are about what is accepted and will surprise, each "file:line: ...", without the secret.
	Warnings []string
}

// native reports whether there is a door that needs the firewall.
func (c *Config) native() bool { return slices.ContainsFunc(c.Doors, (*Door).native) }

// lists are the different lists of interfaces, by Door.List. general is the one of doors that have none of their own; it
// is nil if there is no such door.
func (c *Config) lists(general []string) [][]string {
	lists := [][]string{general}
	if len(c.Doors) > 0 && !slices.ContainsFunc(c.Doors, func(d *Door) bool { return d.List == 0 }) {
		lists[0] = nil
	}
	for _, d := range c.Doors {
		if int(d.List) == len(lists) {
			lists = append(lists, d.Interfaces)
		}
	}
	return lists
}

const (
	defaultSeqTimeout = 25 * time.Second
	defaultCmdTimeout = 10 * time.Second
	maxSeconds        = 1<<31 - 1 // knockd's atoi
	// Each port of a door is a rule of the firewall for each source that it is open for, and each exception one for
	// each port.
	maxOpenPorts   = 64
	maxHideExcept  = 64
	maxAllow       = 64
	maxIgnorePorts = 1000
	defaultMaxOpen = 256
	maxMaxOpen     = 4096
	maxRingMB      = 64
	// defaultMark is the bit of a packet's mark that says: sesame lets this packet in.
	defaultMark = 0x20000000
	// ringSize is for all captures together: 1 MB, and on 32-bit machines, which are routers mostly, half of it.
	ringSize = 1 << (19 + ^uint(0)>>63)
)

// parseConfig reads a configuration in knockd's syntax. name stands in messages. The error is a configErrors with
// everything that is wrong, or that of reading r. With mistakes, the Config is good for its warnings only, and may be
// nil.
func parseConfig(name string, r io.Reader) (*Config, error) {
	p := parser{kind: "door", config: &Config{File: name, Firewall: "auto", FirewallMark: defaultMark, Interfaces: []string{everyInterface}, RingSize: ringSize}, optionsSeen: map[string]int{}}
	if err := p.read(r); err != nil {
		return nil, err
	}
	p.finish()
	return p.config, p.mistakes()
}

// directive is one key of the configuration.
type directive struct {
	name     string // as it is written in messages
	alias    string // another name for it, or ""
	inDoor   bool
	inOption bool
	set      func(p *parser, value string)
}

var directives = []directive{
	{"UseSyslog", "", true, true, (*parser).setUseSyslog},
	{"LogFile", "", false, true, func(p *parser, v string) { p.setPath("LogFile", &p.config.LogFile, v) }},
	{"PidFile", "", false, true, func(p *parser, v string) { p.setPath("PidFile", &p.config.PidFile, v) }},
	{"Interface", "", true, true, (*parser).setInterface},
	{"Firewall", "", false, true, (*parser).setFirewall},
	{"Firewall_Mark", "", false, true, (*parser).setFirewallMark},
	{"StateDir", "", false, true, (*parser).setStateDir},
	{"Sequence", "", true, false, (*parser).setSequence},
	{"One_Time_Sequences", "", true, false, func(p *parser, v string) { p.setPath("One_Time_Sequences", &p.open.door.OneTime, v) }},
	{"Seq_Timeout", "Timeout", true, false, func(p *parser, v string) { p.setSeconds("Seq_Timeout", &p.open.door.SeqTimeout, v) }},
	{"TCPFlags", "", true, false, (*parser).setFlags},
	{"Target", "", true, false, (*parser).setTarget},
	{"Start_Command", "Command", true, false, func(p *parser, v string) { p.setCommand(&p.open.door.Start, v) }},
	{"Start_Command_6", "Command_6", true, false, func(p *parser, v string) { p.open.start6 = p.setCommand(new(string), v) }},
	{"Cmd_Timeout", "", true, false, func(p *parser, v string) { p.setSeconds("Cmd_Timeout", &p.open.door.CmdTimeout, v) }},
	{"Stop_Command", "", true, false, func(p *parser, v string) { p.setCommand(&p.open.door.Stop, v) }},
	{"Stop_Command_6", "", true, false, func(p *parser, v string) { p.open.stop6 = p.setCommand(new(string), v) }},
	{"Seq_Cooldown", "", true, false, func(p *parser, v string) { p.setSeconds("Seq_Cooldown", &p.open.door.Cooldown, v) }},
	{"Ignore_Ports", "", false, true, (*parser).setIgnorePorts},
	{"Ring_Size", "", false, true, (*parser).setRingSize},
	{"Allow", "", true, false, func(p *parser, v string) { p.open.door.Allow = p.parseNetworks("Allow", maxAllow, v) }},
	{"Decoys", "", true, false, func(p *parser, v string) { p.setYes("Decoys", &p.open.door.Decoys, v) }},
	{"Strict", "", true, false, func(p *parser, v string) { p.setYes("Strict", &p.open.door.Strict, v) }},
	{"Max_Open", "", true, false, (*parser).setMaxOpen},
	{"Open_Ports", "", true, false, (*parser).setOpenPorts},
	{"Hide", "", true, false, func(p *parser, v string) { p.setYes("Hide", &p.open.door.Hide, v) }},
	{"Hide_Except", "", true, false, func(p *parser, v string) {
		p.open.door.HideExcept = p.parseNetworks("Hide_Except", maxHideExcept, v)
	}},
}

// accumulates are the directives that add to what an earlier line of the same name said, or that the first one of
// decides, as in knockd. Of all others the last line holds.
var accumulates = map[string]bool{"TCPFlags": true, "Interface": true, "UseSyslog": true}

func findDirective(key string) (directive, bool) {
	for _, d := range directives {
		if strings.EqualFold(key, d.name) || d.alias != "" && strings.EqualFold(key, d.alias) {
			return d, true
		}
	}
	return directive{}, false
}

func directiveNames() (names []string) {
	for _, d := range directives {
		names = append(names, d.name)
	}
	return names
}

// setUseSyslog takes knockd's bare UseSyslog and also "UseSyslog = yes".
func (p *parser) setUseSyslog(value string) {
	yes, ok := parseYes(value)
	if !ok && withoutComment(value) != "" {
		p.fail("UseSyslog stands alone on its line, or is yes or no, not %q", value)
		return
	}
	p.config.UseSyslog = yes || !ok
}

func (p *parser) setFirewall(value string) {
	switch name := strings.ToLower(withoutComment(value)); name {
	case "auto", "iptables", "nft":
		p.config.Firewall = name
	default:
		p.fail("Firewall is auto, iptables or nft, not %q", value)
	}
}

func (p *parser) setFirewallMark(value string) {
	digits, base := withoutComment(value), 10
	if len(digits) > 2 && strings.EqualFold(digits[:2], "0x") {
		digits, base = digits[2:], 16
	}
	mark, err := strconv.ParseUint(digits, base, 32)
	if err != nil || bits.OnesCount64(mark) != 1 {
		p.fail("Firewall_Mark is one bit of 32, such as 0x%x, not %q", defaultMark, value)
		return
	}
	p.config.FirewallMark = uint32(mark)
}

// setStateDir takes an absolute path alone: the next start must find what this one leaves there, from wherever it is
// made.
func (p *parser) setStateDir(value string) {
	dir := withoutComment(value)
	if !strings.HasPrefix(dir, "/") {
		p.fail("StateDir is a directory's absolute path, such as /var/lib/sesame, not %q", value)
		return
	}
	p.config.StateDir = dir
}

func (p *parser) setPath(name string, to *string, value string) {
	if value != withoutComment(value) {
		p.warn("%s: the comment behind the path is read as a part of it: put it on a line of its own", name)
	}
	if value == "" && name == "One_Time_Sequences" {
		p.fail("%s needs a file", name)
	}
	*to = value
}

// setInterface takes what parseInterfaces does. Of several lines the first one holds.
func (p *parser) setInterface(value string) {
	to, seen := &p.config.Interfaces, p.optionsSeen
	if p.open != nil {
		to, seen = &p.open.door.Interfaces, p.open.seen
	}
	if before := seen["Interface"]; before != 0 {
		p.warn("Interface stands on line %d already: that line holds", before)
		return
	}
	value = strings.Trim(withoutComment(value), `"'`)
	switch {
	case value == "" && p.open != nil:
		p.fail("Interface needs a value: Interface = ..., or delete the line")
		return
	case value == "":
		p.warn("Interface is empty: all interfaces but lo are listened on")
		value = everyInterface
	}
	list, err := parseInterfaces(value)
	if err != nil {
		p.fail("Interface: %v", err)
		return
	}
	*to = list
	if p.open == nil {
		p.config.InterfaceLine = p.line
	}
}

const (
	loopback = "lo"
)

// parseInterfaces reads names, beginnings of names with a * behind them, and auto, with commas between them. any, all
// and * are everyInterface, with loopback if it is named, too, and nothing else.
func parseInterfaces(text string) (list []string, err error) {
	items := strings.Split(text, ",")
	for i, item := range items {
		items[i] = strings.TrimSpace(item)
	}
	for _, item := range items {
		name, pattern := strings.CutSuffix(item, "*")
		switch {
		case strings.EqualFold(item, "any"), strings.EqualFold(item, "all"), item == everyInterface:
			if slices.Contains(items, loopback) {
				return []string{everyInterface, loopback}, nil
			}
			return []string{everyInterface}, nil
		case strings.EqualFold(item, autoInterface):
			item = autoInterface
		case pattern && strings.ContainsAny(name, "*?["):
			return nil, fmt.Errorf("%q never fits: a pattern is the beginning of a name and one * (ppp*)", item)
		case len(item) > maxLinkName:
			return nil, fmt.Errorf("%q is too long: the name of an interface has %d characters at most, with a *", item, maxLinkName)
		// dev_valid_name in the kernel's net/core/dev.c.
		case name == "", name == ".", name == "..", strings.ContainsAny(name, "/: \t*?"):
			return nil, fmt.Errorf("%q is no interface: names with commas between them (eth0, ppp*), any, or auto", item)
		}
		if !slices.Contains(list, item) {
			list = append(list, item)
		}
	}
	return list, nil
}

func (p *parser) setSequence(value string) { p.open.door.Sequence = p.parseSequence(value) }

func (p *parser) setFlags(value string) {
	flags := &p.open.door.Flags
	for _, item := range strings.Split(withoutComment(value), ",") {
		item = strings.TrimSpace(item)
		name, not := strings.CutPrefix(item, "!")
		bit, known := flagBits[strings.ToLower(strings.TrimSpace(name))]
		if !known {
			p.fail("TCPFlags: %q is no flag: fin, syn, rst, psh, ack, urg, each also with ! before it", item)
			continue
		}
		value := bit
		if not {
			value = 0
		}
		if flags.Mask&bit != 0 && flags.Value&bit != value {
			p.warn("TCPFlags asks for %s and for its opposite: the last one holds", name)
		}
		flags.Mask |= bit
		flags.Value = flags.Value&^bit | value
	}
}

func (p *parser) setTarget(value string) {
	addr, err := netip.ParseAddr(withoutComment(value))
	if err != nil || addr.Zone() != "" {
		p.fail("Target is an address such as 192.0.2.7 or 2001:db8::7, not %q", value)
		return
	}
	p.open.door.Target = addr.Unmap()
}

func (p *parser) setOpenPorts(value string) {
	p.open.door.OpenPorts = p.parsePorts("Open_Ports", maxOpenPorts, "put the rest into another door of the same sequence", value)
}

func (p *parser) setIgnorePorts(value string) {
	p.config.IgnorePorts = p.parsePorts("Ignore_Ports", maxIgnorePorts, "let doors that are near them have Decoys = no", value)
}

// parsePorts reads ports with commas between them. They are no secret: whoever scans the host finds them open or not.
func (p *parser) parsePorts(name string, most int, otherwise, value string) (ports []Knock) {
	items := strings.Split(withoutComment(value), ",")
	if len(items) > most {
		p.fail("%s: 1 to %d ports, not %d: %s", name, most, len(items), otherwise)
		return nil
	}
	for _, item := range items {
		item = strings.TrimSpace(item)
		k, err := parseKnock(item, tcp)
		switch {
		case err != nil:
			p.fail("%s: ports are numbers from 1 to 65535 with commas between them, each also with :tcp or :udp behind it, not %q", name, item)
		case slices.Contains(ports, k):
			p.warn("%s: %v stands there twice", name, k)
		default:
			ports = append(ports, k)
		}
	}
	return ports
}

func (p *parser) setYes(name string, to *bool, value string) {
	yes, ok := parseYes(value)
	if !ok {
		p.fail("%s is yes or no, not %q: %s = yes", name, value, name)
		return
	}
	*to = yes
}

// parseNetworks reads addresses and networks with commas between them.
func (p *parser) parseNetworks(name string, most int, value string) (networks []netip.Prefix) {
	items := strings.Split(withoutComment(value), ",")
	if len(items) > most {
		p.fail("%s: at most %d addresses and networks, not %d: join them to larger networks", name, most, len(items))
		return nil
	}
	for _, item := range items {
		item = strings.TrimSpace(item)
		prefix, err := parsePrefix(item)
		if err != nil {
			p.fail("%s is addresses and networks with commas between them, such as 192.168.1.0/24, 2001:db8::/32, 10.0.0.7, not %q", name, item)
			continue
		}
		if prefix != prefix.Masked() {
			p.warn("%s: %q is read as %v", name, item, prefix.Masked())
		}
		networks = append(networks, prefix.Masked())
	}
	return networks
}

func (p *parser) setMaxOpen(value string) {
	n, err := strconv.ParseUint(withoutComment(value), 10, 32)
	if err != nil || n == 0 || n > maxMaxOpen {
		p.fail("Max_Open is how many sources a door is open for at once, from 1 to %d, not %q", maxMaxOpen, value)
		return
	}
	p.open.door.MaxOpen = int(n)
}

func (p *parser) setRingSize(value string) {
	n, err := strconv.ParseUint(withoutComment(value), 10, 32)
	if err != nil || n == 0 || n > maxRingMB {
		p.fail("Ring_Size is how many megabytes of packets can wait, from 1 to %d, not %q", maxRingMB, value)
		return
	}
	p.config.RingSize = int(n) << 20
}

func (p *parser) setCommand(to *string, value string) *string {
	*to = value
	return to
}

// setSeconds reads a whole number of seconds. Like knockd it takes the leading digits of "5s" or "10 # comment".
func (p *parser) setSeconds(name string, to *time.Duration, value string) {
	digits := value[:len(value)-len(strings.TrimLeft(value, "0123456789"))]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > maxSeconds {
		p.fail("%s is a number of seconds from 0 to %d, not %q", name, maxSeconds, value)
		return
	}
	if digits != withoutComment(value) {
		p.warn("%s: %q is read as %d seconds", name, value, n)
	}
	*to = time.Duration(n) * time.Second
}

// finish resolves what depends on several lines and looks for what will surprise.
func (p *parser) finish() {
	p.open = nil
	for _, s := range p.sections {
		d := s.door
		p.line = d.Line
		p.open = s
		d.Start6, d.Stop6 = d.Start, d.Stop
		if s.start6 != nil {
			d.Start6 = *s.start6
		}
		if s.stop6 != nil {
			d.Stop6 = *s.stop6
		}
		if d.OneTime != "" && d.Sequence != nil {
			p.warn("it has a Sequence and One_Time_Sequences: the one-time ones hold")
			d.Sequence = nil
		}
		wrong := s.wrong
		p.checkPorts(s)
		if d.Sequence == nil && !wrong && d.OneTime == "" { // else Sequence may be the line that is wrong
			p.fail("a door needs a Sequence, or One_Time_Sequences: Sequence = 7000,8000:udp,9000")
		}
		if !s.wrong { // else what surprises may come of that
			p.warnSurprises(s)
		}
		p.numberInterfaces(s)
		p.config.Doors = append(p.config.Doors, d)
	}
	p.warnPrefixes()
	p.warnNames()
	p.open = nil
	switch {
	case len(p.sections) > 0:
	case !p.inOptions && p.errors == nil:
		p.line = 1
		p.fail("there is no section in it: has its text been lost? a door is [name] and what belongs to it: [ssh], Sequence = 7000,8000:udp,9000")
	default:
		p.warn("there is no door: nothing can be opened")
	}
	sort.SliceStable(p.config.Warnings, func(i, j int) bool {
		return lineOf(p.config, p.config.Warnings[i]) < lineOf(p.config, p.config.Warnings[j])
	})
	if n := len(p.config.Warnings) - maxConfigErrors; n > 0 {
		p.config.Warnings = append(p.config.Warnings[:maxConfigErrors], fmt.Sprintf("%s: %d more warnings", p.config.File, n))
	}
}

// numberInterfaces gives a door the number of its list of interfaces: 0 without one, and else the same as a door before
// it that has the same.
func (p *parser) numberInterfaces(s *section) {
	d, next := s.door, uint8(1)
	if d.Interfaces == nil {
		return
	}
	for _, o := range p.config.Doors {
		if slices.Equal(o.Interfaces, d.Interfaces) {
			d.List = o.List
			return
		}
		next = max(next, o.List+1)
	}
	if next > maxLists {
		p.line = s.seen["Interface"]
		p.fail("Interface: there are more than %d different lists of interfaces: let doors share some", maxLists)
		return
	}
	d.List = next
}

// maxLists is how many doors can have lists of interfaces that differ. Link.Outside has a bit for each, and one for the
// configuration's.
const maxLists = 63

const defaultConfigFile = "/etc/knockd.conf"

// closes is whether a door has something to close, which must be written down before it is opened.
func (c *Config) closes() bool {
	return slices.ContainsFunc(c.Doors, func(d *Door) bool { return d.Stop+d.Stop6 != "" || d.native() })
}

func (c *Config) hides() bool {
	return slices.ContainsFunc(c.Doors, func(d *Door) bool { return d.Hide })
}

// openConfig reads the configuration in file. With mistakes in it there is a Config too, for its warnings.
func openConfig(file string) (*Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("opening the configuration: %w: -c names another file", err)
	}
	defer f.Close()
	var text bytes.Buffer
	c, err := parseConfig(file, io.TeeReader(f, &text))
	if c == nil {
		return nil, err
	}
	c.text = text.Bytes()
	if info, err := f.Stat(); err == nil && othersRead(info) {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s: others can read it, and it holds the secret: chmod 600 %s", file, file))
	}
	return c, err
}

func othersRead(info os.FileInfo) bool { return info.Mode().IsRegular() && info.Mode()&0o004 != 0 }
