//go:build linux && !pure

package main

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// quietTime is how long no signal must come. One that comes takes a millisecond, if the machine has nothing else to do.
const quietTime = 100 * time.Millisecond

// told reports whether a signal comes. One that is wanted may be late.
func told(changed <-chan struct{}, want bool) bool {
	patience := quietTime
	if want {
		patience = 10 * time.Second
	}
	select {
	case <-changed:
		return true
	case <-time.After(patience):
		return false
	}
}

// watch watches the namespace's firewall until the test ends.
func watch(t *testing.T, n *Netns) <-chan struct{} {
	t.Helper()
	changed := make(chan struct{}, 1)
	var stop func()
	err := n.do(func() (err error) {
		stop, err = watchFirewall(changed)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return changed
}

func TestWatchFirewall(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	ruleset := `nft -f - <<'END'
table inet sesame {
	set open4 { type ipv4_addr; flags timeout; }
	chain input { type filter hook input priority -10; ip saddr @open4 meta mark set 1; tcp dport 22 drop; }
}
END
`
	tests := []struct {
		name, setUp, do string
		want            bool
	}{
		{"nft: the ruleset flushed", ruleset, "nft flush ruleset", true},
		{"nft: an empty ruleset flushed", "", "nft flush ruleset", false},
		{"nft: the table made", "", ruleset, true},
		{"nft: the table deleted", ruleset, "nft delete table inet sesame", true},
		{"nft: a table made", ruleset, "nft add table inet fw4", true},
		{"nft: a chain made", ruleset, "nft add chain inet sesame other", true},
		{"nft: a chain deleted", ruleset + "nft add chain inet sesame other", "nft delete chain inet sesame other", true},
		{"nft: a chain's policy", ruleset, "nft add chain inet sesame input '{ policy drop; }'", true},
		{"nft: a chain flushed", ruleset, "nft flush chain inet sesame input", true},
		{"nft: a rule added", ruleset, "nft add rule inet sesame input accept", true},
		{"nft: a rule deleted", ruleset, "nft delete rule inet sesame input handle $(nft -a list ruleset | sed -n 's/.*drop # handle //p')", true},
		{"nft: a thousand rules", ruleset, "for i in $(seq 1000); do echo add rule inet sesame input accept; done | nft -f -", true},
		{"nft: an element added", ruleset, "nft add element inet sesame open4 '{ 192.0.2.7 timeout 5s }'", false},
		{"nft: an element deleted", ruleset + "nft add element inet sesame open4 '{ 192.0.2.7 }'", "nft delete element inet sesame open4 '{ 192.0.2.7 }'", false},
		{"nft: an element expires", ruleset, "nft add element inet sesame open4 '{ 192.0.2.7 timeout 50ms }'; sleep 0.2; nft list ruleset", false},
		{"nft: a set flushed", ruleset, "nft flush set inet sesame open4", false},
		{"nft: looked at", ruleset, "nft -a -s -t list ruleset; nft list table inet sesame", false},
		{"nft: a change in vain", ruleset, "! nft 'add table inet fw4; add rule inet none input accept'", false},

		{"iptables-nft: flushed", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -F", true},
		{"iptables-nft: the first rule", "", "iptables-nft -w -A INPUT -j DROP", true},
		{"iptables-nft: a rule added", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -I INPUT -j DROP", true},
		{"iptables-nft: a rule deleted", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -D INPUT -j DROP", true},
		{"iptables-nft: a policy", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -P INPUT DROP", true},
		{"iptables-nft: restored", "iptables-nft -w -A INPUT -j DROP", "iptables-nft-save | iptables-nft-restore", true},
		{"ip6tables-nft: flushed", "ip6tables-nft -w -A INPUT -j DROP", "ip6tables-nft -w -F", true},
		{"iptables-nft: looked at", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -C INPUT -j DROP; ! iptables-nft -w -C INPUT -j ACCEPT; iptables-nft -w -S; iptables-nft-save", false},
		{"iptables-nft: nothing looked at", "", "! iptables-nft -w -C INPUT -j DROP; iptables-nft -w -S; ip6tables-nft -w -S", false},

		// What iptables-legacy does has to be looked for.
		{"iptables-legacy: flushed", "iptables-legacy -w -A INPUT -j DROP", "iptables-legacy -w -F", false},
		{"iptables-legacy: a rule added", "iptables-legacy -w -A INPUT -j DROP", "iptables-legacy -w -I INPUT -j DROP", false},
	}
	for _, test := range tests {
		n := w.netns()
		w.must(n.run("sh", "-ec", test.setUp))
		changed := watch(t, n)
		select {
		case <-changed:
			t.Errorf("%s: a change is told before there is one", test.name)
		default:
		}
		w.must(n.run("sh", "-ec", test.do))
		if got := told(changed, test.want); got != test.want {
			t.Errorf("%s: a change is told: got %v, want %v", test.name, got, test.want)
		}
	}
}

// TestWatchFirewallElsewhere: another namespace's changes do not count.
func TestWatchFirewallElsewhere(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	here, there := w.netns(), w.netns()
	changed := watch(t, here)
	w.must(there.run("nft", "add table inet fw4"))
	if told(changed, false) {
		t.Error("a change in another namespace is told")
	}
}

// TestWatchFirewallBusy: nobody takes the signals, more messages come than the socket holds, and the first signal is
// still there. After that the next change is told, too.
func TestWatchFirewallBusy(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	n := w.netns()
	changed := watch(t, n)
	w.must(n.run("sh", "-ec", "{ echo add table inet t; echo add chain inet t c; for i in $(seq 20000); do echo add rule inet t c tcp dport 22 accept; done; } | nft -f -"))
	<-changed
	w.must(n.run("nft", "flush ruleset"))
	if !told(changed, true) {
		t.Error("no change is told after a flood")
	}
}

// TestWatchFirewallLost: more messages come than the socket holds. They would not count, but what is lost may have.
func TestWatchFirewallLost(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	n := w.netns()
	w.must(n.run("nft", "add table inet t; add set inet t s { type ipv4_addr; }"))
	var socket *os.File
	w.must(n.do(func() (err error) {
		socket, err = subscribeFirewall()
		return err
	}))
	w.must(unix.SetsockoptInt(int(socket.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	w.must(unix.SetNonblock(int(socket.Fd()), true)) // (*os.File).Fd has undone it
	w.must(n.run("sh", "-ec", "for i in $(seq 200); do echo add element inet t s { 192.0.2.$i }; done | nft -f -"))
	changed, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		followNetlink(socket, tellsFirewall, changed, 0)
		close(ended)
	}()
	if !told(changed, true) {
		t.Error("lost messages are no change")
	}
	_ = socket.Close()
	<-ended
}

// TestWatchFirewallStop: neither the goroutine nor the socket stays.
func TestWatchFirewallStop(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	n := w.netns()
	sockets := func() (count int) {
		w.must(n.do(func() error {
			text, err := os.ReadFile("/proc/thread-self/net/netlink")
			for line := range strings.Lines(string(text)) {
				if f := strings.Fields(line); len(f) > 2 && f[1] == "12" && f[2] != "0" { // NETLINK_NETFILTER, and not the kernel's own
					count++
				}
			}
			return err
		}))
		return count
	}
	if got := sockets(); got != 0 {
		t.Fatalf("before: got %d netfilter sockets, want 0", got)
	}
	for range 100 {
		changed := make(chan struct{}, 1)
		w.must(n.do(func() error {
			stop, err := watchFirewall(changed)
			if err == nil {
				if sockets() == 0 {
					t.Error("watching: got no netfilter socket")
				}
				stop() // it returns when the goroutine has ended
			}
			return err
		}))
	}
	// A command that another test starts has them, too, until its execve.
	w.eventually("no netfilter socket is left", func() bool { return sockets() == 0 })
}

// TestWatchFirewallForbidden: without CAP_NET_ADMIN the caller is told.
func TestWatchFirewallForbidden(t *testing.T) {
	needRoot(t)
	t.Parallel()
	err := onThread(func() error {
		// Of this thread alone (capabilities(7)).
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		none := make([]unix.CapUserData, 2)
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		_, err := watchFirewall(make(chan struct{}, 1))
		return err
	})
	if want := "asking the kernel for nf_tables: operation not permitted"; err == nil || err.Error() != want || !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestWatchFirewallGeneration asks a part of the kernel that does not know the question, as one without nf_tables.
func TestWatchFirewallGeneration(t *testing.T) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := askGeneration(fd); !errors.As(err, new(syscall.Errno)) {
		t.Errorf("got %v, want the kernel's error", err)
	}
}

func TestWatchTellsChange(t *testing.T) {
	const nftables = unix.NFNL_SUBSYS_NFTABLES << 8
	element, generation := netlinkMessage(nftables|unix.NFT_MSG_NEWSETELEM, 3, "12345"), netlinkMessage(nftables|unix.NFT_MSG_NEWGEN, 0, "1234")
	rule := netlinkMessage(nftables|unix.NFT_MSG_DELRULE, 0, "")
	long := netlinkMessage(nftables|unix.NFT_MSG_NEWGEN, 0, "")
	binary.NativeEndian.PutUint32(long, 1<<32-1)
	short := netlinkMessage(nftables|unix.NFT_MSG_NEWGEN, 0, "")
	binary.NativeEndian.PutUint32(short, 0)
	tests := []struct {
		name  string
		batch [][]byte
		want  bool
	}{
		{"nothing", nil, false},
		{"an element", [][]byte{element}, false},
		{"an element without padding", [][]byte{element[:len(element)-3]}, false},
		{"elements and a generation", [][]byte{element, element, generation}, false},
		{"a rule", [][]byte{rule}, true},
		{"a rule behind an element", [][]byte{element, rule, generation}, true},
		{"a table destroyed", [][]byte{netlinkMessage(nftables|26, 0, "")}, true},
		{"a set", [][]byte{netlinkMessage(nftables|unix.NFT_MSG_NEWSET, 0, "")}, false},
		{"another subsystem", [][]byte{netlinkMessage(unix.NFNL_SUBSYS_CTNETLINK<<8|unix.NFT_MSG_DELRULE, 0, "")}, false},
		{"cut off", [][]byte{element, rule[:10]}, true},
		{"longer than it is", [][]byte{long}, true},
		{"of no length", [][]byte{short}, true},
	}
	for _, test := range tests {
		var b []byte
		for _, m := range test.batch {
			b = append(b, m...)
		}
		if got := tellsFirewall(b); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}
