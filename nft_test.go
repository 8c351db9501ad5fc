package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

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
		type filter hook prerouting priority mangle
		meta mark set 0x20000005
	}
	chain input {
		type filter hook input priority 10
		meta mark 0x20000005 tcp dport 22 counter name "with"
		meta mark 0x00000005 counter name "without"
	}
	counter with { }
	counter without { }
}
END`})
	f.do(f.choice.build(f.rules))
	f.open(f.pass("10.9.0.2", 100))
	f.wantPort(0, hostAddr+":22", reached)
	f.wantPort(1, hostAddr+":22", filtered)
	f.must(f.clients[1].run("ping", "-c1", "-W1", "-q", hostAddr)) // an answer is not wanted, see below
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
