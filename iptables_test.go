package main

import (
	"testing"
)

// Somebody restores rules that were saved while another source was in.
func TestIptablesStaleRestore(t *testing.T) {
	for _, variant := range []string{"-nft", "-legacy"} {
		t.Run("iptables"+variant, func(t *testing.T) {
			f := newFirewallTest(t, firewallHost{rules: "V=" + variant + "; " + dropByIptables})
			f.do(f.choice.build(f.rules))
			stale := f.pass("10.9.0.3", 100)
			saved := t.TempDir() + "/saved"
			f.do(f.choice.open(stale, nil))
			f.must(f.host.run("sh", "-c", "iptables"+variant+"-save > "+saved))
			f.do(f.choice.close(stale, nil))
			f.open(f.pass("10.9.0.2", 100))
			f.wantPresent(true)
			f.must(f.host.run("sh", "-c", "iptables"+variant+"-restore < "+saved))
			f.wantPort(1, hostAddr+":22", reached)
			f.wantPresent(false)
			f.do(f.choice.build(f.rules))
			f.wantPresent(true)
			f.wantPort(0, hostAddr+":22", reached)
			f.wantPort(1, hostAddr+":22", filtered)
		})
	}
}

// A rule that somebody puts before ours stays, and comes behind it when everything is made anew.
func TestIptablesFirstPlace(t *testing.T) {
	f := newFirewallTest(t, firewallHost{rules: dropByIptables})
	f.do(f.choice.build(f.rules))
	f.must(f.host.run("iptables", "-w", "-I", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"))
	f.wantPresent(true)
	f.wantPort(1, hostAddr+":22", reached)
	f.do(f.choice.build(f.rules))
	f.wantPort(1, hostAddr+":22", filtered)
}
