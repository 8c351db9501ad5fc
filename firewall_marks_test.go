//go:build linux && !pure

package main

import (
	"strings"
	"testing"
)

// markingHosts drop, and have rules that change the mark of packets. in says who gets in by port 22: clients 0, who has
// knocked, and 1.
var markingHosts = []struct {
	name, rules string
	in          [2]string
	warned      string // the chain that changes it; "": there is no warning
}{
	{"all bits before iptables' chain", dropByIptables + `nft 'add table inet early; add chain inet early input { type filter hook input priority -5; }
add rule inet early input meta mark set 0xffffffff'`, [2]string{reached, reached}, "the chain input of table inet early"},
	{"no bit before iptables' chain", dropByIptables + `nft 'add table inet early; add chain inet early input { type filter hook input priority -5; }
add rule inet early input meta mark set 0x1'`, [2]string{filtered, filtered}, "the chain input of table inet early"},
	{"in a chain that it leads to", dropByIptables + `nft 'add table ip early; add chain ip early sub; add rule ip early sub meta mark set ct mark
add chain ip early input { type filter hook input priority -5; }; add rule ip early input tcp dport 22 jump sub'`, [2]string{filtered, filtered}, "the chain input of table ip early"},
	{"iptables' chain before nft's", `iptables -w -A INPUT -j MARK --set-mark 0x1
nft 'add table inet host; add chain inet host input { type filter hook input priority 10; policy drop; }
add rule inet host input ct state established accept; add rule inet host input icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept'`,
		[2]string{filtered, filtered}, "the chain INPUT of table ip filter"},
	{"before a ban", `nft 'add table inet host; add chain inet host input { type filter hook input priority 0; policy drop; }
add rule inet host input meta mark set 0x1; add rule inet host input ip saddr 192.0.2.0/24 drop
add rule inet host input ct state established accept; add rule inet host input icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept'`,
		[2]string{filtered, filtered}, "the chain input of table inet host"},
	// Ours comes before it.
	{"in the same chain", dropByIptables + "iptables -w -I INPUT -j MARK --set-mark 0xffffffff", [2]string{reached, filtered}, ""},
	// What comes before our table does not matter, as it clears the bit.
	{"iptables' mangle", dropByIptables + `for c in PREROUTING INPUT; do iptables -w -t mangle -A $c -j MARK --set-mark 0xffffffff; done
iptables -w -t mangle -A PREROUTING -j CONNMARK --restore-mark`, [2]string{reached, filtered}, ""},
	{"wg-quick's", dropByIptables + `nft 'add table ip wg-quick-wg0; add chain ip wg-quick-wg0 premangle { type filter hook prerouting priority -150; }
add rule ip wg-quick-wg0 premangle meta l4proto { tcp, udp } meta mark set ct mark
add chain ip wg-quick-wg0 postmangle { type filter hook postrouting priority -150; }
add rule ip wg-quick-wg0 postmangle meta l4proto udp mark 51820 ct mark set mark'`, [2]string{reached, filtered}, ""},
	{"other bits", dropByIptables + `nft 'add table inet early; add chain inet early input { type filter hook input priority -5; }
add rule inet early input meta mark set meta mark & 0xffff00ff | 0x100; add rule inet early input meta mark set meta mark | 0x4000'
iptables -w -N ts-input; iptables -w -A ts-input -j MARK --set-xmark 0x40000/0xff0000; iptables -w -I INPUT -j ts-input
iptables -w -N mwan; iptables -w -A mwan -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00; iptables -w -I INPUT -j mwan
iptables -w -N KUBE; iptables -w -A KUBE -j MARK --or-mark 0x4000; iptables -w -A KUBE -m mark --mark 0x8000/0x8000 -j DROP; iptables -w -I INPUT -j KUBE`,
		[2]string{reached, filtered}, ""},
}

// TestForeignMarks has the mark of packets changed by other programs between our chain and our accepts: log, check and
// status say so, and only where it makes a difference.
func TestForeignMarks(t *testing.T) {
	for _, host := range markingHosts {
		t.Run(host.name, func(t *testing.T) {
			n := newNativeTest(t, firewallHost{rules: host.rules}, "[ssh]\n sequence = 7000,9000,8000\n open_ports = 22\n cmd_timeout = 600\n")
			d := n.serve()
			n.knockOnce(0)
			d.await("10.9.0.2: ssh: open for")
			for i, want := range host.in {
				n.awaitPort(i, hostSSH, want)
			}
			checked, status := n.tool("check", "-c", n.dir+"/knockd.conf")
			if status != 0 {
				t.Errorf("check: exit status %d", status)
			}
			told, _ := n.tool("status", "-s", n.socket)
			for what, text := range map[string]string{"the log": d.logged(), "check": checked, "status": told} {
				want := 0
				if host.warned != "" {
					want = 1
				}
				if got := strings.Count(text, host.warned+" changes the bit 0x20000000 of packets' marks before"); got != want {
					t.Errorf("%s: got %d warnings, want %d: %s", what, got, want, text)
				}
			}
			d.stop()
			n.flushed()
		})
	}
}
