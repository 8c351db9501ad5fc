package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNFTGolden(t *testing.T) {
	f := newFakeFirewall(t)
	f.iptables["iptables"]["INPUT"] = []string{"-s 203.0.113.9/32 -j DROP"}
	f.nft = []*fakeTable{{name: "inet fw4", header: map[string]string{"input": "\t\ttype filter hook input priority filter; policy drop;\n"},
		rules: map[string][]string{"input": {`iifname "lo" accept # handle 0`}}}}
	fw := nftFirewall{defaultMark, []acceptChain{{"inet", "fw4", "input", iptables{}}, {"ip", "filter", "INPUT", iptables{"iptables", true}}}}
	rules, ssh, other, local := goldenRules()
	list := func() string {
		v4, _ := f.iptables["iptables"].print()
		return v4 + f.listing(false)
	}
	present := func(want bool) {
		t.Helper()
		if err := runCalls(fw.present(rules), f.run); (err == nil) != want {
			t.Errorf("present: got %v, want it to be %v", err, want)
		}
	}
	present(false)
	before := list()
	stamp := fingerprint(fw.chainText(rules, true))
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
	chain input {
		type filter hook input priority -10; policy accept;
		meta mark & 0x20000000 != 0 meta mark set meta mark & 0xdfffffff comment "sesame `+stamp+`"
		ip saddr . meta l4proto . th dport @open4 meta mark set meta mark | 0x20000000 accept
		ip6 saddr . meta l4proto . th dport @open6 meta mark set meta mark | 0x20000000 accept
		iifname . ip6 saddr . meta l4proto . th dport @link6 meta mark set meta mark | 0x20000000 accept
		ct state established meta l4proto . th dport { tcp . 22, udp . 51820, tcp . 3389 } meta mark set meta mark | 0x20000000 accept
		iifname { "eth0", "ppp0" } ip saddr { 192.168.1.0/24 } meta l4proto . th dport { tcp . 22, udp . 51820 } return comment "sesame: ssh"
		iifname { "eth0", "ppp0" } ip6 saddr { fd00::/8 } meta l4proto . th dport { tcp . 22, udp . 51820 } return comment "sesame: ssh"
		iifname { "eth0", "ppp0" } tcp dport { 22 } tcp flags & (fin | syn | rst | ack) == syn drop
		iifname { "eth0", "ppp0" } udp dport { 51820 } ct state new drop
		iifname != "lo" tcp dport { 3389 } tcp flags & (fin | syn | rst | ack) == syn drop
	}
}
`)
	}
	const open = "192.0.2.7 . tcp . 22 timeout 500s comment \"sesame: ssh\",\n\t\t\t     192.0.2.7 . udp . 51820 timeout 500s comment \"sesame: ssh\""
	const open2 = ",\n\t\t\t     198.51.100.1 . tcp . 3389 timeout "
	name := ` comment "` + comment(other.Door) + `"`
	for _, when := range []string{"built", "built again"} {
		f.do(fw.build(rules))
		want(when, open, "")
		present(true)
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
	present(true)

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
	present(true)

	rules.Hidden = rules.Hidden[:1]
	present(false)
	f.do(flush(f.inspect(), nil))
	f.want("flushed", list(), before)
	if calls := flush(f.inspect(), nil); calls != nil {
		t.Errorf("flush again: got %v, want nothing", calls)
	}
}

// A kernel without nft's conntrack expression: all that can be done without it.
func TestNFTWithoutConntrack(t *testing.T) {
	f := newFakeFirewall(t)
	f.refuses = "ct state"
	fw := nftFirewall{mark: defaultMark}
	rules, _, _, _ := goldenRules()
	f.do(fw.build(rules))
	f.do(fw.present(rules))
	if got := f.listing(false); strings.Contains(got, "ct state") || !strings.Contains(got, "udp dport { 51820 } drop") {
		t.Errorf("got\n%s", got)
	}
}

// Nobody is left to close the door but the kernel.
func TestNFTClosesByItself(t *testing.T) {
	f := newFirewallTest(t, firewallHost{rules: fw4Table})
	f.do(f.choice.build(f.rules))
	f.open(f.pass("10.9.0.2", 1))
	f.open(f.pass("fd00:9::2", 100))
	f.wantPort(0, hostAddr+":22", reached)
	live := f.dial(0, hostAddr)
	f.awaitPort(0, hostAddr+":22", filtered)
	f.wantAlive("a connection made while it was open", live)
	f.wantPort(0, "["+hostAddr6+"]:22", reached)
	f.wantPresent(true)
	// What has expired can be closed, and opened.
	f.do(f.choice.close(f.pass("10.9.0.2", 0), nil))
	f.do(f.choice.open(f.pass("10.9.0.2", 100), nil))
	f.wantPort(0, hostAddr+":22", reached)
	// A longer and a shorter time.
	for _, seconds := range []int{1, 100, 1 << 30} {
		f.do(f.choice.open(f.pass("10.9.0.2", seconds), nil))
	}
	f.wantPort(0, hostAddr+":22", reached)
	text, err := f.host.output("nft", "list", "set", "inet", "sesame", "open4")
	f.must(err)
	if !strings.Contains(text, "timeout 365d expires 364d23h") {
		t.Errorf("the longest time: got %s", text)
	}
}

// The host saves and restores its iptables while a door is open.
func TestNFTSaveAndRestore(t *testing.T) {
	for _, variant := range []string{"-nft", "-legacy"} {
		t.Run("iptables"+variant, func(t *testing.T) {
			f := newFirewallTest(t, firewallHost{option: "nft", rules: "V=" + variant + "; " + dropByIptables})
			f.do(f.choice.build(f.rules))
			f.open(f.pass("10.9.0.2", 100))
			f.must(f.host.run("sh", "-ec", strings.ReplaceAll(
				"iptables$V-save > $0; iptables$V -F; iptables$V -P INPUT ACCEPT; iptables$V-restore < $0", "$V", variant), t.TempDir()+"/saved"))
			f.wantPresent(true)
			f.wantPort(0, hostAddr+":22", reached)
			f.wantPort(1, hostAddr+":22", filtered)
		})
	}
}

// Marks of others neither let anybody in nor are they lost.
func TestNFTMarks(t *testing.T) {
	f := newFirewallTest(t, firewallHost{rules: fw4Table + `
nft -f - <<'END'
table inet marks {
	chain prerouting {
		type filter hook prerouting priority mangle;
		meta mark set 0x20000005
	}
	chain input {
		type filter hook input priority -5;
		meta mark 0x20000005 ip saddr 10.9.0.2 tcp dport 22 counter name "ours"
		meta mark 0x00000005 ip saddr 10.9.0.3 tcp dport 23 counter name "theirs"
	}
	counter ours { }
	counter theirs { }
}
END`})
	f.do(f.choice.build(f.rules))
	f.open(f.pass("10.9.0.2", 100))
	f.wantPort(0, hostAddr+":22", reached)
	f.wantPort(1, hostAddr+":22", filtered)
	f.wantPort(1, hostAddr+":23", filtered)
	text, err := f.host.output("nft", "list", "counters", "table", "inet", "marks")
	f.must(err)
	if strings.Count(text, "packets") != 2 || strings.Contains(text, "packets 0 ") {
		t.Errorf("packets with our bit and without, both with the host's: got %s", text)
	}
}

// However many are in, one more is one process and three lines.
func TestNFTOneMore(t *testing.T) {
	f := newFirewallTest(t, firewallHost{rules: "true"})
	for i := range 1000 {
		f.rules.Open = append(f.rules.Open, f.pass(fmt.Sprintf("10.8.%d.%d", i/250, i%250), 100))
	}
	f.do(f.choice.build(f.rules))
	f.wantPresent(true)
	calls := f.choice.open(f.pass("10.9.0.2", 100), nil)
	if len(calls) != 1 || calls[0].Unless != nil || strings.Count(calls[0].Input, "\n") != 3 || !slices.Equal(calls[0].Argv, nftScript) {
		t.Errorf("the 1,001st: got %v", calls)
	}
	f.do(calls)
	f.wantPort(0, hostAddr+":22", reached)
}
