package main

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// surprises are what a door has that will not do what its owner thinks. timed says that its Cmd_Timeout is written down.
func (d *Door) surprises(timed bool) []string {
	return slices.Concat(d.commandSurprises(timed), d.knockSurprises(), d.scanSurprises())
}

// commandSurprises are about what is run, or opened, and when that ends.
func (d *Door) commandSurprises(timed bool) []string {
	start, stop, seconds := d.Start+d.Start6, d.Stop+d.Stop6, int(d.CmdTimeout.Seconds())
	switch {
	case d.native() && !timed:
		return []string{fmt.Sprintf("Open_Ports without Cmd_Timeout: they are closed after %d seconds", seconds)}
	case d.native():
	case start == "" && stop != "":
		return []string{"a Stop_Command without a Start_Command is never run"}
	case start == "":
		return []string{"it has neither Open_Ports nor a Start_Command: knocking is only logged"}
	case stop != "" && !timed:
		return []string{fmt.Sprintf("Stop_Command without Cmd_Timeout: it runs after %d seconds", seconds)}
	case stop == "" && timed:
		return []string{"Cmd_Timeout without Stop_Command has no effect"}
	}
	return nil
}

// knockSurprises are about knocks that cannot count, and about those that programs make without knowing.
func (d *Door) knockSurprises() (texts []string) {
	has := func(kind func(k Knock) bool) bool { return slices.ContainsFunc(d.Sequence, kind) }
	if d.Keys != nil && (d.Sequence != nil || d.OneTime != "") {
		texts = append(texts, "it has a Key and a sequence: it opens by either, so it is as safe as the weaker one, the sequence: "+
			"have two doors, or leave one out")
	}
	if d.SeqTimeout == 0 && len(d.Sequence) > 1 {
		texts = append(texts, "Seq_Timeout = 0 leaves no time: the sequence can never be completed")
	}
	if !d.Flags.fit(flagSYN) && has(func(k Knock) bool { return k.Proto == tcp }) {
		texts = append(texts, "TCPFlags do not fit a connection's first packet, which carries SYN alone: "+
			"knock clients cannot open it")
	}
	if d.hasDecoys() && has(func(k Knock) bool {
		return (k.Proto == udp || d.Flags.fit(flagACK)) && k.Port >= firstEphemeral && k.Port <= lastEphemeral
	}) {
		texts = append(texts, fmt.Sprintf("a knock from %d to %d, where programs have their own ports: "+
			"answers to them may count as scans: take another one, or write TCPFlags = syn if it is TCP",
			firstEphemeral, lastEphemeral))
	}
	if has(func(k Knock) bool {
		return slices.Contains(d.OpenPorts, k) || slices.ContainsFunc(d.Behind, func(b Behind) bool { return b.Knock == k && (b.forwarded() || d.Target.IsValid()) })
	}) {
		texts = append(texts, "a knock is one of Open_Ports, too: whoever tries that port knocks: take another one")
	}
	return texts
}

// The ports that Linux gives to programs which ask for none (ip(7), ip_local_port_range).
const firstEphemeral, lastEphemeral = 32768, 60999

// scanSurprises are about a sequence that is completed by whoever tries ports in order, or one of them often.
func (d *Door) scanSurprises() []string {
	n := len(d.Sequence)
	switch {
	case d.Allow != nil || n == 0 || d.hasCode():
	case n == 1:
		return []string{"a sequence of one knock is opened by any port scan"}
	case !slices.ContainsFunc(d.Sequence, func(k Knock) bool { return k != d.Sequence[0] }):
		return []string{"a sequence of one port alone is opened by whoever tries it often: take different ones"}
	case ascend(d.Sequence) && (n == 2 && !d.hasDecoys() || d.Sequence[n-1].Port-d.Sequence[0].Port <= scanSpan):
		return []string{"a scan of a few adjacent ports in order completes the sequence: " +
			"let it go up and down, over thousands of ports"}
	case n == 2 && !d.hasDecoys():
		return []string{"a sequence of two knocks without decoys is opened by every second scan in random order: " +
			"add a third knock, or leave out Decoys = no"}
	case n == 2:
		hours := max(int((twoKnockScans * d.SeqTimeout).Round(time.Hour).Hours()), 1)
		return []string{fmt.Sprintf("a sequence of two knocks is opened by one in %d scans in random order, "+
			"so in about %d %s by scanning again and again: add a third knock", twoKnockScans, hours, plural(hours, "hour"))}
	}
	return nil
}

// twoKnockScans is how many scans of all ports in random order it takes to open a door of two knocks: one is barred before,
// for Seq_Timeout, unless it hits the knocks before the decoys, in their order, or after one decoy: 2/(130*129).
const twoKnockScans = 8400

// scanSpan is how far apart the first and the last of three or more ascending knocks are at most where check warns.
const scanSpan = 20

// ascend reports whether the knocks are of one protocol, and each port is higher than the one before it.
func ascend(sequence []Knock) bool {
	for i := range len(sequence) - 1 {
		if sequence[i+1].Proto != sequence[i].Proto || sequence[i+1].Port <= sequence[i].Port {
			return false
		}
	}
	return true
}

// prefixSurprises are about doors that open while another one's sequence is being knocked, each at its door's place; ""
// is none.
func prefixSurprises(doors []*Door) []string {
	said := make([]string, len(doors))
	// Sorted, a sequence stands directly before those that begin with it, or before a run of such ones.
	var byText []int
	texts := make([]string, len(doors))
	for i, d := range doors {
		if d.Sequence != nil {
			byText, texts[i] = append(byText, i), d.sequence()+","
		}
	}
	sort.SliceStable(byText, func(i, j int) bool { return texts[byText[i]] < texts[byText[j]] })
	for n := 0; n+1 < len(byText); n++ {
		i, j := byText[n], byText[n+1]
		format := "its sequence is the beginning of that of door %q (line %d): it opens on the way"
		if texts[i] == texts[j] {
			format = "it has the same sequence as door %q (line %d): both open at once"
			if doors[i].TOTP != doors[j].TOTP {
				format = "its knocks are those of door %q (line %d): each one's codes are wrong ones for the other: take another knock before totp"
			}
		}
		if strings.HasPrefix(texts[j], texts[i]) {
			said[i] = fmt.Sprintf(format, doors[j].Name, doors[j].Line)
		}
	}
	return said
}

// nameSurprises are about doors that the log does not tell apart, each at its door's place; "" is none.
func nameSurprises(doors []*Door) []string {
	said, lines := make([]string, len(doors)), map[string]int{}
	for i, d := range doors {
		if line := lines[d.Name]; line != 0 {
			said[i] = fmt.Sprintf("a door of this name is already on line %d: the log will not tell them apart", line)
		} else {
			lines[d.Name] = d.Line
		}
	}
	return said
}
