package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
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

// Knock is one port of a sequence, from 1 to 65535, and its protocol. It prints as 7000:tcp.
type Knock struct {
	Port  uint16
	Proto Protocol
}

func (k Knock) String() string { return fmt.Sprintf("%d:%v", k.Port, k.Proto) }

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
	Line     int // of the section in the file
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
	Hide       bool
	HideExcept []netip.Prefix // masked, and none is IPv4 in IPv6 form
	// Cooldown is how long after an opening the door takes no notice of knocks.
	Cooldown time.Duration
	OneTime  string     // file of one-time sequences, or ""
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

// hears reports whether the door listens to the source, to the address that was knocked on, and to the link.
func (d *Door) hears(h *Hit) bool {
	if h.Elsewhere>>d.List&1 != 0 || d.Allow != nil && !contains(d.Allow, h.source()) {
		return false
	}
	if d.Target.IsValid() {
		return h.To == d.Target.As16()
	}
	return !h.Routed
}

func contains(networks []netip.Prefix, addr netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// decoyReach is how far from a knock decoys stand.
const decoyReach = 32

// hasDecoys reports whether there are decoys around the door's knocks. Where only some sources may knock, none are needed;
// and a single knock is a trap for scans, which they would disarm.
func (d *Door) hasDecoys() bool { return d.Decoys && d.Allow == nil && len(d.Sequence) > 1 }

// decoy reports whether a hit that is no knock is on one of the door's decoys. What would count at a knock counts there.
func (d *Door) decoy(h *Hit) bool {
	if !d.hasDecoys() || h.Knock.Proto == tcp && !d.Flags.fit(h.Flags) {
		return false
	}
	for _, knock := range d.Sequence {
		if h.Knock.Proto == knock.Proto && int(h.Knock.Port) >= int(knock.Port)-decoyReach && int(h.Knock.Port) <= int(knock.Port)+decoyReach {
			return true
		}
	}
	return false
}

// commands returns the start and stop line for a source.
func (d *Door) commands(source netip.Addr) (start, stop string) {
	if source.Is4() {
		return d.Start, d.Stop
	}
	return d.Start6, d.Stop6
}

// native reports whether the door has ports that we open by ourselves.
func (d *Door) native() bool { return len(d.OpenPorts) > 0 }

// knockedAs reports whether an attempt at one door goes on at the other.
func (d *Door) knockedAs(o *Door) bool {
	return d.Name == o.Name && slices.Equal(d.Sequence, o.Sequence) && d.SeqTimeout == o.SeqTimeout &&
		d.Flags == o.Flags && d.Target == o.Target && slices.Equal(d.Interfaces, o.Interfaces) &&
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
	for _, k := range knocks {
		s = append(s, k.String())
	}
	return strings.Join(s, ",")
}

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

// configError is a mistake in a configuration. The value at fault is kept apart where it may be part of a secret:
// it is shown to the person who runs the program, and not written to a log.
type configError struct{ text, secret string }

// configErrors are all mistakes of one file, each a line that begins with file:line.
type configErrors []configError

func (e configErrors) Error() string {
	var lines []string
	for _, mistake := range e {
		if mistake.secret != "" {
			mistake.text += fmt.Sprintf(", not %q", mistake.secret)
		}
		lines = append(lines, mistake.text)
	}
	return strings.Join(lines, "\n")
}

// withoutSecrets is err as it may stand in a log.
func withoutSecrets(err error) error {
	mistakes, ok := errors.AsType[configErrors](err)
	if !ok {
		return err
	}
	mistakes = slices.Clone(mistakes)
	for i := range mistakes {
		mistakes[i].secret = ""
	}
	return mistakes
}

// byteOrderMark is what some editors begin a file with.
const byteOrderMark = "\xef\xbb\xbf"

const (
	maxConfigSize     = 1 << 20
	maxConfigErrors   = 100 // and as many warnings
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

// section is a door or a profile while it is being read.
type section struct {
	name   string
	door   *Door
	seen   map[string]int // line of each directive, by canonical name
	start6 *string
	stop6  *string
	wrong  bool // a line of it is
}

// parser reads a file in knockd's syntax: a configuration, or the client's profiles.
type parser struct {
	kind        string // what a section is: a door or a profile
	config      *Config
	line        int
	errors      configErrors
	inOptions   bool
	optionsSeen map[string]int
	sections    []*section
	open        *section // the door being read, nil in [options] and before the first section
	profiles    []*profile
	keys        []option // that the profile being read can have
}

func (p *parser) where(line int, s *section) string {
	at := fmt.Sprintf("%s:%d: ", p.config.File, line)
	if s != nil {
		at += fmt.Sprintf("%s %q: ", p.kind, s.name)
	}
	return at
}

// fail notes a mistake on the present line, failSecret one whose value is not for logs, warn what only surprises.
func (p *parser) fail(format string, a ...any) {
	p.failSecret("", format, a...)
}

func (p *parser) failSecret(secret, format string, a ...any) {
	p.errors = append(p.errors, configError{p.where(p.line, p.open) + fmt.Sprintf(format, a...), secret})
	if p.open != nil {
		p.open.wrong = true
	}
}

func (p *parser) warn(format string, a ...any) {
	p.config.Warnings = append(p.config.Warnings, p.where(p.line, p.open)+fmt.Sprintf(format, a...))
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

// read reads the lines. The error is that of reading r, or p.errors when there is no use in reading on.
func (p *parser) read(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxConfigSize+1))
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if len(text) > maxConfigSize {
		p.line = 1
		p.fail("a configuration is at most %d bytes", maxConfigSize)
		return p.errors
	}
	text = bytes.TrimPrefix(text, []byte(byteOrderMark))
	for _, line := range strings.Split(string(text), "\n") {
		p.line++
		p.parseLine(strings.TrimSpace(line))
		if len(p.errors) >= maxConfigErrors {
			p.fail("too many mistakes: reading ends here")
			return p.errors
		}
	}
	return nil
}

// mistakes are all of them in the order of the lines, or nil.
func (p *parser) mistakes() error {
	if p.errors == nil {
		return nil
	}
	sort.SliceStable(p.errors, func(i, j int) bool {
		return lineOf(p.config, p.errors[i].text) < lineOf(p.config, p.errors[j].text)
	})
	return p.errors[:min(len(p.errors), maxConfigErrors)]
}

func (p *parser) parseLine(line string) {
	if line == "" || line[0] == '#' {
		return
	}
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		p.fail("a control character (%#02x) has no place in a configuration: delete it", line[i])
		return
	}
	if line[0] == '[' && line[len(line)-1] == ']' {
		p.startSection(strings.TrimSpace(line[1 : len(line)-1]))
		return
	}
	if line[0] == '[' {
		name, _, closed := strings.Cut(line[1:], "]")
		if closed {
			p.fail("a section is [name] and nothing behind it: put the rest on a line of its own")
		} else {
			p.fail("a section is [name]: the ] is missing")
		}
		p.startSection(strings.TrimSpace(name)) // so that what follows is read as meant
		return
	}
	key, value, hasValue := strings.Cut(line, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if p.kind == "profile" {
		p.setKey(key, value, hasValue)
		return
	}
	d, known := findDirective(key)
	switch {
	case !known:
		p.failUnknown(key, hasValue, directiveNames())
	case !hasValue && d.name != "UseSyslog":
		p.fail("%s needs a value: %s = ...", d.name, d.name)
	case !p.inOptions && p.open == nil:
		p.fail("%s stands before the first section: write [options] or a door's [name] above it", d.name)
	case p.inOptions && !d.inOption:
		p.fail("%s belongs in a door's section, not in [options]", d.name)
	case p.open != nil && !d.inDoor:
		p.fail("%s belongs in [options]", d.name)
	default:
		seen := p.optionsSeen
		if p.open != nil {
			seen = p.open.seen
		}
		if before := seen[d.name]; before != 0 && !accumulates[d.name] {
			p.warn("%s stands on line %d already: this line holds", d.name, before)
		}
		d.set(p, value)
		seen[d.name] = p.line
	}
}

// failUnknown notes a key that is none of the names.
func (p *parser) failUnknown(key string, hasValue bool, names []string) {
	switch {
	case strings.ContainsAny(strings.TrimSuffix(key, "_6"), "0123456789"):
		// It may be a sequence without its =, or the rest of one that was broken over two lines.
		p.failSecret(key, "a line is [section], Directive = value or # comment")
	case !hasValue:
		p.fail("%q is no directive: a line is [section], Directive = value or # comment%s", key, didYouMean(key, names))
	default:
		p.fail("unknown directive %q%s", key, didYouMean(key, names))
	}
}

func directiveNames() (names []string) {
	for _, d := range directives {
		names = append(names, d.name)
	}
	return names
}

func (p *parser) startSection(name string) {
	p.open, p.inOptions = nil, false
	switch {
	case p.kind == "profile":
		p.startProfile(name)
		return
	case name == "":
		p.fail("a section needs a name: [options] or a door's [name]")
		name = "?" // so that what follows is still checked
	case strings.EqualFold(name, "options"):
		p.inOptions = true
		return
	case !utf8.ValidString(name):
		p.fail("a door's name must be UTF-8 text: it stands in the log")
	}
	p.open = &section{
		name: name,
		door: &Door{Name: name, Line: p.line, SeqTimeout: defaultSeqTimeout, CmdTimeout: defaultCmdTimeout,
			Decoys: true},
		seen: map[string]int{},
	}
	p.sections = append(p.sections, p.open)
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

// parseYes reads yes or no. ok is false for everything else.
func parseYes(value string) (yes, ok bool) {
	switch strings.ToLower(withoutComment(value)) {
	case "yes", "true", "on", "1":
		return true, true
	case "no", "false", "off", "0":
		return false, true
	}
	return false, false
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

// In a list of interfaces, autoInterface stands for those that hold a default route, and everyInterface for all but
// loopback.
const (
	autoInterface  = "auto"
	everyInterface = "*"
	loopback       = "lo"
	maxLinkName    = 15 // IFNAMSIZ of Linux, without the NUL
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

// parseSequence reads knocks with commas between them. With a mistake in them there may be fewer, or none.
func (p *parser) parseSequence(value string) (sequence []Knock) {
	p.eachKnock(value, func(item string) error {
		k, err := parseKnock(item, tcp)
		if err == nil {
			sequence = append(sequence, k)
		}
		return err
	})
	return sequence
}

// eachKnock has parse read each item of a sequence. It may say what is wrong with it, and not what was given.
func (p *parser) eachKnock(value string, parse func(item string) error) {
	value = withoutComment(value)
	if n := strings.Count(value, ",") + 1; n > maxKnocks {
		p.fail("Sequence: a sequence has 1 to %d knocks, not %d", maxKnocks, n)
		return
	}
	for _, item := range strings.Split(value, ",") {
		if item = strings.TrimSpace(item); item == "" {
			p.fail("Sequence: an item is empty: a port is a number from 1 to 65535, and commas stand only between ports")
		} else if err := parse(item); err != nil {
			p.failSecret(item, "Sequence: %v", err)
		}
	}
}

// parseKnock reads PORT or PORT:PROTOCOL. The error tells what is allowed, and not what was given: it may be a secret.
func parseKnock(s string, otherwise Protocol) (Knock, error) {
	port, proto, hasProto := strings.Cut(s, ":")
	k := Knock{Proto: otherwise}
	if hasProto {
		switch strings.ToLower(strings.TrimSpace(proto)) {
		case "tcp":
			k.Proto = tcp
		case "udp":
			k.Proto = udp
		default:
			return Knock{}, fmt.Errorf("a knock is PORT, PORT:tcp or PORT:udp")
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(port), 10, 16)
	if err != nil || n == 0 {
		return Knock{}, fmt.Errorf("a port is a number from 1 to 65535")
	}
	k.Port = uint16(n)
	return k, nil
}

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

// withoutComment takes off a comment, which in knockd's syntax belongs to the value: nobody means it to.
func withoutComment(value string) string {
	for i := 1; i < len(value); i++ {
		if value[i] == '#' && (value[i-1] == ' ' || value[i-1] == '\t') {
			return strings.TrimSpace(value[:i])
		}
	}
	if strings.HasPrefix(value, "#") {
		return ""
	}
	return value
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

func lineOf(c *Config, warning string) (line int) {
	n, _, _ := strings.Cut(strings.TrimPrefix(warning, c.File+":"), ":")
	line, _ = strconv.Atoi(n)
	return line
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

// checkPorts finds what does not go together with Open_Ports, or not without it.
func (p *parser) checkPorts(s *section) {
	fail := func(name, format string, a ...any) {
		p.line = s.seen[name]
		p.fail(format, a...)
		p.line = s.door.Line
	}
	const hides = "%s without Open_Ports hides nothing: write the ports to hide (Open_Ports = 22), or delete this line"
	ports, hide, except := s.seen["Open_Ports"] != 0, s.seen["Hide"] != 0, s.seen["Hide_Except"] != 0
	switch {
	case s.wrong: // the line that is missing may be one that is wrong
	case hide && !ports:
		fail("Hide", hides, "Hide")
	case except && !ports:
		fail("Hide_Except", hides, "Hide_Except")
	case except && !s.door.Hide:
		fail("Hide_Except", "Hide_Except without Hide = yes: nothing is hidden: write Hide = yes, or delete this line")
	}
	if ports && s.door.Target.IsValid() {
		fail("Open_Ports", "Open_Ports opens ports of this host, and Target is for another one: open those by a Start_Command with a FORWARD rule")
	}
	if ports && s.door.CmdTimeout == 0 {
		fail("Cmd_Timeout", "Cmd_Timeout = 0 closes Open_Ports at once: write how many seconds they are to be open, from 1 to %d", maxSeconds)
	}
}

func (p *parser) warnSurprises(s *section) {
	d := s.door
	start, stop := d.Start+d.Start6, d.Stop+d.Stop6
	switch {
	case d.native():
		if s.seen["Cmd_Timeout"] == 0 {
			p.warn("Open_Ports without Cmd_Timeout: they are closed after %d seconds", int(defaultCmdTimeout.Seconds()))
		}
	case start == "" && stop != "":
		p.warn("a Stop_Command without a Start_Command is never run")
	case start == "":
		p.warn("it has neither Open_Ports nor a Start_Command: knocking is only logged")
	case stop != "" && s.seen["Cmd_Timeout"] == 0:
		p.warn("Stop_Command without Cmd_Timeout: it runs after %d seconds", int(defaultCmdTimeout.Seconds()))
	case stop == "" && s.seen["Cmd_Timeout"] != 0:
		p.warn("Cmd_Timeout without Stop_Command has no effect")
	}
	if d.SeqTimeout == 0 && len(d.Sequence) > 1 {
		p.warn("Seq_Timeout = 0 leaves no time: the sequence can never be completed")
	}
	hasTCP := false
	for _, k := range d.Sequence {
		hasTCP = hasTCP || k.Proto == tcp
	}
	if hasTCP && !d.Flags.fit(flagSYN) {
		p.warn("TCPFlags do not fit a connection's first packet, which carries SYN alone: knock clients cannot open it")
	}
	if d.hasDecoys() && slices.ContainsFunc(d.Sequence, func(k Knock) bool {
		return (k.Proto == udp || d.Flags.fit(flagACK)) && k.Port >= firstEphemeral && k.Port <= lastEphemeral
	}) {
		p.warn("a knock from %d to %d, where programs have their own ports: answers to them may count as scans: "+
			"take another one, or write TCPFlags = syn if it is TCP", firstEphemeral, lastEphemeral)
	}
	if slices.ContainsFunc(d.Sequence, func(k Knock) bool { return slices.Contains(d.OpenPorts, k) }) {
		p.warn("a knock is one of Open_Ports, too: whoever tries that port knocks: take another one")
	}
	switch ascending, span := ascent(d.Sequence); {
	case len(d.Sequence) > 1 && !slices.ContainsFunc(d.Sequence, func(k Knock) bool { return k != d.Sequence[0] }) && d.Allow == nil:
		p.warn("a sequence of one port alone is opened by whoever tries it often: take different ones")
	case len(d.Sequence) == 1 && d.Allow == nil:
		p.warn("a sequence of one knock is opened by any port scan")
	case ascending && (len(d.Sequence) == 2 && !d.hasDecoys() || span <= scanSpan) && d.Allow == nil:
		p.warn("a scan of a few adjacent ports in order completes the sequence: let it go up and down, over thousands of ports")
	}
}

// The ports that Linux gives to programs which ask for none (ip(7), ip_local_port_range).
const firstEphemeral, lastEphemeral = 32768, 60999

// scanSpan is how far apart the first and the last of three or more ascending knocks are at most where check warns.
const scanSpan = 20

// ascent tells whether the ports go strictly up in one protocol, and how far the last is from the first.
func ascent(sequence []Knock) (ascending bool, span int) {
	for i := 1; i < len(sequence); i++ {
		before, k := sequence[i-1], sequence[i]
		if k.Proto != before.Proto || k.Port <= before.Port {
			return false, 0
		}
		span += int(k.Port - before.Port)
	}
	return len(sequence) > 0, span
}

// warnPrefixes finds doors that open while another one's sequence is being knocked.
func (p *parser) warnPrefixes() {
	// Sorted, a sequence stands directly before those that begin with it, or before a run of such ones.
	var byText []*section
	texts := map[*section]string{}
	for _, s := range p.sections {
		if s.door.Sequence != nil {
			byText = append(byText, s)
			texts[s] = s.door.sequence() + ","
		}
	}
	text := func(i int) string { return texts[byText[i]] }
	sort.SliceStable(byText, func(i, j int) bool { return text(i) < text(j) })
	for i := 0; i+1 < len(byText); i++ {
		if !strings.HasPrefix(text(i+1), text(i)) {
			continue
		}
		p.open, p.line = byText[i], byText[i].door.Line
		other := byText[i+1].door
		if text(i) == text(i+1) {
			p.warn("it has the same sequence as door %q (line %d): both open at once", other.Name, other.Line)
		} else {
			p.warn("its sequence is the beginning of that of door %q (line %d): it opens on the way", other.Name, other.Line)
		}
	}
}

// warnNames finds doors that the log does not tell apart.
func (p *parser) warnNames() {
	named := map[string]*section{}
	for _, s := range p.sections {
		if other := named[s.door.Name]; other != nil {
			p.open, p.line = s, s.door.Line
			p.warn("a door of this name stands on line %d already: the log will not tell them apart", other.door.Line)
		} else {
			named[s.door.Name] = s
		}
	}
}

// didYouMean names the nearest of the names, if one is near: ` (did you mean Sequence?)`.
func didYouMean(word string, names []string) string {
	best, at := 3, ""
	for _, name := range names {
		if longer := len(word) - len(name); longer >= best || -longer >= best {
			continue
		}
		if d := editDistance(strings.ToLower(word), strings.ToLower(name)); d < best {
			best, at = d, name
		}
	}
	if at == "" {
		return ""
	}
	return " (did you mean " + at + "?)"
}

// editDistance counts the letters to insert, delete or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
