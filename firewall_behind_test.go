//go:build linux && !pure

package main

import (
	"net/netip"
	"testing"
	"time"
)

// nas is what the tests forward to the host behind, and dmz what is routed to it.
var (
	nas = []Behind{
		{Knock: Knock{8443, tcp}, To: netip.MustParseAddrPort(inner + ":443")}, {Knock: Knock{8443, tcp}, To: netip.MustParseAddrPort("[" + inner6 + "]:443")},
		{Knock: Knock{8053, udp}, To: netip.MustParseAddrPort(inner + ":5353")},
	}
	dmz = []Behind{{Knock: Knock{22, tcp}, At: netip.MustParsePrefix("fd77::/64")}, {Knock: Knock{22, tcp}, At: netip.MustParsePrefix(inner + "/32")}}
)

// behindHosts are routers with firewalls that let nothing through.
var behindHosts = []firewallHost{
	{name: "no firewall", rules: "true"},
	{name: "FORWARD drops", rules: "V=-nft; " + dropByIptables + "iptables-nft -w -P FORWARD DROP; ip6tables-nft -w -P FORWARD DROP"},
	{name: "FORWARD drops, legacy", rules: "V=-legacy; " + dropByIptables + "iptables-legacy -w -P FORWARD DROP; ip6tables-legacy -w -P FORWARD DROP"},
	{name: "fw4", rules: fw4Router},
}

// fw4Router is firewall4's shape with a zone lan that reaches everything, and masquerading for IPv4.
const fw4Router = fw4Table + `nft insert rule inet fw4 input iifname lan accept
nft -f - <<'END'
table inet fw4 {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept comment "!fw4: Allow forwarded established and related flows"
		iifname "lan" accept comment "!fw4: Handle lan IPv4/IPv6 forward traffic"
		jump handle_reject
	}
	chain srcnat {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "eth0" meta nfproto ipv4 masquerade
	}
}
END
`

// TestBehind forwards ports of a router to a host behind it, and has another port of that host hidden in the way through,
// for who is in alone.
func TestBehind(t *testing.T) {
	for _, host := range behindHosts {
		t.Run(host.name, func(t *testing.T) {
			f := newForwarder(t, host)
			before := f.text()
			f.rules = Ruleset{Behind: append(nas[:3:3], dmz...), Hidden: []Hidden{{Door: "nas", Ports: []Knock{{8443, tcp}, {8053, udp}}, Behind: dmz, Links: []string{"eth0"}}}}
			f.build()
			f.wantPresent(true)
			const port, port6, routed6 = hostAddr + ":8443", "[" + hostAddr6 + "]:8443", "[" + inner6 + "]:22"
			guest, stranger := f.dialUDPTo(0, "8053"), f.dialUDPTo(1, "8053")
			all := func(i int, want string) {
				t.Helper()
				for _, to := range []string{port, port6, routed6} {
					f.wantPort(i, to, want)
				}
			}
			all(0, hidden)
			if f.answered(guest) || f.answered(stranger) {
				t.Error("hidden: a datagram is answered")
			}
			pass := Pass{Door: "nas", Source: netip.MustParseAddr("10.9.0.2"), Behind: f.rules.Behind, Left: time.Minute}
			pass6 := pass
			pass6.Source = netip.MustParseAddr("fd00:9::2")
			f.open(pass)
			f.wantPort(0, port6, hidden)
			f.open(pass6)
			all(0, reached)
			all(1, hidden)
			if !f.answered(guest) {
				t.Error("open: a datagram from the port that was refused before is not answered")
			}
			if f.answered(stranger) {
				t.Error("open: a stranger's datagram is answered")
			}
			live, live6 := f.dialPort(0, hostAddr, "8443"), f.dialPort(0, inner6, "22")
			opened := f.text()
			f.build()
			if got := f.text(); masked(got) != masked(opened) {
				t.Errorf("built again: got\n%s\nwant\n%s", got, opened)
			}
			all(0, reached)
			f.do(f.choice.close(pass, nil))
			f.do(f.choice.close(pass6, nil))
			f.rules.Open = nil
			all(0, hidden)
			f.wantAlive("a live connection after closing", live)
			f.wantAlive("a live connection to a routed host after closing", live6)
			f.build()
			f.wantAlive("a live connection after building", live)
			f.wantAlive("a live connection to a routed host after building", live6)
			f.do(flush(f.inspect(), defaultMark, nil))
			if got := f.text(); got != before {
				t.Errorf("flushed: got\n%s\nwant\n%s", got, before)
			}
		})
	}
}
