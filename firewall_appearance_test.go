//go:build linux && !pure

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// allowed is what the host's own rules let in, in iptables' language: a door that is hidden although the host allows it.
const allowedByIptables = `for t in iptables$V ip6tables$V; do
	$t -w -A INPUT -p tcp --dport 22 -j ACCEPT
	$t -w -A INPUT -p udp --dport 51820 -j ACCEPT
done
`

// endBy lets in what belongs to connections, and neighbour discovery, and what else the rules say; and ends by a verdict.
func endBy(rules, verdict, policy string) string {
	return `nft -f - <<'END'
table inet filter {
	chain input {
		type filter hook input priority 0; policy ` + policy + `;
		iifname "lo" accept
		ct state { established, related } accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		` + rules + `
		` + verdict + `
	}
}
END
`
}

// rejectByIptables ends the chains by targets, of IPv4 and IPv6.
func rejectByIptables(v4, v6 string) string {
	return dropByIptables + allowedByIptables + "iptables$V -w -A INPUT -j " + v4 + "; ip6tables$V -w -A INPUT -j " + v6 + "\n"
}

// zone is a chain of firewalld's shape, or fw4's: it lets in what was translated.
const firewalldTable = `nft -f - <<'END'
table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_INPUT_ZONES {
		iifname "eth1" goto filter_IN_trusted
		iifname "eth0" goto filter_IN_public
		goto filter_IN_public
	}
	chain filter_IN_trusted {
		accept
	}
	chain filter_IN_public {
		jump filter_IN_public_allow
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		ENDING
	}
	chain filter_IN_public_allow {
		tcp dport 22 accept
		udp dport 51820 accept
	}
}
END
`

// fw4With is firewall4's shape with a redirect, and with the wan zone's input policy.
func fw4With(policy string) string {
	return strings.NewReplacer("icmpv6 type {", "ct status dnat accept comment \"!fw4: Accept port redirections\"\n\t\ttcp dport 22 accept\n\t\ticmpv6 type {",
		"counter drop comment", "counter "+policy+" comment").Replace(fw4Table) + `nft -f - <<'END'
table inet fw4 {
	chain dstnat {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "eth0" tcp dport 8080 redirect to :80
	}
}
END
`
}

var appearances = []firewallHost{
	{name: "no firewall", rules: "true"},
	{name: "no firewall, but NAT", rules: "nft add table ip nat; nft add chain ip nat pre '{ type nat hook prerouting priority -100; }'"},
	{name: "DROP", rules: endBy("", "", "drop")},
	{name: "DROP but for the door", rules: endBy("tcp dport 22 accept; udp dport 51820 accept", "", "drop")},
	{name: "one port dropped", rules: endBy("tcp dport 2323 drop", "", "accept")},
	{name: "reject by RST", rules: endBy("tcp dport 22 accept; udp dport 51820 accept", "meta l4proto tcp reject with tcp reset; reject", "drop")},
	{name: "reject by port-unreach", rules: endBy("tcp dport 22 accept; udp dport 51820 accept", "reject", "drop")},
	{name: "reject by admin-prohibited", rules: endBy("tcp dport 22 accept; udp dport 51820 accept", "reject with icmpx type admin-prohibited", "drop")},
	{name: "firewalld", rules: strings.Replace(firewalldTable, "ENDING", "reject with icmpx admin-prohibited", 1)},
	{name: "firewalld, zone drop", rules: strings.Replace(firewalldTable, "ENDING", "drop", 1)},
	{name: "fw4", rules: fw4Table},
	{name: "fw4, REJECT", rules: strings.Replace(fw4Table, "counter drop comment", "counter jump handle_reject comment", 1)},
	{name: "fw4, REJECT, with the includes", rules: strings.Replace(strings.Replace(fw4Table, "counter drop comment", "counter jump handle_reject comment", 1),
		"policy drop;\n", "policy drop;\n\t\t"+fw4Include+"\t}\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\t"+fw4Include+
			"\t}\n\tchain input {\n", 1)},
	{name: "fw4 with a redirect", rules: fw4With("drop")},
	{name: "fw4 with a redirect, REJECT", rules: fw4With("jump handle_reject")},
	{name: "fw3", rules: fw3},
	{name: "iptables-nft", rules: "V=-nft; " + rejectByIptables("REJECT", "REJECT")},
	{name: "iptables-nft, DROP", rules: "V=-nft; " + dropByIptables + allowedByIptables},
	{name: "iptables-legacy", rules: "V=-legacy; " + rejectByIptables("REJECT --reject-with icmp-host-prohibited", "REJECT --reject-with icmp6-adm-prohibited")},
	{name: "iptables-legacy, DROP", rules: "V=-legacy; " + dropByIptables + allowedByIptables},
}

// TestHiddenLooksClosed scans a host's hidden ports and those beside them, on which nothing listens, from outside: all
// must look alike, whatever the host does to closed ports, and whatever listens on the port that strangers are sent to.
func TestHiddenLooksClosed(t *testing.T) {
	for _, host := range appearances {
		t.Run(host.name, func(t *testing.T) {
			host.option = "nft"
			f := newFirewallTest(t, host)
			f.manyErrors()
			f.listen("1")
			f.echoUDP(51820)
			f.echoUDP(1)
			f.build()
			f.wantPresent(true)
			guest := f.dialUDP(0)
			if f.answered(guest) {
				t.Error("hidden: a datagram is answered")
			}
			f.open(f.pass("10.9.0.2", 100))
			f.wantPort(0, hostAddr+":22", reached)
			if !f.answered(guest) {
				t.Error("open: a datagram from the port that was refused before is not answered")
			}
			f.wantAlike(1, 22, 51820, scanSU, scanA, scanT)
		})
	}
}

// TestHiddenLooksClosedByIptables does it where there is no nft. A stray ACK goes to the listener there, if the host's
// rules let it.
func TestHiddenLooksClosedByIptables(t *testing.T) {
	for _, host := range append([]firewallHost{
		{name: "no firewall", rules: "V=; " + emptyIptables},
	}, appearances...) {
		if !strings.Contains(host.rules, "V=") {
			continue
		}
		t.Run(host.name, func(t *testing.T) {
			host.option = "iptables"
			f := newFirewallTest(t, host)
			f.manyErrors()
			f.echoUDP(51820)
			f.build()
			f.wantPresent(true)
			guest := f.dialUDP(0)
			if f.answered(guest) {
				t.Error("hidden: a datagram is answered")
			}
			f.open(f.pass("10.9.0.2", 100))
			f.wantPort(0, hostAddr+":22", reached)
			if !f.answered(guest) {
				t.Error("open: a datagram from the port that was refused before is not answered")
			}
			f.wantAlike(1, 22, 51820, scanSU, scanT)
		})
	}
}

// fw3 is what OpenWrt had before fw4, with a redirect.
const fw3 = `V=-legacy
for t in iptables$V ip6tables$V; do
	for c in zone_lan_input zone_wan_input zone_wan_src_REJECT reject; do $t -w -N $c; done
	$t -w -A INPUT -i lo -m comment --comment '!fw3' -j ACCEPT
	$t -w -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment '!fw3' -j ACCEPT
	$t -w -A INPUT -i br-lan -m comment --comment '!fw3' -j zone_lan_input
	$t -w -A INPUT -i eth0 -m comment --comment '!fw3' -j zone_wan_input
	$t -w -A zone_lan_input -m comment --comment '!fw3' -j ACCEPT
	$t -w -A zone_wan_input -p tcp -m tcp --dport 22 -m comment --comment '!fw3: Allow-SSH' -j ACCEPT
	$t -w -A zone_wan_input -m conntrack --ctstate DNAT -m comment --comment '!fw3: Accept port redirections' -j ACCEPT
	$t -w -A zone_wan_input -m comment --comment '!fw3' -j zone_wan_src_REJECT
	$t -w -A zone_wan_src_REJECT -i eth0 -m comment --comment '!fw3' -j reject
	$t -w -A reject -p tcp -m comment --comment '!fw3' -j REJECT --reject-with tcp-reset
done
iptables$V -w -A reject -m comment --comment '!fw3' -j REJECT --reject-with icmp-port-unreachable
ip6tables$V -w -A reject -m comment --comment '!fw3' -j REJECT --reject-with icmp6-port-unreachable
ip6tables$V -w -I zone_wan_input -p ipv6-icmp -m comment --comment '!fw3' -j ACCEPT
`

// manyErrors lets the host send as many ICMP errors as there are packets.
func (f *firewallTest) manyErrors() {
	f.must(f.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit; "+
		"cd /proc/sys/net/ipv4; for f in icmp_msgs_per_sec icmp_msgs_burst; do [ ! -w $f ] || echo 100000 > $f; done"))
}

var nmapPort = regexp.MustCompile(`protocol="(\w+)" portid="(\d+)"><state (state="[^"]*" reason="[^"]*" reason_ttl="\d+")`)

const (
	scanQuickly = " --max-retries 1 --min-rtt-timeout 200ms --max-rtt-timeout 400ms"
	scanSU      = "-sS -sU -p T:%[1]d-%[3]d,U:%[4]d-%[6]d" + scanQuickly
	scanA       = "-sA -p %[1]d-%[3]d" + scanQuickly
	// An ICMP error that comes while connect has the socket is lost, and comes again a second later (tcp_v6_err).
	scanT = "-sT -p %[1]d-%[3]d --max-retries 0 --min-rtt-timeout 1900ms --max-rtt-timeout 1900ms"
)

// wantAlike scans ports, and those beside them, from client i.
func (f *firewallTest) wantAlike(i int, tcpPort, udpPort uint16, scans ...string) {
	f.Helper()
	var all sync.WaitGroup
	for _, scan := range scans {
		for _, to := range []string{hostAddr, "-6 " + hostAddr6} {
			all.Go(func() {
				line := "nmap -n -Pn -T4 --reason -oX - " +
					fmt.Sprintf(scan, tcpPort-1, tcpPort, tcpPort+1, udpPort-1, udpPort, udpPort+1) + " " + to
				out, err := f.clients[i].output("sh", "-c", line)
				if err != nil {
					f.Error(err)
				}
				seen := map[string]string{}
				for _, m := range nmapPort.FindAllStringSubmatch(out, -1) {
					seen[m[1]+m[2]] = m[3]
				}
				for k, want := range map[Knock]bool{{tcpPort, tcp}: true, {udpPort, udp}: strings.Contains(line, "-sU")} {
					name := func(port uint16) string { return fmt.Sprintf("%v%d", k.Proto, port) }
					got, before, after := seen[name(k.Port)], seen[name(k.Port-1)], seen[name(k.Port+1)]
					if want && (got == "" || got != before || got != after) {
						f.Errorf("%s: port %d: %s, and beside it: %s, %s", line, k.Port, got, before, after)
					}
				}
			})
		}
	}
	all.Wait()
}

// forgetConnections does what conntrack -F does.
func (f *firewallTest) forgetConnections() {
	f.Helper()
	f.must(f.host.do(func() error {
		s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		m := make([]byte, unix.SizeofNlMsghdr+4) // and struct nfgenmsg, of any family
		binary.NativeEndian.PutUint32(m, uint32(len(m)))
		binary.NativeEndian.PutUint16(m[4:], unix.NFNL_SUBSYS_CTNETLINK<<8|2) // IPCTNL_MSG_CT_DELETE
		binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		if err := unix.Sendto(s, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		answer := make([]byte, 4096)
		n, _, err := unix.Recvfrom(s, answer, 0)
		if err == nil && n >= 20 && binary.NativeEndian.Uint32(answer[16:]) != 0 {
			err = unix.Errno(-int32(binary.NativeEndian.Uint32(answer[16:])))
		}
		return err
	}))
}

// TestHiddenLiveConnections has connections live through everything: those older than the rules, too, and when conntrack
// has forgotten them.
func TestHiddenLiveConnections(t *testing.T) {
	for _, name := range []string{"no firewall", "no firewall, but NAT", "one port dropped", "DROP but for the door", "reject by RST", "firewalld", "iptables-legacy"} {
		t.Run(name, func(t *testing.T) {
			host := appearances[slices.IndexFunc(appearances, func(h firewallHost) bool { return h.name == name })]
			host.option = "nft"
			f := newFirewallTest(t, host)
			old := map[string]net.Conn{"IPv4": f.dial(0, hostAddr), "IPv6": f.dial(0, hostAddr6)}
			alive := func(when string) {
				t.Helper()
				for family, conn := range old {
					f.wantAlive(when+", "+family, conn)
				}
			}
			f.build()
			alive("built")
			f.forgetConnections()
			alive("built, and connections forgotten")
			f.open(f.pass("10.9.0.2", 100))
			old["made while open"] = f.dial(0, hostAddr)
			f.forgetConnections()
			f.build()
			alive("built again")
			f.do(f.choice.close(f.pass("10.9.0.2", 0), nil))
			alive("closed")
			f.forgetConnections()
			alive("closed, and connections forgotten")
			f.wantPort(0, hostAddr+":22", hidden)
			f.do(flush(f.inspect(), defaultMark, nil))
			alive("flushed")
		})
	}
}

// TestHiddenWithoutConntrack has a host that had none: a hidden TCP port switches it on only until it is known that nothing
// drops there.
func TestHiddenWithoutConntrack(t *testing.T) {
	f := newFirewallTest(t, firewallHost{option: "nft", rules: "true"})
	tcpOnly := []Knock{{22, tcp}}
	f.rules.Hidden[0].Ports, f.rules.Kept = tcpOnly, tcpOnly
	count := func() string {
		out, err := f.host.output("cat", "/proc/sys/net/netfilter/nf_conntrack_count")
		f.must(err)
		return strings.TrimSpace(out)
	}
	f.do(nftFirewall{mark: defaultMark}.build(f.rules)) // as at first, when nothing is known
	f.listen("22000")
	live := f.dialPort(0, hostAddr, "22000")
	f.wantAlive("a connection that is tracked", live)
	if got := count(); got == "0" {
		t.Error("nothing known of the host: no connection is tracked")
	}
	f.forgetConnections()
	f.build()
	f.wantAlive("a connection that is not tracked any more", live)
	f.wantPort(0, hostAddr+":22", refused)
	if got := count(); got != "0" {
		t.Errorf("a host that drops nothing: %s connections are tracked, want none", got)
	}
}

// TestHiddenFragments sends a SYN cut into pieces of 8 bytes.
func TestHiddenFragments(t *testing.T) {
	for _, name := range []string{"no firewall", "no firewall, but NAT", "DROP but for the door"} {
		t.Run(name, func(t *testing.T) {
			host := appearances[slices.IndexFunc(appearances, func(h firewallHost) bool { return h.name == name })]
			host.option = "nft"
			f := newFirewallTest(t, host)
			scan := func() string {
				t.Helper()
				out, err := f.clients[0].output("nmap", "-n", "-Pn", "-sS", "-f", "-oX", "-", "-p", "22", hostAddr)
				f.must(err)
				return nmapPort.FindStringSubmatch(out)[3]
			}
			if got := scan(); !strings.Contains(got, `"open"`) {
				t.Fatalf("not hidden yet: got %s", got)
			}
			f.build()
			if got := scan(); strings.Contains(got, `"open"`) {
				t.Errorf("hidden: got %s", got)
			}
		})
	}
}

// TestHiddenOnOlderKernels has kernels that can do less: without sockets by wildcard, without nat in family inet, without
// fib, and without conntrack.
func TestHiddenOnOlderKernels(t *testing.T) {
	for able := ableToDrop; able <= ableToFind; able++ {
		t.Run(fmt.Sprint(able), func(t *testing.T) {
			f := newForwarder(t, firewallHost{rules: endBy("tcp dport 22 accept", "", "drop") + forwardByNFT})
			f.must(f.try([]Call{{Argv: nftScript, Input: f.choice.Firewall.(nftFirewall).tableText(f.rules, able)}}))
			f.wantPort(0, hostAddr+":22", hidden)
			if able >= ableToLocate {
				f.wantPort(0, hostAddr+":8443", hidden)
			}
			pass := f.pass("10.9.0.2", 100)
			pass.Ports = f.rules.Kept
			f.open(pass)
			f.wantPort(0, hostAddr+":22", reached)
			f.wantPort(0, hostAddr+":8443", reached)
			f.wantPort(1, hostAddr+":22", hidden)
		})
	}
}

const (
	inner, inner6 = "192.168.77.10", "fd77::10"
	// By hand, as fw4 does it, or as docker does it: only what is forwarded by these is let through.
	forwardByNFT = `nft -f - <<'END'
table inet forwards {
	chain pre {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local tcp dport 8443 dnat ip to 192.168.77.10:443
		fib daddr type local tcp dport 8443 dnat ip6 to [fd77::10]:443
		fib daddr type local udp dport 8053 dnat ip to 192.168.77.10:5353
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state { established, related } accept
		ct status dnat accept
		ip6 daddr fd77::10 tcp dport { 22, 8443 } accept
	}
}
END
`
	forwardByIptables = `
iptables$V -w -t nat -N DOCKER; ip6tables$V -w -t nat -N DOCKER
iptables$V -w -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
ip6tables$V -w -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables$V -w -t nat -A DOCKER -p tcp --dport 8443 -j DNAT --to-destination 192.168.77.10:443
iptables$V -w -t nat -A DOCKER -p udp --dport 8053 -j DNAT --to-destination 192.168.77.10:5353
ip6tables$V -w -t nat -A DOCKER -p tcp --dport 8443 -j DNAT --to-destination [fd77::10]:443
for t in iptables$V ip6tables$V; do
	$t -w -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
	$t -w -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT
	$t -w -P FORWARD DROP
done
ip6tables$V -w -A FORWARD -d fd77::10 -p tcp -m multiport --dports 22,8443 -j ACCEPT
`
)

// newForwarder is a host that forwards ports 8443 and 8053:udp to one behind it, and hides them.
func newForwarder(t *testing.T, host firewallHost) *firewallTest {
	if host.option == "" {
		host.option = "nft"
	}
	w := newWorld(t, 2)
	behind := w.netns()
	w.must(w.host.link("lan", behind, "eth0"))
	w.must(w.host.run("sh", "-ec", "ip address add 192.168.77.1/24 dev lan; ip address add fd77::1/64 dev lan nodad; "+
		"echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"))
	w.must(behind.run("sh", "-ec", "ip address add "+inner+"/24 dev eth0; ip address add "+inner6+"/64 dev eth0 nodad; "+
		"ip route add default via 192.168.77.1; ip route add default via fd77::1"))
	for _, c := range w.clients {
		w.must(c.run("ip", "route", "add", "fd77::/64", "via", hostAddr6))
	}
	w.listen("22")
	w.must(w.host.run("sh", "-ec", host.rules))
	inside := &firewallTest{world: &world{T: t, host: behind}}
	inside.listen("443", "22", "8443")
	inside.echoUDPAt(inner, 5353)
	inside.echoUDPAt(inner6, 5353)
	f := &firewallTest{world: w, inside: behind}
	f.choose(host.option)
	ports := []Knock{{22, tcp}, {8443, tcp}, {8053, udp}}
	f.rules = Ruleset{Hidden: []Hidden{{Door: "web", Ports: ports, Links: []string{"eth0"}}}, Kept: ports}
	return f
}

// TestHiddenForwarded hides ports that the host forwards, whoever does it, and opens them.
func TestHiddenForwarded(t *testing.T) {
	for _, host := range []firewallHost{
		{name: "nft", rules: forwardByNFT},
		{name: "nft, input drops", rules: endBy("tcp dport 22 accept", "", "drop") + forwardByNFT},
		{name: "nft, input rejects", rules: endBy("tcp dport 22 accept", "reject with icmpx admin-prohibited", "drop") + forwardByNFT},
		{name: "iptables-nft", rules: "V=-nft" + forwardByIptables},
		{name: "iptables-legacy", rules: "V=-legacy" + forwardByIptables},
		{name: "iptables-legacy, input drops", rules: "V=-legacy; " + dropByIptables + forwardByIptables},
	} {
		t.Run(host.name, func(t *testing.T) {
			f := newForwarder(t, host)
			f.manyErrors()
			const port, port6, behind6 = hostAddr + ":8443", "[" + hostAddr6 + "]:8443", "[" + inner6 + "]:"
			f.awaitPort(0, port, reached)
			f.awaitPort(0, port6, reached)
			guest, stranger := f.dialUDPTo(0, "8053"), f.dialUDPTo(1, "8053")
			f.build()
			f.wantPresent(true)
			// A stray ACK is forwarded: it may be one of a connection that conntrack has forgotten.
			f.wantAlike(1, 8443, 8053, scanSU, scanT)
			f.wantPort(0, port, hidden)
			f.wantPort(0, port6, hidden)
			if f.answered(guest) || f.answered(stranger) {
				t.Error("hidden: a datagram is answered")
			}
			pass := Pass{Door: "web", Source: netip.MustParseAddr("10.9.0.2"), Ports: f.rules.Kept, Left: time.Minute}
			pass6 := pass
			pass6.Source = netip.MustParseAddr("fd00:9::2")
			f.open(pass)
			f.open(pass6)
			f.wantPort(0, port, reached)
			f.wantPort(0, port6, reached)
			f.wantPort(1, port, hidden)
			f.wantPort(1, port6, hidden)
			if !f.answered(guest) {
				t.Error("open: a datagram from the port that was refused before is not answered")
			}
			if f.answered(stranger) {
				t.Error("open: a stranger's datagram is answered")
			}
			live := f.dialPort(0, hostAddr, "8443")
			f.do(f.choice.close(pass, nil))
			f.do(f.choice.close(pass6, nil))
			f.rules.Open = nil
			f.wantPort(0, port, hidden)
			f.wantPort(0, port6, hidden)
			f.wantAlive("a live connection after closing", live)
			f.build()
			f.wantAlive("a live connection after building", live)
			// What is behind the router is not hidden.
			f.wantPort(0, behind6+"22", reached)
			f.wantPort(0, behind6+"8443", reached)
			out, err := f.clients[0].output("nmap", "-n", "-Pn", "-sS", "-f", "-oX", "-", "-p", "8443", hostAddr)
			f.must(err)
			if strings.Contains(out, `state="open"`) {
				t.Errorf("a SYN in fragments: got %s", out)
			}
		})
	}
}

// TestHiddenForwardedAgain has a stranger send an ACK to a port that others forward, which leaves a mapping as the target says
// nothing, and then a SYN from the same port.
func TestHiddenForwardedAgain(t *testing.T) {
	f := newForwarder(t, firewallHost{rules: forwardByNFT})
	const port = hostAddr + ":8443"
	f.must(f.inside.run("nft", "add table inet quiet; add chain inet quiet in { type filter hook input priority 0; }; "+
		"add rule inet quiet in tcp flags & (syn | rst) == 0 ct state new drop"))
	from := uint16(40000)
	again := func(i int) string {
		t.Helper()
		from++
		var got error
		f.must(f.clients[i].do(func() error {
			to := netip.MustParseAddr(hostAddr)
			r, err := openRaw(to, route{}, []bpf.Instruction{bpf.RetConstant{Val: 0}})
			if err != nil {
				return err
			}
			defer unix.Close(r.fd)
			if err := r.send(from, 8443, flagACK); err != nil {
				return err
			}
			d := net.Dialer{LocalAddr: &net.TCPAddr{Port: int(from)}, Timeout: probePatience}
			conn, err := d.Dial("tcp", port)
			if got = err; err == nil {
				conn.Close()
			}
			return nil
		}))
		if got != nil {
			return hidden
		}
		return reached
	}
	f.awaitPort(0, port, reached)
	f.awaitPort(1, port, reached)
	f.build()
	for range 3 { // an ACK may be lost
		if got := again(1); got != hidden {
			t.Errorf("a stranger, after an ACK: got %s", got)
		}
	}
	f.open(Pass{Door: "web", Source: netip.MustParseAddr("10.9.0.2"), Ports: f.rules.Kept, Left: time.Minute})
	if got := again(0); got != reached {
		t.Errorf("who has knocked, after an ACK: got %s", got)
	}
}

// TestHiddenOnBridge has the host's address on a bridge, with another host behind it, and the bridge's packets go through
// the chains of IP (br_netfilter).
func TestHiddenOnBridge(t *testing.T) {
	f := newFirewallTest(t, firewallHost{option: "nft", rules: endBy("tcp dport 22 accept", "", "drop")})
	behind := f.netns()
	f.must(behind.link("eth0", f.host, "port"))
	f.must(behind.run("ip", "address", "add", "10.9.0.50/24", "dev", "eth0"))
	f.must(f.host.run("sh", "-ec", `ip link add br0 type bridge; ip address flush dev eth0; ip link set eth0 master br0; ip link set port master br0; ip link set br0 up
		ip address add `+hostAddr+`/24 dev br0; ip address add `+hostAddr6+`/64 dev br0 nodad
		cd /proc/sys/net/bridge; for f in bridge-nf-call-ip*; do echo 1 > $f; done`))
	(&world{T: t, host: behind}).listen("22")
	f.rules.Hidden[0].Links = []string{"eth0", "br0"}
	f.build()
	f.wantPort(0, hostAddr+":22", hidden)
	f.wantPort(0, "["+hostAddr6+"]:22", hidden)
	f.wantPort(0, "10.9.0.50:22", reached)
	f.open(f.pass("10.9.0.2", 100))
	f.wantPort(0, hostAddr+":22", reached)
	f.wantPort(1, hostAddr+":22", hidden)
}

// TestHiddenPortIsLastKnock has a door whose last knock is the port that it hides. Where the host refuses, that
// connection fails at once, and the next one gets in; where it drops, the SYN that comes again does.
func TestHiddenPortIsLastKnock(t *testing.T) {
	for _, test := range []struct{ name, rules, first string }{{"no firewall", "true", refused}, {"DROP", fw4Table, reached}} {
		t.Run(test.name, func(t *testing.T) {
			n := newNativeTest(t, firewallHost{rules: test.rules}, strings.Replace(fmt.Sprintf(nativeDoor, 600), "7000,9000,8000", "7000,22", 1))
			d := n.serve()
			n.knock(0, hostAddr, "7000")
			if got := probe(n.clients[0], "", hostSSH, 5*time.Second); got != test.first {
				t.Errorf("the connection that is the last knock: got %s, want %s", got, test.first)
			}
			d.await("open for")
			n.wantPort(0, hostSSH, reached)
			n.wantPort(1, hostSSH, hidden)
		})
	}
}

// TestHiddenSavedRules has somebody save all rules of nft's and restore them.
func TestHiddenSavedRules(t *testing.T) {
	f := newFirewallTest(t, firewallHost{option: "nft", rules: fw4Table})
	f.build()
	f.open(f.pass("10.9.0.2", 100))
	f.must(f.host.run("sh", "-ec", "nft list ruleset > $0; nft flush ruleset; nft -f $0", t.TempDir()+"/saved"))
	f.wantPresent(true)
	f.wantPort(0, hostAddr+":22", reached)
	f.wantPort(1, hostAddr+":22", hidden)
}

// TestHiddenRedirectLinkLocal has a hidden port that the host redirects to another one of its own. Link-local sources get
// there no more than others.
func TestHiddenRedirectLinkLocal(t *testing.T) {
	f := newFirewallTest(t, firewallHost{option: "nft", rules: "nft add table ip6 nat; nft add chain ip6 nat pre '{ type nat hook prerouting priority -100; }'; " +
		"nft add rule ip6 nat pre tcp dport 8080 redirect to :80"})
	f.listen("80")
	ports := []Knock{{8080, tcp}}
	f.rules = Ruleset{Hidden: []Hidden{{Door: "web", Ports: ports, Links: []string{"eth0"}}}, Kept: ports}
	linkLocal := func(n *Netns) string {
		out, err := n.output("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
		f.must(err)
		address, _, _ := strings.Cut(strings.Fields(out)[3], "/")
		return address
	}
	port := "[" + linkLocal(f.host) + "%eth0]:8080"
	f.awaitPort(0, port, reached)
	f.build()
	f.wantPort(0, port, hidden)
	f.open(Pass{Door: "web", Source: netip.MustParseAddr(linkLocal(f.clients[0])), Link: "eth0", Ports: ports, Left: time.Minute})
	f.wantPort(0, port, reached)
	f.wantPort(1, port, hidden)
}
