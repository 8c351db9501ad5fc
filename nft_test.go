//go:build linux

package main

import (
	"strings"
	"testing"
	"time"
)

func TestNFTGolden(t *testing.T) {
	f := newFakeFirewall(t)
	f.iptables["iptables"]["INPUT"] = []string{"-s 203.0.113.9/32 -j DROP"}
	f.nft = []*fakeTable{{name: "inet fw4", header: map[string]string{"input": "\t\ttype filter hook input priority filter; policy drop;\n"},
		rules: map[string][]string{"input": {`iifname "lo" accept # handle 0`}}}}
	fw := nftFirewall{mark: defaultMark, accepts: []acceptChain{{family: "inet", table: "fw4", name: "input"}, {family: "ip", table: "filter", name: "INPUT", tool: iptables{"iptables", true}}}}
	rules, ssh, other, local := goldenRules()
	list := func() string {
		v4, _ := f.iptables["iptables"].print()
		return v4 + f.listing(false)
	}
	before := list()
	want := func(what, open4, link6 string) {
		t.Helper()
		if open4 != "" {
			open4 = "\t\telements = { " + open4 + " }\n"
		}
		if link6 != "" {
			link6 = "\t\telements = { " + link6 + " }\n"
		}
		f.want(what, list(), `-P INPUT ACCEPT
-A INPUT -m mark --mark 0x20000000/0x20000000 -m comment --comment "sesame 0x20000000" -j ACCEPT
-A INPUT -s 203.0.113.9/32 -j DROP
table inet fw4 {
	chain input {
		type filter hook input priority filter; policy drop;
		meta mark & 0x20000000 == 0x20000000 accept comment "sesame 0x20000000"
		iifname "lo" accept
	}
}
table inet sesame {
	set away6 {
		type ipv6_addr . inet_proto . inet_service
		size 65536
		flags timeout
`+strings.ReplaceAll(link6, "\"eth0\" . ", "")+`	}
	set link6 {
		type ifname . ipv6_addr . inet_proto . inet_service
		size 65536
		flags timeout
`+link6+`	}
	set open4 {
		type ipv4_addr . inet_proto . inet_service
		size 65536
		flags timeout
`+open4+`	}
	set open6 {
		type ipv6_addr . inet_proto . inet_service
		size 65536
		flags timeout
	}
	chain again {
		type filter hook prerouting priority -111; policy accept;
		tcp flags & (rst | ack) == 0 ct status confirmed tcp dport { 22, 3389 } jump known
	}
	chain away {
		type nat hook prerouting priority -110; policy accept;
		meta l4proto . th dport { tcp . 22, udp . 51820, tcp . 3389 } jump strangers
	}
	chain doors {
		ct state established meta mark set meta mark | 0x20000000 accept
		ip saddr . meta l4proto . th dport @open4 meta mark set meta mark | 0x20000000 accept
		ip6 saddr . meta l4proto . th dport @open6 meta mark set meta mark | 0x20000000 accept
		iifname . ip6 saddr . meta l4proto . th dport @link6 meta mark set meta mark | 0x20000000 accept
		iifname { "eth0", "ppp0" } ip saddr { 192.168.1.0/24 } meta l4proto . th dport { tcp . 22, udp . 51820 } return comment "sesame: ssh"
		iifname { "eth0", "ppp0" } ip6 saddr { fd00::/8 } meta l4proto . th dport { tcp . 22, udp . 51820 } return comment "sesame: ssh"
		iifname { "eth0", "ppp0" } tcp dport { 22 } tcp flags & (rst | ack) == 0 drop
		iifname { "eth0", "ppp0" } udp dport { 51820 } ct state != { established, related } drop
		iifname != "lo" tcp dport { 3389 } tcp flags & (rst | ack) == 0 drop
	}
	chain input {
		type filter hook input priority -10; policy accept;
		meta mark & 0x20000000 != 0 meta mark set meta mark & 0xdfffffff
		meta l4proto . th dport { tcp . 22, udp . 51820, tcp . 3389 } jump doors
	}
	chain known {
		ip saddr . meta l4proto . th dport @open4 accept
		ip6 saddr . meta l4proto . th dport @open6 accept
		ip6 saddr . meta l4proto . th dport @away6 accept
		iifname { "eth0", "ppp0" } ip saddr { 192.168.1.0/24 } meta l4proto . th dport { tcp . 22, udp . 51820 } return comment "sesame: ssh"
		iifname { "eth0", "ppp0" } ip6 saddr { fd00::/8 } meta l4proto . th dport { tcp . 22, udp . 51820 } return comment "sesame: ssh"
		iifname { "eth0", "ppp0" } tcp dport { 22 } fib daddr type local drop
		iifname { "eth0", "ppp0" } udp dport { 51820 } fib daddr type local drop
		iifname != "lo" tcp dport { 3389 } fib daddr type local drop
	}
	chain late {
		type filter hook input priority 1000; policy accept;
		th dport 1 ct status dnat jump refuse
	}
	chain refuse {
		meta l4proto tcp reject with tcp reset
		reject
	}
	chain strangers {
		ip saddr . meta l4proto . th dport @open4 accept
		ip6 saddr . meta l4proto . th dport @open6 accept
		ip6 saddr . meta l4proto . th dport @away6 accept
		iifname { "eth0", "ppp0" } ip saddr { 192.168.1.0/24 } meta l4proto . th dport { tcp . 22, udp . 51820 } return comment "sesame: ssh"
		iifname { "eth0", "ppp0" } ip6 saddr { fd00::/8 } meta l4proto . th dport { tcp . 22, udp . 51820 } return comment "sesame: ssh"
		iifname { "eth0", "ppp0" } tcp dport { 22 } tcp flags & (rst | ack) == 0 fib daddr type local dnat to :1
		iifname { "eth0", "ppp0" } tcp dport { 22 } socket wildcard 1 fib daddr type local dnat to :1
		iifname { "eth0", "ppp0" } udp dport { 51820 } fib daddr type local dnat to :1
		iifname != "lo" tcp dport { 3389 } tcp flags & (rst | ack) == 0 fib daddr type local dnat to :1
		iifname != "lo" tcp dport { 3389 } socket wildcard 1 fib daddr type local dnat to :1
	}
}
`)
	}
	const open = "192.0.2.7 . tcp . 22 timeout 500s comment \"sesame: ssh\",\n\t\t\t     192.0.2.7 . udp . 51820 timeout 500s comment \"sesame: ssh\""
	const open2 = ",\n\t\t\t     198.51.100.1 . tcp . 3389 timeout "
	name := ` comment "` + comment(other.Door) + `"`
	for _, when := range []string{"built", "built again"} {
		f.do(fw.build(rules))
		if when == "built" {
			f.do(fw.admit())
		}
		want(when, open, "")
	}

	f.processes = 0
	f.do(fw.open(other, nil))
	f.do(fw.open(local, nil))
	want("opened", open+open2+"2s"+name, `"eth0" . fe80::1 . tcp . 22 timeout 1s comment "sesame: ssh"`)
	other.Left = time.Hour
	f.do(fw.open(other, nil))
	want("extended", open+open2+"3600s"+name, `"eth0" . fe80::1 . tcp . 22 timeout 1s comment "sesame: ssh"`)
	if f.processes != 3 {
		t.Errorf("processes of three openings: got %d, want 3", f.processes)
	}

	// Another door has one of the ports open, too.
	held := Pass{Door: "b", Source: ssh.Source, Ports: ssh.Ports[:1], Left: time.Minute}
	f.do(fw.open(held, []Pass{ssh}))
	f.do(fw.close(ssh, []Pass{held}))
	f.do(fw.close(other, nil))
	f.do(fw.close(local, nil))
	want("closed but for one", `192.0.2.7 . tcp . 22 timeout 60s comment "sesame: b"`, "")
	for range 2 {
		f.do(fw.close(held, nil))
	}
	want("closed", "", "")

	f.do(flush(f.inspect(), defaultMark, nil))
	f.want("flushed", list(), before)
	if calls := flush(f.inspect(), defaultMark, nil); calls != nil {
		t.Errorf("flush again: got %v, want nothing", calls)
	}
}

// TestNFTAbilities has kernels that lack more and more: what is left is all that can be done without it.
func TestNFTAbilities(t *testing.T) {
	for _, test := range []struct {
		refuses   string
		has, lack []string
	}{
		{"nothing", []string{"socket wildcard 1 fib daddr type local dnat to :1", "ct state established meta mark", "chain late"}, nil},
		{"socket wildcard", []string{"nat hook prerouting", "dnat to :1", "chain late"}, nil},
		{"nat", []string{"filter hook prerouting priority -110", "udp dport { 51820 } fib daddr type local drop", "ct state { established, related } accept",
			"udp dport { 51820 } ct state != { established, related } drop"}, []string{"chain late"}},
		{"fib", []string{"udp dport { 51820 } ct state != { established, related } drop"}, []string{"prerouting", "chain late"}},
		{"ct state", []string{"udp dport { 51820 } drop", "tcp dport { 22 } tcp flags & (rst | ack) == 0 drop"}, []string{"prerouting", "chain late"}},
	} {
		f := newFakeFirewall(t)
		f.refuses = test.refuses
		fw := nftFirewall{mark: defaultMark}
		rules, _, _, _ := goldenRules()
		f.do(fw.build(rules))
		got := f.listing(false)
		for _, text := range test.has {
			if !strings.Contains(got, text) {
				t.Errorf("a kernel without %s: got\n%s\nwant %s in it", test.refuses, got, text)
			}
		}
		for _, text := range append(test.lack, test.refuses) {
			if strings.Contains(got, text) {
				t.Errorf("a kernel without %s: got\n%s\nwant no %s in it", test.refuses, got, text)
			}
		}
	}
}

// TestNFTPlain is for hosts that drop nothing: what is hidden is refused as its kernel refuses it, and conntrack is used
// only where a UDP port is hidden.
func TestNFTPlain(t *testing.T) {
	rules, _, _, _ := goldenRules()
	fw := nftFirewall{mark: defaultMark, plain: true}
	text := fw.tableText(rules, ableToFind)
	for _, want := range []string{"tcp dport { 22 } tcp flags & (rst | ack) == 0 reject with tcp reset\n",
		"udp dport { 51820 } ct state != { established, related } reject\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%s\nwant %s in it", text, want)
		}
	}
	f := newFakeFirewall(t)
	f.refuses = "reject"
	f.do(fw.build(rules))
	if got := f.listing(false); !strings.Contains(got, "udp dport { 51820 } ct state != { established, related } drop") {
		t.Errorf("a kernel that cannot reject: got\n%s", got)
	}
	for i := range rules.Hidden {
		rules.Hidden[i].Ports = rules.Hidden[i].Ports[:1]
	}
	for _, word := range []string{"ct state", "nat", "prerouting"} {
		if text := fw.tableText(rules, ableToFind); strings.Contains(text, word) {
			t.Errorf("TCP alone: got\n%s\nwant no %s in it", text, word)
		}
	}
}

// TestNFTUnnamedPort has doors on the ports that strangers would be sent to.
func TestNFTUnnamedPort(t *testing.T) {
	rules := Ruleset{Kept: []Knock{{1, tcp}, {3, tcp}}, Hidden: []Hidden{{Door: "a", Ports: []Knock{{1, tcp}}}, {Door: "b", Ports: []Knock{{2, udp}}}}}
	text := nftFirewall{mark: defaultMark}.tableText(rules, ableToFind)
	for _, want := range []string{"dnat to :4\n", "th dport 4 ct status dnat jump refuse\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%s\nwant %s in it", text, want)
		}
	}
}
