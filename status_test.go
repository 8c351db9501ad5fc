//go:build linux

package main

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func testStatus() Status {
	return Status{
		Version: "1.2", Pid: 4711, Uptime: 26*time.Hour + 1500*time.Millisecond, Listening: "eth0, ppp0", Config: "/etc/knockd.conf",
		ConfigRead: time.Date(2026, 2, 3, 4, 5, 6, 7, time.FixedZone("", 3600)),
		Links: []LinkState{
			{"eth0", "up", []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")}, "br0"},
			{"lte0", "down", nil, ""}, {"ppp*", "absent", nil, ""},
		},
		Open: []OpenDoor{
			{"web", netip.MustParseAddr("fe80::7"), "eth0", "closing", "", nil, time.Minute, 0},
			{"ssh", netip.MustParseAddr("2001:db8::7"), "eth0", "open", "", []string{"51820:udp"}, time.Hour, 0},
			{"ssh", netip.MustParseAddr("192.0.2.7"), "eth0", "open", "", []string{"22:tcp", "3389:tcp"}, 12*time.Second + 900*time.Millisecond, 488 * time.Second},
			{"Torwächter", netip.MustParseAddr("192.0.2.9"), "ppp0", "opening", "", []string{"22:tcp"}, 0, 0},
		},
		Counters: Counters{1, 2, 3, 4, 5, 1<<64 - 1},
	}
}

// troubledStatus has in it what a status can have in trouble, and what could drive a terminal.
func troubledStatus() Status {
	s := testStatus()
	s.Open, s.Links = []OpenDoor{
		{"rdp", netip.MustParseAddr("192.0.2.7"), "eth0", "failed", "status 4", nil, 2 * time.Second, 8 * time.Second},
		{"vpn", netip.MustParseAddr("192.0.2.7"), "eth0", "open", "signal 9", []string{"22:tcp"}, time.Second, 9 * time.Second},
	}, nil
	s.ConfigError = "a.conf:1: no\na.conf:2: \x1b[2J; running with the configuration of 2026"
	s.ReloadError = "knockd.conf:3: unknown directive \"Colour\"\nknockd.conf:4: \x1b[2J\n"
	s.Firewall, s.FirewallSince, s.FirewallWarnings = "nft\xff", 61*time.Second, []string{"the chain \x1b[2J"}
	s.Failed = []FailedClose{
		{"web", netip.MustParseAddr("192.0.2.7"), 600 * time.Second, 8, "exit status 1\niptables: no\tsuch rule\n"},
		{"a\"\\\x00\u009b", netip.MustParseAddr("192.0.2.10"), time.Second, 1, "\u2028😀"},
	}
	s.Bars, s.MoreBars = []BarredSource{
		{"vpn", "192.0.2.7", "", Knock{7001, tcp}, time.Second},
		{"vpn", "fe80::7", "eth0", Knock{8001, udp}, 24900 * time.Millisecond},
		{"web", "2001:db8::/64", "", Knock{7001, tcp}, 25 * time.Second},
	}, 400
	s.Hidden = []HiddenPorts{
		{"ssh", []string{"22:tcp"}, []string{"eth0", "ppp*"}, nil},
		{"nas", []string{"8443:tcp", "53:udp"}, nil, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}},
	}
	s.Refused = Refusals{
		{"ssh", netip.MustParseAddr("192.0.2.7"), "it is barred", 5 * time.Second},
		{"web", netip.MustParseAddr("2001:db8::7"), "\x1b[2J", 61 * time.Second},
	}
	s.Codes, s.CodesWait = []AskedCodes{{"door\a", 2, 90 * time.Second}}, "\x1b"
	return s
}

func TestStatusText(t *testing.T) {
	tests := []struct {
		name string
		in   Status
		want string
	}{
		{"open doors", testStatus(), `sesame 1.2, process 4711, up 26h0m1s, listening on eth0, ppp0
  eth0  up, 192.0.2.1, fe80::1; eth0 is a port of br0: its packets come in on br0, so ports hidden on eth0 are hidden on all of br0
  lte0  down
  ppp*  absent
configuration /etc/knockd.conf, read 2026-02-03 04:05:06

Torwächter  192.0.2.9     22:tcp           opening
ssh         192.0.2.7     22:tcp,3389:tcp  open for 12s, closes in 488s
ssh         2001:db8::7   51820:udp        open for 3600s
web         fe80::7%eth0  -                closing

packets 1, lost by the kernel 2, hits 3, attempts in progress 4, grants 5, commands failed 18446744073709551615
`},
		{"trouble", troubledStatus(), `a.conf:1: no
a.conf:2: ?[2J; running with the configuration of 2026
sesame 1.2, process 4711, up 26h0m1s, listening on eth0, ppp0
configuration /etc/knockd.conf, read 2026-02-03 04:05:06
the last reload failed:
  knockd.conf:3: unknown directive "Colour"
  knockd.conf:4: ?[2J
firewall: nft` + "\ufffd" + ` (for 1m1s)
  warning: the chain ?[2J

hidden: to whoever has not knocked they look like a port that nobody serves:
ssh  22:tcp           eth0,ppp*
nas  8443:tcp,53:udp  every interface, but not from 10.0.0.0/8 fd00::/8

rdp  192.0.2.7  -       start command failed (status 4), stop command in 8s
vpn  192.0.2.7  22:tcp  open for 1s, closes in 9s, start command failed (signal 9)

not closed, and not tried again before a reload:
a"\??  192.0.2.10  given up 1s ago, tried 1 time: ` + "\u2028😀" + `
web    192.0.2.7   given up 600s ago, tried 8 times: exit status 1; iptables: no	such rule

barred, as ports near the knocks were hit:
vpn  192.0.2.7      7001:tcp  ends in 1s
vpn  fe80::7%eth0   8001:udp  ends in 24s
web  2001:db8::/64  7001:tcp  ends in 25s
and 400 more

sequences that have opened nothing, the latest last:
web  2001:db8::7  61s ago: ?[2J
ssh  192.0.2.7    5s ago: it is barred

door? takes 2 codes in a row, as wrong ones came: for 90s, if no more come

no code opens a door now: ?

packets 1, lost by the kernel 2, hits 3, attempts in progress 4, grants 5, commands failed 18446744073709551615
`},
	}
	for _, test := range tests {
		before := test.in.sorted()
		if got := test.in.String(); got != test.want {
			t.Errorf("%s: got:\n%s\nwant:\n%s", test.name, got, test.want)
		}
		if before := before.String(); before != test.want {
			t.Errorf("%s: the status has changed: got:\n%s\nwant:\n%s", test.name, before, test.want)
		}
	}
}

// TestStatusJSON pins the text, and has another reader take it apart.
func TestStatusJSON(t *testing.T) {
	tests := []struct {
		name string
		in   Status
		want string
	}{
		{"open doors", testStatus(), `{"version":"1.2","pid":4711,"uptime_seconds":93601,"listening":"eth0, ppp0",` +
			`"links":[{"name":"eth0","state":"up","addresses":["192.0.2.1","fe80::1"],"port_of":"br0"},{"name":"lte0","state":"down","addresses":[],"port_of":""},` +
			`{"name":"ppp*","state":"absent","addresses":[],"port_of":""}],` +
			`"config":"/etc/knockd.conf","config_read":"2026-02-03T04:05:06+01:00","config_error":"","reload_error":"","firewall":"","firewall_since_seconds":0,"firewall_warnings":[],"hidden":[],` +
			`"open":[{"door":"Torwächter","source":"192.0.2.9","link":"ppp0","state":"opening","start_error":"","ports":["22:tcp"],"since_seconds":0,"closes_in_seconds":0},` +
			`{"door":"ssh","source":"192.0.2.7","link":"eth0","state":"open","start_error":"","ports":["22:tcp","3389:tcp"],"since_seconds":12,"closes_in_seconds":488},` +
			`{"door":"ssh","source":"2001:db8::7","link":"eth0","state":"open","start_error":"","ports":["51820:udp"],"since_seconds":3600,"closes_in_seconds":0},` +
			`{"door":"web","source":"fe80::7","link":"eth0","state":"closing","start_error":"","ports":[],"since_seconds":60,"closes_in_seconds":0}],` +
			`"failed":[],"bars":[],"more_bars":0,"refused":[],"codes":[],"codes_wait":"","counters":{"packets":1,"kernel_drops":2,"hits":3,"attempts":4,"grants":5,"command_failures":18446744073709551615}}` + "\n"},
		{"trouble", troubledStatus(), `{"version":"1.2","pid":4711,"uptime_seconds":93601,"listening":"eth0, ppp0","links":[],"config":"/etc/knockd.conf","config_read":"2026-02-03T04:05:06+01:00",` +
			`"config_error":"a.conf:1: no\u000aa.conf:2: \u001b[2J; running with the configuration of 2026","reload_error":"knockd.conf:3: unknown directive \"Colour\"\u000aknockd.conf:4: \u001b[2J\u000a","firewall":"nft` + "\ufffd" + `","firewall_since_seconds":61,"firewall_warnings":["the chain \u001b[2J"],` +
			`"hidden":[{"door":"ssh","ports":["22:tcp"],"interfaces":["eth0","ppp*"],"except":[]},` +
			`{"door":"nas","ports":["8443:tcp","53:udp"],"interfaces":[],"except":["10.0.0.0/8","fd00::/8"]}],` +
			`"open":[{"door":"rdp","source":"192.0.2.7","link":"eth0","state":"failed","start_error":"status 4","ports":[],"since_seconds":2,"closes_in_seconds":8},` +
			`{"door":"vpn","source":"192.0.2.7","link":"eth0","state":"open","start_error":"signal 9","ports":["22:tcp"],"since_seconds":1,"closes_in_seconds":9}],` +
			`"failed":[{"door":"a\"\\\u0000\u009b","source":"192.0.2.10","since_seconds":1,"tries":1,"error":"` + "\u2028😀" + `"},` +
			`{"door":"web","source":"192.0.2.7","since_seconds":600,"tries":8,"error":"exit status 1\u000aiptables: no\u0009such rule\u000a"}],` +
			`"bars":[{"door":"vpn","source":"192.0.2.7","link":"","port":"7001:tcp","ends_in_seconds":1},` +
			`{"door":"vpn","source":"fe80::7","link":"eth0","port":"8001:udp","ends_in_seconds":24},` +
			`{"door":"web","source":"2001:db8::/64","link":"","port":"7001:tcp","ends_in_seconds":25}],"more_bars":400,` +
			`"refused":[{"door":"web","source":"2001:db8::7","reason":"\u001b[2J","since_seconds":61},{"door":"ssh","source":"192.0.2.7","reason":"it is barred","since_seconds":5}],` +
			`"codes":[{"door":"door\u0007","codes":2,"ends_in_seconds":90}],"codes_wait":"\u001b",` +
			`"counters":{"packets":1,"kernel_drops":2,"hits":3,"attempts":4,"grants":5,"command_failures":18446744073709551615}}` + "\n"},
	}
	for _, test := range tests {
		got := test.in.json()
		if got != test.want {
			t.Errorf("%s: got:\n%s\nwant:\n%s", test.name, got, test.want)
		}
		var decoded decodedStatus
		d := json.NewDecoder(strings.NewReader(got))
		d.DisallowUnknownFields()
		if err := d.Decode(&decoded); err != nil {
			t.Errorf("%s: decoding: %v", test.name, err)
		}
		if want := test.in.decoded(); !reflect.DeepEqual(decoded, want) {
			t.Errorf("%s: decoded: got:\n%+v\nwant:\n%+v", test.name, decoded, want)
		}
	}
}

// decodedStatus is what other programs have of a status.
type decodedStatus struct {
	Version     string           `json:"version"`
	Pid         int              `json:"pid"`
	Uptime      int64            `json:"uptime_seconds"`
	Listening   string           `json:"listening"`
	Links       []decodedLink    `json:"links"`
	Config      string           `json:"config"`
	ConfigRead  string           `json:"config_read"`
	ConfigError string           `json:"config_error"`
	ReloadError string           `json:"reload_error"`
	Firewall    string           `json:"firewall"`
	FirewallFor int64            `json:"firewall_since_seconds"`
	FirewallBut []string         `json:"firewall_warnings"`
	Hidden      []decodedHidden  `json:"hidden"`
	Open        []decodedOpen    `json:"open"`
	Failed      []decodedFailed  `json:"failed"`
	Bars        []decodedBar     `json:"bars"`
	MoreBars    int              `json:"more_bars"`
	Refused     []decodedRefusal `json:"refused"`
	Codes       []decodedCodes   `json:"codes"`
	CodesWait   string           `json:"codes_wait"`
	Counters    decodedCounters  `json:"counters"`
}

type decodedHidden struct {
	Door   string         `json:"door"`
	Ports  []string       `json:"ports"`
	Links  []string       `json:"interfaces"`
	Except []netip.Prefix `json:"except"`
}

type decodedRefusal struct {
	Door   string     `json:"door"`
	Source netip.Addr `json:"source"`
	Reason string     `json:"reason"`
	Since  int64      `json:"since_seconds"`
}

type decodedLink struct {
	Name      string       `json:"name"`
	State     string       `json:"state"`
	Addresses []netip.Addr `json:"addresses"`
	PortOf    string       `json:"port_of"`
}

type decodedCounters struct {
	Packets         uint64 `json:"packets"`
	KernelDrops     uint64 `json:"kernel_drops"`
	Hits            uint64 `json:"hits"`
	Attempts        uint64 `json:"attempts"`
	Grants          uint64 `json:"grants"`
	CommandFailures uint64 `json:"command_failures"`
}

type decodedOpen struct {
	Door     string     `json:"door"`
	Source   netip.Addr `json:"source"`
	Link     string     `json:"link"`
	State    string     `json:"state"`
	StartErr string     `json:"start_error"`
	Ports    []string   `json:"ports"`
	Since    int64      `json:"since_seconds"`
	ClosesIn int64      `json:"closes_in_seconds"`
}

type decodedBar struct {
	Door   string `json:"door"`
	Source string `json:"source"`
	Link   string `json:"link"`
	Port   string `json:"port"`
	EndsIn int64  `json:"ends_in_seconds"`
}

type decodedCodes struct {
	Door   string `json:"door"`
	Codes  int    `json:"codes"`
	EndsIn int64  `json:"ends_in_seconds"`
}

type decodedFailed struct {
	Door   string     `json:"door"`
	Source netip.Addr `json:"source"`
	Since  int64      `json:"since_seconds"`
	Tries  int        `json:"tries"`
	Error  string     `json:"error"`
}

func (s Status) decoded() decodedStatus {
	s = s.sorted()
	d := decodedStatus{
		Version: s.Version, Pid: s.Pid, Uptime: int64(s.Uptime.Seconds()), Listening: s.Listening, Config: s.Config,
		ConfigRead: s.ConfigRead.Format(time.RFC3339), ConfigError: s.ConfigError, ReloadError: s.ReloadError, Firewall: string([]rune(s.Firewall)),
		FirewallFor: int64(s.FirewallSince.Seconds()), FirewallBut: append([]string{}, s.FirewallWarnings...),
		Links: []decodedLink{}, Hidden: []decodedHidden{}, Open: []decodedOpen{}, Refused: []decodedRefusal{}, Failed: []decodedFailed{}, Bars: []decodedBar{}, MoreBars: s.MoreBars,
		Codes: []decodedCodes{}, CodesWait: s.CodesWait}
	d.Counters = decodedCounters(s.Counters)
	for _, l := range s.Links {
		d.Links = append(d.Links, decodedLink{l.Name, l.State, append([]netip.Addr{}, l.Addresses...), l.PortOf})
	}
	for _, h := range s.Hidden {
		d.Hidden = append(d.Hidden, decodedHidden{h.Door, append([]string{}, h.Ports...), append([]string{}, h.Links...), append([]netip.Prefix{}, h.Except...)})
	}
	for _, r := range s.Refused {
		d.Refused = append(d.Refused, decodedRefusal{r.Door, r.Source, r.Reason, int64(r.Since.Seconds())})
	}
	for _, o := range s.Open {
		ports := append([]string{}, o.Ports...)
		d.Open = append(d.Open, decodedOpen{o.Door, o.Source, o.Link, o.State, o.StartError, ports, int64(o.Since.Seconds()), int64(o.ClosesIn.Seconds())})
	}
	for _, b := range s.Bars {
		d.Bars = append(d.Bars, decodedBar{b.Door, b.Source, b.Link, b.Decoy.String(), int64(b.EndsIn.Seconds())})
	}
	for _, c := range s.Codes {
		d.Codes = append(d.Codes, decodedCodes{c.Door, c.Codes, int64(c.EndsIn.Seconds())})
	}
	for _, f := range s.Failed {
		d.Failed = append(d.Failed, decodedFailed{f.Door, f.Source, int64(f.Since.Seconds()), f.Tries, f.Error})
	}
	return d
}

func FuzzQuoteJSON(f *testing.F) {
	for _, s := range []string{"", "ssh", "\"\\/", "\x00\x1f\x7f\u0080\u009f\u00a0", "\xff\xc3", "\u2028\u2029😀\ufffd", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		quoted := quoteJSON(s)
		var got string
		if err := json.Unmarshal([]byte(quoted), &got); err != nil {
			t.Fatalf("%q became %s: %v", s, quoted, err)
		}
		// Each byte at fault becomes one U+FFFD; strings.ToValidUTF8 makes one of several.
		if want := string([]rune(s)); got != want {
			t.Errorf("%q became %s, which is %q, want %q", s, quoted, got, want)
		}
		if !utf8.ValidString(quoted) || quoted != printable(quoted) || strings.Contains(quoted, "\t") {
			t.Errorf("%q became %q, which could drive a terminal", s, quoted)
		}
	})
}
