//go:build linux && !pure

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// besiege has client 1, who has not knocked, connect to ssh every few milliseconds. stop wants that no SYN was answered.
func (n *nativeTest) besiege() (stop func()) {
	n.Helper()
	n.must(n.clients[1].run("nft", "add table inet seen; add chain inet seen input { type filter hook input priority 0; }; "+
		"add rule inet seen input tcp sport 22 tcp flags & (syn | ack) == (syn | ack) counter"))
	done, tried := make(chan struct{}), make(chan int)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				tried <- i
				return
			default:
				probe(n.clients[1], "", hostSSH, 4*time.Millisecond)
			}
		}
	}()
	return func() {
		n.Helper()
		close(done)
		tries := <-tried
		text, err := n.clients[1].output("nft", "list", "table", "inet", "seen")
		n.must(err)
		if tries < 20 || !strings.Contains(text, "counter packets 0 ") {
			n.Errorf("a stranger, in %d tries: %s", tries, text)
		}
	}
}

// wantOnly wants ssh to be open for client 0 and for nobody else.
func (n *nativeTest) wantOnly() {
	n.Helper()
	n.awaitPort(0, hostSSH, reached)
	if got := probe(n.clients[1], "", hostSSH, probePatience); got == reached {
		n.Error("a stranger gets in")
	}
}

// ownTable makes a table that its process alone can change, as firewalld does. It lets ssh in.
func (f *firewallTest) ownTable() {
	f.Helper()
	owner := exec.Command("nft", "-i")
	stdin, err := owner.StdinPipe()
	f.must(err)
	f.must(f.host.start(owner))
	f.Cleanup(func() {
		_ = stdin.Close()
		_ = owner.Wait()
	})
	_, err = io.WriteString(stdin, "table inet firewalld { flags owner; chain filter_INPUT { type filter hook input priority filter + 10; policy drop; "+
		"ct state established,related accept; meta l4proto icmpv6 accept; tcp dport { 22, 7000, 9000, 8000 } accept; }; }\n")
	f.must(err)
	f.eventually("table inet firewalld", func() bool { return f.host.run("nft", "list", "table", "inet", "firewalld") == nil })
}

// restoredByNFT has the host's rules as nft restores them: iptables cannot read them any more.
const restoredByNFT = "nft list ruleset > $0/saved; nft flush ruleset; nft -f $0/saved; ! iptables -w -S 2>/dev/null\n"

// TestHideFirst has hosts where we cannot look at the rules, or put nothing into them: ports are hidden all the same, the
// daemon starts, and check says what is wrong and that it would.
func TestHideFirst(t *testing.T) {
	const ownerWarning = "the chain filter_INPUT of table inet firewalld lets no other program change it (flags owner): who has knocked gets in " +
		"only where its own rules allow the port: with firewalld write NftablesTableOwner=no in /etc/firewalld/firewalld.conf and run firewall-cmd --reload"
	for _, tt := range []struct {
		name, rules string
		broken      [2]string // a program, and the pattern of arguments with which it does not work
		do          string    // what it does instead
		warning     string
	}{
		{name: "an owner's table", rules: "true", warning: ownerWarning},
		{name: "iptables' table restored by nft", rules: dropByIptables + restoredByNFT},
		{name: "iptables hangs", rules: "true", broken: [2]string{"iptables", "*-S*"}, do: "sleep 3600",
			warning: "the host's rules could not be read: iptables -w -S: it did not end by itself, and was ended after 5s: if they drop what sesame lets in, knocking does not help"},
		{name: "the lock is held", rules: "true", broken: [2]string{"ip6tables", "*-S*"}, do: "exit 4",
			warning: "the host's rules could not be read: ip6tables -w -S: exit status 4: if they drop what sesame lets in, knocking does not help"},
		{name: "nft lists nothing", rules: "true", broken: [2]string{"nft", "*list*"}, do: "exit 1",
			warning: "the host's rules could not be read: nft list chains: exit status 1: if they drop what sesame lets in, knocking does not help"},
		{name: "nft hangs", rules: "true", broken: [2]string{"nft", "*list*"}, do: "sleep 3600", warning: "the host's rules could not be read: nft "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNativeTest(t, firewallHost{rules: strings.ReplaceAll(tt.rules, "$0", t.TempDir())}, fmt.Sprintf(nativeDoor, 600))
			if tt.name == "an owner's table" {
				n.ownTable()
			}
			if tt.broken[0] != "" {
				n.breaks(tt.broken[0], tt.broken[1], 1)
				n.must(n.host.run("sed", "-i", "s/exit 1;;/"+tt.do+";;/", n.broken+"/"+tt.broken[0]))
			}
			d := n.start("")
			n.eventually("hiding", func() bool { return probe(n.clients[1], "", hostSSH, probePatience) != reached })
			stop := n.besiege()
			for deadline := time.Now().Add(callLimit + inspectLimit); strings.Contains(tt.name, "hangs") && time.Now().Before(deadline) && d.logged() == ""; {
				time.Sleep(10 * time.Millisecond)
			}
			d.await("starting up")
			n.knockOnce(0)
			n.wantOnly()
			status, _ := n.tool("status", "-s", n.socket)
			out, exit := n.tool("check", "-c", n.dir+"/knockd.conf")
			if exit != 0 || !strings.Contains(out, tt.warning) || !strings.Contains(status, tt.warning) || !strings.Contains(d.logged(), tt.warning) {
				t.Errorf("want %s\nof check: exit status %d, %s\nof status: %s", tt.warning, exit, out, status)
			}
			if tt.warning == "" && strings.Contains(d.logged(), "warning: firewall") {
				t.Error("a warning is logged")
			}
			stop()
			d.stop()
		})
	}
}

// TestCheckAsServe has what keeps serve from starting: check exits with 1, too, and says why.
func TestCheckAsServe(t *testing.T) {
	n := newNativeTest(t, firewallHost{option: "nft", rules: "true"}, fmt.Sprintf(nativeDoor, 600))
	n.breaks("nft", "*-f*", 1)
	d := n.start("")
	d.wantExit(1)
	const want = "Firewall = nft: nft failed: nft -c -f -: exit status 1"
	if out, status := n.tool("check", "-c", n.dir+"/knockd.conf"); status != 1 || !strings.Contains(out, want) {
		t.Errorf("check: exit status %d, %s, want %s", status, out, want)
	}
}

// TestRestoredByNFT has somebody restore, by nft, the host's rules as they were before the daemon started: then iptables
// cannot read its own table any more. The port is hidden again, and open for its knocker alone.
func TestRestoredByNFT(t *testing.T) {
	for _, option := range []string{"auto", "iptables"} {
		t.Run(option, func(t *testing.T) {
			n := newNativeTest(t, firewallHost{option: option, rules: strings.ReplaceAll(dropByIptables, "INPUT DROP", "INPUT ACCEPT")}, fmt.Sprintf(nativeDoor, 600))
			n.must(n.host.run("sh", "-c", "nft list ruleset > $0/saved", n.dir))
			d := n.serve()
			n.knockOnce(0)
			n.wantOnly()
			n.must(n.host.run("sh", "-ec", "nft flush ruleset; nft -f $0/saved; ! iptables -w -S 2>/dev/null", n.dir))
			n.awaitShut(1)
			n.wantOnly()
			d.stop()
			n.awaitShut(0)
		})
	}
}

// TestMovingOver moves hosts from iptables to nft and back, as an upgrade or a reload does, while a stranger tries to get
// in: he never does, and who is in stays.
func TestMovingOver(t *testing.T) {
	for _, variant := range []string{"-nft", "-legacy"} {
		for _, how := range []string{"reload", "restart", "kill -9"} {
			t.Run("iptables"+variant+", "+how, func(t *testing.T) {
				n := newNativeTest(t, firewallHost{option: "iptables", rules: "V=" + variant + "; " + strings.ReplaceAll(dropByIptables, "INPUT DROP", "INPUT ACCEPT")}, fmt.Sprintf(nativeDoor, 600))
				d := n.serve()
				stop := n.besiege()
				n.knockOnce(0)
				n.wantOnly()
				live := n.dial(0, hostAddr)
				for _, to := range []string{"auto", "iptables", "auto"} {
					n.config = strings.NewReplacer("Firewall = iptables", "Firewall = "+to, "Firewall = auto", "Firewall = "+to).Replace(n.config)
					switch how {
					case "reload":
						n.must(os.WriteFile(n.dir+"/knockd.conf", []byte(n.config), 0o600))
						d.signal(unix.SIGHUP)
					case "restart":
						d.stop()
						d = n.serve()
						n.knockOnce(0)
					default:
						n.awaitRecorded()
						d.signal(unix.SIGKILL)
						<-d.ended
						d = n.serve()
					}
					if how != "restart" {
						n.wantPort(0, hostSSH, reached)
					}
					n.eventually("the other firewall", func() bool {
						text := n.text()
						return strings.Contains(text, ourChain) == (to == "iptables") && strings.Contains(text, "table inet sesame") == (to == "auto")
					})
					n.wantOnly()
					n.wantAlive("a connection, "+to, live)
				}
				if out, status := n.tool("close", "-s", n.socket, "ssh"); status != 0 {
					t.Errorf("close: %d, %s", status, out)
				}
				n.eventually("the closing", func() bool { return probe(n.clients[0], "", hostSSH, probePatience) != reached })
				stop()
				d.stop()
				if out, status := n.tool("flush", "-c", n.dir+"/knockd.conf"); status != 0 || strings.Contains(strings.ToLower(n.text()), "sesame") {
					t.Errorf("flush: exit status %d, %s, and left is\n%s", status, out, n.text())
				}
			})
		}
	}
}

// TestSaved has rules that somebody has saved while a door was open, and restores later: while the daemon runs, and before
// it starts. Nobody is in by that, nobody is kept out, and nothing of it stays.
func TestSaved(t *testing.T) {
	for _, tt := range []struct{ name, hidden, save, restore string }{
		{"by nft", "auto", "nft list ruleset", "nft flush ruleset; nft -f $0/saved"},
		{"by iptables", "auto", "iptables-save", "iptables-restore < $0/saved"},
		{"by iptables, hidden by it", "iptables", "iptables-save", "iptables-restore < $0/saved"},
		{"by nft, hidden by iptables", "iptables", "nft list ruleset", "nft flush ruleset; nft -f $0/saved"},
		{"by iptables-legacy, hidden by iptables", "iptables", "iptables-legacy-save", "iptables-legacy-restore < $0/saved"},
	} {
		for _, running := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, while it runs %v", tt.name, running), func(t *testing.T) {
				rules := dropByIptables
				if strings.Contains(tt.name, "legacy") {
					rules = "V=-legacy; " + rules
				}
				n := newNativeTest(t, firewallHost{option: tt.hidden, rules: rules}, fmt.Sprintf(nativeDoor, 600))
				d := n.serve()
				n.knockOnce(0)
				n.wantOnly()
				n.must(n.host.run("sh", "-ec", tt.save+" > $0/saved", n.dir))
				if out, status := n.tool("close", "-s", n.socket, "ssh"); status != 0 {
					t.Errorf("close: %d, %s", status, out)
				}
				n.awaitShut(0)
				d.stop()
				n.config = strings.Replace(n.config, "Firewall = iptables", "Firewall = auto", 1)
				if running {
					d = n.serve()
				}
				n.must(n.host.run("sh", "-ec", tt.restore, n.dir))
				if !running {
					d = n.serve()
				}
				n.awaitShut(0)
				n.knockOnce(1)
				for began := time.Now(); time.Since(began) < checkEvery && probe(n.clients[1], "", hostSSH, probePatience) != reached; { // iptables-legacy tells nobody
					time.Sleep(10 * time.Millisecond)
				}
				n.awaitPort(1, hostSSH, reached)
				n.awaitShut(0)
				d.stop()
				if out, status := n.tool("flush", "-c", n.dir+"/knockd.conf"); status != 0 || strings.Contains(strings.ToLower(n.text()), "sesame") {
					t.Errorf("flush: exit status %d, %s, and left is\n%s", status, out, n.text())
				}
			})
		}
	}
}

// awaitShut waits until client i does not reach ssh.
func (n *nativeTest) awaitShut(i int) {
	n.Helper()
	n.eventually(fmt.Sprintf("ssh is shut for client %d", i), func() bool { return probe(n.clients[i], "", hostSSH, probePatience) != reached })
}

// TestStatusFirewall has status and log name the firewall as it is, and not as it was at the start.
func TestStatusFirewall(t *testing.T) {
	n := newNativeTest(t, firewallHost{rules: "true"}, fmt.Sprintf(nativeDoor, 600))
	d := n.serve()
	status := func() string {
		out, _ := n.tool("status", "-s", n.socket)
		return out
	}
	if out := status(); !strings.Contains(out, "\nfirewall: nft; no rule of this host closes a port (for ") {
		t.Errorf("at first: got %s", out)
	}
	n.must(n.host.run("nft", "add table inet early; add chain inet early input { type filter hook input priority -100; }; add rule inet early input tcp dport 23 drop"))
	const warning = "the chain input of table inet early comes so early (priority -100) that it can drop what sesame lets in"
	n.eventually("the warning", func() bool {
		return strings.Contains(status(), "\nfirewall: nft (for ") && strings.Contains(status(), "\n  warning: "+warning+"\n")
	})
	d.await("warning: firewall: " + warning)
	n.must(n.host.run("nft", "delete table inet early"))
	n.eventually("no warning", func() bool {
		return !strings.Contains(status(), "warning: ") && strings.Contains(status(), "firewall: nft; no rule")
	})
	d.stop()
}

// TestUnsure has a host that cannot be looked at for a while: what we have in its chains is neither doubled nor removed.
func TestUnsure(t *testing.T) {
	n := newNativeTest(t, firewallHost{rules: dropByIptables + fw4Table}, fmt.Sprintf(nativeDoor, 600))
	mend := n.breaks("ip6tables", "*-S*", 4)
	mend()
	d := n.serve()
	n.knockOnce(0)
	n.wantOnly()
	n.must(os.WriteFile(n.dir+"/broken", nil, 0o600))
	for range 3 { // others change something
		n.must(n.host.run("nft", "add table inet other; add chain inet other input { type filter hook input priority 5; }; delete table inet other"))
		time.Sleep(2 * lookAfter)
	}
	d.await("warning: firewall: the host's rules could not be read")
	n.wantOnly()
	mend()
	n.eventually("no warning", func() bool {
		out, _ := n.tool("status", "-s", n.socket)
		return !strings.Contains(out, "warning: ")
	})
	n.wantOnly()
	if text := n.text(); strings.Count(text, "-m comment --comment \"sesame 0x") != 2 || strings.Count(text, "accept comment \"sesame 0x") != 1 {
		t.Errorf("got\n%s", text)
	}
	d.stop()
	n.flushed()
}

// TestLookInVain looks at a host whose rules cannot be read: nothing is done, whatever was there before.
func TestLookInVain(t *testing.T) {
	for _, f := range []Firewall{
		nftFirewall{mark: defaultMark, accepts: []acceptChain{{family: "inet", table: "fw4", name: "input"}}},
		iptablesFirewall{tools: []iptables{{"iptables", true}}, behind: []int{0}, displaced: true},
	} {
		a := &Applier{mark: defaultMark, choice: Choice{Firewall: f}, run: func(argv []string, _ string) (string, error) {
			t.Errorf("got %v, want nothing", argv)
			return "", nil
		}}
		if changed, err := a.look(Ruleset{}, Inspection{NFT: listed(listedSesame), Unknown: errTooLong}); changed || err != nil || !a.report().unsure {
			t.Errorf("got %v, %v, want nothing changed, and to look again", changed, err)
		}
	}
}

// TestUnreadableIsNotKept has an nft that lists what it cannot read: /etc/nftables.conf must not include that.
func TestUnreadableIsNotKept(t *testing.T) {
	for _, unreadable := range []error{nil, errFake} {
		kept, listed := "what was kept before", "table inet sesame {\n}\n"
		a := &Applier{keep: func(table string) { kept = table }, run: func(argv []string, _ string) (string, error) {
			if slices.Equal(argv, nftCheck) {
				return "", unreadable
			}
			return listed, nil
		}}
		if err := a.hide(nftFirewall{mark: defaultMark}, Ruleset{Hidden: []Hidden{{Door: "ssh", Ports: []Knock{{22, tcp}}}}}); err != nil {
			t.Fatal(err)
		}
		if got := strings.HasSuffix(kept, listed); got != (unreadable == nil) || unreadable != nil && kept != "" {
			t.Errorf("with %v: kept %q", unreadable, kept)
		}
	}
}

// TestIptablesCannotRead has a table of iptables' that it cannot list, as nft has changed it: the log warns.
func TestIptablesCannotRead(t *testing.T) {
	n := newNativeTest(t, firewallHost{option: "iptables", rules: "iptables -w -A INPUT -p tcp --dport 22 -j ACCEPT; " +
		"nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; " +
		"add rule ip filter FORWARD ct state established,related accept; add rule ip filter FORWARD ip daddr 10.77.0.10 tcp dport { 443, 444 } accept'; ! iptables -w -S 2>/dev/null"},
		fmt.Sprintf(nativeDoor, 600))
	d := n.serve()
	d.await("warning: firewall: iptables cannot read its table")
	d.stop()
}
