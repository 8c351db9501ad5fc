//go:build linux

package main

import (
	"fmt"
	"testing"
)

func TestReadRule(t *testing.T) {
	for rule, want := range map[string]hostRule{
		`iifname "eth0" counter packets 1 bytes 2 jump input_wan comment "!fw4: drop" # handle 7`: {links: []string{"eth0"}, to: "input_wan", leads: []string{"input_wan"}},
		`iifname { "eth0", "eth1" } meta l4proto { tcp, udp } goto x`:                             {links: []string{"eth0", "eth1"}, protos: []string{"tcp", "udp"}, to: "x", leaves: true, leads: []string{"x"}},
		`iifname "eth0" tcp dport 22 accept`:                                                      {links: []string{"eth0"}, more: true, verdict: "accept", can: accepts},
		`iifname != "eth0" drop`:                                                                  {more: true, verdict: "drop", can: drops},
		`iifname vmap { "eth0" : jump a }`:                                                        {more: true, to: "a", leads: []string{"a"}},
		`meta mark & 0x20000000 == 0x20000000 accept comment "sesame 0x20000000"`:                 {more: true, verdict: "accept", can: accepts},
		`meta l4proto tcp reject with tcp reset # handle 9`:                                       {protos: []string{"tcp"}, verdict: "reject with tcp reset", can: drops},
		`reject`:                          {verdict: "reject", can: drops},
		`ct status dnat accept`:           {more: true, verdict: "accept", translated: true, can: accepts},
		`-A INPUT -i eth0 -p tcp -j drop`: {links: []string{"eth0"}, protos: []string{"tcp"}, to: "drop", leads: []string{"drop"}},
		`-A drop -m comment --comment accept -g other`:                                              {to: "other", leaves: true, leads: []string{"other"}},
		`-A INPUT -m comment --comment "two -j words" -j REJECT --reject-with icmp6-adm-prohibited`: {verdict: "REJECT --reject-with icmp6-adm-prohibited", can: drops},
		`-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT`:                        {more: true, verdict: "ACCEPT", translated: true, can: accepts},
		`-A INPUT ! -i eth0 -j DROP`:                                                                {more: true, verdict: "DROP", can: drops},
		`tcp dport vmap { 22 : jump a, 23 : drop, 24 : accept, 25 : goto b }`:                       {more: true, to: "a", leaves: true, can: accepts | drops, leads: []string{"a", "b"}},
		`meta mark vmap @verdicts`:                                                                  {more: true, can: accepts | drops | jumps},
		`-A INPUT -s 192.0.2.7/32 -m comment --comment accept -j DROP`:                              {more: true, sources: true, verdict: "DROP", can: drops},
		`queue flags bypass to 1`:                                                                   {more: true, can: accepts | drops},
		`-A INPUT -s 192.0.2.7/32 -j TARPIT`:                                                        {more: true, sources: true, to: "TARPIT", can: drops, leads: []string{"TARPIT"}},
		`log prefix "drop " counter packets 1 bytes 2 accept`:                                       {more: true, verdict: "accept", can: accepts},
		`counter packets 1 bytes 2 meta mark set 0x00000001`:                                        {more: true, mark: 0xffffffff},
		`-A INPUT -j MARK --set-xmark 0x4000/0x4000`:                                                {to: "MARK", leads: []string{"MARK"}, mark: 0x4000},
		`-A INPUT -j LOG`: {to: "LOG", leads: []string{"LOG"}},
	} {
		if got := readRule(rule); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: got %+v, want %+v", rule, got, want)
		}
	}
}

// TestChangedMark has rules of kube-proxy, docker's swarm, tailscale, mwan3 and wg-quick, and others.
func TestChangedMark(t *testing.T) {
	const all = 0xffffffff
	for rule, want := range map[string]uint32{
		"-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000":                                                            0x4000,
		"-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000":                                                            0x8000,
		"-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP":                                                          0,
		"-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0":                                                             0x4000,
		"-A PREROUTING -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x100/0xffffffff":                                  all,
		"-A ts-forward -i tailscale0 -j MARK --set-xmark 0x40000/0xff0000":                                               0xff0000,
		"-A mwan3_hook -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00":                                       0x3f00,
		"-A mwan3_hook -m mark --mark 0x0/0x3f00 -j MARK --set-xmark 0x100/0x3f00":                                       0x3f00,
		"-A mwan3_hook -j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00":                                          0,
		"-A INPUT -j CONNMARK --restore-mark":                                                                            all,
		"-A INPUT -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff":                                    all,
		"-A INPUT -j CONNMARK --set-xmark 0x1/0xffffffff":                                                                0,
		"-A INPUT -j MARK --set-mark 0x1":                                                                                all,
		"-A INPUT -j MARK --set-xmark 0x0/0xffffff00":                                                                    0xffffff00,
		`-A INPUT -m comment --comment "-j MARK --set-xmark 0x1" -j ACCEPT`:                                              0,
		"meta l4proto udp meta mark set ct mark # handle 7":                                                              all,
		"meta l4proto udp meta mark 0x0000ca6c ct mark set meta mark # handle 7":                                         0,
		"ct mark set meta mark meta mark set meta mark | 0x00004000 accept # handle 7":                                   0x4000,
		"meta mark set meta mark & 0xffff04ff | 0x00000400 ct mark set meta mark & 0x0000000f counter packets 1 bytes 2": 0xff00,
		"counter packets 0 bytes 0 meta mark set mark or 0x4000":                                                         0x4000,
		"meta mark set mark and 0xffffbfff xor 0x4000":                                                                   0x4000,
		"meta mark set meta mark ^ 0x20000000":                                                                           0x20000000,
		"meta mark set ct mark & 0x000000ff":                                                                             all,
		"meta mark set ip saddr map { 192.0.2.7 : 0x00000007 }":                                                          all,
		"meta mark & 0x20000000 == 0x20000000 accept comment \"meta mark set 0x1\"":                                      0,
		"tcp dport 22 meta mark set 0x00000001 accept":                                                                   all,
	} {
		if got := readRule(rule).mark; got != want {
			t.Errorf("%s: got %#x, want %#x", rule, got, want)
		}
	}
}

func TestAboutSources(t *testing.T) {
	for rule, want := range map[string]bool{
		"-A INPUT -s 192.0.2.7/32 -j DROP":                                                                        true,
		"-A INPUT ! -s 192.0.2.0/24 -p tcp -m tcp --dport 22 -j DROP":                                             false,
		"-A INPUT -m set --match-set crowdsec-blacklists src -j DROP":                                             true,
		"-A INPUT -m set ! --match-set friends src -j DROP":                                                       false,
		"-A INPUT -m set --match-set ports dst -j DROP":                                                           false,
		"-A INPUT -m recent --update --seconds 60 --hitcount 4 --name x --mask 255.255.255.255 --rsource -j DROP": true,
		"-A INPUT -m recent ! --rcheck --name knocked --mask 255.255.255.255 --rsource -j DROP":                   false,
		"-A INPUT -p tcp -m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-saddr -j REJECT":        true,
		"-A INPUT -m hashlimit --hashlimit-above 5/min --hashlimit-mode srcip --hashlimit-name x -j DROP":         true,
		"-A INPUT -m geoip --source-country CN -j DROP":                                                           true,
		"-A INPUT -p tcp -m tcp --dport 22 -j DROP":                                                               false,
		`ip saddr { 192.0.2.7, 192.0.2.8 } drop # handle 7`:                                                       true,
		`ip saddr != 10.0.0.0/8 tcp dport 22 drop # handle 7`:                                                     false,
		`ip6 saddr @bans counter packets 0 bytes 0 reject # handle 7`:                                             true,
		`ip saddr . tcp dport @bans drop # handle 7`:                                                              true,
		`ip saddr . tcp dport != @friends drop # handle 7`:                                                        false,
		`tcp dport . ip saddr != @friends drop # handle 7`:                                                        false,
		`tcp dport 22 add @tries { ip saddr limit rate over 10/minute } drop # handle 7`:                          true,
		`ip saddr @bans tcp dport != 22 drop # handle 7`:                                                          true,
		`ip saddr 0.0.0.0/0 drop # handle 7`:                                                                      false,
		`ip6 saddr ::/0 tcp dport 22 drop # handle 7`:                                                             false,
		`ip saddr { 0.0.0.0/0 } drop # handle 7`:                                                                  false,
		`ip saddr 0.0.0.0-255.255.255.255 drop # handle 7`:                                                        false,
		"-A INPUT -m iprange --src-range 0.0.0.0-255.255.255.255 -j DROP":                                         false,
		`iifname "eth0" drop comment "ip saddr" # handle 7`:                                                       false,
	} {
		if got := aboutSources(ruleWords(rule)); got != want {
			t.Errorf("%s: got %v, want %v", rule, got, want)
		}
	}
}
