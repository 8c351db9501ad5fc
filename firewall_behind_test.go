//go:build linux && !pure

package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	{name: "firewalld's chains", rules: `nft -f - <<'END'
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		reject with icmpx admin-prohibited
	}
}
END
`},
	{name: "another one's forward is let through", rules: `nft -f - <<'END'
table inet fw {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state { established, related } accept
		iifname "lan" accept
		ip daddr 192.168.77.99 ct status dnat accept
	}
}
END
`},
	{name: "docker's chains", rules: "V=-nft" + strings.ReplaceAll(forwardByIptables, "8443", "9443")},
	{name: "by iptables", option: "iptables", rules: dropByIptables + "iptables -w -P FORWARD DROP; ip6tables -w -P FORWARD DROP"},
	{name: "by iptables-legacy", option: "iptables", rules: "V=-legacy; " + dropByIptables + "iptables-legacy -w -P FORWARD DROP; ip6tables-legacy -w -P FORWARD DROP; " + emptyIptables},
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
			before, lan := f.text(), probe(f.inside, "", hostAddr+":8443", probePatience)
			f.rules = Ruleset{Behind: append(nas[:3:3], dmz...), Hidden: []Hidden{{Door: "nas", Ports: []Knock{{8443, tcp}, {8053, udp}}, Behind: dmz, Links: []string{"eth0"}}}}
			f.choose(host.option) // as the host has been looked at for what is behind it
			f.build()
			f.wantPresent(true)
			const port, port6, routed6 = hostAddr + ":8443", "[" + hostAddr6 + "]:8443", "[" + inner6 + "]:22"
			guest, stranger := f.dialUDPTo(0, "8053"), f.dialUDPTo(1, "8053")
			all := func(i int, want string) {
				t.Helper()
				for _, to := range []string{port, port6, routed6} {
					f.awaitPort(i, to, want) // neighbours are looked for, which a busy machine takes long for
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
			if got := probe(f.inside, "", hostAddr+":8443", probePatience); got != lan {
				t.Errorf("from behind the router: got %s, want %s as before", got, lan)
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
			if got := f.text(); got != before && (host.option == "" || strings.Contains(strings.ToLower(got), "sesame")) { // iptables leaves a table of its own
				t.Errorf("flushed: got\n%s\nwant\n%s", got, before)
			}
		})
	}
}

const behindDoor = `[nas]
	sequence    = 7000,9000,8000
	open_ports  = 8443 -> 192.168.77.10:443
	cmd_timeout = %d
	hide        = yes
	interface   = eth0
`

// newBehindTest is a router with daemons.
func newBehindTest(t *testing.T, host firewallHost, config string) *nativeTest {
	n := &nativeTest{firewallTest: newForwarder(t, host), dir: t.TempDir()}
	n.before, n.socket = n.text(), n.dir+"/control"
	n.config = config + "[options]\n\tStateDir = " + n.dir + "/state\n"
	if host.option != "" {
		n.config += "\tFirewall = " + host.option + "\n"
	}
	return n
}

// TestBehindLife has a daemon killed while a forward is open, and started again; closes it by hand; reloads, without the
// door and with another target; has others make the host's rules anew, and restore saved ones; and flushes.
func TestBehindLife(t *testing.T) {
	for _, host := range behindHosts {
		t.Run(host.name, func(t *testing.T) {
			n := newBehindTest(t, host, fmt.Sprintf(behindDoor, 600))
			const port = hostAddr + ":8443"
			d := n.serve()
			n.wantPort(0, port, hidden)
			n.knockOnce(0)
			n.awaitPort(0, port, reached)
			n.wantPort(1, port, hidden)
			live := n.dialPort(0, hostAddr, "8443")
			n.awaitRecorded()
			d.signal(unix.SIGKILL)
			<-d.ended
			n.wantPort(0, port, reached)
			d = n.serve()
			d.await("nas: still open")
			n.wantPort(0, port, reached)
			n.wantPort(1, port, hidden)
			for _, arg := range []string{"", "--json"} {
				if out, _ := n.tool(slices.DeleteFunc([]string{"status", "-s", n.socket, arg}, func(s string) bool { return s == "" })...); !strings.Contains(out, "8443:tcp -> 192.168.77.10:443") {
					t.Errorf("status %s: got %s", arg, out)
				}
			}
			// The host's rules are made anew, or saved ones are restored.
			if strings.Contains(host.rules, "table inet fw4") {
				n.must(n.host.run("sh", "-ec", "nft delete table inet fw4; "+host.rules))
			}
			n.must(n.host.run("sh", "-ec", "nft list ruleset > $0; nft flush ruleset; nft -f $0", t.TempDir()+"/saved"))
			n.awaitPort(0, port, reached)
			n.wantPort(1, port, hidden)
			n.wantAlive("a live connection", live)
			if out, status := n.tool("close", "-s", n.socket, "nas"); status != 0 {
				t.Errorf("close: %s", out)
			}
			n.awaitPort(0, port, hidden)
			n.wantAlive("a live connection after closing", live)
			// To another target, while it is open to this one.
			n.knockOnce(0)
			n.awaitPort(0, port, reached)
			n.config = strings.Replace(n.config, "192.168.77.10:443", "192.168.77.10:22", 1)
			n.must(os.WriteFile(n.dir+"/knockd.conf", []byte(n.config), 0o600))
			d.signal(unix.SIGHUP)
			d.await("re-reading config file")
			n.awaitPort(0, port, reached)
			n.config = strings.Replace(n.config, "8443 -> 192.168.77.10:22", "2222", 1)
			n.must(os.WriteFile(n.dir+"/knockd.conf", []byte(n.config), 0o600))
			d.signal(unix.SIGHUP)
			n.eventually("the reload", func() bool { return strings.Count(d.logged(), "re-reading config file") == 2 })
			n.tool("close", "-s", n.socket, "--all")
			n.awaitPort(0, port, hidden)
			d.stop()
			if out, status := n.tool("flush", "-c", n.dir+"/knockd.conf"); status != 0 || strings.Contains(strings.ToLower(n.text()), "sesame") {
				t.Errorf("flush: exit status %d, %s; left is\n%s", status, out, n.text())
			}
		})
	}
}

// TestBehindMasquerade has a target without a way back, and one of the router's addresses that is forwarded alone.
func TestBehindMasquerade(t *testing.T) {
	for _, host := range behindHosts {
		t.Run(host.name, func(t *testing.T) {
			f := newForwarder(t, host)
			f.must(f.host.run("ip", "address", "add", "10.9.0.200/24", "dev", "eth0"))
			f.must(f.inside.run("ip", "route", "del", "default"))
			b := Behind{Knock: Knock{8080, tcp}, At: netip.MustParsePrefix("10.9.0.200/32"), To: netip.MustParseAddrPort(inner + ":443"), Masquerade: true}
			f.rules = Ruleset{Behind: []Behind{b}, Hidden: []Hidden{{Door: "nas", Behind: []Behind{b}, Links: []string{"eth0"}}}}
			f.listen("8080")
			f.must(f.host.run("sh", "-c", "for t in iptables-nft iptables-legacy; do $t -w -S INPUT | grep -q DROP && $t -w -A INPUT -p tcp --dport 8080 -j ACCEPT; done; "+
				"nft list table inet fw4 && nft insert rule inet fw4 input tcp dport 8080 accept; true"))
			f.build()
			f.wantPort(0, "10.9.0.200:8080", hidden)
			f.wantPort(0, hostAddr+":8080", reached) // which nobody hides
			f.open(Pass{Door: "nas", Source: netip.MustParseAddr("10.9.0.2"), Behind: f.rules.Behind, Left: time.Minute})
			f.wantPort(0, "10.9.0.200:8080", reached)
			f.wantPort(1, "10.9.0.200:8080", hidden)
			conn := f.dialPort(0, "10.9.0.200", "8080")
			f.wantAlive("a masqueraded connection", conn)
		})
	}
}

// TestBehindFragments sends a SYN cut after 8 bytes to a routed host where nothing drops. Linux has no such IPv6 (RFC 7112).
func TestBehindFragments(t *testing.T) {
	f := newForwarder(t, behindHosts[0])
	f.must(f.clients[0].run("ip", "route", "add", "192.168.77.0/24", "via", hostAddr))
	f.rules = Ruleset{Behind: dmz, Hidden: []Hidden{{Door: "dmz", Behind: dmz, Links: []string{"eth0"}}}}
	f.choose("nft")
	scan := func() string {
		t.Helper()
		out, err := f.clients[0].output("nmap", "-n", "-Pn", "-sS", "-f", "-oX", "-", "-p", "22", inner)
		f.must(err)
		return nmapPort.FindStringSubmatch(out)[3]
	}
	f.eventually("the port is open to fragments", func() bool { return strings.Contains(scan(), `"open"`) })
	f.build()
	if got := scan(); strings.Contains(got, `"open"`) {
		t.Errorf("hidden: got %s", got)
	}
}

// TestBehindOneAddress forwards a port of any address, and in the same door that port of one address elsewhere.
func TestBehindOneAddress(t *testing.T) {
	for _, option := range []string{"nft", "iptables"} {
		t.Run(option, func(t *testing.T) {
			f := newForwarder(t, firewallHost{option: option, rules: emptyIptables})
			f.must(f.host.run("ip", "address", "add", "10.9.0.200/24", "dev", "eth0"))
			closed := Behind{Knock: Knock{8443, tcp}, To: netip.MustParseAddrPort(inner + ":444")}
			one := Behind{Knock: Knock{8443, tcp}, At: netip.MustParsePrefix("10.9.0.200/32"), To: netip.MustParseAddrPort(inner + ":443")}
			f.rules = Ruleset{Behind: []Behind{closed, one}, Hidden: []Hidden{{Door: "nas", Ports: []Knock{{8443, tcp}}, Behind: []Behind{one}, Links: []string{"eth0"}}}}
			f.choose(option)
			f.build()
			for _, when := range []string{"opened", "built"} {
				if when == "opened" {
					f.open(Pass{Door: "nas", Source: netip.MustParseAddr("10.9.0.2"), Behind: f.rules.Behind, Left: time.Minute})
				} else {
					f.build()
				}
				f.awaitPort(0, "10.9.0.200:8443", reached)
				f.wantPort(0, hostAddr+":8443", refused) // by the host behind
			}
		})
	}
}

// TestBehindWarnings has a kernel that forwards nothing, a target that is the host itself, and one without a route.
func TestBehindWarnings(t *testing.T) {
	f := newForwarder(t, behindHosts[0])
	f.must(f.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"))
	f.must(f.host.do(func() error {
		warnings := strings.Join(behindWarnings(Ruleset{
			Behind: []Behind{nas[0], nas[1], {Knock: Knock{80, tcp}, To: netip.MustParseAddrPort(hostAddr + ":8080")}, {Knock: Knock{81, tcp}, To: netip.MustParseAddrPort("[2001:db8::7]:8080")}},
			Hidden: []Hidden{{Ports: []Knock{{8443, tcp}}}},
		}), "\n")
		const want = `the kernel forwards nothing, so no host behind this one can be reached: sysctl -w net.ipv4.ip_forward=1
8443:tcp -> 192.168.77.10:443 is hidden on all interfaces, so from hosts behind this one, too: name the outer interface (Interface = eth0), or write Hide_Except
8443:tcp -> [fd77::10]:443 is hidden on all interfaces, so from hosts behind this one, too: name the outer interface (Interface = eth0), or write Hide_Except
80:tcp -> 10.9.0.1:8080: 10.9.0.1 is this host itself: write the port alone
81:tcp -> [2001:db8::7]:8080: there is no route to 2001:db8::7`
		if warnings != want {
			t.Errorf("got\n%s\nwant\n%s", warnings, want)
		}
		return nil
	}))
}

// TestBehindOlderKernels has a kernel that cannot tell its own addresses: what is hidden is so all the same, and the doors that
// need no forward open. Where iptables works, it forwards.
func TestBehindOlderKernels(t *testing.T) {
	for _, iptables := range []bool{false, true} {
		t.Run(fmt.Sprintf("iptables %v", iptables), func(t *testing.T) {
			n := newBehindTest(t, behindHosts[0], fmt.Sprintf(behindDoor, 600)+"[ssh]\n\tsequence = 7001,9001,8001\n\topen_ports = 22\n\thide = yes\n\tinterface = eth0\n\tcmd_timeout = 600\n")
			n.breaks("ip6tables", "*", 1)
			if !iptables {
				n.breaks("iptables", "*", 1)
			}
			n.must(os.WriteFile(n.broken+"/nft", []byte(`#!/bin/sh
PATH=${PATH#*:}
case "$*" in
*-f*)
	in=$(cat)
	case "$in" in *"fib "*) echo "Error: Could not process rule: No such file or directory" >&2; exit 1;; esac
	printf '%s\n' "$in" | nft "$@";;
*)
	exec nft "$@";;
esac
`), 0o755))
			const warning = "warning: firewall: nobody gets in by doors with ->, as the kernel cannot translate addresses for nft"
			d := n.serve()
			if got := strings.Contains(d.logged(), warning); got == iptables {
				t.Errorf("warned: got %v in\n%s", got, d.logged())
			}
			n.wantPort(1, hostSSH, hidden)
			n.knockOnce(0)
			n.knock(0, "-d20", hostAddr, "7001", "9001", "8001")
			n.awaitPort(0, hostSSH, reached)
			n.wantPort(1, hostSSH, hidden)
			if iptables {
				n.awaitPort(0, hostAddr+":8443", reached)
			}
			if out, _ := n.tool("check", "-c", n.dir+"/knockd.conf"); strings.Contains(out, warning[len("warning: firewall: "):]) == iptables {
				t.Errorf("check: got %s", out)
			}
			d.stop()
		})
	}
}

// TestFlushNAT has somebody empty table filter: flush removes what is left in table nat.
func TestFlushNAT(t *testing.T) {
	for _, host := range behindHosts {
		if host.option != "iptables" {
			continue
		}
		t.Run(host.name, func(t *testing.T) {
			f := newForwarder(t, host)
			f.rules = Ruleset{Behind: nas[:1]}
			f.choose(host.option)
			f.build()
			f.open(Pass{Door: "nas", Source: netip.MustParseAddr("10.9.0.2"), Behind: f.rules.Behind, Left: time.Minute})
			tool := f.choice.Firewall.(iptablesFirewall).tools[0].name
			f.must(f.host.run("sh", "-ec", "$0 -w -t nat -S SESAME; $0 -w -F; $0 -w -X", tool))
			f.do(flush(f.inspect(), defaultMark, nil))
			out, err := f.host.output(tool, "-w", "-t", "nat", "-S")
			f.must(err)
			if strings.Contains(out, ourChain) || !strings.Contains(out, "-P PREROUTING ACCEPT") {
				t.Errorf("left is\n%s", out)
			}
		})
	}
}

// TestForwardedByIptables has iptables hide what others forward: it cannot, and says so.
func TestForwardedByIptables(t *testing.T) {
	f := newForwarder(t, firewallHost{option: "iptables", rules: "V=-nft" + forwardByIptables})
	f.build()
	const warning = "hidden ports that others forward (docker -p, a redirect) are open"
	if !strings.Contains(strings.Join(f.choice.Warnings, "\n"), warning) {
		t.Errorf("got %q, want %s", f.choice.Warnings, warning)
	}
}
