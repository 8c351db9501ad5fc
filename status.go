//go:build linux

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Request is what a client asks for: the status, or to close doors.
type Request struct {
	Close  bool       // else the status
	Door   string     // "": every door
	Source netip.Addr // the zero Addr: for every source; with a zone: for those on that link
}

// Ask is a request that waits for the daemon's answer. The channel has room for it, and takes one.
type Ask struct {
	Request
	answer chan Answer
}

// Answer is the daemon's answer to a request.
type Answer struct {
	Status  Status
	Closing int   // openings that are being closed
	Lifted  int   // bars that have been lifted
	Err     error // why the request cannot be met, in lines without secrets
}

// wants reports whether an opening is one of those to be closed.
func (r Request) wants(door string, source netip.Addr, link string) bool {
	return r.Close && (r.Door == "" || r.Door == door) &&
		(!r.Source.IsValid() || r.Source.WithZone("") == source.Unmap().WithZone("")) &&
		(r.Source.Zone() == "" || r.Source.Zone() == link)
}

func (r Request) String() string {
	if !r.Close {
		return "status"
	}
	s := "close *"
	if r.Door != "" {
		s = "close " + strconv.Quote(r.Door)
	}
	if r.Source.IsValid() {
		s += " " + r.Source.String()
	}
	return s
}

// LinkState is a link that is listened on, or an item of a list of interfaces that no link fits.
type LinkState struct {
	Name      string
	State     string
	Addresses []netip.Addr
	PortOf    string // the link that its packets come in on, if the list that names it does not name that one; else ""
}

const absent = "absent"

// String is the state and the addresses: up, 192.0.2.1, fe80::1. Of a port it says what that means.
func (s LinkState) String() string {
	text := s.State
	for _, a := range s.Addresses {
		text += ", " + a.String()
	}
	if s.PortOf != "" {
		text += fmt.Sprintf("; %[1]s is a port of %[2]s: its packets come in on %[2]s, so ports hidden on %[1]s are hidden on all of %[2]s", s.Name, s.PortOf)
	}
	return text
}

// odd is whether a person should know of it.
func (s LinkState) odd() bool { return s.State == absent || s.PortOf != "" }

// news is a log line. there names all links.
func (s LinkState) news(there string) string {
	text := fmt.Sprintf("there is no interface %s yet: it is waited for", s.Name)
	switch {
	case s.State != absent:
		return fmt.Sprintf("interface %s: %v", s.Name, s)
	case s.Name == autoInterface:
		text = "no interface holds a default route yet: one is waited for"
	case strings.HasSuffix(s.Name, everyInterface):
		text = fmt.Sprintf("there is no interface %s yet: one is waited for", s.Name)
	}
	return text + ": there are " + there
}

// Meter is where the reader tells its counts to whoever asks. To tell them allocates nothing.
type Meter struct{ packets, drops, hits, attempts, grants atomic.Uint64 }

func (m *Meter) set(c Counters) {
	m.packets.Store(c.Packets)
	m.drops.Store(c.KernelDrops)
	m.hits.Store(c.Hits)
	m.attempts.Store(c.Attempts)
	m.grants.Store(c.Grants)
}

func (m *Meter) read() Counters {
	return Counters{
		Packets: m.packets.Load(), KernelDrops: m.drops.Load(), Hits: m.hits.Load(), Attempts: m.attempts.Load(), Grants: m.grants.Load(),
	}
}

// Status is what `sesame status` shows. Who makes one gives it away: nothing in it may change any more.
type Status struct {
	Version     string
	Pid         int
	Uptime      time.Duration
	Listening   string // eth0, or any (all interfaces but lo: ...)
	Links       []LinkState
	Config      string // file
	ConfigRead  time.Time
	ConfigError string // why it runs with the kept configuration, as ReloadError; "" if it does not
	ReloadError string // of the last reload, a line for each mistake, without secrets; "" if it went well
	Firewall    string // which one and why; "" if no door needs one
	// FirewallWarnings are what will not work as one might think, and FirewallSince is since when it is so.
	FirewallWarnings []string
	FirewallSince    time.Duration
	Open             []OpenDoor
	Failed           []FailedClose
	Bars             []BarredSource
	MoreBars         int // that Bars does not name
	Counters         Counters
}

// OpenDoor is a door that is open, being opened or being closed for one source.
type OpenDoor struct {
	Door     string
	Source   netip.Addr
	Link     string // the interface that it was knocked on
	State    string // opening, open, closing, or failed: its start command did, and there is nothing else to open it
	Ports    []Knock
	Since    time.Duration // how long ago it was opened
	ClosesIn time.Duration // 0: at once, or no time is set
	// StartError is how the start command of an open or failed one failed: status 1, signal 9, not run. "": it did not.
	StartError string
	Behind     []Behind // what it opens beside Ports
}

// FailedClose is a door whose closing was tried often enough and given up. It is kept until the next reload.
type FailedClose struct {
	Door   string
	Source netip.Addr
	Since  time.Duration // how long ago it was given up
	Tries  int
	Error  string // of the last try
}

// BarredSource is who opens nothing at a door for a time, as decoys have been hit. The latest comes first.
type BarredSource struct {
	Door   string
	Source string // an address, or an IPv6 /64
	Link   string // of a link-local source, else ""
	Decoy  Knock  // the latest that was hit
	EndsIn time.Duration
}

// Counters count since the daemon's start, but for Attempts, which are those in progress now.
type Counters struct {
	Packets, KernelDrops, Hits, Attempts, Grants, CommandFailures uint64
}

// sorted is the status with its lists by door and source.
func (s Status) sorted() Status {
	s.Open, s.Failed = slices.Clone(s.Open), slices.Clone(s.Failed)
	sort.SliceStable(s.Open, func(i, j int) bool {
		a, b := &s.Open[i], &s.Open[j]
		return cmp.Or(cmp.Compare(a.Door, b.Door), a.Source.Compare(b.Source), cmp.Compare(a.Link, b.Link)) < 0
	})
	sort.SliceStable(s.Failed, func(i, j int) bool {
		a, b := &s.Failed[i], &s.Failed[j]
		return cmp.Or(cmp.Compare(a.Door, b.Door), a.Source.Compare(b.Source)) < 0
	})
	return s
}

// String is the status for people, in lines that each end with \n. Nothing in it can drive a terminal.
func (s Status) String() string {
	s = s.sorted()
	var b strings.Builder
	for line := range strings.Lines(s.ConfigError) {
		fmt.Fprintf(&b, "%s\n", printable(strings.TrimSuffix(line, "\n")))
	}
	fmt.Fprintf(&b, "sesame %s, process %d, up %v, listening on %s\n", printable(s.Version), s.Pid, s.Uptime.Truncate(time.Second), printable(s.Listening))
	var rows [][]string
	for _, l := range s.Links {
		rows = append(rows, []string{"  " + l.Name, printable(l.String())})
	}
	b.WriteString(columns(rows))
	fmt.Fprintf(&b, "configuration %s, read %s\n", printable(s.Config), s.ConfigRead.Format(time.DateTime))
	if s.ReloadError != "" {
		fmt.Fprintf(&b, "the last reload failed:\n")
		for line := range strings.Lines(s.ReloadError) {
			fmt.Fprintf(&b, "  %s\n", printable(strings.TrimSuffix(line, "\n")))
		}
	}
	if s.Firewall != "" {
		fmt.Fprintf(&b, "firewall: %s (for %v)\n", printable(s.Firewall), s.FirewallSince.Truncate(time.Second))
	}
	for _, w := range s.FirewallWarnings {
		fmt.Fprintf(&b, "  warning: %s\n", printable(w))
	}
	b.WriteString("\n")
	rows = nil
	for _, o := range s.Open {
		rows = append(rows, []string{o.Door, o.who(), cmp.Or(joinPorts(o.Ports, o.Behind), "-"), o.progress()})
	}
	b.WriteString(cmp.Or(columns(rows), "no door is open\n"))
	if len(s.Failed) > 0 {
		b.WriteString("\nnot closed, and not tried again before a reload:\n")
		rows = nil
		for _, f := range s.Failed {
			rows = append(rows, []string{f.Door, f.Source.String(), fmt.Sprintf("given up %ds ago, tried %d %s: %s",
				seconds(f.Since), f.Tries, plural(f.Tries, "time"), strings.ReplaceAll(strings.TrimRight(f.Error, "\n"), "\n", "; "))})
		}
		b.WriteString(columns(rows))
	}
	if len(s.Bars) > 0 {
		b.WriteString("\nbarred, as ports near the knocks were hit:\n")
		rows = nil
		for _, r := range s.Bars {
			rows = append(rows, []string{r.Door, r.who(), r.Decoy.String(), fmt.Sprintf("ends in %ds", seconds(r.EndsIn))})
		}
		b.WriteString(columns(rows))
	}
	if s.MoreBars > 0 {
		fmt.Fprintf(&b, "and %d more\n", s.MoreBars)
	}
	c := s.Counters
	fmt.Fprintf(&b, "\npackets %d, lost by the kernel %d, hits %d, attempts in progress %d, grants %d, commands failed %d\n",
		c.Packets, c.KernelDrops, c.Hits, c.Attempts, c.Grants, c.CommandFailures)
	return b.String()
}

// who is the source, with the link where the address means nothing without it.
func (o OpenDoor) who() string {
	if o.Source.IsLinkLocalUnicast() && o.Source.Is6() {
		return o.Source.WithZone(o.Link).String()
	}
	return o.Source.String()
}

// who is the source, with the link where the address means nothing without it.
func (r BarredSource) who() string {
	if r.Link != "" {
		return r.Source + "%" + r.Link
	}
	return r.Source
}

func (o OpenDoor) progress() string {
	failed := fmt.Sprintf("start command failed (%s)", o.StartError)
	switch {
	case o.State == "failed":
		return fmt.Sprintf("%s, stop command in %ds", failed, seconds(o.ClosesIn))
	case o.State != "open":
		return o.State
	}
	s := fmt.Sprintf("open for %ds", seconds(o.Since))
	if o.ClosesIn > 0 {
		s += fmt.Sprintf(", closes in %ds", seconds(o.ClosesIn))
	}
	if o.StartError != "" {
		s += ", " + failed
	}
	return s
}

func seconds(d time.Duration) int64 { return max(int64(d/time.Second), 0) }

// columns prints rows of equal length, all columns but the last as wide as they need to be. text/tabwriter would take a
// tab in a name for the end of its column.
func columns(rows [][]string) string {
	var b strings.Builder
	var widths []int
	for _, row := range rows {
		widths = append(widths, make([]int, max(len(row)-len(widths), 0))...)
		for i := range row {
			row[i] = printable(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for _, row := range rows {
		last := len(row) - 1
		for i, text := range row[:last] {
			fmt.Fprintf(&b, "%-*s  ", widths[i], text)
		}
		b.WriteString(row[last] + "\n")
	}
	return b.String()
}

// json is the status for programs: one object on one line. Names and places stay; new ones may be added. Times are RFC
// 3339, durations whole seconds, lists never null. The manual, sesame(8), says what each member is.
func (s Status) json() string {
	s = s.sorted()
	var links, open, failed, bars, warnings []string
	for _, w := range s.FirewallWarnings {
		warnings = append(warnings, quoteJSON(w))
	}
	for _, l := range s.Links {
		var addresses []string
		for _, a := range l.Addresses {
			addresses = append(addresses, quoteJSON(a.String()))
		}
		links = append(links, fmt.Sprintf(`{"name":%s,"state":%s,"addresses":[%s],"port_of":%s}`, quoteJSON(l.Name), quoteJSON(l.State), strings.Join(addresses, ","), quoteJSON(l.PortOf)))
	}
	for _, o := range s.Open {
		var ports []string
		for _, k := range o.Ports {
			ports = append(ports, quoteJSON(k.String()))
		}
		for _, b := range o.Behind {
			ports = append(ports, quoteJSON(b.String()))
		}
		open = append(open, fmt.Sprintf(`{"door":%s,"source":%s,"link":%s,"state":%s,"start_error":%s,"ports":[%s],"since_seconds":%d,"closes_in_seconds":%d}`,
			quoteJSON(o.Door), quoteJSON(o.Source.String()), quoteJSON(o.Link), quoteJSON(o.State), quoteJSON(o.StartError), strings.Join(ports, ","), seconds(o.Since), seconds(o.ClosesIn)))
	}
	for _, f := range s.Failed {
		failed = append(failed, fmt.Sprintf(`{"door":%s,"source":%s,"since_seconds":%d,"tries":%d,"error":%s}`,
			quoteJSON(f.Door), quoteJSON(f.Source.String()), seconds(f.Since), f.Tries, quoteJSON(f.Error)))
	}
	for _, b := range s.Bars {
		bars = append(bars, fmt.Sprintf(`{"door":%s,"source":%s,"link":%s,"port":%s,"ends_in_seconds":%d}`,
			quoteJSON(b.Door), quoteJSON(b.Source), quoteJSON(b.Link), quoteJSON(b.Decoy.String()), seconds(b.EndsIn)))
	}
	c := s.Counters
	return fmt.Sprintf(`{"version":%s,"pid":%d,"uptime_seconds":%d,"listening":%s,"links":[%s],"config":%s,"config_read":%s,"config_error":%s,"reload_error":%s,"firewall":%s,"firewall_since_seconds":%d,"firewall_warnings":[%s],`+
		`"open":[%s],"failed":[%s],"bars":[%s],"more_bars":%d,`+
		`"counters":{"packets":%d,"kernel_drops":%d,"hits":%d,"attempts":%d,"grants":%d,"command_failures":%d}}`+"\n",
		quoteJSON(s.Version), s.Pid, seconds(s.Uptime), quoteJSON(s.Listening), strings.Join(links, ","), quoteJSON(s.Config), quoteJSON(s.ConfigRead.Format(time.RFC3339)),
		quoteJSON(s.ConfigError), quoteJSON(s.ReloadError), quoteJSON(s.Firewall), seconds(s.FirewallSince), strings.Join(warnings, ","), strings.Join(open, ","), strings.Join(failed, ","), strings.Join(bars, ","), s.MoreBars,
		c.Packets, c.KernelDrops, c.Hits, c.Attempts, c.Grants, c.CommandFailures)
}

// quoteJSON makes s a JSON string (RFC 8259, section 7). What is no UTF-8 becomes U+FFFD. encoding/json would leave
// the control characters from 0x7f on as they are.
func quoteJSON(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r >= 0x7f && r < 0xa0: // those from 0x7f on need not be escaped, but can drive a terminal
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
