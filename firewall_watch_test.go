//go:build linux && !pure

package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
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

// String is what the news tell: the table, and "hook" and "ours".
func (n firewallNews) String() string {
	s := cmp.Or(n.table, "lost")
	if n.hook {
		s += " hook"
	}
	if n.nat {
		s += " nat"
	}
	if n.ours {
		s += " ours"
	}
	return s
}

// newsOf reports whether news as wanted come, or any for "".
func newsOf(news <-chan []firewallNews, want string) bool {
	patience := quietTime
	if want != "" {
		patience = 10 * time.Second
	}
	timer := time.After(patience)
	for {
		select {
		case told := <-news:
			if want == "" || slices.ContainsFunc(told, func(n firewallNews) bool { return n.String() == want }) {
				return true
			}
		case <-timer:
			return false
		}
	}
}

// watch watches the namespace's firewall until the test ends.
func watch(t *testing.T, n *Netns) <-chan []firewallNews {
	t.Helper()
	changed := make(chan []firewallNews)
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
	tests := []struct{ name, setUp, do, want string }{
		{"nft: the ruleset flushed", ruleset, "nft flush ruleset", "inet sesame"},
		{"nft: an empty ruleset flushed", "", "nft flush ruleset", ""},
		{"nft: the table made", "", ruleset, "inet sesame hook"},
		{"nft: the table deleted", ruleset, "nft delete table inet sesame", "inet sesame"},
		{"nft: a table made", ruleset, "nft add table inet fw4", "inet fw4"},
		{"nft: a chain made", ruleset, "nft add chain inet sesame other", "inet sesame"},
		{"nft: a chain deleted", ruleset + "nft add chain inet sesame other", "nft delete chain inet sesame other", "inet sesame"},
		{"nft: a chain's policy", ruleset, "nft add chain inet sesame input '{ policy drop; }'", "inet sesame hook"},
		{"nft: a chain flushed", ruleset, "nft flush chain inet sesame input", "inet sesame"},
		{"nft: a rule added", ruleset, "nft add rule inet sesame input accept", "inet sesame"},
		{"nft: a rule deleted", ruleset, "nft delete rule inet sesame input handle $(nft -a list ruleset | sed -n 's/.*drop # handle //p')", "inet sesame"},
		{"nft: a thousand rules", ruleset, "for i in $(seq 1000); do echo add rule inet sesame input accept; done | nft -f -", "inet sesame"},
		{"nft: an element added", ruleset, "nft add element inet sesame open4 '{ 192.0.2.7 timeout 5s }'", "inet sesame"},
		{"nft: an element deleted", ruleset + "nft add element inet sesame open4 '{ 192.0.2.7 }'", "nft delete element inet sesame open4 '{ 192.0.2.7 }'", "inet sesame"},
		{"nft: an element expires", ruleset + "nft add element inet sesame open4 '{ 192.0.2.7 timeout 50ms }'", "sleep 0.2; nft list ruleset", ""},
		{"nft: a set flushed", ruleset + "nft add element inet sesame open4 '{ 192.0.2.7 }'", "nft flush set inet sesame open4", "inet sesame"},
		{"nft: an element of another's set", "nft 'add table inet t; add set inet t s { type ipv4_addr; }'", "nft add element inet t s '{ 192.0.2.7 }'", ""},
		{"nft: looked at", ruleset, "nft -a -s -t list ruleset; nft list table inet sesame", ""},
		{"nft: a change in vain", ruleset, "! nft 'add table inet fw4; add rule inet none input accept'", ""},
		{"nft: a chain for what is forwarded", "", "nft 'add table ip t; add chain ip t c { type filter hook forward priority 0; }'", "ip t hook"},
		{"nft: a chain before routing", "", "nft 'add table ip6 t; add chain ip6 t c { type nat hook prerouting priority 0; }'", "ip6 t hook nat"},
		{"nft: a chain for what is sent", "", "nft 'add table ip t; add chain ip t c { type filter hook output priority 0; }'", "ip t"},
		{"nft: a bridge", "", "nft 'add table bridge t; add chain bridge t c { type filter hook input priority 0; }'", ""},

		{"iptables-nft: flushed", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -F", "ip filter ours"},
		{"iptables-nft: the first rule", "", "iptables-nft -w -A INPUT -j DROP", "ip filter hook ours"},
		{"iptables-nft: a rule added", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -I INPUT -j DROP", "ip filter ours"},
		{"iptables-nft: a rule deleted", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -D INPUT -j DROP", "ip filter ours"},
		{"iptables-nft: a policy", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -P INPUT DROP", "ip filter hook ours"},
		{"iptables-nft: our chain", "iptables-nft -w -N SESAME", "iptables-nft -w -A SESAME -j DROP", "ip filter ours"},
		{"iptables-nft: another chain", "iptables-nft -w -N f2b", "iptables-nft -w -A f2b -j DROP", "ip filter"},
		{"iptables-nft: restored", "iptables-nft -w -A INPUT -j DROP", "iptables-nft-save | iptables-nft-restore", "ip filter ours"},
		{"ip6tables-nft: flushed", "ip6tables-nft -w -A INPUT -j DROP", "ip6tables-nft -w -F", "ip6 filter ours"},
		{"iptables-nft: looked at", "iptables-nft -w -A INPUT -j DROP", "iptables-nft -w -C INPUT -j DROP; ! iptables-nft -w -C INPUT -j ACCEPT; iptables-nft -w -S; iptables-nft-save", ""},
		{"iptables-nft: nothing looked at", "", "! iptables-nft -w -C INPUT -j DROP; iptables-nft -w -S; ip6tables-nft -w -S", ""},

		// What iptables-legacy does has to be looked for.
		{"iptables-legacy: flushed", "iptables-legacy -w -A INPUT -j DROP", "iptables-legacy -w -F", ""},
		{"iptables-legacy: a rule added", "iptables-legacy -w -A INPUT -j DROP", "iptables-legacy -w -I INPUT -j DROP", ""},
	}
	for _, test := range tests {
		n := w.netns()
		w.must(n.run("sh", "-ec", test.setUp))
		news := watch(t, n)
		select {
		case <-news:
			t.Errorf("%s: there are news before there is a change", test.name)
		default:
		}
		w.must(n.run("sh", "-ec", test.do))
		if got := newsOf(news, test.want); got != (test.want != "") {
			t.Errorf("%s: heard of %q: got %v", test.name, test.want, got)
		}
	}
}

// TestWatchFirewallPort: the news name the process that has changed something.
func TestWatchFirewallPort(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	n := w.netns()
	news := watch(t, n)
	for _, argv := range [][]string{{"nft", "add table inet sesame"}, {"iptables-nft", "-w", "-A", "INPUT", "-j", "DROP"}, {"nft", "flush ruleset"}} {
		p := execution{argv: argv, limit: 30 * time.Second}
		w.must(n.do(func() error {
			_, _, err := p.run()
			return err
		}))
		select {
		case got := <-news:
			if got[0].port != uint32(p.pid) || p.pid == 0 {
				t.Errorf("%v: got port %d, want that of process %d", argv, got[0].port, p.pid)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%v: no news", argv)
		}
		for newsOf(news, "") {
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
	if newsOf(changed, "") {
		t.Error("a change in another namespace is told")
	}
}

// TestWatchFirewallBusy: nobody takes the news, and more messages come than the socket holds. After that the next change is
// told, too.
func TestWatchFirewallBusy(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	n := w.netns()
	news := watch(t, n)
	w.must(n.run("sh", "-ec", "{ echo add table inet t; for c in $(seq 20000); do echo add chain inet t c$c; echo add rule inet t c$c tcp dport 22 accept; done; } | nft -f -"))
	select {
	case <-news: // of the chains, or that some were lost
	case <-time.After(10 * time.Second):
		t.Error("no change is told")
	}
	for newsOf(news, "") {
	}
	w.must(n.run("nft", "add table inet last"))
	if !newsOf(news, "inet last") {
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
	lost, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		followNetlink(socket, func(batch []byte) {
			if batch == nil {
				lost <- struct{}{}
			}
		})
		close(ended)
	}()
	if !told(lost, true) {
		t.Error("lost messages are no news")
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
	for range 20 {
		news := make(chan []firewallNews)
		w.must(n.do(func() error {
			stop, err := watchFirewall(news)
			if err == nil {
				if sockets() == 0 {
					t.Error("watching: got no netfilter socket")
				}
				w.must(n.run("nft", "add table inet t; delete table inet t")) // and nobody takes the news
				stop()                                                        // it returns when the goroutine has ended
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
		_, err := watchFirewall(make(chan []firewallNews))
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

// body is what follows a message's header: the family, and attributes, of which each is its kind and text.
func newsBody(family byte, attributes ...string) string {
	b := []byte{family, 0, 0, 0}
	for _, a := range attributes {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(a)-1))
		b = binary.NativeEndian.AppendUint16(b, uint16(a[0]))
		b = append(b, a[1:]...)
		b = append(b, make([]byte, -len(a[1:])&3)...)
	}
	return string(b)
}

func TestReadNews(t *testing.T) {
	const nftables = unix.NFNL_SUBSYS_NFTABLES << 8
	const inet, ip = unix.NFPROTO_INET, unix.NFPROTO_IPV4
	message := func(kind int, body string) []byte {
		b := netlinkMessage(nftables|kind, 0, body)
		binary.NativeEndian.PutUint32(b[12:], 7)
		return b
	}
	sesame, fw4 := newsBody(inet, "\x01sesame\x00"), newsBody(inet, "\x01fw4\x00", "\x02input\x00")
	rule := message(unix.NFT_MSG_DELRULE, fw4)
	long, short := slices.Clone(rule), slices.Clone(rule)
	binary.NativeEndian.PutUint32(long, 1<<32-1)
	binary.NativeEndian.PutUint32(short, 0)
	generation := message(unix.NFT_MSG_NEWGEN, newsBody(0, "\x01\x00\x00\x00\x01"))
	tests := []struct {
		name  string
		batch [][]byte
		want  string
	}{
		{"nothing", [][]byte{{}}, "[]"},
		{"a rule", [][]byte{rule}, "[inet fw4]"},
		{"rules", [][]byte{rule, rule, rule}, "[inet fw4]"},
		{"another's element", [][]byte{message(unix.NFT_MSG_NEWSETELEM, fw4)}, "[]"},
		{"our element", [][]byte{message(unix.NFT_MSG_NEWSETELEM, sesame)}, "[inet sesame]"},
		{"a rule behind an element", [][]byte{message(unix.NFT_MSG_NEWSETELEM, fw4), rule}, "[inet fw4]"},
		{"two transactions", [][]byte{rule, generation, rule}, "[inet fw4 inet fw4]"},
		{"a table destroyed", [][]byte{message(26, sesame)}, "[inet sesame]"},
		{"a rule of iptables'", [][]byte{message(unix.NFT_MSG_NEWRULE, newsBody(ip, "\x01filter\x00", "\x02INPUT\x00"))}, "[ip filter ours]"},
		{"a chain", [][]byte{message(unix.NFT_MSG_NEWCHAIN, newsBody(ip, "\x01t\x00", "\x03c\x00", "\x04\x08\x00\x01\x00\x00\x00\x00\x01"))}, "[ip t hook]"},
		{"a chain of another hook", [][]byte{message(unix.NFT_MSG_NEWCHAIN, newsBody(ip, "\x01t\x00", "\x03c\x00", "\x04\x08\x00\x01\x00\x00\x00\x00\x03"))}, "[ip t]"},
		{"a bridge's", [][]byte{message(unix.NFT_MSG_NEWRULE, newsBody(unix.NFPROTO_BRIDGE, "\x01t\x00"))}, "[]"},
		{"another subsystem", [][]byte{netlinkMessage(unix.NFNL_SUBSYS_CTNETLINK<<8|unix.NFT_MSG_DELRULE, 0, fw4)}, "[]"},
		{"no table", [][]byte{netlinkMessage(nftables|unix.NFT_MSG_DELRULE, 0, "")}, "[]"},
		{"cut off", [][]byte{rule, rule[:10]}, "[lost]"},
		{"longer than it is", [][]byte{long}, "[lost]"},
		{"of no length", [][]byte{short}, "[lost]"},
		{"lost", nil, "[lost]"},
	}
	for _, test := range tests {
		b := slices.Concat(append(test.batch, generation)...)
		if test.batch == nil {
			b = nil
		}
		got := new(newsReader).read(b)
		for _, n := range got {
			if n.table != "" && n.port != 7 {
				t.Errorf("%s: got port %d, want 7", test.name, n.port)
			}
		}
		if got := fmt.Sprint(got); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

// A transaction is told when all of it is there.
func TestReadNewsTogether(t *testing.T) {
	var r newsReader
	rule := netlinkMessage(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELRULE, 0, newsBody(unix.NFPROTO_INET, "\x01a\x00"))
	other := netlinkMessage(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELRULE, 0, newsBody(unix.NFPROTO_INET, "\x01b\x00"))
	if got := r.read(append(slices.Clone(rule), other...)); got != nil {
		t.Errorf("half of a transaction: got %v", got)
	}
	if got := fmt.Sprint(r.read(append(slices.Clone(rule), netlinkMessage(newGeneration, 0, newsBody(0))...))); got != "[inet a inet b]" {
		t.Errorf("all of it: got %s", got)
	}
}

// TestLegacyTables: to ask makes no table, each change that adds or removes a rule shows, and so does a table that comes.
func TestLegacyTables(t *testing.T) {
	needRoot(t)
	t.Parallel()
	w := &world{T: t}
	n := w.netns()
	state := func() (s string) {
		w.must(n.do(func() error {
			s = legacyTables("/proc/thread-self/net") // /proc/net is the main thread's
			return nil
		}))
		return s
	}
	if got := state(); got != "" {
		t.Errorf("without tables: got %q", got)
	}
	last := ""
	for _, line := range []string{"iptables-legacy -w -N a", "iptables-legacy -w -A INPUT -j a", "ip6tables-legacy -w -A INPUT -j ACCEPT",
		"iptables-legacy -w -D INPUT -j a", "iptables-legacy -w -t nat -N b"} {
		w.must(n.run("sh", "-c", line))
		got := state()
		if again := state(); got == last || got != again {
			t.Errorf("%s: got %q, then %q, and before %q", line, got, again, last)
		}
		last = got
	}
}
