//go:build linux && !pure

package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// firewallHost is a host with a firewall of its own.
type firewallHost struct {
	name   string
	option string // auto if empty
	rules  string // a shell script
	reason string // with which the firewall is chosen
	old    bool   // connections older than the rules live, if nobody hides their port
	lost   string // a shell script that takes something of ours away
}

const (
	// Neighbour discovery and established connections pass, the rest is dropped.
	dropByIptables = `for t in iptables$V ip6tables$V; do
		$t -w -A INPUT -i lo -j ACCEPT
		$t -w -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
		$t -w -P INPUT DROP
	done
	ip6tables$V -w -A INPUT -p ipv6-icmp -j ACCEPT
	`
	// As iptables-nft leaves it, when its last rule is deleted.
	emptyIptables = "iptables -w -A INPUT -j ACCEPT; iptables -w -F; ip6tables -w -A INPUT -j ACCEPT; ip6tables -w -F"
	// As firewall4 makes it (root/usr/share/firewall4/templates/ruleset.uc).
	fw4Table = `nft -f - <<'END'
table inet fw4
flush table inet fw4
table inet fw4 {
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept comment "!fw4: Accept traffic from loopback"
		ct state established,related accept comment "!fw4: Allow inbound established and related flows"
		iifname "eth0" jump input_wan comment "!fw4: Handle wan IPv4/IPv6 input traffic"
		jump handle_reject
	}
	chain handle_reject {
		meta l4proto tcp reject with tcp reset comment "!fw4: Reject TCP traffic"
		reject comment "!fw4: Reject any other traffic"
	}
	chain input_wan {
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		jump drop_from_wan
	}
	chain drop_from_wan {
		iifname "eth0" counter drop comment "!fw4: drop wan IPv4/IPv6 traffic"
	}
	chain mangle_input {
		type filter hook input priority mangle; policy accept;
	}
}
END
`
)

var firewallHosts = []firewallHost{
	{
		name: "no rules", reason: "nft; no rule of this host closes a port", old: true,
		lost: "nft flush ruleset",
	},
	{
		name: "iptables", option: "iptables", rules: dropByIptables,
		reason: "iptables, as the configuration says",
		lost:   "iptables -w -F; ip6tables -w -F SESAME",
	},
	{
		name: "iptables-legacy", option: "iptables", rules: "V=-legacy; " + dropByIptables + emptyIptables,
		reason: "iptables, as the configuration says",
		lost:   "iptables-legacy -w -D INPUT -j SESAME",
	},
	{
		name: "article", old: true, // the article's rules, for both families
		rules:  "for t in iptables ip6tables; do $t -A INPUT -i eth0 -p tcp -m tcp --dport 23 -j DROP; done",
		reason: "nft",
		lost:   "ip6tables -w -F",
	},
	{
		name: "iptables, opened by nft", rules: dropByIptables,
		reason: "nft",
		lost:   "iptables -w -D INPUT 1",
	},
	{
		name: "iptables-legacy, opened by nft", rules: "V=-legacy; " + dropByIptables,
		reason: "nft",
		lost:   "ip6tables-legacy -w -D INPUT 1",
	},
	{
		name: "no rules, by iptables", option: "iptables", old: true,
		rules:  emptyIptables,
		reason: "iptables, as the configuration says; no rule of this host closes a port",
		lost:   "iptables -w -D INPUT -j SESAME; iptables -w -F SESAME",
	},
	{
		name: "ufw", rules: `for t in iptables ip6tables; do
			for c in before-logging-input before-input after-input reject-input track-input user-input skip-to-policy-input; do $t -w -N ufw-$c; done
			for c in before-logging-input before-input after-input reject-input track-input; do $t -w -A INPUT -j ufw-$c; done
			$t -w -A ufw-before-input -i lo -j ACCEPT
			$t -w -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
			$t -w -A ufw-before-input -m conntrack --ctstate INVALID -j DROP
			$t -w -A ufw-before-input -j ufw-user-input
			$t -w -A ufw-skip-to-policy-input -j DROP
			$t -w -P INPUT DROP
		done
		ip6tables -w -I ufw-before-input -p ipv6-icmp -j ACCEPT`,
		reason: "nft",
		lost:   "iptables -w -F INPUT",
	},
	{
		name: "fw4", rules: fw4Table,
		reason: "nft",
		lost:   fw4Table,
	},
	{
		name: "Debian's inet filter", rules: `nft -f - <<'END'
table inet filter {
	chain input {
		type filter hook input priority 0; policy drop;
		iif "lo" accept
		ct state vmap { established : accept, related : accept, invalid : drop }
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
	}
	chain forward {
		type filter hook forward priority 0; policy drop;
	}
}
END`,
		reason: "nft",
		lost:   "nft delete table inet sesame",
	},
	{
		name: "fw4 and iptables", rules: fw4Table + dropByIptables,
		reason: "nft",
		lost:   "ip6tables -w -F",
	},
	{
		name: "firewalld without owner", rules: `nft -f - <<'END'
table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		iifname "lo" accept
		goto filter_IN_public
	}
	chain filter_IN_public {
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		reject with icmpx type admin-prohibited
	}
}
END`,
		reason: "nft",
		lost:   "nft flush chain inet firewalld filter_INPUT",
	},
}

// firewallTest is a world whose host has a firewall.
type firewallTest struct {
	*world
	before string // the host's rules as text
	inside *Netns // behind the host; nil: nobody is
	choice Choice
	rules  Ruleset // what ours must be
}

func newFirewallTest(t *testing.T, host firewallHost) *firewallTest {
	f := &firewallTest{world: newWorld(t, 2)}
	f.listen("22")
	f.must(f.host.run("sh", "-ec", host.rules))
	f.before = f.text()
	f.choose(host.option)
	f.rules = Ruleset{
		Hidden: []Hidden{{Door: "ssh", Ports: []Knock{{22, tcp}, {51820, udp}}, Links: []string{"eth0"},
			Except: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("fd01::/16")}}},
		Kept: []Knock{{22, tcp}, {51820, udp}},
	}
	return f
}

func (f *firewallTest) inspect() Inspection {
	run := func(l *listing, argv ...string) error {
		out, err := f.host.output(argv[0], argv[1:]...)
		*l = listed(out)
		return err
	}
	file := func(name string) (text string) {
		// /proc/net is the main thread's.
		_ = f.host.do(func() error {
			b, _ := os.ReadFile(strings.Replace(name, "/proc/net/", "/proc/thread-self/net/", 1))
			text = string(b)
			return nil
		})
		return text
	}
	return inspect(run, file)
}

func (f *firewallTest) choose(option string) {
	f.Helper()
	if option == "" {
		option = "auto"
	}
	var err error
	f.choice, err = pickFirewall(option, defaultMark, f.rules, f.run)
	f.must(err)
	f.choice = f.choice.fit(f.inspect(), f.rules)
}

// build builds and admits.
func (f *firewallTest) build() {
	f.Helper()
	f.do(f.choice.build(f.rules))
	f.choice = f.choice.fit(f.inspect(), f.rules)
	f.do(f.choice.admit())
}

// text is what the host's rules look like to those who look. Counters are left out.
func (f *firewallTest) text() string {
	f.Helper()
	in := f.inspect()
	f.must(in.NFTError)
	var s strings.Builder
	for _, t := range in.Tools {
		rules, err := f.host.output(t.name, "-w", "-S")
		f.must(err)
		fmt.Fprintf(&s, "%s\n%s", t.name, rules)
	}
	nft, err := f.host.output("nft", "-s", "list", "ruleset")
	f.must(err)
	return s.String() + nft
}

// run runs a program on the host.
func (f *firewallTest) run(argv []string, input string) (string, error) {
	var out []byte
	err := f.host.do(func() (err error) {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin = strings.NewReader(input)
		var complaint strings.Builder
		cmd.Stderr = &complaint
		if out, err = cmd.Output(); err != nil {
			err = fmt.Errorf("%v: %w: %s%s", argv, err, input, complaint.String())
		}
		return err
	})
	return string(out), err
}

func (f *firewallTest) try(calls []Call) error { return runAll(calls, f.run) }

func (f *firewallTest) do(calls []Call) {
	f.Helper()
	f.must(f.try(calls))
}

// pass is one for client i to port 22.
func (f *firewallTest) pass(source string, seconds int) Pass {
	return Pass{Door: "ssh", Source: netip.MustParseAddr(source), Ports: []Knock{{22, tcp}, {51820, udp}}, Left: time.Duration(seconds) * time.Second}
}

func (f *firewallTest) open(p Pass, others ...Pass) {
	f.Helper()
	f.do(f.choice.open(p, others))
	f.rules.Open = append(f.rules.Open, p)
}

// wantPresent looks for what is ours: table and accepts, or the chain as it must be and the rule that leads to it.
func (f *firewallTest) wantPresent(want bool) {
	f.Helper()
	runs := func(argv []string) (out string, ok bool) {
		out, err := f.run(argv, "")
		return out, err == nil
	}
	got := true
	switch fw := f.choice.Firewall.(type) {
	case nftFirewall:
		_, got = runs([]string{"nft", "list", "chain", "inet", "sesame", "input"})
		for _, c := range fw.accepts {
			list := []string{"nft", "list", "chain", c.family, c.table, c.name}
			if c.tool.name != "" && !c.unread {
				list = c.tool.argv("-S " + c.name)
			}
			rules, _ := runs(list)
			got = got && fw.ours(rules)
		}
	case iptablesFirewall:
		for i, t := range fw.tools {
			chain, ok := runs(t.argv("-S SESAME"))
			_, entered := runs(t.argv("-C INPUT -j SESAME"))
			got = got && ok && entered && fw.isBuilt(i, f.rules, chain)
		}
	}
	if got != want {
		f.Errorf("present: got %v, want %v", got, want)
	}
}

// dial connects client i to the host's port 22.
func (f *firewallTest) dial(i int, address string) net.Conn {
	f.Helper()
	return f.dialPort(i, address, "22")
}

func (f *firewallTest) dialPort(i int, address, port string) net.Conn {
	f.Helper()
	var conn net.Conn
	f.must(f.clients[i].do(func() (err error) {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(address, port), 3*time.Second)
		return err
	}))
	f.Cleanup(func() { _ = conn.Close() })
	return conn
}

// wantAlive sends a byte and waits for it to come back.
func (f *firewallTest) wantAlive(what string, conn net.Conn) {
	f.Helper()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	_, err := conn.Write([]byte("x"))
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	if err != nil {
		f.Errorf("%s: %v", what, err)
	}
}

func TestFirewallLife(t *testing.T) {
	for _, host := range firewallHosts {
		t.Run(host.name, func(t *testing.T) {
			f := newFirewallTest(t, host)
			if f.choice.String() != host.reason || len(f.choice.Warnings) > 0 {
				t.Errorf("choice: got %q, warnings %q; want %q", f.choice, f.choice.Warnings, host.reason)
			}
			const port, port6 = hostAddr + ":22", "[" + hostAddr6 + "]:22"
			var old net.Conn
			if host.old {
				old = f.dial(0, hostAddr)
			}
			f.wantPresent(false)
			f.build()
			f.wantPresent(true)
			if host.old {
				f.wantAlive("a connection older than the rules", old)
			}
			f.wantPort(0, port, hidden)
			f.wantPort(0, port6, hidden)

			first, second := f.pass("10.9.0.2", 100), f.pass("fd00:9::2", 100)
			f.open(first)
			f.wantPort(0, port, reached)
			f.wantPort(1, port, hidden)
			f.wantPort(0, port6, hidden)
			f.open(second)
			f.wantPort(0, port6, reached)
			f.wantPort(1, port6, hidden)
			live, live6 := f.dial(0, hostAddr), f.dial(0, hostAddr6)

			opened := f.text()
			f.do(f.choice.open(first, nil))
			if got := f.text(); masked(got) != masked(opened) {
				t.Errorf("opened again: got\n%s\nwant\n%s", got, opened)
			}
			f.build()
			if got := f.text(); masked(got) != masked(opened) {
				t.Errorf("built again: got\n%s\nwant\n%s", got, opened)
			}
			f.wantPresent(true)

			f.must(f.host.run("sh", "-ec", host.lost))
			f.wantPresent(false)
			f.choose(host.option)
			f.build()
			f.wantPresent(true)
			f.wantPort(0, port, reached)
			f.wantPort(0, port6, reached)
			f.wantPort(1, port, hidden)

			f.do(f.choice.close(first, nil))
			f.do(f.choice.close(second, nil))
			f.rules.Open = nil
			f.wantPresent(true)
			f.wantPort(0, port, hidden)
			f.wantPort(0, port6, hidden)
			f.wantAlive("a live connection after closing", live)
			f.wantAlive("a live connection after closing", live6)

			f.open(f.pass("10.9.0.2", 100)) // somebody is in when everything is removed
			f.do(flush(f.inspect(), defaultMark, nil))
			f.wantPresent(false)
			if calls := flush(f.inspect(), defaultMark, nil); calls != nil {
				t.Errorf("flush again: got %v, want nothing", calls)
			}
			// What the host has lost above is not ours to bring back.
			if got := f.text(); got != f.before && !strings.Contains(host.lost, "-F") && !strings.Contains(host.lost, "flush") {
				t.Errorf("flushed: got\n%s\nwant\n%s", got, f.before)
			}
		})
	}
}

// masked is text without what the time changes in it, its lines sorted: the order of passes does not matter.
func masked(text string) string {
	var all []string
	for line := range strings.Lines(text) {
		before, _, _ := strings.Cut(line, " expires ")
		all = append(all, strings.TrimSpace(before))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// bothFirewalls runs a test with each firewall on a host that drops nothing by itself, and with nft on one that does.
func bothFirewalls(t *testing.T, test func(f *firewallTest)) {
	for _, host := range []firewallHost{
		{name: "iptables", option: "iptables", rules: "true"},
		{name: "nft", option: "nft", rules: "true"},
		{name: "nft, a host that drops", option: "nft", rules: endBy("tcp dport 22 accept; udp dport 51820 accept", "", "drop")},
	} {
		t.Run(host.name, func(t *testing.T) { test(newFirewallTest(t, host)) })
	}
}

// echoUDP answers datagrams to a port of the host.
func (f *firewallTest) echoUDP(port int) {
	f.Helper()
	f.echoUDPAt(hostAddr, port)
}

func (f *firewallTest) echoUDPAt(address string, port int) {
	f.Helper()
	f.must(f.host.do(func() error {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(address), Port: port})
		if err != nil {
			return err
		}
		f.Cleanup(func() { _ = conn.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := conn.ReadFromUDP(buf)
				if err != nil {
					return
				}
				_, _ = conn.WriteToUDP(buf[:n], from)
			}
		}()
		return nil
	}))
}

// answered sends a datagram from client i's socket and waits for it to come back.
func (f *firewallTest) answered(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(probePatience))
	_, _ = conn.Write([]byte("x"))
	_, err := conn.Read(make([]byte, 1))
	return err == nil
}

func (f *firewallTest) dialUDP(i int) (conn net.Conn) {
	f.Helper()
	return f.dialUDPTo(i, "51820")
}

func (f *firewallTest) dialUDPTo(i int, port string) (conn net.Conn) {
	f.Helper()
	return f.dialUDPAt(i, hostAddr, port)
}

func (f *firewallTest) dialUDPAt(i int, address, port string) (conn net.Conn) {
	f.Helper()
	f.must(f.clients[i].do(func() (err error) {
		conn, err = net.Dial("udp", net.JoinHostPort(address, port))
		return err
	}))
	f.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestFirewallUDP(t *testing.T) {
	bothFirewalls(t, func(f *firewallTest) {
		f.echoUDP(51820)
		f.build()
		guest, stranger := f.dialUDP(0), f.dialUDP(1)
		want := func(when string, guestIn, strangerIn bool) {
			f.Helper()
			if got := f.answered(guest); got != guestIn {
				f.Errorf("%s: the guest is answered: got %v, want %v", when, got, guestIn)
			}
			if got := f.answered(stranger); got != strangerIn {
				f.Errorf("%s: the stranger is answered: got %v, want %v", when, got, strangerIn)
			}
		}
		want("hidden", false, false)
		f.open(f.pass("10.9.0.2", 100))
		want("open", true, false)
		f.do(f.choice.close(f.pass("10.9.0.2", 0), nil))
		want("closed", true, false)
		if f.answered(f.dialUDP(0)) {
			f.Error("closed: a new socket of the guest is answered")
		}
	})
}

// A host without conntrack for the port, as busy name servers have it: no packet belongs to a connection.
func TestFirewallUntracked(t *testing.T) {
	for _, option := range []string{"iptables", "nft"} {
		for tracker, rules := range map[string]string{
			"nft": "nft add table ip untracked; nft add chain ip untracked pre '{ type filter hook prerouting priority raw; }'; " +
				"nft add rule ip untracked pre udp dport 51820 notrack",
			"iptables": "iptables -w -t raw -A PREROUTING -p udp --dport 51820 -j NOTRACK",
		} {
			t.Run(option+", notrack by "+tracker, func(t *testing.T) {
				f := newFirewallTest(t, firewallHost{option: option, rules: rules})
				f.echoUDP(51820)
				guest, stranger := f.dialUDP(0), f.dialUDP(1)
				if !f.answered(stranger) {
					t.Fatal("not hidden yet: got no answer")
				}
				f.build()
				f.wantPresent(true)
				pass := f.pass("10.9.0.2", 100)
				for _, step := range []struct {
					when  string
					calls []Call
					want  bool // the guest is answered
				}{{"hidden", nil, false}, {"open", f.choice.open(pass, nil), true}, {"closed", f.choice.close(pass, nil), false}} {
					f.do(step.calls)
					if got := f.answered(guest); got != step.want {
						t.Errorf("%s: the guest is answered: got %v, want %v", step.when, got, step.want)
					}
					if f.answered(stranger) {
						t.Errorf("%s: a stranger is answered", step.when)
					}
				}
			})
		}
	}
}

// A link-local address means one host on one link, and another one on the next.
func TestFirewallLinkLocal(t *testing.T) {
	bothFirewalls(t, func(f *firewallTest) {
		for i, n := range append([]*Netns{f.host}, f.clients...) {
			f.must(n.run("ip", "address", "add", fmt.Sprintf("fe80::%d/64", i+1), "dev", "eth0", "nodad"))
		}
		connect := func() string { return probe(f.clients[0], "fe80::2%eth0", "[fe80::1%eth0]:22", probePatience) }
		f.build()
		pass := f.pass("fe80::2%eth0", 100)
		pass.Link = "eth1"
		f.open(pass)
		if got := connect(); got == reached {
			f.Errorf("with a pass for another link: got %s", got)
		}
		pass.Link = "eth0"
		f.open(pass)
		f.wantPresent(true)
		if got := connect(); got != reached {
			f.Errorf("with a pass: got %s, want %s", got, reached)
		}
		f.build()
		if got := connect(); got != reached {
			f.Errorf("built anew: got %s, want %s", got, reached)
		}
		f.do(f.choice.close(pass, nil))
		if got := connect(); got == reached {
			f.Errorf("closed: got %s", got)
		}
		pass.Link = ""
		if calls := f.choice.open(pass, nil); calls != nil {
			f.Errorf("a link-local source without a link: got %v, want nothing", calls)
		}
	})
}

// Two doors let the same source in to the same port: it is in until the last one closes.
func TestFirewallTwoDoorsOnePort(t *testing.T) {
	bothFirewalls(t, func(f *firewallTest) {
		f.build()
		long := f.pass("10.9.0.2", 100)
		short := Pass{Door: "büro", Source: long.Source, Ports: long.Ports[:1], Left: time.Second}
		f.open(long)
		f.open(short, long)
		time.Sleep(1100 * time.Millisecond)
		f.wantPort(0, hostAddr+":22", reached)
		f.do(f.choice.close(short, []Pass{long}))
		f.wantPort(0, hostAddr+":22", reached)
		f.do(f.choice.open(short, []Pass{long}))
		f.do(f.choice.close(long, []Pass{short}))
		f.wantPort(0, hostAddr+":22", reached)
		f.do(f.choice.close(short, nil))
		f.wantPort(0, hostAddr+":22", hidden)
	})
}

// Prefixes need no knock, and lo is never hidden.
func TestFirewallExcept(t *testing.T) {
	bothFirewalls(t, func(f *firewallTest) {
		f.rules.Hidden = []Hidden{{Door: "ssh", Ports: []Knock{{22, tcp}}, Except: []netip.Prefix{
			netip.MustParsePrefix("10.9.0.2/32"), netip.MustParsePrefix("fd00:9::2/127"), netip.MustParsePrefix("fd00:9::2/128"),
		}}}
		f.build()
		f.wantPresent(true)
		for i, want := range []string{reached, hidden} {
			f.wantPort(i, hostAddr+":22", want)
		}
		f.wantPort(0, "["+hostAddr6+"]:22", reached)
		for _, to := range []string{hostAddr + ":22", "127.0.0.1:22", "[::1]:22"} {
			if got := probe(f.host, "", to, 3*probePatience); got != reached {
				f.Errorf("the host itself connects to %s: got %s, want %s", to, got, reached)
			}
		}
		// Everybody excepted.
		f.rules.Hidden[0].Except = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/8")}
		f.build()
		f.wantPresent(true)
		f.wantPort(1, hostAddr+":22", reached)
	})
}

// While everything is made anew, and while fw4 reloads, a stranger tries to get in.
func TestFirewallNeverOpen(t *testing.T) {
	for _, host := range []firewallHost{{name: "iptables", option: "iptables", rules: "true"},
		{name: "iptables-legacy", option: "iptables", rules: "iptables-legacy -A INPUT -p tcp --dport 23 -j DROP"},
		{name: "nft", option: "nft", rules: "true"}, {name: "fw4", rules: fw4Table}} {
		t.Run(host.name, func(t *testing.T) {
			f := newFirewallTest(t, host)
			f.build()
			done := make(chan struct{})
			tried := make(chan int)
			go func() {
				n := 0
				defer func() { tried <- n }()
				for {
					select {
					case <-done:
						return
					default:
						if got := probe(f.clients[1], "", hostAddr+":22", 5*time.Millisecond); got == reached {
							f.Errorf("a stranger: got %s", got)
						}
						n++
					}
				}
			}()
			for i := range 20 {
				if host.name == "fw4" && i%2 == 0 {
					f.must(f.host.run("sh", "-c", fw4Table))
				}
				f.build()
				f.rules.Open = append(f.rules.Open, f.pass(fmt.Sprintf("192.0.2.%d", i), 100))
			}
			close(done)
			if n := <-tried; n < 20 {
				t.Errorf("tried %d times, want more", n)
			}
		})
	}
}

// A change of the firewall leaves nothing of the other one behind.
func TestFirewallChanges(t *testing.T) {
	f := newFirewallTest(t, firewallHost{option: "iptables", rules: dropByIptables})
	for _, option := range []string{"nft", "iptables", "nft"} {
		f.build()
		f.open(f.pass("10.9.0.2", 100))
		f.choose(option)
		f.wantPresent(false)
		f.build()
		f.do(flush(f.inspect(), defaultMark, f.choice.Firewall))
		f.wantPresent(true)
		f.wantPort(0, hostAddr+":22", reached)
		text := f.text()
		if has := strings.Contains(text, ourChain); has != (option == "iptables") {
			t.Errorf("%s: there is a chain %s: got %v\n%s", option, ourChain, has, text)
		}
		if has := strings.Contains(text, acceptComment); has != (option == "nft") {
			t.Errorf("%s: there is a rule of nft's: got %v\n%s", option, has, text)
		}
	}
	// Another bit: nothing of the old one stays, as it may be somebody else's from now on.
	old := f.choice.Firewall.(nftFirewall)
	f.choice.Firewall = nftFirewall{mark: 0x40000000, accepts: old.accepts}
	f.build()
	f.do(flush(f.inspect(), defaultMark, f.choice.Firewall))
	f.wantPresent(true)
	if text := f.text(); strings.Contains(text, "20000000") {
		t.Errorf("the old bit is still there:\n%s", text)
	}
	f.do(flush(f.inspect(), defaultMark, nil))
	if got := f.text(); got != f.before {
		t.Errorf("flushed: got\n%s\nwant\n%s", got, f.before)
	}
}

// Somebody restores rules that were saved while another source was in.
func TestIptablesStaleRestore(t *testing.T) {
	for _, variant := range []string{"-nft", "-legacy"} {
		t.Run("iptables"+variant, func(t *testing.T) {
			f := newFirewallTest(t, firewallHost{option: "iptables", rules: "V=" + variant + "; " + dropByIptables})
			f.build()
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
			f.build()
			f.wantPresent(true)
			f.wantPort(0, hostAddr+":22", reached)
			f.wantPort(1, hostAddr+":22", filtered)
		})
	}
}

// A rule that somebody puts before ours stays, and comes behind it when everything is made anew.
func TestIptablesFirstPlace(t *testing.T) {
	f := newFirewallTest(t, firewallHost{option: "iptables", rules: dropByIptables})
	f.build()
	f.must(f.host.run("iptables", "-w", "-I", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"))
	f.wantPresent(true)
	f.wantPort(1, hostAddr+":22", reached)
	f.build()
	f.wantPort(1, hostAddr+":22", filtered)
}

// Nobody is left to close the door but the kernel.
func TestNFTClosesByItself(t *testing.T) {
	f := newFirewallTest(t, firewallHost{rules: fw4Table})
	f.build()
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
			f.build()
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
		type filter hook prerouting priority mangle;
		meta mark set 0x20000005
	}
	chain input {
		type filter hook input priority -5;
		meta mark 0x20000005 ip saddr 10.9.0.2 tcp dport 22 counter name "ours"
		meta mark 0x00000005 ip saddr 10.9.0.3 tcp dport 23 counter name "theirs"
	}
	counter ours { }
	counter theirs { }
}
END`})
	f.build()
	f.open(f.pass("10.9.0.2", 100))
	f.wantPort(0, hostAddr+":22", reached)
	f.wantPort(1, hostAddr+":22", filtered)
	f.wantPort(1, hostAddr+":23", filtered)
	text, err := f.host.output("nft", "list", "counters", "table", "inet", "marks")
	f.must(err)
	if strings.Count(text, "packets") != 2 || strings.Contains(text, "packets 0 ") {
		t.Errorf("packets with our bit and without, both with the host's: got %s", text)
	}
}

// However many are in, one more is one process and three lines.
func TestNFTOneMore(t *testing.T) {
	f := newFirewallTest(t, firewallHost{rules: "true"})
	for i := range 1000 {
		f.rules.Open = append(f.rules.Open, f.pass(fmt.Sprintf("10.8.%d.%d", i/250, i%250), 100))
	}
	f.build()
	f.wantPresent(true)
	calls := f.choice.open(f.pass("10.9.0.2", 100), nil)
	if len(calls) != 1 || calls[0].Unless != nil || strings.Count(calls[0].Input, "\n") != 3 || !slices.Equal(calls[0].Argv, nftScript) {
		t.Errorf("the 1,001st: got %v", calls)
	}
	f.do(calls)
	f.wantPort(0, hostAddr+":22", reached)
}
