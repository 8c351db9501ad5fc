package main

import (
	"slices"
	"sort"
	"strings"
)

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
