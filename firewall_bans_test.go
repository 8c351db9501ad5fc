//go:build linux && !pure

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// banningHosts have rules that ban sources, as programs make them. ban bans $1, and unban takes it back.
var banningHosts = []struct{ name, rules, ban, unban string }{
	{
		"fail2ban's iptables-multiport", `iptables -w -N f2b-sshd; iptables -w -A f2b-sshd -j RETURN
iptables -w -I INPUT -p tcp -m multiport --dports 22 -j f2b-sshd`,
		"iptables -w -I f2b-sshd 1 -s $1 -j REJECT --reject-with icmp-port-unreachable",
		"iptables -w -D f2b-sshd -s $1 -j REJECT --reject-with icmp-port-unreachable",
	},
	{
		"fail2ban's nftables-multiport", `nft add table inet f2b-table
nft -- add chain inet f2b-table f2b-chain '{ type filter hook input priority -1; }'
nft add set inet f2b-table addr-set-sshd '{ type ipv4_addr; }'
nft add rule inet f2b-table f2b-chain tcp dport '{ 22 }' ip saddr @addr-set-sshd reject`,
		"nft add element inet f2b-table addr-set-sshd '{' $1 '}'",
		"nft delete element inet f2b-table addr-set-sshd '{' $1 '}'",
	},
	{
		"CrowdSec's by nft", `nft -f - <<'END'
table ip crowdsec {
	set crowdsec-blacklists { type ipv4_addr; flags timeout; }
	chain crowdsec-chain-input {
		type filter hook input priority filter - 10; policy accept;
		ip saddr @crowdsec-blacklists counter drop
	}
}
END`,
		"nft add element ip crowdsec crowdsec-blacklists '{' $1 timeout 1h '}'",
		"nft delete element ip crowdsec crowdsec-blacklists '{' $1 '}'",
	},
	{
		"CrowdSec's by iptables", `ipset create crowdsec-blacklists hash:net timeout 300; iptables -w -N CROWDSEC_CHAIN
iptables -w -A CROWDSEC_CHAIN -m set --match-set crowdsec-blacklists src -j DROP
iptables -w -I INPUT -j CROWDSEC_CHAIN`,
		"ipset add crowdsec-blacklists $1", "ipset del crowdsec-blacklists $1",
	},
	{
		"recent", "iptables -w -I INPUT 1 -p tcp -m tcp --dport 22 -m recent --name tries --rcheck --seconds 600 -j DROP",
		"echo +$1 > /proc/thread-self/net/xt_recent/tries", "echo -$1 > /proc/thread-self/net/xt_recent/tries",
	},
	{
		"by hand", "iptables -w -I INPUT -s 192.0.2.0/24 -j DROP", "iptables -w -I INPUT -s $1 -j DROP", "iptables -w -D INPUT -s $1 -j DROP",
	},
}

// TestBans has programs ban somebody who has knocked, on hosts that drop and on others: he is out at once, also after a
// restart of ours, and in again when the ban ends.
func TestBans(t *testing.T) {
	for _, host := range banningHosts {
		for _, option := range []string{"auto", "iptables"} {
			for _, rules := range []string{emptyIptables + "\n", dropByIptables} {
				t.Run(fmt.Sprintf("%s, %s, dropping %v", host.name, option, rules == dropByIptables), func(t *testing.T) {
					n := newNativeTest(t, firewallHost{option: option, rules: rules + host.rules}, fmt.Sprintf(nativeDoor, 600))
					d := n.serve()
					if strings.Contains(d.logged(), "warning: firewall") {
						t.Error("a warning is logged")
					}
					run := func(line string) {
						t.Helper()
						n.must(n.host.run("sh", "-ec", line, "sh", "10.9.0.2"))
					}
					n.knockOnce(0)
					n.knockOnce(1)
					n.awaitPort(0, hostSSH, reached)
					for _, restart := range []bool{false, true} {
						run(host.ban)
						began := time.Now()
						n.awaitShut(0)
						t.Logf("banned within %v", time.Since(began).Round(time.Millisecond))
						if restart {
							d.signal(unix.SIGKILL)
							<-d.ended
							d = n.serve()
							n.awaitShut(0)
						}
						n.knockOnce(0)
						n.awaitPort(1, hostSSH, reached)
						time.Sleep(2 * lookAfter) // for what is done about the change
						n.awaitShut(0)
						run(host.unban)
						n.awaitPort(0, hostSSH, reached)
					}
					d.stop()
					n.flushed()
				})
			}
		}
	}
}

// TestBansLater starts fail2ban while a door is open, on a host that drops: its ban holds all the same.
func TestBansLater(t *testing.T) {
	for _, option := range []string{"auto", "iptables"} {
		t.Run(option, func(t *testing.T) {
			n := newNativeTest(t, firewallHost{option: option, rules: dropByIptables}, fmt.Sprintf(nativeDoor, 600))
			d := n.serve()
			n.knockOnce(0)
			n.wantOnly()
			n.must(n.host.run("sh", "-ec", banningHosts[0].rules+"\n"+banningHosts[0].ban, "sh", "10.9.0.2"))
			n.awaitShut(0)
			n.knockOnce(1)
			n.awaitPort(1, hostSSH, reached)
			n.awaitShut(0)
			d.stop()
		})
	}
}

// TestBansThatAccept has rules about certain sources before ours which let in at last what they do not drop: whoever comes to
// such a rule does not come to what is behind it, and so ours comes first.
func TestBansThatAccept(t *testing.T) {
	for _, test := range []struct{ name, rules string }{
		{"goto", "iptables -N T; iptables -A T -s 10.9.0.9 -j DROP; iptables -A INPUT -s 10.9.0.0/24 -g T"},
		{"queue", "iptables -A INPUT -s 10.9.0.0/24 -p tcp -j NFQUEUE --queue-num 7 --queue-bypass"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFirewallTest(t, firewallHost{option: "iptables", rules: test.rules})
			f.wantPort(0, hostAddr+":22", reached)
			f.build()
			f.do(f.choice.build(f.rules)) // with what was seen
			f.wantPort(0, hostAddr+":22", hidden)
		})
	}
}
