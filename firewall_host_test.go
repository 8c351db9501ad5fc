//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	acceptingRules = "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n"
	listedFw4      = `table inet fw4 { # handle 7
	set blocked {
		type ipv4_addr
		elements = { 192.0.2.1,
			     192.0.2.2 }
	}

	chain input { # handle 1
		type filter hook input priority filter; policy accept;
		iifname "lo" accept comment "!fw4: drop reject" # handle 2
		iifname vmap { "lo" : accept, "eth0" : jump input_wan } # handle 3
	}

	chain input_wan { # handle 4
		goto handle_reject # handle 5
	}

	chain handle_reject { # handle 6
		meta l4proto tcp reject with tcp reset # handle 7
	}
}
`
	listedSesame = `table inet sesame { # handle 9
	chain input { # handle 1
		type filter hook input priority filter - 10; policy accept;
		iifname != "lo" tcp dport 22 drop # handle 2
	}
}
`
	listedIptables = `# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter { # handle 8
	chain INPUT { # handle 1
		type filter hook input priority filter; policy accept;
		counter jump f2b-sshd # handle 2
	}

	chain f2b-sshd { # handle 3
		ip saddr 192.0.2.3 counter reject # handle 4
	}
}
`
)

// TestPickFirewall has tools that are there or not: nft is taken wherever it works, whatever the host's rules are.
func TestPickFirewall(t *testing.T) {
	missing := fmt.Errorf("running nft: %w", exec.ErrNotFound)
	v4, v6 := iptables{"iptables", true}, iptables{"ip6tables", true}
	both := []Tool{{iptables: v4}, {iptables: v6}}
	const neither = "neither nft nor iptables works here: install one of them (apt install nftables; opkg install nftables): nft is not installed"
	for _, test := range []struct {
		name, option string
		in           Inspection
		want         string // the reason or error
		firewall     Firewall
	}{
		{"both", "auto", Inspection{Tools: both}, "nft", nftFirewall{mark: defaultMark}},
		{"no nft", "auto", Inspection{NFTError: missing, Tools: both}, "iptables, as nft is not installed", iptablesFirewall{tools: []iptables{v4, v6}}},
		{"a kernel without nf_tables", "auto", Inspection{NFTError: errFake, Tools: both[:1]}, "iptables, as nft failed: exit status 1", iptablesFirewall{tools: []iptables{v4}}},
		{"nothing there", "auto", Inspection{NFTError: missing}, neither, nil},
		{"nft asked for", "nft", Inspection{Tools: both}, "nft, as the configuration says", nftFirewall{mark: defaultMark}},
		{"no nft but asked for", "nft", Inspection{NFTError: missing, Tools: both}, "Firewall = nft: nft is not installed", nil},
		{"iptables asked for", "iptables", Inspection{Tools: both}, "iptables, as the configuration says", iptablesFirewall{tools: []iptables{v4, v6}}},
		{"no iptables", "iptables", Inspection{}, "Firewall = iptables: iptables does not work here: install it, or write Firewall = auto", nil},
	} {
		c, err := pickFirewall(test.option, defaultMark, Ruleset{}, test.in.run)
		got := c.String()
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
		if got, want := fmt.Sprintf("%+v", c.Firewall), fmt.Sprintf("%+v", test.firewall); err == nil && got != want {
			t.Errorf("%s: got %s, want %s", test.name, got, want)
		}
	}
}

// TestFit looks at hosts: each chain that drops what we let in gets an accept, behind its bans.
func TestFit(t *testing.T) {
	v4, v6, legacy := iptables{"iptables", true}, iptables{"ip6tables", true}, iptables{"iptables-legacy", true}
	both := []Tool{{iptables: v4, Rules: listed(acceptingRules)}, {iptables: v6, Rules: listed(acceptingRules)}}
	with := func(rules string, more ...Tool) []Tool {
		return append([]Tool{{iptables: v4, Rules: listed(rules)}, {iptables: v6, Rules: listed(acceptingRules)}}, more...)
	}
	fw4 := acceptChain{family: "inet", table: "fw4", name: "input"}
	input := func(tool iptables, behind int) acceptChain {
		return acceptChain{family: "ip", table: "filter", name: "INPUT", tool: tool, behind: behind}
	}
	nft := func(accepts ...acceptChain) Firewall { return nftFirewall{mark: defaultMark, accepts: accepts} }
	plain := nftFirewall{mark: defaultMark, plain: true}
	ipt := func(behind ...int) Firewall { return iptablesFirewall{tools: []iptables{v4, v6}, behind: behind} }
	displaced := func(behind ...int) Firewall {
		return iptablesFirewall{tools: []iptables{v4, v6}, behind: behind, displaced: true}
	}
	droppingLegacy := Tool{iptables: legacy, Legacy: true, Rules: listed("-P INPUT DROP\n-P FORWARD ACCEPT\n")}
	const idle = "; " + nothingDrops
	for _, test := range []struct {
		name     string
		firewall Firewall
		in       Inspection
		want     string // the choice, then warnings
		fitted   Firewall
	}{
		{"nothing drops", nft(), Inspection{Tools: both}, idle, plain},
		{"what we have left behind", nft(), Inspection{NFT: listed(listedSesame), Tools: []Tool{{iptables: legacy, Legacy: true,
			Rules: listed("-P INPUT ACCEPT\n-N SESAME\n-A INPUT -j SESAME\n-A SESAME -p tcp -m tcp --dport 22 -j DROP\n")}}}, idle, plain},
		{"fw4", nft(), Inspection{NFT: listed(listedFw4), Tools: both}, "", nft(fw4)},
		{"fw4 against the configuration", ipt(), Inspection{NFT: listed(listedFw4), Tools: both}, "\nthe chain input of table inet fw4 can drop what iptables lets in: " +
			"with nft installed, and without Firewall = iptables, it would get a rule for that", ipt(0, 0)},
		{"both", nft(), Inspection{NFT: listed(listedFw4 + listedIptables), Tools: with("-P INPUT DROP\n")}, "", nft(input(v4, 0), fw4)},
		{"iptables has gone", nft(), Inspection{NFT: listed(strings.Replace(listedIptables, "policy accept", "policy drop", 1))},
			"\niptables has made the chain INPUT of table ip filter, and nft's rules would do harm there: nobody gets in by knocking before iptables is installed", nft()},
		{"iptables cannot read what it has made", nft(), Inspection{NFT: listed(strings.Replace(listedIptables, "policy accept", "policy drop", 1)), Silent: both[:1], Tools: both[1:]},
			"", nft(acceptChain{family: "ip", table: "filter", name: "INPUT", tool: v4, unread: true, behind: 1})},
		{"legacy rules", nft(), Inspection{Tools: append(both, droppingLegacy)}, "", nft(input(legacy, 0))},
		{"legacy rules by iptables", ipt(), Inspection{Tools: append(both, droppingLegacy)}, "", iptablesFirewall{tools: []iptables{legacy, v6}, behind: []int{0, 0}}},
		{"legacy rules and others", nft(), Inspection{Tools: with("-P INPUT DROP\n", droppingLegacy)}, "", nft(input(v4, 0), input(legacy, 0))},
		{"legacy rules and others, by iptables", ipt(), Inspection{Tools: with("-P INPUT DROP\n", droppingLegacy)},
			"\nthe chain INPUT of table ip filter can drop what iptables lets in: with nft installed, and without Firewall = iptables, it would get a rule for that", ipt(0, 0)},
		{"table filter in nft's own rules", nft(), Inspection{NFT: listed(strings.ReplaceAll(listedFw4, "inet fw4", "ip filter")), Tools: both},
			"", nft(acceptChain{family: "ip", table: "filter", name: "input"})},
		{"too early", nft(), Inspection{NFT: listed(strings.Replace(listedFw4, "priority filter;", "priority mangle + 10;", 1))},
			"\nthe chain input of table inet fw4 comes so early (priority -140) that it can drop what sesame lets in", nft()},
		{"other hooks and families", nft(), Inspection{NFT: listed(strings.Replace(listedFw4, "hook input", "hook forward", 1) +
			strings.Replace(listedFw4, "table inet", "table bridge", 1))}, idle, plain},
		{"a map by name", nft(), Inspection{NFT: listed(strings.Replace(listedFw4, `{ "lo" : accept, "eth0" : jump input_wan }`, "@verdicts", 1))}, "", nft(fw4)},
		{"an owner's table", nft(), Inspection{NFT: listed(strings.Replace(listedFw4, "{ # handle 7\n", "{ # progname nft handle 7\n\tflags owner\n", 1))},
			"\nthe chain input of table inet fw4 lets no other program change it (flags owner): who has knocked gets in only where its own rules allow the port: " +
				"with firewalld write NftablesTableOwner=no in /etc/firewalld/firewalld.conf and run firewall-cmd --reload", nft()},
		{"no answer", nft(fw4), Inspection{Unknown: errTooLong}, "\nthe host's rules could not be read: it did not end by itself, and was ended: " +
			"if they drop what sesame lets in, knocking does not help", nft(fw4)},
		{"an accept before ours", nft(), Inspection{Tools: with("-P INPUT DROP\n-A INPUT -s 192.0.2.7/32 -j ACCEPT\n-A INPUT -m mark --mark 0x20000000/0x20000000 " +
			"-m comment --comment \"sesame 0x20000000\" -j ACCEPT\n-A INPUT -j DROP\n")}, "", nft(acceptChain{family: "ip", table: "filter", name: "INPUT", tool: v4, placed: true})},
		{"a drop before ours", nft(), Inspection{Tools: with("-P INPUT DROP\n-A INPUT -p tcp -j DROP\n-A INPUT -m mark --mark 0x20000000/0x20000000 " +
			"-m comment --comment \"sesame 0x20000000\" -j ACCEPT\n")}, "", nft(input(v4, 0))},
		{"bans before ours", ipt(), Inspection{Tools: with("-P INPUT ACCEPT\n-N f2b\n-A INPUT -j f2b\n-A INPUT -j SESAME\n-A INPUT -j ACCEPT\n-A f2b -s 192.0.2.7/32 -j REJECT\n")},
			idle, ipt(1, 0)},
		{"bans behind ours", ipt(), Inspection{Tools: with("-P INPUT ACCEPT\n-A INPUT -j SESAME\n-A INPUT -s 192.0.2.7/32 -j DROP\n-A INPUT -s 192.0.2.8/32 -j DROP\n-A INPUT -j ACCEPT\n-A INPUT -s 192.0.2.9/32 -j DROP\n")},
			idle, displaced(2, 0)},
		{"an accept before ours", ipt(), Inspection{Tools: with("-P INPUT ACCEPT\n-A INPUT -p tcp -j ACCEPT\n-A INPUT -j SESAME\n")}, idle, displaced(0, 0)},
		{"bans and more", nft(), Inspection{Tools: with("-P INPUT ACCEPT\n-N f2b\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j f2b\n-A INPUT -s 192.0.2.1/32 -j DROP\n-A INPUT -j DROP\n-A INPUT -s 192.0.2.2/32 -j DROP\n")},
			"", nft(input(v4, 3))},
		{"bans alone", nft(), Inspection{Tools: with("-P INPUT ACCEPT\n-N f2b\n-A INPUT -j f2b\n-A f2b -s 192.0.2.7/32 -j REJECT\n-A f2b -j RETURN\n")}, idle, nft()},
		{"bans in nft's words", nft(), Inspection{NFT: listed(strings.Replace(listedFw4, `iifname "lo" accept`, "ip saddr @blocked drop # handle 22\n\t\tiifname \"lo\" accept", 1))},
			"", nft(acceptChain{family: "inet", table: "fw4", name: "input", behind: 22})},
		{"a zone of sources", nft(), Inspection{Tools: with("-P INPUT ACCEPT\n-N lan\n-A INPUT -s 10.0.0.0/8 -j lan\n-A lan -p tcp --dport 80 -j ACCEPT\n-A lan -j DROP\n")},
			"", nft(input(v4, 0))},
		{"no ip6tables", iptablesFirewall{tools: []iptables{v4}}, Inspection{Tools: both[:1]},
			idle + "\nonly iptables works here: the other family's packets are let through", iptablesFirewall{tools: []iptables{v4}, behind: []int{0}}},
		{"no IPv6", iptablesFirewall{tools: []iptables{v4}}, Inspection{Tools: both[:1], NoIPv6: true}, idle, iptablesFirewall{tools: []iptables{v4}, behind: []int{0}}},
	} {
		c := Choice{Firewall: test.firewall}.fit(test.in, Ruleset{})
		if got := strings.Join(append([]string{c.String()}, c.Warnings...), "\n"); got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, got, test.want)
		}
		if f, ok := c.Firewall.(iptablesFirewall); ok {
			f.endings = nil
			c.Firewall = f
		}
		if got, want := fmt.Sprintf("%+v", c.Firewall), fmt.Sprintf("%+v", test.fitted); got != want {
			t.Errorf("%s: got %s, want %s", test.name, got, want)
		}
	}
}

// inspect asks iptables-legacy only where it has a table, and older programs in their way.
func TestInspect(t *testing.T) {
	for _, test := range []struct {
		name    string
		answers map[string]string // by command; others fail
		files   map[string]string
		want    string
	}{
		{"nothing", nil, map[string]string{"/proc/net/if_inet6": "fe80 ...\n"}, "nft: false, IPv6: true"},
		{"iptables-nft and legacy rules", map[string]string{
			"nft list chains": "", "iptables --version": "iptables v1.8.9 (nf_tables)\n", "iptables -w -S": "",
			"iptables-legacy --version": "iptables v1.8.9 (legacy)\n", "iptables-legacy -w -S": "",
			"ip6tables --version": "ip6tables v1.8.9 (nf_tables)\n", "ip6tables -w -S": "",
			"ip6tables-legacy --version": "ip6tables v1.8.9 (legacy)\n", "ip6tables-legacy -w -S": "",
		}, map[string]string{"/proc/net/ip_tables_names": "filter\n"}, "nft: true, IPv6: true, iptables, iptables-legacy legacy, ip6tables"},
		{"an old router", map[string]string{"iptables --version": "iptables v1.4.21\n", "iptables -w -S": ""},
			nil, "nft: false, IPv6: false, iptables legacy without restore -w"},
		{"ip6tables without its module", map[string]string{"iptables --version": "iptables v1.6.2\n", "iptables -w -S": "", "ip6tables --version": "ip6tables v1.6.2\n"},
			nil, "nft: false, IPv6: true, iptables legacy"},
		{"nft's table beside legacy", map[string]string{
			"nft list chains":             "table ip nat {\n}\ntable ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n",
			"nft -a list table ip filter": "table ip filter { # handle 1\n}\n",
			"iptables --version":          "iptables v1.8.7 (legacy)\n", "iptables -w -S": "",
			"iptables-nft --version": "iptables v1.8.7 (nf_tables)\n", "iptables-nft -w -S": ""},
			nil, "nft: true, IPv6: false, iptables legacy, iptables-nft"},
	} {
		in := inspect(func(l *listing, argv ...string) error {
			out, ok := test.answers[strings.Join(argv, " ")]
			if *l = listed(out); !ok {
				return errFake
			}
			return nil
		}, func(name string) string { return test.files[name] })
		got := fmt.Sprintf("nft: %v, IPv6: %v", in.NFTError == nil, !in.NoIPv6)
		for _, tool := range in.Tools {
			got += ", " + tool.name
			if tool.Legacy {
				got += " legacy"
			}
			if !tool.restoreWaits {
				got += " without restore -w"
			}
		}
		if got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

func TestRestoreWaits(t *testing.T) {
	for version, want := range map[string]bool{
		"iptables v1.4.21": false, "iptables v1.6.1": false, "iptables v1.6.2": true, "ip6tables v1.8.9 (nf_tables)": true,
		"iptables v1.10": true, "iptables v2.0.0": true, "BusyBox": false,
	} {
		if got := restoreWaits(version + "\n"); got != want {
			t.Errorf("%s: got %v, want %v", version, got, want)
		}
	}
}

func TestParsePriority(t *testing.T) {
	for s, want := range map[string]int{"filter": 0, "filter - 10": -10, "filter + 10": 10, "mangle": -150, "-150": -150, "0": 0, "security": 50} {
		if got := parsePriority(s); got != want {
			t.Errorf("%s: got %d, want %d", s, got, want)
		}
	}
}

func TestComment(t *testing.T) {
	for _, test := range []struct{ door, want string }{
		{"ssh", "sesame: ssh"},
		{"büro", "sesame: büro"},
		{`a"; drop`, "sesame: a_; drop #" + fingerprint(`a"; drop`)},
		{"a\nb", "sesame: a_b #" + fingerprint("a\nb")},
		{strings.Repeat("x", 99) + "ü", "sesame: " + strings.Repeat("x", 99) + " #" + fingerprint(strings.Repeat("x", 99)+"ü")},
	} {
		if got := comment(test.door); got != test.want {
			t.Errorf("%q: got %q, want %q", test.door, got, test.want)
		}
	}
}

func TestPrefixes(t *testing.T) {
	var in []netip.Prefix
	for _, s := range []string{"10.2.0.0/16", "10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "192.0.2.1/24", "192.0.2.0/24", "10.0.0.0/9"} {
		in = append(in, netip.MustParsePrefix(s))
	}
	if got, want := fmt.Sprint(prefixes(in, true)), "[10.0.0.0/8 192.0.2.0/24]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(prefixes(in, false)), "[fd00::/8]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRulesetFits(t *testing.T) {
	for _, test := range []struct {
		link string
		want bool
	}{
		{"eth0.2", true}, {"pppoe-wan", true}, {"br-lan", true}, {"veth1@x", true},
		{"", false}, {"eth+", false}, {"eth*", true}, {"e*h*", false}, {"*", false}, {`e"0`, false}, {"123456789abcdef", true}, {"123456789abcdef0", false},
	} {
		err := Ruleset{Hidden: []Hidden{{Door: "ssh", Links: []string{test.link}}}}.fits()
		if (err == nil) != test.want {
			t.Errorf("%q: got %v, want it to fit: %v", test.link, err, test.want)
		}
	}
}

func TestCallString(t *testing.T) {
	pass := Pass{Door: "ssh", Source: netip.AddrFrom16(numbered(1)), Ports: []Knock{{22, tcp}}, Left: time.Second}
	for _, test := range []struct {
		call Call
		want string
	}{
		{iptablesFirewall{tools: []iptables{{"ip6tables", true}}}.open(pass, nil)[0],
			`ip6tables -w -C SESAME -s 2001:db8::1/128 -p tcp -m tcp --dport 22 -m comment --comment "sesame: ssh" -j ACCEPT || ip6tables-restore -w -n <<END
*filter
-I SESAME -s 2001:db8::1/128 -p tcp -m tcp --dport 22 -m comment --comment "sesame: ssh" -j ACCEPT
COMMIT
END`},
		{nftFirewall{mark: defaultMark}.close(pass, nil)[0], `nft -f - <<END
add element inet sesame open6 { 2001:db8::1 . tcp . 22 }
delete element inet sesame open6 { 2001:db8::1 . tcp . 22 }
END`},
	} {
		if got := test.call.String(); got != test.want {
			t.Errorf("got\n%s\nwant\n%s", got, test.want)
		}
	}
}

// TestFitBehind has forward chains that drop what we let through, and those that need no rule of ours.
func TestFitBehind(t *testing.T) {
	forward := strings.ReplaceAll(listedFw4, "input", "forward")
	v4 := iptables{"iptables", true}
	routed := []Behind{{Knock: Knock{443, tcp}, At: netip.MustParsePrefix("192.0.2.7/32")}}
	forwarded := []Behind{{Knock: Knock{443, tcp}, To: netip.MustParseAddrPort("192.168.77.10:443")}}
	rules := "table inet firewalld { # handle 7\n\tchain filter_FORWARD { # handle 1\n\t\ttype filter hook forward priority filter + 10; policy accept;\n" +
		"\t\tct state { established, related } accept # handle 2\n\t\tct status dnat accept # handle 3\n\t\treject with icmpx admin-prohibited # handle 4\n\t}\n}\n"
	firewalld, owned := listed(rules), strings.Replace(rules, "{ # handle 7\n", "{ # progname nft handle 7\n\tflags owner\n", 1)
	for _, test := range []struct {
		name   string
		in     Inspection
		behind []Behind
		want   string // the chains that need our accept
		passes bool
	}{
		{"fw4, nothing behind", Inspection{NFT: listed(forward)}, nil, "", false},
		{"fw4", Inspection{NFT: listed(forward)}, forwarded, "[the chain forward of table inet fw4]", false},
		{"iptables", Inspection{Tools: []Tool{{iptables: v4, Rules: listed("-P INPUT ACCEPT\n-P FORWARD DROP\n")}}}, routed, "[the chain FORWARD of table ip filter]", false},
		{"nothing drops", Inspection{NFT: listed(strings.ReplaceAll(listedSesame, "input", "forward"))}, routed, "", true},
		{"firewalld", Inspection{NFT: firewalld}, forwarded, "[the chain filter_FORWARD of table inet firewalld]", false},
		{"firewalld, which owns its table", Inspection{NFT: listed(owned)}, forwarded, "", false},
		{"firewalld, a routed host", Inspection{NFT: firewalld}, routed, "[the chain filter_FORWARD of table inet firewalld]", false},
	} {
		c := Choice{Firewall: nftFirewall{mark: defaultMark}}.fit(test.in, Ruleset{Behind: test.behind})
		f, got := c.Firewall.(nftFirewall), ""
		if f.accepts != nil {
			got = fmt.Sprint(f.accepts)
		}
		if got != test.want || f.passes != test.passes || c.Warnings != nil {
			t.Errorf("%s: got %s, passes %v, %v; want %s, %v", test.name, got, f.passes, c.Warnings, test.want, test.passes)
		}
	}
}
