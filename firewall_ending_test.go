//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
)

// listedFirewalld is firewalld's table as nft lists it, with a zone that drops and one that refuses.
const listedFirewalld = `table inet firewalld { # handle 3
	chain filter_INPUT { # handle 4
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept # handle 5
		ct status dnat accept # handle 6
		iifname "lo" accept # handle 7
		ct state invalid drop # handle 8
		jump filter_INPUT_ZONES # handle 9
		reject with icmpx admin-prohibited # handle 10
	}

	chain filter_INPUT_ZONES { # handle 11
		iifname { "eth1", "wg0" } goto filter_IN_drop # handle 12
		iifname "eth2" goto filter_IN_trusted # handle 13
		goto filter_IN_public # handle 14
	}

	chain filter_IN_drop { # handle 15
		tcp dport 22 accept # handle 16
		counter packets 7 bytes 9 drop # handle 17
	}

	chain filter_IN_trusted { # handle 18
		accept # handle 19
	}

	chain filter_IN_public { # handle 20
		jump filter_IN_public_allow # handle 21
		reject with icmpx admin-prohibited comment "the rest" # handle 22
	}

	chain filter_IN_public_allow { # handle 23
		tcp dport 22 ct state { new, untracked } accept # handle 24
		return # handle 25
	}
}
`

// listedFw3 is what OpenWrt had before fw4, as iptables -S prints it; its chain that refuses is called as a verdict is.
const listedFw3 = `-P INPUT ACCEPT
-N reject
-N zone_wan_input
-N zone_wan_src_REJECT
-A INPUT -i lo -m comment --comment "!fw3" -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "!fw3" -j ACCEPT
-A INPUT -i eth1 -m comment --comment "!fw3" -j zone_wan_input
-A reject -p tcp -m comment --comment "!fw3" -j REJECT --reject-with tcp-reset
-A reject -m comment --comment "!fw3" -j REJECT --reject-with icmp-port-unreachable
-A zone_wan_input -p udp -m udp --dport 68 -m comment --comment "!fw3: Allow-DHCP-Renew" -j ACCEPT
-A zone_wan_input -m conntrack --ctstate DNAT -m comment --comment "!fw3: Accept port redirections" -j ACCEPT
-A zone_wan_input -m comment --comment "!fw3" -j zone_wan_src_REJECT
-A zone_wan_src_REJECT -i eth1 -m comment --comment "!fw3" -j reject
`

func TestHostEndings(t *testing.T) {
	const bothReset = "\nmeta nfproto ipv4 iifname \"eth1\" meta l4proto udp reject with icmp type port-unreachable"
	legacy := iptables{"iptables-legacy", true}
	redirect := strings.NewReplacer("goto handle_reject", "ct status dnat accept # handle 90\n\t\tgoto handle_reject",
		"tcp reset # handle 7", "tcp reset # handle 7\n\t\treject # handle 8").Replace(listedFw4)
	for _, test := range []struct {
		name string
		in   Inspection
		want string // each match and verdict
	}{
		{"nobody accepts what was translated", Inspection{NFT: listed(listedFw4)}, ""},
		{"firewalld", Inspection{NFT: listed(listedFirewalld)}, `iifname "eth1" meta l4proto tcp drop
iifname "eth1" meta l4proto udp drop
iifname "wg0" meta l4proto tcp drop
iifname "wg0" meta l4proto udp drop
meta l4proto tcp reject with icmpx admin-prohibited
meta l4proto udp reject with icmpx admin-prohibited`},
		{"fw3", Inspection{NFTError: errFake, Tools: []Tool{{iptables: legacy, Legacy: true, Rules: listed(listedFw3)}}},
			`meta nfproto ipv4 iifname "eth1" meta l4proto tcp reject with tcp reset` + bothReset},
		{"fw4 with a redirect", Inspection{NFT: listed(redirect)}, "iifname \"eth0\" meta l4proto tcp reject with tcp reset\niifname \"eth0\" meta l4proto udp reject"},
	} {
		var got []string
		for _, e := range newHostRules(test.in.chains(), 0).endings(func(_ chain, translated bool) bool { return translated }) {
			got = append(got, e.rule())
		}
		if got := strings.Join(got, "\n"); got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, got, test.want)
		}
	}
	in := Inspection{Tools: []Tool{{iptables: legacy, Legacy: true, Rules: listed(listedFw3)}}}
	want := []ending{{"ip", "eth1", tcp, "REJECT --reject-with tcp-reset"}, {"ip", "eth1", udp, "REJECT --reject-with icmp-port-unreachable"}}
	if got := newHostRules(in.chains(), 0).endings(func(c chain, _ bool) bool { return c.origin == legacy.name }); !slices.Equal(got, want) {
		t.Errorf("iptables: got %v, want %v", got, want)
	}
}

func TestEndingRule(t *testing.T) {
	for target, want := range map[string]string{
		"DROP": "drop", "REJECT": "reject", "REJECT --reject-with tcp-reset": "reject with tcp reset",
		"REJECT --reject-with icmp-proto-unreachable": "reject with icmp type prot-unreachable",
		"REJECT --reject-with icmp6-adm-prohibited":   "reject with icmpv6 type admin-prohibited",
	} {
		if got := strings.TrimPrefix(ending{"inet", "", tcp, target}.rule(), "meta l4proto tcp "); got != want {
			t.Errorf("%s: got %s, want %s", target, got, want)
		}
	}
}
