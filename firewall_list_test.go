//go:build linux

package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// listed is what counts of a list.
func listed(text string) (l listing) {
	for line := range strings.Lines(text) {
		l.take(strings.TrimSuffix(line, "\n"))
	}
	l.end()
	return l
}

// String is the listing with each rule's place.
func (l listing) String() string {
	s := l.other
	for _, c := range l.chains {
		s += fmt.Sprintf("%s %s %s: %s %d %s, owned %v\n", c.family, c.table, c.name, c.hook, c.priority, c.policy, c.owned)
		for i, rule := range c.rules {
			s += fmt.Sprintf("\t%d %s\n", c.numbers[i], rule)
		}
	}
	return s
}

func TestListing(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"not a list", "iptables v1.8.9 (nf_tables)\n", "iptables v1.8.9 (nf_tables)\n"},
		{"a table", `# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter { # handle 8
	comment "of theirs"
	flags owner
	set a {
		type ipv4_addr
		elements = { 192.0.2.1,
			     192.0.2.2 }
	}

	chain f2b { # handle 3
		ip saddr 192.0.2.3 counter packets 0 bytes 0 reject # handle 4
		ip saddr 192.0.2.4 counter packets 5 bytes 9 reject # handle 5
		ip saddr @a drop # handle 6
		ip saddr { 192.0.2.5, 192.0.2.6 } counter packets 0 bytes 0 reject # handle 7
		ip saddr { 192.0.2.7, 192.0.2.8, 192.0.2.9 } counter packets 0 bytes 0 reject # handle 8
		ip saddr 192.0.2.5 counter packets 5 bytes 9 reject # handle 9
	}

	chain INPUT { # handle 1
		type filter hook input priority filter; policy accept;
		tcp dport vmap { 22 : jump f2b, 23 : goto loop } # handle 10
		iifname "eth0" drop # handle 11
		iifname "eth1" drop comment "one" # handle 11
		iifname "eth1" drop comment "another" # handle 11
		meta mark & 0x1 == 0x1 accept comment "sesame 0x1" # handle 12
		meta mark & 0x2 == 0x2 accept comment "sesame 0x2" # handle 13
	}

	chain loop { # handle 2
		jump f2b
		goto loop
	}

	chain OUTPUT {
		type filter hook output priority filter; policy accept;
		jump only
	}

	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		jump nat
	}

	chain only {
		drop
	}

	chain nat {
		dnat to 192.0.2.3
	}

	chain SESAME {
		tcp dport 22 drop
	}
}
`, `# Warning: table ip filter is managed by iptables-nft, do not touch!
ip filter f2b:  0 , owned true
	1 ip saddr 192.0.2.3 counter packets 0 bytes 0 reject # handle 4
	2 ip saddr 192.0.2.4 counter packets 5 bytes 9 reject # handle 5
	3 ip saddr @a drop # handle 6
	4 ip saddr { 192.0.2.5, 192.0.2.6 } counter packets 0 bytes 0 reject # handle 7
	6 ip saddr 192.0.2.5 counter packets 5 bytes 9 reject # handle 9
ip filter INPUT: input 0 accept, owned true
	1 tcp dport vmap { 22 : jump f2b, 23 : goto loop } # handle 10
	2 iifname "eth0" drop # handle 11
	3 iifname "eth1" drop comment "one" # handle 11
	4 iifname "eth1" drop comment "another" # handle 11
	5 meta mark & 0x1 == 0x1 accept comment "sesame 0x1" # handle 12
	6 meta mark & 0x2 == 0x2 accept comment "sesame 0x2" # handle 13
ip filter loop:  0 , owned true
	1 jump f2b
	2 goto loop
ip filter PREROUTING: prerouting -100 accept, owned true
ip filter SESAME:  0 , owned true
`},
		{"iptables -S", `-P INPUT DROP
-P FORWARD ACCEPT
-P OUTPUT DROP
-N SESAME
-N f2b
-N unused
-A INPUT -s 192.0.2.1/32 -m comment --comment one -j f2b
-A INPUT -s 192.0.2.2/32 -m comment --comment "another one" -j f2b
-A INPUT -p tcp -m tcp --dport 22 -m comment --comment two -j f2b
-A INPUT -i eth0 -j f2b
-A INPUT -i eth1 -j f2b
-A INPUT -i eth1 -m comment --comment "of that link" -j SESAME
-A OUTPUT -j DROP
-A f2b -s 192.0.2.1/32 -j DROP
-A f2b -s 192.0.2.2/32 -j DROP
-A f2b -s 192.0.2.3/32 -j DROP
-A f2b -s 192.0.2.4/32 -j DROP
-A f2b -j RETURN
-A unused -j DROP
`, `  INPUT: input 0 DROP, owned false
	1 -A INPUT -s 192.0.2.1/32 -m comment --comment one -j f2b
	2 -A INPUT -s 192.0.2.2/32 -m comment --comment "another one" -j f2b
	3 -A INPUT -p tcp -m tcp --dport 22 -m comment --comment two -j f2b
	4 -A INPUT -i eth0 -j f2b
	5 -A INPUT -i eth1 -j f2b
	6 -A INPUT -i eth1 -m comment --comment "of that link" -j SESAME
  FORWARD: forward 0 ACCEPT, owned false
  SESAME:  0 , owned false
  f2b:  0 , owned false
	1 -A f2b -s 192.0.2.1/32 -j DROP
	4 -A f2b -s 192.0.2.4/32 -j DROP
	5 -A f2b -j RETURN
`},
	} {
		if got := listed(test.in).String(); got != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, got, test.want)
		}
	}
}

// What is left out does not change what chains can do.
func TestListingEffects(t *testing.T) {
	kinds := []string{"ip saddr 192.0.2.%d drop", "tcp dport %d accept", "tcp dport %d drop", "tcp dport %d counter", "tcp dport %d jump bans"}
	for which := range 1 << len(kinds) {
		table := "table inet fw {\n\tchain bans {\n\t\tip saddr @bans drop\n\t}\n\tchain input {\n\t\ttype filter hook input priority 0; policy accept;\n"
		var rules []string
		for i, kind := range kinds {
			for n := range 4 * (which >> i & 1) {
				rules = append(rules, fmt.Sprintf(kind, n))
			}
		}
		h := newHostRules(Inspection{NFT: listed(table + "\t\t" + strings.Join(rules, "\n\t\t") + "\n\t}\n}\n")}.chains(), 0)
		input := h.bases(func(string) bool { return false }, false)[0]
		var want effect
		for _, rule := range rules {
			want |= h.ofRule(input.chain, rule)
		}
		if input.can != want || len(input.rules) > 2*len(kinds) || which == 1<<len(kinds)-1 && want != accepts|bans|drops|jumps {
			t.Errorf("%q: got %v, want %v, by %q", rules, input.can, want, input.rules)
		}
	}
}

// Of each rule that is kept its place is known.
func TestListingNumbers(t *testing.T) {
	rules := "-P INPUT DROP\n"
	for i := range 100 {
		rules += fmt.Sprintf("-A INPUT -s 192.0.2.%d/32 -j DROP\n", i)
	}
	rules += "-A INPUT -j ACCEPT\n" + rules[len("-P INPUT DROP\n"):]
	table := "table ip other {\n\tchain INPUT {\n\t\ttype filter hook input priority 0; policy accept;\n" +
		strings.ReplaceAll(strings.TrimPrefix(rules, "-P INPUT DROP\n"), "-A INPUT ", "\t\t") + "\t}\n}\n"
	in := Inspection{NFT: listed(table), Tools: []Tool{{iptables: iptables{"iptables", true}, Legacy: true, Rules: listed(rules)}}}
	for _, c := range in.chains() {
		if got, want := fmt.Sprint(c.numbers), "[1 100 101 102 201]"; got != want || len(c.rules) != 5 || strings.Contains(c.rules[4], "more") {
			t.Errorf("%v: got %s: %q, want %s", c, got, c.rules, want)
		}
	}
}

// A long list, and one of which everything counts, take little memory.
func TestListingBound(t *testing.T) {
	var before, after runtime.MemStats
	for _, test := range []struct {
		format  string
		tooMuch bool
		bound   int64
	}{
		{"\t\tip saddr 10.0.%d.%d tcp dport 22 drop # handle 5", false, maxPrinted},
		{"\t\tip saddr %d tcp dport 22 counter # handle %d\n\t\tip saddr 192.0.2.7 drop", false, maxPrinted},
		{"\t\tjump f2b-%d-%d # handle 5", true, 8 * maxPrinted},
	} {
		var l listing
		l.take("table inet filter {")
		l.take("\tchain input {")
		l.take("\t\ttype filter hook input priority filter; policy accept;")
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range 1 << 18 { // 6 to 20 MB of text
			for line := range strings.SplitSeq(fmt.Sprintf(test.format, i>>8, i&255), "\n") {
				l.take(line)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); l.tooMuch != test.tooMuch || grown > test.bound {
			t.Errorf("%s: got too much %v, and %d MB more memory", test.format, l.tooMuch, grown>>20)
		}
	}
}

// FuzzListing: whatever is printed can be read, and what counts of it is no more.
func FuzzListing(f *testing.F) {
	for _, text := range []string{listedFw4, listedIptables, "-P INPUT DROP\n-A INPUT -j a\n-A a -j a\n", "\tchain a\n\t\ttype hook input", "\t\tchain", "-P INPUT"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := listed(text)
		for _, c := range (Inspection{NFT: l, Tools: []Tool{{iptables: iptables{"iptables", true}, Legacy: true, Rules: l}}}).chains() {
			if len(c.rules) > c.length || len(c.numbers) != len(c.rules) || !slices.IsSorted(c.numbers) {
				t.Errorf("got %v of %q", c, text)
			}
		}
	})
}
