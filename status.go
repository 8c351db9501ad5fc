//go:build linux

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
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
	Name      string       `json:"name"`
	State     string       `json:"state"`
	Addresses []netip.Addr `json:"addresses"`
	PortOf    string       `json:"port_of"` // the link that its packets come in on, if the list that names it does not name that one; else ""
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
	what := fmt.Sprintf("interface %s does not exist yet: waiting for it", s.Name)
	switch {
	case s.State != absent:
		return fmt.Sprintf("interface %s: %v", s.Name, s)
	case s.Name == autoInterface:
		what = "no interface holds a default route yet: waiting for one"
	case strings.HasSuffix(s.Name, everyInterface):
		what = fmt.Sprintf("no interface fits %s yet: waiting for one", s.Name)
	}
	return fmt.Sprintf("%s (there are %s)", what, there)
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
	Version          string         `json:"version"`
	Pid              int            `json:"pid"`
	Uptime           time.Duration  `json:"uptime_seconds"`
	Listening        string         `json:"listening"` // eth0, or any (all interfaces but lo: ...)
	Links            []LinkState    `json:"links"`
	Config           string         `json:"config"` // file
	ConfigRead       time.Time      `json:"config_read"`
	ConfigError      string         `json:"config_error"`           // why it runs with the kept configuration, as ReloadError; "" if it does not
	ReloadError      string         `json:"reload_error"`           // of the last reload, a line for each mistake, without secrets; "" if it went well
	Firewall         string         `json:"firewall"`               // which one and why; "" if no door needs one
	FirewallSince    time.Duration  `json:"firewall_since_seconds"` // how long it has been that one
	FirewallWarnings []string       `json:"firewall_warnings"`      // what will not work as one might think
	Hidden           []HiddenPorts  `json:"hidden"`
	Open             []OpenDoor     `json:"open"`
	Failed           []FailedClose  `json:"failed"`
	Bars             []BarredSource `json:"bars"`
	MoreBars         int            `json:"more_bars"` // that Bars does not name
	Refused          Refusals       `json:"refused"`
	Codes            []AskedCodes   `json:"codes"`
	CodesWait        string         `json:"codes_wait"` // why no code opens a door now; "" if they do
	Counters         Counters       `json:"counters"`
}

// HiddenPorts are those of a door. To whoever has not knocked they look like a port that nobody serves.
type HiddenPorts struct {
	Door   string         `json:"door"`
	Ports  []string       `json:"ports"`      // as Open_Ports has them
	Links  []string       `json:"interfaces"` // empty: all but lo
	Except []netip.Prefix `json:"except"`     // sources that the host's own rules decide about
}

// Refusals are the last complete sequences that have opened nothing, the latest at the end.
type Refusals []Refusal

type Refusal struct {
	Door   string        `json:"door"`
	Source netip.Addr    `json:"source"`
	Reason string        `json:"reason"`
	Since  time.Duration `json:"since_seconds"` // how long ago it was; in a list that grows: when
}

const maxRefusals = 8

func (r *Refusals) add(now time.Duration, door string, source netip.Addr, reason string) {
	*r = append((*r)[max(0, len(*r)+1-maxRefusals):], Refusal{door, source, reason, now})
}

// at is the list as it is told at a time.
func (r Refusals) at(now time.Duration) Refusals {
	told := slices.Clone(r)
	for i := range told {
		told[i].Since = now - told[i].Since
	}
	return told
}

// OpenDoor is a door that is open, being opened or being closed for one source.
type OpenDoor struct {
	Door   string     `json:"door"`
	Source netip.Addr `json:"source"`
	Link   string     `json:"link"`  // the interface that it was knocked on
	State  string     `json:"state"` // opening, open, closing, or failed: its start command did, and there is nothing else to open it
	// StartError is how the start command of an open or failed one failed: status 1, signal 9, not run. "": it did not.
	StartError string        `json:"start_error"`
	Ports      []string      `json:"ports"`             // as Open_Ports has them
	Since      time.Duration `json:"since_seconds"`     // how long ago it was opened
	ClosesIn   time.Duration `json:"closes_in_seconds"` // 0: at once, or no time is set
}

// FailedClose is a door whose closing was tried often enough and given up. It is kept until the next reload.
type FailedClose struct {
	Door   string        `json:"door"`
	Source netip.Addr    `json:"source"`
	Since  time.Duration `json:"since_seconds"` // how long ago it was given up
	Tries  int           `json:"tries"`
	Error  string        `json:"error"` // of the last try
}

// BarredSource is who opens nothing at a door for a time, as decoys have been hit. The latest comes first.
type BarredSource struct {
	Door   string        `json:"door"`
	Source string        `json:"source"` // an address, or an IPv6 /64
	Link   string        `json:"link"`   // of a link-local source, else ""
	Decoy  Knock         `json:"port"`   // the latest that was hit
	EndsIn time.Duration `json:"ends_in_seconds"`
}

// AskedCodes is a door that asks for more than one code in a row, as too many wrong ones came.
type AskedCodes struct {
	Door   string        `json:"door"`
	Codes  int           `json:"codes"`
	EndsIn time.Duration `json:"ends_in_seconds"` // if no wrong one comes
}

// Counters count since the daemon's start, but for Attempts, which are those in progress now.
type Counters struct {
	Packets         uint64 `json:"packets"`
	KernelDrops     uint64 `json:"kernel_drops"`
	Hits            uint64 `json:"hits"`
	Attempts        uint64 `json:"attempts"`
	Grants          uint64 `json:"grants"`
	CommandFailures uint64 `json:"command_failures"`
}

// sorted is the status with its lists by door and source.
func (s Status) sorted() Status {
	s.Open, s.Failed, s.Refused = slices.Clone(s.Open), slices.Clone(s.Failed), slices.Clone(s.Refused)
	slices.SortStableFunc(s.Refused, func(a, b Refusal) int { return cmp.Compare(b.Since, a.Since) })
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
	b.WriteString(printableLines("", s.ConfigError))
	fmt.Fprintf(&b, "sesame %s, process %d, up %v, listening on %s\n", printable(s.Version), s.Pid, s.Uptime.Truncate(time.Second), printable(s.Listening))
	b.WriteString(columns(s.Links, func(l LinkState) []string { return []string{"  " + l.Name, l.String()} }))
	fmt.Fprintf(&b, "configuration %s, read %s\n", printable(s.Config), s.ConfigRead.Format(time.DateTime))
	if s.ReloadError != "" {
		b.WriteString("the last reload failed:\n" + printableLines("  ", s.ReloadError))
	}
	if s.Firewall != "" {
		fmt.Fprintf(&b, "firewall: %s (for %v)\n", printable(s.Firewall), s.FirewallSince.Truncate(time.Second))
	}
	for _, w := range s.FirewallWarnings {
		fmt.Fprintf(&b, "  warning: %s\n", printable(w))
	}
	if len(s.Hidden) > 0 {
		b.WriteString("\nhidden: to whoever has not knocked they look like a port that nobody serves:\n")
	}
	b.WriteString(columns(s.Hidden, func(h HiddenPorts) []string {
		where := cmp.Or(strings.Join(h.Links, ","), "every interface")
		if len(h.Except) > 0 {
			where += ", but not from " + strings.Trim(fmt.Sprint(h.Except), "[]")
		}
		return []string{h.Door, strings.Join(h.Ports, ","), where}
	}))
	open := columns(s.Open, func(o OpenDoor) []string {
		return []string{o.Door, o.who(), cmp.Or(strings.Join(o.Ports, ","), "-"), o.progress()}
	})
	b.WriteString("\n" + cmp.Or(open, "no door is open\n"))
	if len(s.Failed) > 0 {
		b.WriteString("\nnot closed, and not tried again before a reload:\n")
	}
	b.WriteString(columns(s.Failed, func(f FailedClose) []string {
		return []string{f.Door, f.Source.String(), fmt.Sprintf("given up %ds ago, tried %d %s: %s",
			seconds(f.Since), f.Tries, plural(f.Tries, "time"), strings.ReplaceAll(strings.TrimRight(f.Error, "\n"), "\n", "; "))}
	}))
	if len(s.Bars) > 0 {
		b.WriteString("\nbarred, as ports near the knocks were hit:\n")
	}
	b.WriteString(columns(s.Bars, func(r BarredSource) []string {
		return []string{r.Door, r.who(), r.Decoy.String(), fmt.Sprintf("ends in %ds", seconds(r.EndsIn))}
	}))
	if s.MoreBars > 0 {
		fmt.Fprintf(&b, "and %d more\n", s.MoreBars)
	}
	if len(s.Refused) > 0 {
		b.WriteString("\nsequences that have opened nothing, the latest last:\n")
	}
	b.WriteString(columns(s.Refused, func(r Refusal) []string {
		return []string{r.Door, r.Source.String(), fmt.Sprintf("%ds ago: %s", seconds(r.Since), r.Reason)}
	}))
	for _, a := range s.Codes {
		fmt.Fprintf(&b, "\n%s takes %d codes in a row, as wrong ones came: for %ds, if no more come\n", printable(a.Door), a.Codes, seconds(a.EndsIn))
	}
	if s.CodesWait != "" {
		fmt.Fprintf(&b, "\nno code opens a door now: %s\n", printable(s.CodesWait))
	}
	c := s.Counters
	fmt.Fprintf(&b, "\npackets %d, lost by the kernel %d, hits %d, attempts in progress %d, grants %d, commands failed %d\n",
		c.Packets, c.KernelDrops, c.Hits, c.Attempts, c.Grants, c.CommandFailures)
	return b.String()
}

// printableLines is a text of lines, each after prefix, in which nothing drives a terminal.
func printableLines(prefix, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(prefix + printable(strings.TrimSuffix(line, "\n")) + "\n")
	}
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

// columns prints a row for each item, all columns but the last as wide as they need to be. text/tabwriter would take a tab
// in a name for the end of its column.
func columns[T any](items []T, row func(T) []string) string {
	var b strings.Builder
	var rows [][]string
	var widths []int
	for _, item := range items {
		texts := row(item)
		widths = append(widths, make([]int, len(texts)-len(widths))...)
		for i := range texts {
			texts[i] = printable(texts[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(texts[i]))
		}
		rows = append(rows, texts)
	}
	for _, texts := range rows {
		last := len(texts) - 1
		for i, text := range texts[:last] {
			fmt.Fprintf(&b, "%-*s  ", widths[i], text)
		}
		b.WriteString(texts[last] + "\n")
	}
	return b.String()
}

// json is the status for programs: one object on one line. Names and places stay; new ones may be added. Times are RFC
// 3339, durations whole seconds, lists never null. The manual, sesame(8), says what each member is.
func (s Status) json() string { return toJSON(reflect.ValueOf(s.sorted())) + "\n" }

func toJSON(v reflect.Value) string {
	var items []string
	switch x := v.Interface().(type) {
	case time.Time:
		return quoteJSON(x.Format(time.RFC3339))
	case time.Duration:
		return fmt.Sprint(seconds(x))
	case string, netip.Addr, netip.Prefix, Knock:
		return quoteJSON(fmt.Sprint(x))
	case int, uint64:
		return fmt.Sprint(x)
	}
	if v.Kind() == reflect.Slice {
		for i := range v.Len() {
			items = append(items, toJSON(v.Index(i)))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	for i := range v.NumField() {
		items = append(items, quoteJSON(v.Type().Field(i).Tag.Get("json"))+":"+toJSON(v.Field(i)))
	}
	return "{" + strings.Join(items, ",") + "}"
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
