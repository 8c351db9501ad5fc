//go:build linux

package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

const (
	uciRendered = "/var/etc/sesame.conf" // what the init script makes of it

	initKnocks  = 4  // of 15 bits each, less than a bit for what is left out
	codeKnocks  = 2  // before a code: one that scans hit by chance would have wrong codes come with each
	initSeconds = 30 // for which the door opens
	initDraws   = 1000

	// uciShipped is what uci shows of the door of dist/openwrt/sesame.config.
	uciShipped = "sesame.ssh=door\nsesame.ssh.open_ports='22'\nsesame.ssh.cmd_timeout='30'\nsesame.ssh.hide='1'"
)

// unbrowsed are ports that browsers refuse (fetch.spec.whatwg.org, "bad port"), but for neighbours of them.
var unbrowsed = []Knock{{1720, tcp}, {2049, tcp}, {3659, tcp}, {4045, tcp}, {4190, tcp}, {5060, tcp}, {6000, tcp}, {6566, tcp}, {6667, tcp}, {10080, tcp}}

// knockdExample is the checksum of the doors in knockd's own example. Everybody knows their sequences.
const knockdExample = "7862d461510d8bb1"

// initOptions are also the door that is to be written.
type initOptions struct {
	name, config, ports, to, host string
	totp                          bool
	code                          TOTP    // drawn, if totp
	key, from                     string  // whose key is to be added; a folder of fwknopd's; or ""
	keyLine                       string  // the key as the door has it
	outside                       []Knock // the ports that a client asks for
	near                          []Knock // these and what listens here: no knock is near one
}

func (o *initOptions) options() []option {
	return append([]option{
		stringOption('c', "config", "FILE", "configuration (default "+defaultConfigFile+", on OpenWrt "+uciFile+")", &o.config),
		stringOption(0, "port", "PORTS", "what the door opens, such as 443,51820:udp (default 22 for a door called ssh)", &o.ports),
		stringOption(0, "to", "ADDRESS:PORT", "where the opened port leads to, on another host", &o.to),
		flagOption(0, "totp", "let the knocks end in the code of an authenticator app, which nobody can repeat", &o.totp),
		stringOption(0, "key", "NAME", "add a key, in the place of a sequence: fwknop's packets open the door", &o.key),
		stringOption(0, "from", "DIR", "write the doors of an fwknopd, whose access.conf is in DIR", &o.from),
		stringOption(0, "host", "ADDRESS", "where the client finds this host (default: the address of this host)", &o.host),
	}, helpOptions()...)
}

// check fills in what the door opens. What the configuration's parser says against that comes later.
func (o *initOptions) check() error {
	if !isPlain(o.name) || strings.EqualFold(o.name, "options") {
		return usageError(fmt.Sprintf("a door's name is made of letters, digits, - and _, and %q is not", o.name))
	}
	served, err := servedPorts(procNet)
	if err != nil {
		return err
	}
	if o.to != "" {
		_, outer, err := net.SplitHostPort(o.to)
		switch k, notPort := parseKnock(outer); {
		case err != nil || notPort != nil:
			return usageError("option --to: an address and a port are needed, such as 192.168.1.5:22")
		case o.ports == "" && slices.Contains(served, k):
			return usageError(fmt.Sprintf("option --to: port %d of this host has its own service: --port 2222 opens another one instead", k.Port))
		}
		o.ports = cmp.Or(o.ports, outer)
	}
	if o.ports == "" && o.name == "ssh" {
		o.ports = "22"
	}
	if o.ports == "" {
		return usageError("what the door opens is missing: --port 443")
	}
	for _, item := range strings.Split(o.ports, ",") {
		if k, err := parseKnock(strings.TrimSpace(item)); err == nil { // else the configuration's parser says what is wrong
			o.outside = append(o.outside, k)
		}
	}
	if o.to != "" {
		if strings.Contains(o.ports, ",") {
			return usageError("--to leads from one port to another: --port takes one port")
		}
		o.ports += " -> " + o.to
	}
	o.near = slices.Concat(served, o.outside)
	return nil
}

// section is the door as it is written, nil being any sequence.
func (o *initOptions) section(sequence []Knock) string {
	if sequence == nil {
		sequence = []Knock{{1, tcp}, {3, tcp}, {2, tcp}}
	}
	by := "Sequence    = " + plainKnocks(sequence)
	if o.key != "" {
		by = "Key         = " + o.keyLine
	} else if o.code.secret != "" {
		by += fmt.Sprintf("\n\tTOTP        = %v", o.code)
	}
	return fmt.Sprintf("[%s]\n\t%s\n\tOpen_Ports  = %s\n\tCmd_Timeout = %d\n\tHide        = yes\n",
		o.name, by, o.ports, initSeconds)
}

func plainKnocks(sequence []Knock) string {
	return strings.ReplaceAll(joinKnocks(sequence), ":tcp", "")
}

// drawCode draws a secret, of the length that RFC 4226 recommends, and takes a base whose ports are none of others.
func (o *initOptions) drawCode(random io.Reader, others []Knock) error {
	var secret [20]byte
	if _, err := io.ReadFull(random, secret[:]); err != nil {
		return fmt.Errorf("drawing a secret: %w", err)
	}
	o.code = TOTP{string(secret[:]), defaultBase}
	for slices.ContainsFunc(others, func(k Knock) bool { return k.Port-o.code.base < codeHalves }) {
		if o.code.base += codeHalves; o.code.base > 1<<16-codeHalves {
			return errors.New("there are no 1,000 ports in a row that nothing uses")
		}
	}
	return nil
}

// draw makes a sequence of n knocks that goes up and down, over ports that Linux gives to no program, and near none of others.
func draw(random io.Reader, n int, others []Knock) ([]Knock, error) {
	for range initDraws {
		drawn := make([]byte, 2*n)
		if _, err := io.ReadFull(random, drawn); err != nil {
			return nil, fmt.Errorf("drawing a sequence: %w", err)
		}
		sequence, taken, ups := []Knock(nil), slices.Clone(others), 0
		for i := range initKnocks {
			k := Knock{binary.NativeEndian.Uint16(drawn[2*i:]) % firstEphemeral, tcp}
			near := func(o Knock) bool { // no port is a decoy of two knocks
				return o.Proto == k.Proto && max(o.Port, k.Port)-min(o.Port, k.Port) <= 2*decoyReach
			}
			if k.Port < 1024 || slices.ContainsFunc(taken, near) {
				break
			}
			if i > 0 && k.Port > sequence[i-1].Port {
				ups++
			}
			sequence, taken = append(sequence, k), append(taken, k)
		}
		if len(sequence) == n && (n == codeKnocks || ups > 0 && ups < n-1) {
			return sequence, nil
		}
	}
	return nil, errors.New("no sequence is far enough from the ports that are used here")
}

// choose draws a sequence for the door, which is to be added to the text of a configuration: one that check would say
// nothing against. The door is the last one of c.
func (o *initOptions) choose(random io.Reader, file, text string) (c *Config, err error) {
	c, err = parseConfig(file, strings.NewReader(text+o.section(nil)))
	if mistakes, ok := errors.AsType[configErrors](err); ok && mistakes[0].line > strings.Count(text, "\n") {
		_, what, _ := strings.Cut(mistakes[0].text, "Open_Ports: ")
		return nil, usageError("option --port: " + what)
	}
	if err != nil {
		return nil, err
	}
	last := len(c.Doors) - 1
	others := slices.Concat(o.near, c.noDecoys())
	for _, d := range c.Doors[:last] {
		if d.Name == o.name {
			return nil, fmt.Errorf("%s:%d: there is a door %q already: choose another name", file, d.Line, d.Name)
		}
		others = append(others, d.Sequence...)
	}
	about := fmt.Sprintf("door %q: ", o.name)
	if i := slices.IndexFunc(c.Warnings, func(w string) bool { return strings.Contains(w, about) }); i >= 0 {
		return nil, errors.New(c.Warnings[i])
	}
	if o.key != "" {
		return c, nil
	}
	if !o.totp {
		c.Doors[last].Sequence, err = draw(random, initKnocks, others)
		return c, err
	}
	if err := o.drawCode(random, others); err != nil {
		return nil, err
	}
	others = append(others, unbrowsed...)
	for half := uint16(0); half < codeHalves; half += decoyReach {
		others = append(others, Knock{o.code.base + half, tcp})
	}
	drawn, err := draw(random, codeKnocks, others)
	c.Doors[last].Sequence = append(drawn, Knock{0, tcp}, Knock{0, tcp})
	return c, err
}

// writeConfig adds the door to a configuration in knockd's syntax. What others have written there stays as it is, to the
// byte, but for doors of an example. Where there is nothing, install's example gives the options.
func (o *initOptions) writeConfig(random io.Reader, links map[int]*Link) (*Config, error) {
	o.config = cmp.Or(o.config, defaultConfigFile)
	was, err := os.ReadFile(o.config)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	text := beforeDoors(string(was), links)
	c, err := o.choose(random, o.config, text)
	if err != nil {
		return nil, err
	}
	_, err = writeFile(o.config, []byte(text+o.section(c.Doors[len(c.Doors)-1].Sequence)), nil, notWritten(o.config, was))
	return c, err
}

// beforeDoors is what stands before new doors: a configuration without the doors of an example, or install's options.
func beforeDoors(text string, links map[int]*Link) string {
	if first := strings.Index(text, "[openSSH]"); first >= 0 && strings.TrimSpace(checksum(text[first:])) == knockdExample {
		text = text[:first]
	}
	begin, end := strings.Index(exampleConfig, "[options]"), strings.Index(exampleConfig, "#[")
	if text = strings.TrimSuffix(text, exampleConfig[end:]); strings.TrimSpace(text) == "" || text == exampleConfig[:end] {
		text = exampleConfig[begin:end]
		if names := strings.Join(linkNames(links, true), ","); names != "" {
			text = strings.Replace(text, "#\tInterface   = eth0\n", "\tInterface   = "+names+"\n", 1)
		}
	}
	for !strings.HasSuffix(text, "\n\n") {
		text += "\n"
	}
	return text
}

func uci(input string, args ...string) (string, error) {
	out, _, err := execute(append([]string{uciProgram, "-q"}, args...), input, inspectLimit)
	return strings.TrimSpace(out), err
}

func uciCommitted() error {
	changes, err := uci("", "changes", "sesame")
	if err == nil && changes != "" {
		err = errors.New("there are changes that nobody has committed: uci commit sesame, or uci revert sesame")
	}
	return err
}

// writeUCI adds the door to OpenWrt's configuration. It takes the place of install's example, and of no other section.
func (o *initOptions) writeUCI(random io.Reader, _ map[int]*Link) (*Config, error) {
	if strings.Contains(o.name, "-") {
		return nil, usageError("on OpenWrt a door's name is made of letters, digits and _ alone")
	}
	if err := uciCommitted(); err != nil {
		return nil, err
	}
	section, batch := "sesame."+o.name, ""
	if was, err := uci("", "show", section); err == nil {
		if was != uciShipped {
			return nil, fmt.Errorf("%s: there is a section %q already: choose another name", uciFile, o.name)
		}
		batch = "delete " + section + "\n"
	}
	rendered, _ := os.ReadFile(uciRendered)
	c, err := o.choose(random, uciFile, string(rendered))
	if err != nil {
		return nil, err
	}
	sequence := plainKnocks(c.Doors[len(c.Doors)-1].Sequence)
	batch += "set " + section + "=door\n"
	set := func(how, option, value string) { batch += how + " " + section + "." + option + "='" + value + "'\n" }
	set("set", "enabled", "1")
	how, by, value := "set", "sequence", sequence
	if o.key != "" {
		how, by, value = "add_list", "key", o.keyLine
	}
	set(how, by, value)
	if o.totp {
		set("set", "totp", o.code.String())
	}
	for _, port := range strings.Split(o.ports, ",") {
		set("add_list", "open_ports", strings.TrimSpace(port))
	}
	set("set", "cmd_timeout", fmt.Sprint(initSeconds))
	set("set", "hide", "1")
	_, err = uci(batch+"commit sesame\n", "batch")
	if text, _ := uci("", "get", section+"."+by); err == nil && text != value {
		err = errors.New("uci has not written the door")
	}
	if err != nil {
		_, _ = uci("", "revert", "sesame")
		return nil, fmt.Errorf("%s: %w", uciFile, err)
	}
	return c, os.Chmod(uciFile, 0o600)
}

// ownAddress is where the host is found: an address of a link with the default route, of IPv4 if it has one.
func ownAddress(links map[int]*Link) string {
	var own netip.Addr
	for _, l := range links {
		for _, a := range l.Addresses {
			if l.Default && a.IsGlobalUnicast() && (!own.IsValid() || a.Less(own)) { // IPv4 comes first
				own = a
			}
		}
	}
	if !own.IsValid() {
		return ""
	}
	return own.String()
}

// tell prints what a person is to do, and then the client's line, so that nothing is pasted after it.
func (o *initOptions) tell(e env, c *Config, links map[int]*Link) error {
	door := c.Doors[len(c.Doors)-1]
	say := func(format string, a ...any) { fmt.Fprintf(e.stderr, format+"\n", a...) }
	it, on := "it", ""
	if strings.Contains(o.ports, ",") {
		it = "them"
	}
	if c.File != uciFile { // where the init script knows the devices
		on = " on " + strings.ReplaceAll(strings.Join(c.Interfaces, ", "), everyInterface, "every interface")
	}
	say("%s now has a door %q, which is not in force yet.", c.File, door.Name)
	say("It opens %s for %d seconds to anyone who knocks, and hides %s from everybody else%s.", o.ports, initSeconds, it, on)
	for _, l := range links {
		if l.Default && c.File != uciFile && !namesWhole(c.Interfaces, l) {
			say("warning: knocks that come in on %s do not count: Interface = %s", l.Name, strings.Join(c.Interfaces, ","))
		}
	}
	ports := slices.DeleteFunc(append(slices.Clone(o.outside), door.Sequence...), Knock.half)
	slices.SortFunc(ports, func(a, b Knock) int { return cmp.Compare(a.Port, b.Port) }) // their order is the secret
	codes := ""
	if o.totp {
		codes = fmt.Sprintf(", and all from %d to %d", o.code.base, o.code.base+codeHalves-1)
	}
	say("If your provider has a firewall, let these ports in there, too. They are secret, too: %s%s", joinKnocks(ports), codes)
	if a, err := netip.ParseAddr(o.host); err == nil && a.IsPrivate() {
		say("%v is a private address: for clients elsewhere, name the public one by --host.", a)
	}
	if o.totp {
		o.tellPhone(door, say)
	}
	o.tellNext(e, c, say)
	say("On the client, run sesame add, and give it this line, which is secret:")
	link := clientLine{name: o.name, host: o.host, sequence: plainKnocks(door.Sequence), totp: o.code}
	if i := slices.IndexFunc(o.outside, func(k Knock) bool { return k.Proto == tcp }); i >= 0 {
		link.verify = o.outside[i].Port
	}
	_, err := fmt.Fprintln(e.stdout, link)
	return err
}

// tellPhone says how a code is knocked by hand. A browser that mixes IPv4 and IPv6 would be two sources, and complete nothing.
func (o *initOptions) tellPhone(door *Door, say func(format string, a ...any)) {
	host := o.host
	if a, err := netip.ParseAddr(host); err != nil || !a.Is4() {
		host = "IPV4-ADDRESS"
	}
	say("Put this secret into an authenticator app (time-based, six digits): %v", TOTP{o.code.secret, defaultBase})
	say("Without sesame, open these in a browser, one after the other within a minute; no page comes. If the code is 493 027:")
	ports := o.code.ports(493027)
	for i, k := range door.Sequence {
		say("  http://%s:%d/", host, cmp.Or(k.Port, ports[i%codeKnocks]))
	}
}

// tellNext says how the door comes into force.
func (o *initOptions) tellNext(e env, c *Config, say func(format string, a ...any)) {
	answer, err := fetch(cmp.Or(e.socket, defaultControl), Request{}.String())
	_, running, _ := strings.Cut(answer, "\nconfiguration ")
	running, _, _ = strings.Cut(running, ", read ")
	kept := strings.HasSuffix(running, "good.conf")
	start := initSystems[slices.IndexFunc(initSystems, initSystem.runs)].start
	if _, err := os.Stat(manifestFile); err != nil && c.File != uciFile {
		start = "sesame install\n  " + start
	}
	switch {
	case err != nil:
		say("Then start the daemon, and keep this session open until another one has come in:\n  %s", start)
	case !kept && running != c.File && (running != uciRendered || c.File != uciFile):
		say("The daemon here runs with %s, and not with this file: -c names another one.", running)
	default:
		say("Then try it here, before it is kept: sesame try")
	}
}
