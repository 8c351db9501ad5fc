package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Config is a configuration as read by parseConfig.
type Config struct {
	File       string
	text       []byte // of the file
	Doors      []*Door
	Interfaces []string   // as parseInterfaces returns them
	ofDoors    [][]string // the different ones that doors have instead, by Door.List from 1 up
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
	KeyPort      uint16  // of UDP, where key packets come
	IgnorePorts  []Knock // that are no decoys, and no stray ones for Strict
	RingSize     int     // of all captures together, in bytes
	// Warnings are about what is accepted and will surprise, each "file:line: ...", without the secret.
	Warnings []string
}

// noDecoys are ports that are no decoys, whether something on this host listens there or not: those of a door may be
// forwarded to another host.
func (c *Config) noDecoys() []Knock {
	ports := slices.Clone(c.IgnorePorts)
	if hasKeys(c.Doors) {
		ports = append(ports, Knock{c.KeyPort, udp})
	}
	for _, d := range c.Doors {
		ports = append(ports, d.OpenPorts...)
		for _, b := range d.Behind {
			_, port := b.target()
			ports = append(ports, b.Knock, Knock{port, b.Proto})
		}
	}
	return ports
}

// hasKeys reports whether one of the doors is opened by packets.
func hasKeys(doors []*Door) bool {
	return slices.ContainsFunc(doors, func(d *Door) bool { return d.Keys != nil })
}

// native reports whether there is a door that needs the firewall.
func (c *Config) native() bool { return slices.ContainsFunc(c.Doors, (*Door).native) }

// lists are the different lists of interfaces, by Door.List. general is the one of doors that have none of their own; it
// is nil if there is no such door.
func (c *Config) lists(general []string) [][]string {
	if len(c.Doors) > 0 && !slices.ContainsFunc(c.Doors, func(d *Door) bool { return d.List == 0 }) {
		general = nil
	}
	return append([][]string{general}, c.ofDoors...)
}

const (
	defaultSeqTimeout = 25 * time.Second
	codeSeqTimeout    = 60 * time.Second // of a door with a code, which a person reads off a phone
	defaultCmdTimeout = 10 * time.Second
	maxSeconds        = 1<<31 - 1 // knockd's atoi
	// Each port of a door is a rule of the firewall for each source that it is open for, and each exception one for
	// each port.
	maxOpenPorts   = 64
	maxHideExcept  = 64
	maxAllow       = 64
	maxIgnorePorts = 1000
	maxKeys        = 256 // of a door: each packet is tried with all
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
	p := configParser{ini: ini{file: name}, config: &Config{File: name, Firewall: "auto", FirewallMark: defaultMark,
		Interfaces: []string{everyInterface}, RingSize: ringSize, KeyPort: defaultKeyPort}}
	if err := p.read(r, p.start, p.set); err != nil {
		return nil, err
	}
	p.finish()
	p.config.Warnings = p.surprises()
	return p.config, p.mistakes()
}

// configParser reads the language of the configuration: [options], and a section for each door.
type configParser struct {
	ini
	config  *Config
	options *section   // all of that name together; nil if there is none
	doors   []*section // of config.Doors
	door    *Door      // that the section is about; nil in [options] and before the first section
	name    string     // of the directive that is read, as messages have it
}

// start makes a door of a [name], but for [options].
func (p *configParser) start(name string) *section {
	p.door = nil
	switch {
	case name == "":
		p.fail("a section needs a name: [options] or a door's [name]")
		name = "?" // so that what follows is still checked
	case strings.EqualFold(name, "options"):
		if p.options == nil {
			p.options = p.newSection("")
		}
		return p.options
	case !utf8.ValidString(name):
		p.fail("a door's name must be UTF-8 text: it stands in the log")
	}
	p.door = &Door{Name: name, Line: p.line, SeqTimeout: defaultSeqTimeout, CmdTimeout: defaultCmdTimeout, Decoys: true}
	p.config.Doors = append(p.config.Doors, p.door)
	p.doors = append(p.doors, p.newSection(fmt.Sprintf("door %q: ", name)))
	return p.doors[len(p.doors)-1]
}

func (p *configParser) set(key, value string, hasValue bool) {
	d, known := findDirective(key)
	p.name = d.name
	switch {
	case !known:
		p.failUnknown(key, hasValue, directiveNames())
	case !hasValue && d.name != "UseSyslog":
		p.fail("%s needs a value: %s = ...", d.name, d.name)
	case p.section == nil:
		p.fail("%s is before the first section: write [options] or a door's [name] above it", d.name)
	case p.door == nil && !d.inOption:
		p.fail("%s belongs in a door's section, not in [options]", d.name)
	case p.door != nil && !d.inDoor:
		p.fail("%s belongs in [options]", d.name)
	default:
		switch before := p.note(d.name); {
		case before == 0 || d.name == "TCPFlags" || d.name == "Key" || d.name == "UseSyslog": // flags and keys add up
			d.set(p, value)
		case d.name == "Interface": // as in knockd
			p.warn("Interface is already on line %d: that line holds", before)
		default:
			p.warn("%s is already on line %d: this line holds", d.name, before)
			d.set(p, value)
		}
	}
}

// directive is one key of the configuration.
type directive struct {
	name     string // as it is written in messages
	alias    string // another name for it, or ""
	inDoor   bool
	inOption bool
	set      func(p *configParser, value string)
}

var directives = []directive{
	{"UseSyslog", "", true, true, (*configParser).setUseSyslog},
	{"LogFile", "", false, true, func(p *configParser, v string) { p.setPath(&p.config.LogFile, v) }},
	{"PidFile", "", false, true, func(p *configParser, v string) { p.setPath(&p.config.PidFile, v) }},
	{"Interface", "", true, true, (*configParser).setInterface},
	{"Firewall", "", false, true, (*configParser).setFirewall},
	{"Firewall_Mark", "", false, true, (*configParser).setFirewallMark},
	{"StateDir", "", false, true, (*configParser).setStateDir},
	{"Sequence", "", true, false, func(p *configParser, v string) { p.door.Sequence = readSequence(&p.ini, v, parseItem) }},
	{"TOTP", "", true, false, func(p *configParser, v string) {
		var err error
		if p.door.TOTP, err = parseTOTP(withoutComment(v)); err != nil {
			p.failSecret(v, "TOTP: %v", err)
		}
	}},
	{"One_Time_Sequences", "", true, false, (*configParser).setOneTime},
	{"Key", "", true, false, (*configParser).setKey},
	{"Key_Port", "", false, true, func(p *configParser, v string) {
		k, err := parseKnock(withoutComment(v))
		if p.config.KeyPort = k.Port; err != nil || k.Proto != tcp {
			p.fail("Key_Port is a UDP port from 1 to 65535, such as %d, not %q", defaultKeyPort, v)
		}
	}},
	{"Seq_Timeout", "Timeout", true, false, func(p *configParser, v string) { p.setSeconds(&p.door.SeqTimeout, v) }},
	{"TCPFlags", "", true, false, (*configParser).setFlags},
	{"Target", "", true, false, (*configParser).setTarget},
	{"Start_Command", "Command", true, false, func(p *configParser, v string) { p.door.Start = v }},
	{"Start_Command_6", "Command_6", true, false, func(p *configParser, v string) { p.door.Start6 = v }},
	{"Cmd_Timeout", "", true, false, func(p *configParser, v string) { p.setSeconds(&p.door.CmdTimeout, v) }},
	{"Stop_Command", "", true, false, func(p *configParser, v string) { p.door.Stop = v }},
	{"Stop_Command_6", "", true, false, func(p *configParser, v string) { p.door.Stop6 = v }},
	{"Seq_Cooldown", "", true, false, func(p *configParser, v string) { p.setSeconds(&p.door.Cooldown, v) }},
	{"Ignore_Ports", "", false, true, func(p *configParser, v string) {
		p.config.IgnorePorts = readPorts(p, maxIgnorePorts, "let doors that are near them have Decoys = no", v, func(item string) (Knock, error) {
			b, err := parseOpenPort(item)
			if err == nil && b != (Behind{Knock: b.Knock}) {
				err = errPort
			}
			return b.Knock, err
		})
	}},
	{"Ring_Size", "", false, true, func(p *configParser, v string) {
		p.setNumber("how many megabytes of packets can wait", &p.config.RingSize, 1<<20, maxRingMB, v)
	}},
	{"Allow", "", true, false, func(p *configParser, v string) { p.door.Allow = p.parseNetworks(maxAllow, v) }},
	{"Decoys", "", true, false, func(p *configParser, v string) { p.setYes(&p.door.Decoys, v) }},
	{"Strict", "", true, false, func(p *configParser, v string) { p.setYes(&p.door.Strict, v) }},
	{"Max_Open", "", true, false, func(p *configParser, v string) {
		p.setNumber("how many sources a door is open for at once", &p.door.MaxOpen, 1, maxMaxOpen, v)
	}},
	{"Open_Ports", "", true, false, func(p *configParser, v string) {
		p.door.OpenPorts, p.door.Behind = nil, nil
		for _, b := range readPorts(p, maxOpenPorts, "put the rest into another door of the same sequence", v, parseOpenPort) {
			if masked := b.At.Masked(); b.At != masked {
				p.warn("%s: %q is read as %v", p.name, b.At, masked)
				b.At = masked
			}
			if b.At.IsValid() || b.forwarded() {
				p.door.Behind = append(p.door.Behind, b)
			} else {
				p.door.OpenPorts = append(p.door.OpenPorts, b.Knock)
			}
		}
	}},
	{"Hide", "", true, false, func(p *configParser, v string) { p.setYes(&p.door.Hide, v) }},
	{"Hide_Except", "", true, false, func(p *configParser, v string) { p.door.HideExcept = p.parseNetworks(maxHideExcept, v) }},
}

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
func (p *configParser) setUseSyslog(value string) {
	yes, ok := parseYes(value)
	if !ok && withoutComment(value) != "" {
		p.fail("UseSyslog stands alone on its line, or is yes or no, not %q", value)
		return
	}
	p.config.UseSyslog = yes || !ok
}

func (p *configParser) setFirewall(value string) {
	switch name := strings.ToLower(withoutComment(value)); name {
	case "auto", "iptables", "nft":
		p.config.Firewall = name
	default:
		p.fail("Firewall is auto, iptables or nft, not %q", value)
	}
}

func (p *configParser) setFirewallMark(value string) {
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
func (p *configParser) setStateDir(value string) {
	dir := withoutComment(value)
	if !strings.HasPrefix(dir, "/") {
		p.fail("StateDir is a directory's absolute path, such as /var/lib/sesame, not %q", value)
		return
	}
	p.config.StateDir = dir
}

func (p *configParser) setPath(to *string, value string) {
	if value != withoutComment(value) {
		p.warn("%s: the comment behind the path is read as a part of it: put it on a line of its own", p.name)
	}
	*to = value
}

func (p *configParser) setOneTime(value string) {
	p.setPath(&p.door.OneTime, value)
	if value == "" {
		p.fail("One_Time_Sequences needs a file")
	}
}

// setKey tells what is wrong without the value, which is secret.
func (p *configParser) setKey(value string) {
	words := strings.Fields(withoutComment(value))
	strict := len(words) == 4 && strings.EqualFold(words[3], "strict")
	if len(words) != 3 && !strict {
		p.fail("Key is a name and two keys in base64, and strict after them if you like: Key = alice KEY_BASE64 HMAC_KEY_BASE64")
		return
	}
	secret, err := decodeKey(words[1], maxSecret)
	auth, authErr := decodeKey(words[2], maxAuth)
	switch {
	case err != nil:
		p.fail("Key %s: the first key: %v", words[0], err)
	case authErr != nil:
		p.fail("Key %s: the second key, for the HMAC: %v", words[0], authErr)
	case bytes.Equal(secret, auth):
		p.fail("Key %s: both keys are the same one: sesame init --key makes two", words[0])
	case len(p.door.Keys) == maxKeys:
		p.fail("Key: a door has at most %d of them", maxKeys)
	default:
		p.door.Keys = append(p.door.Keys, Key{words[0], secret, auth, strict})
	}
}

// setInterface takes what parseInterfaces does.
func (p *configParser) setInterface(value string) {
	value = strings.Trim(withoutComment(value), `"'`)
	switch {
	case value == "" && p.door != nil:
		p.fail("Interface needs a value: Interface = ..., or delete the line")
		return
	case value == "":
		p.warn("Interface is empty: all interfaces but lo are listened on")
		value = everyInterface
	}
	list, err := parseInterfaces(value)
	switch {
	case err != nil:
		p.fail("Interface: %v", err)
	case p.door != nil:
		p.door.Interfaces = list
	default:
		p.config.Interfaces, p.config.InterfaceLine = list, p.line
	}
}

const loopback = "lo"

// parseInterfaces reads names, labels of addresses (eth0:1), beginnings of names with a * behind them, and auto, with
// commas between them. any, all and * are everyInterface, with loopback if it is named, too, and nothing else.
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
		// dev_valid_name in the kernel's net/core/dev.c; with a colon it is an address's label.
		case name == "", name == ".", name == "..", strings.ContainsAny(name, "/ \t*?"), pattern && strings.Contains(name, ":"),
			strings.HasPrefix(name, ":"), strings.HasSuffix(name, ":"):
			return nil, fmt.Errorf("%q is no interface: names with commas between them (eth0, ppp*), any, or auto", item)
		}
		if !slices.Contains(list, item) {
			list = append(list, item)
		}
	}
	return list, nil
}

func (p *configParser) setFlags(value string) {
	flags := &p.door.Flags
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

func (p *configParser) setTarget(value string) {
	addr, err := netip.ParseAddr(withoutComment(value))
	if err != nil || addr.Zone() != "" {
		p.fail("Target is an address such as 192.0.2.7 or 2001:db8::7, not %q", value)
		return
	}
	p.door.Target = addr.Unmap()
}

// readPorts reads ports with commas between them. They are no secret: whoever scans the host finds them open or not.
func readPorts[Port interface {
	comparable
	fmt.Stringer
}](p *configParser, most int, otherwise, value string, parse func(item string) (Port, error)) (ports []Port) {
	items := strings.Split(withoutComment(value), ",")
	if len(items) > most {
		p.fail("%s: 1 to %d ports, not %d: %s", p.name, most, len(items), otherwise)
		return nil
	}
	for _, item := range items {
		item = strings.TrimSpace(item)
		k, err := parse(item)
		switch {
		case err != nil:
			p.fail("%s: %v, not %q", p.name, err, item)
		case slices.Contains(ports, k):
			p.warn("%s: %v stands there twice", p.name, k)
		default:
			ports = append(ports, k)
		}
	}
	return ports
}

func (p *configParser) setYes(to *bool, value string) {
	yes, ok := parseYes(value)
	if !ok {
		p.fail("%s is yes or no, not %q: %s = yes", p.name, value, p.name)
		return
	}
	*to = yes
}

// parseNetworks reads addresses and networks with commas between them.
func (p *configParser) parseNetworks(most int, value string) (networks []netip.Prefix) {
	items := strings.Split(withoutComment(value), ",")
	if len(items) > most {
		p.fail("%s: at most %d addresses and networks, not %d: join them to larger networks", p.name, most, len(items))
		return nil
	}
	for _, item := range items {
		item = strings.TrimSpace(item)
		prefix, err := parsePrefix(item)
		if err != nil {
			p.fail("%s is addresses and networks with commas between them, such as 192.168.1.0/24, 2001:db8::/32, 10.0.0.7, "+
				"not %q", p.name, item)
			continue
		}
		if prefix != prefix.Masked() {
			p.warn("%s: %q is read as %v", p.name, item, prefix.Masked())
		}
		networks = append(networks, prefix.Masked())
	}
	return networks
}

// setNumber reads how many of a unit there are, from 1 up.
func (p *configParser) setNumber(what string, to *int, unit, most int, value string) {
	n, err := strconv.ParseUint(withoutComment(value), 10, 32)
	if err != nil || n == 0 || n > uint64(most) {
		p.fail("%s is %s, from 1 to %d, not %q", p.name, what, most, value)
		return
	}
	*to = int(n) * unit
}

// setSeconds reads a whole number of seconds. Like knockd it takes the leading digits of "5s" or "10 # comment".
func (p *configParser) setSeconds(to *time.Duration, value string) {
	digits := value[:len(value)-len(strings.TrimLeft(value, "0123456789"))]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > maxSeconds {
		p.fail("%s is a number of seconds from 0 to %d, not %q", p.name, maxSeconds, value)
		return
	}
	if digits != withoutComment(value) {
		p.warn("%s: %q is read as %d seconds", p.name, value, n)
	}
	*to = time.Duration(n) * time.Second
}

// finish resolves what depends on several lines and looks for what will surprise.
func (p *configParser) finish() {
	for i, d := range p.config.Doors {
		s := p.doors[i]
		d.Lines = s.seen
		p.at(s, "")
		if s.seen["Start_Command_6"] == 0 {
			d.Start6 = d.Start
		}
		if s.seen["Stop_Command_6"] == 0 {
			d.Stop6 = d.Stop
		}
		if d.OneTime != "" && d.Sequence != nil {
			p.warn("it has a Sequence and One_Time_Sequences: the one-time ones hold")
			d.Sequence = nil
		}
		wrong := s.wrong
		p.checkPorts(s, d)
		p.at(s, "")
		if d.Sequence == nil && !wrong && d.OneTime == "" && d.Keys == nil { // else Sequence may be the line that is wrong
			p.fail("a door needs a Sequence, or One_Time_Sequences, or a Key: Sequence = 7000,8000:udp,9000")
		}
		d.CodeAt = max(slices.IndexFunc(d.Sequence, Knock.half), 0)
		switch has := d.TOTP.secret != ""; {
		case wrong:
		case has != d.hasCode():
			p.fail("TOTP and totp in the Sequence need each other: Sequence = 7000, totp")
		case has && s.seen["Seq_Timeout"] == 0:
			d.SeqTimeout = codeSeqTimeout
		}
	}
	p.checkCodes()
	p.checkTargets()
	names, prefixes := nameSurprises(p.config.Doors), prefixSurprises(p.config.Doors)
	for i, d := range p.config.Doors {
		s, texts := p.doors[i], []string{prefixes[i], names[i]}
		if !s.wrong { // else what surprises may come of that
			if k := (Knock{p.config.KeyPort, udp}); slices.Contains(d.Sequence, k) && hasKeys(p.config.Doors) {
				texts = append(texts, fmt.Sprintf("a knock is Key_Port, %v, which anybody may know: take another one", k))
			}
			texts = append(d.surprises(s.seen["Cmd_Timeout"] != 0), texts...)
		}
		for _, text := range texts {
			if text != "" {
				p.at(s, "").warn("%s", text)
			}
		}
		p.numberInterfaces(s, d)
	}
	switch {
	case p.doors != nil:
	case p.options == nil && p.errors == nil:
		p.at(nil, "").fail("there is no section in it: has its text been lost? a door is [name] and what belongs to it: " +
			"[ssh], Sequence = 7000,8000:udp,9000")
	default:
		p.warn("there is no door: nothing can be opened")
	}
}

// checkPorts finds what does not go together with Open_Ports, or not without it.
func (p *configParser) checkPorts(s *section, d *Door) {
	const hides = "%s without Open_Ports hides nothing: write the ports to hide (Open_Ports = 22), or delete this line"
	ports, hide, except := s.seen["Open_Ports"] != 0, s.seen["Hide"] != 0, s.seen["Hide_Except"] != 0
	switch {
	case s.wrong: // the line that is missing may be one that is wrong
	case hide && !ports:
		p.at(s, "Hide").fail(hides, "Hide")
	case except && !ports:
		p.at(s, "Hide_Except").fail(hides, "Hide_Except")
	case d.Keys != nil && !ports:
		p.at(s, "Key").fail("Key without Open_Ports opens nothing: a packet names ports, which must be among them: Open_Ports = 22")
	case except && !d.Hide:
		p.at(s, "Hide_Except").fail("Hide_Except without Hide = yes: nothing is hidden: write Hide = yes, or delete this line")
	}
	if d.Target.IsValid() && (d.OpenPorts != nil || slices.ContainsFunc(d.Behind, Behind.forwarded)) {
		p.at(s, "Open_Ports").fail("Open_Ports opens ports of this host, and Target is for another one: write that one's address before its ports: Open_Ports = %v",
			Behind{Knock: Knock{443, tcp}, At: netip.PrefixFrom(d.Target, d.Target.BitLen())})
	}
	if ports && d.CmdTimeout == 0 {
		p.at(s, "Cmd_Timeout").fail("Cmd_Timeout = 0 closes Open_Ports at once: "+
			"write how many seconds they are to be open, from 1 to %d", maxSeconds)
	}
}

// checkCodes finds ports among those of codes that mean something else, and secrets that are short.
func (p *configParser) checkCodes() {
	for i, d := range p.config.Doors {
		if !d.hasCode() || d.TOTP.secret == "" { // which has been told
			continue
		}
		if n := len(d.TOTP.secret); n < shortSecret {
			p.at(p.doors[i], "TOTP").warn("TOTP: a secret of %d bytes can be guessed from the codes that somebody has seen: take %d or more", n, shortSecret)
		}
		for _, o := range p.config.Doors {
			ports := append(slices.Clone(o.OpenPorts), o.Sequence...)
			for _, b := range o.Behind {
				ports = append(ports, b.Knock)
			}
			if slices.ContainsFunc(ports, d.takesHalf) {
				p.at(p.doors[i], "TOTP").fail("TOTP: a knock or one of Open_Ports of door %q is among the ports of its codes, %d to %d: "+
					"write another base: TOTP = SECRET 30000", o.Name, d.TOTP.base, d.TOTP.base+codeHalves-1)
			}
		}
	}
}

// checkTargets finds ports that lead to two places at once.
func (p *configParser) checkTargets() {
	type asked struct {
		Knock
		at  netip.Prefix
		is4 bool
	}
	first, line := map[asked]Behind{}, map[asked]int{}
	for i, d := range p.config.Doors {
		all := slices.Clone(d.Behind)
		for _, k := range d.OpenPorts {
			all = append(all, Behind{Knock: k})
		}
		for _, b := range all {
		families:
			for _, is4 := range []bool{true, false} {
				at := asked{b.Knock, b.At, is4}
				was, known := first[at]
				switch {
				case b.forwarded() && b.is4() != is4, b.At.IsValid() && !b.forwarded():
				case !known:
					first[at], line[at] = b, d.line("Open_Ports")
				case was != b:
					p.at(p.doors[i], "Open_Ports").fail("Open_Ports: %v, but on line %d the same port leads elsewhere (%v): take another port", b, line[at], was)
					break families // it is told once
				}
			}
		}
	}
}

// numberInterfaces gives a door the number of its list of interfaces. Doors with the same one share it.
func (p *configParser) numberInterfaces(s *section, d *Door) {
	same := func(list []string) bool { return slices.Equal(list, d.Interfaces) }
	if d.Interfaces == nil {
		return
	}
	if !slices.ContainsFunc(p.config.ofDoors, same) {
		p.config.ofDoors = append(p.config.ofDoors, d.Interfaces)
		if len(p.config.ofDoors) > maxLists {
			p.at(s, "Interface").fail("Interface: there are more than %d different lists of interfaces: "+
				"let doors share some", maxLists)
		}
	}
	d.List = uint8(1 + slices.IndexFunc(p.config.ofDoors, same))
}

// maxLists is how many doors can have lists of interfaces that differ. Link.Outside has a bit for each, and one for the
// configuration's.
const maxLists = 63

const defaultConfigFile = "/etc/knockd.conf"

// closes is whether a door has something to close, which must be written down before it is opened.
func (c *Config) closes() bool {
	return slices.ContainsFunc(c.Doors, func(d *Door) bool { return d.Stop+d.Stop6 != "" || d.native() })
}

// commands are the names of the doors that run any.
func (c *Config) commands() (doors []string) {
	for _, d := range c.Doors {
		if d.Start+d.Start6+d.Stop+d.Stop6 != "" {
			doors = append(doors, d.Name)
		}
	}
	return doors
}

func (c *Config) hasCodes() bool { return slices.ContainsFunc(c.Doors, (*Door).hasCode) }

// files are those that are opened or removed while the daemon runs; "" is none.
func (c *Config) files() []string {
	files := []string{c.File, c.LogFile, c.PidFile}
	for _, d := range c.Doors {
		files = append(files, d.OneTime)
	}
	return files
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
	if info, statErr := f.Stat(); statErr == nil && othersRead(info) {
		warning := fmt.Sprintf("%s: others can read it, and it holds the secret: chmod 600 %s", file, file)
		if !c.hasCodes() {
			c.Warnings = append(c.Warnings, warning)
		} else if err == nil {
			err = errors.New(warning)
		}
	}
	return c, err
}

func othersRead(info os.FileInfo) bool { return info.Mode().IsRegular() && info.Mode()&0o004 != 0 }

// oneTimeFiles reads the one-time files of all doors. Beside the mistakes in them it returns what is wrong with a file
// as a whole, each with the line of the door that names it.
func (c *Config) oneTimeFiles() (unused map[string][]oneTimeLine, mistakes, unreadable configErrors) {
	unused = map[string][]oneTimeLine{}
	for _, d := range c.Doors {
		if _, known := unused[d.OneTime]; known || d.OneTime == "" {
			continue
		}
		unused[d.OneTime] = nil
		text, err := readOneTime(d.OneTime)
		if err != nil {
			text := fmt.Sprintf("%s:%d: door %q: One_Time_Sequences: %v", c.File, d.Line, d.Name, err)
			unreadable = append(unreadable, configError{text, "", d.Line})
			continue
		}
		lines, wrong := parseOneTime(d.OneTime, text)
		unused[d.OneTime], mistakes = lines, append(mistakes, wrong...)
	}
	return unused, mistakes, unreadable
}
