//go:build linux

package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// goldenRules has one of everything.
func goldenRules() (r Ruleset, ssh, other, local Pass) {
	ssh = Pass{Door: "ssh", Source: netip.MustParseAddr("192.0.2.7"), Ports: []Knock{{22, tcp}, {51820, udp}}, Left: 500 * time.Second}
	other = Pass{Door: "büro \"2\"", Source: netip.MustParseAddr("::ffff:198.51.100.1"), Ports: []Knock{{3389, tcp}}, Left: 1500 * time.Millisecond}
	local = Pass{Door: "ssh", Source: netip.MustParseAddr("fe80::1%eth0"), Link: "eth0", Ports: []Knock{{22, tcp}}}
	return Ruleset{
		Hidden: []Hidden{
			{Door: "ssh", Ports: ssh.Ports, Links: []string{"eth0", "ppp0"},
				Except: []netip.Prefix{netip.MustParsePrefix("192.168.1.7/24"), netip.MustParsePrefix("192.168.1.0/25"), netip.MustParsePrefix("fd00::/8")}},
			{Door: "rdp", Ports: other.Ports},
		},
		Kept: []Knock{{22, tcp}, {51820, udp}, {3389, tcp}},
		Open: []Pass{ssh},
	}, ssh, other, local
}

func (f *fakeFirewall) want(what, got, want string) {
	f.t.Helper()
	if got != want {
		f.t.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
	}
}

func TestIptablesGolden(t *testing.T) {
	f := newFakeFirewall(t)
	f.iptables["iptables"]["INPUT"] = []string{"-s 203.0.113.9/32 -j DROP"}
	fw := iptablesFirewall{tools: []iptables{{"iptables", true}, {"ip6tables", true}}}
	rules, ssh, other, local := goldenRules()
	list := func() string {
		v4, _ := f.iptables["iptables"].print()
		v6, _ := f.iptables["ip6tables"].print()
		return v4 + "# IPv6\n" + v6
	}
	present := func(want bool) {
		t.Helper()
		for i, tool := range fw.tools {
			chain, err := f.run(tool.argv("-S SESAME"), "")
			if got := err == nil && fw.isBuilt(i, rules, chain); got != want {
				t.Errorf("present: got %v, want %v", got, want)
			}
		}
	}
	present(false)
	before := list()
	const hidden = `-A SESAME -p tcp -m tcp --dport 22 -m conntrack --ctstate ESTABLISHED -m comment --comment "sesame: established" -j ACCEPT
-A SESAME -p udp -m udp --dport 51820 -m conntrack --ctstate ESTABLISHED -m comment --comment "sesame: established" -j ACCEPT
-A SESAME -p tcp -m tcp --dport 3389 -m conntrack --ctstate ESTABLISHED -m comment --comment "sesame: established" -j ACCEPT
-A SESAME -s 192.168.1.0/24 -i eth0 -p tcp -m tcp --dport 22 -m comment --comment "sesame: ssh" -j RETURN
-A SESAME -s 192.168.1.0/24 -i eth0 -p udp -m udp --dport 51820 -m comment --comment "sesame: ssh" -j RETURN
-A SESAME -s 192.168.1.0/24 -i ppp0 -p tcp -m tcp --dport 22 -m comment --comment "sesame: ssh" -j RETURN
-A SESAME -s 192.168.1.0/24 -i ppp0 -p udp -m udp --dport 51820 -m comment --comment "sesame: ssh" -j RETURN
-A SESAME -i eth0 -p tcp -m tcp --dport 22 --tcp-flags RST,ACK NONE -m comment --comment "sesame: ssh" -j DROP
-A SESAME -i eth0 -p udp -m udp --dport 51820 -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment "sesame: ssh" -j DROP
-A SESAME -i ppp0 -p tcp -m tcp --dport 22 --tcp-flags RST,ACK NONE -m comment --comment "sesame: ssh" -j DROP
-A SESAME -i ppp0 -p udp -m udp --dport 51820 -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment "sesame: ssh" -j DROP
-A SESAME ! -i lo -p tcp -m tcp --dport 3389 --tcp-flags RST,ACK NONE -m comment --comment "sesame: rdp" -j DROP
`
	hidden6 := strings.ReplaceAll(hidden, "192.168.1.0/24", "fd00::/8")
	const open = `-A SESAME -s 192.0.2.7/32 -p tcp -m tcp --dport 22 -m comment --comment "sesame: ssh" -j ACCEPT
-A SESAME -s 192.0.2.7/32 -p udp -m udp --dport 51820 -m comment --comment "sesame: ssh" -j ACCEPT
`
	const start = "-P INPUT ACCEPT\n-N SESAME\n-A INPUT -j SESAME\n"
	const host = "-A INPUT -s 203.0.113.9/32 -j DROP\n"
	for _, when := range []string{"built", "built again"} {
		f.do(fw.build(rules))
		f.want(when, list(), start+host+open+hidden+"# IPv6\n"+start+hidden6)
		present(true)
	}

	f.processes = 0
	f.do(fw.open(other, nil))
	f.do(fw.open(local, nil))
	if f.processes != 4 {
		t.Errorf("processes of two openings: got %d, want 4", f.processes)
	}
	f.do(fw.open(ssh, nil))
	rules.Open = append(rules.Open, other, local)
	f.want("opened", list(), start+host+`-A SESAME -s 198.51.100.1/32 -p tcp -m tcp --dport 3389 -m comment --comment "sesame: büro _2_ #`+
		fingerprint(other.Door)+"\" -j ACCEPT\n"+open+hidden+"# IPv6\n"+
		start+"-A SESAME -s fe80::1/128 -i eth0 -p tcp -m tcp --dport 22 -m comment --comment \"sesame: ssh\" -j ACCEPT\n"+hidden6)
	present(true)

	f.do(fw.close(ssh, nil))
	f.do(fw.close(other, nil))
	f.do(fw.close(local, nil))
	present(false)
	rules.Open = nil
	present(true)
	f.want("closed", list(), start+host+hidden+"# IPv6\n"+start+hidden6)
	if err := runCalls(fw.close(local, nil), f.run); err == nil {
		t.Error("closing what is not open: got no error")
	}
	f.want("closed again", list(), start+host+hidden+"# IPv6\n"+start+hidden6)

	f.do(flush(f.inspect(), defaultMark, nil))
	f.want("flushed", list(), before)
	if calls := flush(f.inspect(), defaultMark, nil); calls != nil {
		t.Errorf("flush again: got %v, want nothing", calls)
	}
}

// A kernel without xt_conntrack: all that can be done without it.
func TestIptablesWithoutConntrack(t *testing.T) {
	f := newFakeFirewall(t)
	f.refuses = "conntrack"
	fw := iptablesFirewall{tools: []iptables{{"iptables", true}}}
	rules, _, other, _ := goldenRules()
	rules.Hidden[0].Except, rules.Hidden[0].Links = nil, nil
	f.do(fw.build(rules))
	f.do(fw.open(other, nil))
	rules.Open = append(rules.Open, other)
	got, _ := f.iptables["iptables"].print("SESAME")
	if !fw.isBuilt(0, rules, got) {
		t.Error("it is not found as it was built")
	}
	f.want("built", got, `-N SESAME
-A SESAME -s 198.51.100.1/32 -p tcp -m tcp --dport 3389 -m comment --comment "sesame: büro _2_ #`+fingerprint(other.Door)+`" -j ACCEPT
-A SESAME -s 192.0.2.7/32 -p tcp -m tcp --dport 22 -m comment --comment "sesame: ssh" -j ACCEPT
-A SESAME -s 192.0.2.7/32 -p udp -m udp --dport 51820 -m comment --comment "sesame: ssh" -j ACCEPT
-A SESAME ! -i lo -p tcp -m tcp --dport 22 --tcp-flags RST,ACK NONE -m comment --comment "sesame: ssh" -j DROP
-A SESAME ! -i lo -p udp -m udp --dport 51820 -m comment --comment "sesame: ssh" -j DROP
-A SESAME ! -i lo -p tcp -m tcp --dport 3389 --tcp-flags RST,ACK NONE -m comment --comment "sesame: rdp" -j DROP
`)
}

// TestIptablesRefusal has a host whose own rules drop on one link and refuse on others, for IPv4; IPv6's have nothing in
// store. A kernel that lacks something gets DROP.
func TestIptablesRefusal(t *testing.T) {
	rules, _, _, _ := goldenRules()
	rules.Hidden[0].Except = nil
	fw := iptablesFirewall{
		tools: []iptables{{"iptables", true}, {"ip6tables", true}},
		endings: [][]ending{
			{{"ip", "ppp0", tcp, "DROP"}, {"ip", "ppp0", udp, "DROP"}, {"ip", "", tcp, "REJECT --reject-with icmp-host-prohibited"}}, nil},
	}
	for i, want := range [][]string{
		{"REJECT --reject-with icmp-host-prohibited", "REJECT --reject-with icmp-port-unreachable", "DROP", "DROP", "REJECT --reject-with icmp-host-prohibited"},
		{"REJECT --reject-with tcp-reset", "REJECT --reject-with icmp6-port-unreachable", "REJECT --reject-with tcp-reset", "REJECT --reject-with icmp6-port-unreachable", "REJECT --reject-with tcp-reset"},
		{"DROP", "DROP", "DROP", "DROP", "DROP"},
	} {
		var got []string
		for _, rule := range fw.rules(i%2, rules, i < 2) {
			if _, target, _ := strings.Cut(rule, " -j "); target != "ACCEPT" {
				got = append(got, target)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d: got %q, want %q", i, got, want)
		}
	}
}

// normalForm is the same for rules as different versions print them.
func TestEssence(t *testing.T) {
	for _, two := range [][2]string{
		{`-A SESAME -s ::102:304/128 -p tcp -m tcp --dport 22 -m comment --comment "sesame: ssh" -j ACCEPT`,
			`-A SESAME -s ::1.2.3.4/128 -p tcp -m comment --comment "sesame: ssh" -m tcp --dport 22 -j ACCEPT`},
		{"-N SESAME\n-A SESAME ! -i lo -p tcp -m tcp --dport 22 --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", "-A SESAME ! -i lo -p tcp -m tcp --dport 22 --syn -j DROP"},
	} {
		if a, b := normalForm(two[0]), normalForm(two[1]); a != b || a == "" {
			t.Errorf("got %q and %q, want them alike", a, b)
		}
	}
}
