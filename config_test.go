//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func readText(text string) (*Config, error) {
	return parseConfig("knockd.conf", strings.NewReader(text))
}

// mistakesOf is what is wrong with a configuration, in lines; "" is nothing.
func mistakesOf(text string) string {
	if _, err := readText(text); err != nil {
		return err.Error()
	}
	return ""
}

func TestDoorDirectives(t *testing.T) {
	tests := []struct {
		name, in string
		want     func(d *Door)
	}{
		{"defaults", "", func(d *Door) {}},
		{"udp and tcp in any case", "Sequence = 1:udp,2:TCP,65535:Udp", func(d *Door) { d.Sequence = []Knock{{1, udp}, {2, tcp}, {65535, udp}} }},
		{"blanks and tabs in a sequence", "Sequence = 571, 290\t,\t911 : udp", func(d *Door) { d.Sequence = []Knock{{571, tcp}, {290, tcp}, {911, udp}} }},
		{"no blanks", "Sequence=3,2,1", func(d *Door) { d.Sequence = []Knock{{3, tcp}, {2, tcp}, {1, tcp}} }},
		{"one port several times", "Sequence = 8,8,8", func(d *Door) { d.Sequence = []Knock{{8, tcp}, {8, tcp}, {8, tcp}} }},
		{"comment behind a sequence", "Sequence = 3333:udp # comment, too", func(d *Door) { d.Sequence = []Knock{{3333, udp}} }},
		{"longest sequence", "Sequence = 5" + strings.Repeat(",5", maxKnocks-1), func(d *Door) {
			d.Sequence = nil
			for range maxKnocks {
				d.Sequence = append(d.Sequence, Knock{5, tcp})
			}
		}},
		{"leading zero", "Sequence = 07000", func(d *Door) { d.Sequence = []Knock{{7000, tcp}} }},
		{"a code", "Sequence = 7000, totp\nTOTP = jbswy3dpehpk3pxpjbswy3dpehpk3pxp # phone", func(d *Door) {
			d.Sequence, d.TOTP, d.CodeAt, d.SeqTimeout = []Knock{{7000, tcp}, {0, tcp}, {0, tcp}}, TOTP{strings.Repeat("Hello!\xde\xad\xbe\xef", 2), 20000}, 1, time.Minute
		}},
		{"a code between knocks, by UDP, from another base, in another time", "TOTP = JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP 30000\nSeq_Timeout = 25\nSequence = 7000, TOTP:udp ,9000", func(d *Door) {
			d.Sequence, d.TOTP, d.CodeAt = []Knock{{7000, tcp}, {0, udp}, {0, udp}, {9000, tcp}}, TOTP{strings.Repeat("Hello!\xde\xad\xbe\xef", 2), 30000}, 1
		}},
		{"last sequence holds", "Sequence = 1\nSequence = 2", func(d *Door) { d.Sequence = []Knock{{2, tcp}} }},

		{"seconds", "Seq_Timeout = 5\nCmd_Timeout = 500", func(d *Door) { d.SeqTimeout, d.CmdTimeout = 5*time.Second, 500*time.Second }},
		{"Timeout", "Timeout = 5", func(d *Door) { d.SeqTimeout = 5 * time.Second }},
		{"letters behind seconds", "Seq_Timeout = 5s", func(d *Door) { d.SeqTimeout = 5 * time.Second }},
		{"comment behind seconds", "Cmd_Timeout = 15 # comment", func(d *Door) { d.CmdTimeout = 15 * time.Second }},
		{"fraction of a second", "Seq_Timeout = 1.9", func(d *Door) { d.SeqTimeout = time.Second }},
		{"no seconds", "Seq_Timeout = 0", func(d *Door) { d.SeqTimeout = 0 }},
		{"most seconds", "Cmd_Timeout = 2147483647", func(d *Door) { d.CmdTimeout = 2147483647 * time.Second }},
		{"cooldown", "seq_cooldown = 30", func(d *Door) { d.Cooldown = 30 * time.Second }},

		{"flags", "TCPFlags = syn,!ack", func(d *Door) { d.Flags = TCPFlags{flagSYN | flagACK, flagSYN} }},
		{"all flags in capitals", "TCPFlags = FIN,SYN,RST,PSH,ACK,URG", func(d *Door) { d.Flags = TCPFlags{0x3f, 0x3f} }},
		{"blanks in flags", "TCPFlags = syn, ! ack # comment", func(d *Door) { d.Flags = TCPFlags{flagSYN | flagACK, flagSYN} }},
		{"flags on two lines add up", "TCPFlags = syn\nTCPFlags = !rst", func(d *Door) { d.Flags = TCPFlags{flagSYN | flagRST, flagSYN} }},
		{"last of opposite flags holds", "TCPFlags = syn,!syn", func(d *Door) { d.Flags = TCPFlags{flagSYN, 0} }},

		{"target", "Target = 192.0.2.7", func(d *Door) { d.Target = netip.MustParseAddr("192.0.2.7") }},
		{"IPv6 target", "Target = 2001:db8::7 # comment", func(d *Door) { d.Target = netip.MustParseAddr("2001:db8::7") }},
		{"IPv4 target in IPv6 form", "Target = ::ffff:192.0.2.7", func(d *Door) { d.Target = netip.MustParseAddr("192.0.2.7") }},
		{"one-time file", "One_Time_Sequences = /etc/knock once", func(d *Door) { d.OneTime, d.Sequence = "/etc/knock once", nil }},

		{"what belongs to a command", `Command = a --to=1 -m "b"; c && d | e # f > '%IP%/32' $(g)`, func(d *Door) {
			d.Start = `a --to=1 -m "b"; c && d | e # f > '%IP%/32' $(g)`
			d.Start6 = d.Start
		}},
		{"last command holds", "Start_Command = a\nCommand = b", func(d *Door) { d.Start, d.Start6 = "b", "b" }},
		{"no command", "Command =", func(d *Door) { d.Start, d.Start6 = "", "" }},
		{"keys in any case", "START_COMMAND = a\nstop_command = b\ncMD_tIMEOUT = 1", func(d *Door) {
			d.Start, d.Start6, d.Stop, d.Stop6, d.CmdTimeout = "a", "a", "b", "b", time.Second
		}},
		{"IPv6 commands of their own", "Start_Command_6 = a\nStop_Command_6 = b\nStop_Command = c", func(d *Door) {
			d.Start6, d.Stop, d.Stop6 = "a", "c", "b"
		}},
		{"Command_6", "Command_6 = a", func(d *Door) { d.Start6 = "a" }},
		{"IPv6 falls back to what stands below", "Stop_Command = a\nCommand = b", func(d *Door) {
			d.Start, d.Start6, d.Stop, d.Stop6 = "b", "b", "a", "a"
		}},
		{"nothing for IPv6", "Start_Command_6 =\nStop_Command_6 =\nStop_Command = a", func(d *Door) { d.Start6, d.Stop = "", "a" }},
		{"open ports", "OPEN_PORTS = 22, 3389:TCP,\t51820 : udp # ssh and more\nCmd_Timeout = 5", func(d *Door) {
			d.OpenPorts, d.CmdTimeout = []Knock{{22, tcp}, {3389, tcp}, {51820, udp}}, 5*time.Second
		}},
		{"one port in both protocols", "Open_Ports = 53:udp,53", func(d *Door) { d.OpenPorts = []Knock{{53, udp}, {53, tcp}} }},
		{"open ports that are repeated", "Open_Ports = 22,23,22:tcp", func(d *Door) { d.OpenPorts = []Knock{{22, tcp}, {23, tcp}} }},
		{"last open ports hold", "Open_Ports = 22\nOpen_Ports = 23", func(d *Door) { d.OpenPorts = []Knock{{23, tcp}} }},
		{"most open ports", "Open_Ports = 22" + strings.Repeat(",22", maxOpenPorts-1), func(d *Door) { d.OpenPorts = []Knock{{22, tcp}} }},
		{"forwards", "Open_Ports = 8443 -> 192.168.77.10:443, 8053:UDP->[fd77::10]:5353 MASQUERADE,22 # nas", func(d *Door) {
			d.OpenPorts = []Knock{{22, tcp}}
			d.Behind = []Behind{{Knock: Knock{8443, tcp}, To: netip.MustParseAddrPort("192.168.77.10:443")},
				{Knock: Knock{8053, udp}, To: netip.MustParseAddrPort("[fd77::10]:5353"), Masquerade: true}}
		}},
		{"forwards of one address", "Open_Ports = [2001:db8::1]:80 -> [fd77::10], 192.0.2.1:22:udp->10.0.0.7:23", func(d *Door) {
			d.Behind = []Behind{{Knock: Knock{80, tcp}, At: netip.MustParsePrefix("2001:db8::1/128"), To: netip.MustParseAddrPort("[fd77::10]:80")},
				{Knock: Knock{22, udp}, At: netip.MustParsePrefix("192.0.2.1/32"), To: netip.MustParseAddrPort("10.0.0.7:23")}}
		}},
		{"routed hosts", "Target = 192.0.2.9\nOpen_Ports = 192.0.2.9:443, [2001:db8:1::/48]:22:tcp, 192.0.2.9/28 : 53 : udp", func(d *Door) {
			d.Target = netip.MustParseAddr("192.0.2.9")
			d.Behind = []Behind{{Knock: Knock{443, tcp}, At: netip.MustParsePrefix("192.0.2.9/32")},
				{Knock: Knock{22, tcp}, At: netip.MustParsePrefix("2001:db8:1::/48")}, {Knock: Knock{53, udp}, At: netip.MustParsePrefix("192.0.2.0/28")}}
		}},
		{"hide", "Open_Ports = 22\nhide = YES # please", func(d *Door) { d.OpenPorts, d.Hide = []Knock{{22, tcp}}, true }},
		{"hide in other words", "Open_Ports = 22\nHide = no\nHide = 0\nHide = true\nHide = False\nHide = on", func(d *Door) { d.OpenPorts, d.Hide = []Knock{{22, tcp}}, true }},
		{"last hide holds", "Open_Ports = 22\nHide = 1\nHide = off", func(d *Door) { d.OpenPorts = []Knock{{22, tcp}} }},
		{"exceptions", "Open_Ports = 22\nHide = yes\nHide_Except = 192.168.1.0/24, 2001:db8::/32,10.0.0.7 ,2001:db8::7 # lan", func(d *Door) {
			d.OpenPorts, d.Hide, d.HideExcept = []Knock{{22, tcp}}, true, []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"),
				netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("10.0.0.7/32"), netip.MustParsePrefix("2001:db8::7/128")}
		}},
		{"exceptions of more bits than they have", "Open_Ports = 22\nHide = yes\nHide_Except = 192.168.1.7/24,2001:db8::7/32", func(d *Door) {
			d.OpenPorts, d.Hide, d.HideExcept = []Knock{{22, tcp}}, true, []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("2001:db8::/32")}
		}},
		{"IPv4 exceptions in IPv6 form", "Open_Ports = 22\nHide = yes\nHide_Except = ::ffff:10.0.0.7,::ffff:10.1.0.0/112", func(d *Door) {
			d.OpenPorts, d.Hide, d.HideExcept = []Knock{{22, tcp}}, true, []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32"), netip.MustParsePrefix("10.1.0.0/16")}
		}},
		{"all of one family excepted", "Open_Ports = 22\nHide = yes\nHide_Except = 0.0.0.0/0", func(d *Door) {
			d.OpenPorts, d.Hide, d.HideExcept = []Knock{{22, tcp}}, true, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		}},
		{"no decoys", "Decoys = No # none", func(d *Door) { d.Decoys = false }},
		{"strict", "strict = yes\ndecoys = yes", func(d *Door) { d.Strict = true }},
		{"allowed sources", "Allow = 192.0.2.7/24, 2001:db8::/32, ::ffff:10.0.0.7", func(d *Door) {
			d.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("10.0.0.7/32")}
		}},
		{"how many", "Max_Open = 4096", func(d *Door) { d.MaxOpen = 4096 }},
		{"bare UseSyslog in a door", "UseSyslog", func(d *Door) {}},
		{"comments and blanks", "  # Sequence = 1\n#Sequence = 2\n \t \n\n", func(d *Door) {}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := readText("[ssh]\nSequence = 7000,8000\nCommand = open\n" + test.in)
			if err != nil {
				t.Fatal(err)
			}
			want := Door{Name: "ssh", Line: 1, Sequence: []Knock{{7000, tcp}, {8000, tcp}}, SeqTimeout: 25 * time.Second,
				CmdTimeout: 10 * time.Second, Start: "open", Start6: "open", Decoys: true}
			test.want(&want)
			c.Doors[0].Lines = nil
			if got := *c.Doors[0]; !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestCommandsByFamily(t *testing.T) {
	d := Door{Start: "a", Stop: "b", Start6: "c", Stop6: "d"}
	for source, want := range map[string]string{"192.0.2.7": "a b", "2001:db8::7": "c d"} {
		start, stop := d.commands(netip.MustParseAddr(source))
		if got := start + " " + stop; got != want {
			t.Errorf("commands for %s: got %q, want %q", source, got, want)
		}
	}
}

func TestOptions(t *testing.T) {
	tests := []struct {
		name, in string
		want     Config
	}{
		{"firewall", "[options]\nFIREWALL = NFT # ours", Config{Firewall: "nft"}},
		{"last firewall holds", "[options]\nFirewall = iptables\nFirewall = auto", Config{}},
		{"mark", "[options]\nFirewall_Mark = 0X80000000", Config{FirewallMark: 1 << 31}},
		{"mark in decimal", "[options]\nfirewall_mark = 1 # lowest", Config{FirewallMark: 1}},
		{"state directory", "[options]\nStateDir = /var/lib/my doors # comment", Config{StateDir: "/var/lib/my doors"}},
		{"ignored ports", "[options]\nIgnore_Ports = 7010, 51820:udp", Config{IgnorePorts: []Knock{{7010, tcp}, {51820, udp}}}},
		{"ring", "[options]\nRing_Size = 4", Config{RingSize: 4 << 20}},
		{"nothing in it", "[options]\n", Config{}},
		{"nothing in it", "[options]", Config{}},
		{"syslog", "[options]\nUseSyslog", Config{UseSyslog: true}},
		{"syslog with a value", "[options]\nUseSyslog = yes # comment", Config{UseSyslog: true}},
		{"syslog with = and no value", "[options]\nusesyslog =", Config{UseSyslog: true}},
		{"no syslog", "[options]\nUseSyslog = No", Config{}},
		{"syslog in a door", "[a]\nSequence = 1\nUseSyslog", Config{UseSyslog: true}},
		{"files", "[options]\nlogfile = /var/log/my knocks.log\nPidFile=/run/knockd.pid", Config{LogFile: "/var/log/my knocks.log", PidFile: "/run/knockd.pid"}},
		{"last file holds", "[options]\nLogFile = /a\nLogFile = /b", Config{LogFile: "/b"}},
		{"interface", "[options]\nInterface = eth0", Config{Interfaces: []string{"eth0"}}},
		{"interface in quotes", "[options]\nInterface = \"eth0\" # comment", Config{Interfaces: []string{"eth0"}}},
		{"first interface holds", "[options]\nInterface = eth0\nInterface = eth1", Config{Interfaces: []string{"eth0"}}},
		{"interfaces", "[options]\nInterface = ppp0, br-lan,eth0.2", Config{Interfaces: []string{"ppp0", "br-lan", "eth0.2"}}},
		{"interface's beginning", "[options]\nInterface = ppp*, wan6", Config{Interfaces: []string{"ppp*", "wan6"}}},
		{"longest beginning", "[options]\nInterface = abcdefghijklmn*", Config{Interfaces: []string{"abcdefghijklmn*"}}},
		{"default routes", "[options]\nInterface = Auto, wg0", Config{Interfaces: []string{"auto", "wg0"}}},
		{"twice the same", "[options]\nInterface = wg0, wg0", Config{Interfaces: []string{"wg0"}}},
		{"empty interface", "[options]\nInterface =  # all", Config{}},
		{"interface of a door", "[a]\nSequence = 1\nInterface = eth0", Config{}},
		{"any interface", "[options]\nInterface = any", Config{}},
		{"any of several", "[options]\nInterface = eth0,ALL", Config{}},
		{"any interface, and lo", "[options]\nInterface = eth0, lo, any", Config{Interfaces: []string{"*", "lo"}}},
		{"star", "[options]\nInterface = *", Config{}},
		{"two sections", "[options]\nUseSyslog\n[a]\nSequence = 1\n[options]\nLogFile = /a", Config{UseSyslog: true, LogFile: "/a"}},
		{"section in capitals", "[ OPTIONS ]\nUseSyslog", Config{UseSyslog: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := readText(test.in)
			if err != nil {
				t.Fatal(err)
			}
			got := Config{Interfaces: c.Interfaces, LogFile: c.LogFile, PidFile: c.PidFile, UseSyslog: c.UseSyslog,
				Firewall: c.Firewall, FirewallMark: c.FirewallMark, StateDir: c.StateDir, IgnorePorts: c.IgnorePorts, RingSize: c.RingSize}
			if test.want.RingSize == 0 {
				test.want.RingSize = ringSize
			}
			if test.want.Firewall == "" {
				test.want.Firewall = "auto"
			}
			if test.want.Interfaces == nil {
				test.want.Interfaces = []string{"*"}
			}
			if test.want.FirewallMark == 0 {
				test.want.FirewallMark = 0x20000000
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestDoorInterfaces numbers the lists of interfaces: doors that have the same one share a number.
func TestDoorInterfaces(t *testing.T) {
	const door = "[%s]\nSequence = 1\nCommand = true\n%s\n"
	text := fmt.Sprintf(door+door+door+door+door, "a", "Interface = wan", "b", "", "c", "interface = lan*, \"auto\"",
		"d", "Interface = wan\nInterface = lan", "e", "Interface = any, wan")
	text = strings.ReplaceAll(text, `"`, "")
	c, err := readText("[options]\nInterface = eth0\n" + text)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range c.Doors {
		got = append(got, fmt.Sprint(d.Name, d.List, d.Interfaces))
	}
	if want := "a1 [wan] b0 [] c2 [lan* auto] d1 [wan] e3 [*]"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if got, want := fmt.Sprint(c.lists(c.Interfaces)), "[[eth0] [wan] [lan* auto] [*]]"; got != want {
		t.Errorf("lists: got %s, want %s", got, want)
	}
	c.Doors = slices.Delete(c.Doors, 1, 2)
	if got, want := fmt.Sprint(c.lists(c.Interfaces)), "[[] [wan] [lan* auto] [*]]"; got != want {
		t.Errorf("lists without a door that has none: got %s, want %s", got, want)
	}
	if c, err = readText("[options]\nInterface = eth0\n"); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(c.lists(c.Interfaces)), "[[eth0]]"; got != want {
		t.Errorf("lists without doors: got %s, want %s", got, want)
	}

	var many strings.Builder
	for i := range maxLists {
		fmt.Fprintf(&many, door, fmt.Sprint(i), fmt.Sprintf("Interface = eth%d", i))
	}
	if c, err = readText(many.String()); err != nil || int(c.Doors[maxLists-1].List) != maxLists {
		t.Fatalf("%d lists: %v", maxLists, err)
	}
	fmt.Fprintf(&many, door, "last", "Interface = wan")
	_, err = readText(many.String())
	if want := `knockd.conf:256: door "last": Interface: there are more than 63 different lists of interfaces: let doors share some`; err == nil || err.Error() != want {
		t.Errorf("%d lists: got %v, want %s", maxLists+1, err, want)
	}
}

func TestSections(t *testing.T) {
	long := strings.Repeat("x", 127)
	tests := []struct{ name, in, want string }{
		{"none", "[options]\n", ""},
		{"order and lines", "# top\n[a]\nSequence = 1\n\n[b]\nSequence = 2\n", "2 a 1:tcp, 5 b 2:tcp"},
		{"no newline at the end", "[a]\nSequence = 1", "1 a 1:tcp"},
		{"CRLF", "[a]\r\nSequence = 1\r\n\r\n# c\r\n[b]\r\nSequence = 2\r\n", "1 a 1:tcp, 5 b 2:tcp"},
		{"indented", "\t[a]  \n\t  Sequence\t=\t1\t\n", "1 a 1:tcp"},
		{"byte order mark", "\xef\xbb\xbf[a]\nSequence = 1\n", "1 a 1:tcp"},
		{"two doors of one name", "[a]\nSequence = 1\n[a]\nSequence = 2\n", "1 a 1:tcp, 3 a 2:tcp"},
		{"names differ in case", "[a]\nSequence = 1\n[A]\nSequence = 2\n", "1 a 1:tcp, 3 A 2:tcp"},
		{"blanks in a name", "[ open ssh  now ]\nSequence = 1\n", "1 open ssh  now 1:tcp"},
		{"brackets and = in a name", "[a]=[b]\nSequence = 1\n", "1 a]=[b 1:tcp"},
		{"not ASCII", "[вход №1]\nSequence = 1\n", "1 вход №1 1:tcp"},
		{"longest name", "[" + long + "]\nSequence = 1\n", "1 " + long + " 1:tcp"},
		{"one-time file and no sequence", "[a]\nOne_Time_Sequences = /a\n", "1 a "},
		{"largest file", "[a]\nSequence = 1\n" + strings.Repeat("#", maxConfigSize-len("[a]\nSequence = 1\n")), "1 a 1:tcp"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := readText(test.in)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range c.Doors {
				got = append(got, fmt.Sprintf("%d %s %s", d.Line, d.Name, d.sequence()))
			}
			if got := strings.Join(got, ", "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	const (
		port    = `knockd.conf:2: door "a": Sequence: a port is a number from 1 to 65535`
		empty   = `knockd.conf:2: door "a": Sequence: an item is empty: a port is a number from 1 to 65535, and commas only go between ports`
		seconds = ` is a number of seconds from 0 to 2147483647, not `
		isFlag  = ` is no flag: fin, syn, rst, psh, ack, urg, each also with ! before it`
		tooLong = ` is too long: the name of an interface has 15 characters at most, with a *`
		isLink  = ` is no interface: names with commas between them (eth0, ppp*), any, or auto`
		door    = "[a]\nSequence = 1\n"
		native  = door + "Open_Ports = 22\n"
		behind  = `knockd.conf:3: door "a": Open_Ports: `
		open    = `knockd.conf:3: door "a": Open_Ports: ports are numbers from 1 to 65535 with commas between them, each optionally followed by :tcp or :udp, not `
		except  = `knockd.conf:5: door "a": Hide_Except is addresses and networks with commas between them, such as 192.168.1.0/24, 2001:db8::/32, 10.0.0.7, not `
		hides   = ` without Open_Ports hides nothing: write the ports to hide (Open_Ports = 22), or delete this line`
		mark    = `knockd.conf:2: Firewall_Mark is one bit of 32, such as 0x20000000, not `
	)
	tests := []struct{ name, in, want string }{
		{"shell variable", "[a]\nSequence = $PORT1,8000", port + `, not "$PORT1"`},
		{"place holder", "[a]\nSequence = 7000,<X>", port + `, not "<X>"`},
		{"port 0", "[a]\nSequence = 0:udp", port + `, not "0:udp"`},
		{"port too high", "[a]\nSequence = 65536", port + `, not "65536"`},
		{"port that wraps", "[a]\nSequence = 18446744073709551623", port + `, not "18446744073709551623"`},
		{"negative port", "[a]\nSequence = -7000", port + `, not "-7000"`},
		{"hexadecimal port", "[a]\nSequence = 0x1b58", port + `, not "0x1b58"`},
		{"range", "[a]\nSequence = 7000-7003", port + `, not "7000-7003"`},
		{"semicolons", "[a]\nSequence = 1;2;3", port + `, not "1;2;3"`},
		{"blanks instead of commas", "[a]\nSequence = 7000 8000", port + `, not "7000 8000"`},
		{"trailing comma", "[a]\nSequence = 7000,8000,", empty},
		{"empty sequence", "[a]\nSequence =", empty},
		{"comment instead of a sequence", "[a]\nSequence = # 7000", empty},
		{"unknown protocol", "[a]\nSequence = 7000:icmp", `knockd.conf:2: door "a": Sequence: a knock is PORT, PORT:tcp or PORT:udp, not "7000:icmp"`},
		{"protocol after a slash", "[a]\nSequence = 7000/udp", `knockd.conf:2: door "a": Sequence: a knock is PORT, PORT:tcp or PORT:udp, not "7000/udp"`},
		{"empty protocol", "[a]\nSequence = 7000:", `knockd.conf:2: door "a": Sequence: a knock is PORT, PORT:tcp or PORT:udp, not "7000:"`},
		{"too many knocks", "[a]\nSequence = 5" + strings.Repeat(",5", maxKnocks), `knockd.conf:2: door "a": Sequence: a sequence has 1 to 32 knocks, not 33`},
		{"totp first", "[a]\nSequence = totp, 7000\nTOTP = " + testSecret, `knockd.conf:2: door "a": Sequence: totp stands there once, after a knock, and as two of 32 knocks at most: Sequence = 7000, totp`},
		{"totp twice", "[a]\nSequence = 7000, totp, totp\nTOTP = " + testSecret, `knockd.conf:2: door "a": Sequence: totp stands there once, after a knock, and as two of 32 knocks at most: Sequence = 7000, totp`},
		{"totp as the 32nd and 33rd", "[a]\nSequence = 5" + strings.Repeat(",5", 30) + ",totp\nTOTP = " + testSecret, `knockd.conf:2: door "a": Sequence: totp stands there once, after a knock, and as two of 32 knocks at most: Sequence = 7000, totp`},
		{"totp of another protocol", "[a]\nSequence = 7000, totp:icmp\nTOTP = " + testSecret, `knockd.conf:2: door "a": Sequence: a knock is PORT, PORT:tcp or PORT:udp, not "totp:icmp"`},
		{"no secret", "[a]\nSequence = 7000, totp", `knockd.conf:1: door "a": TOTP and totp in the Sequence need each other: Sequence = 7000, totp`},
		{"a secret for nothing", "[a]\nSequence = 7000\nTOTP = " + testSecret, `knockd.conf:1: door "a": TOTP and totp in the Sequence need each other: Sequence = 7000, totp`},
		{"a secret for a one-time file", "[a]\nOne_Time_Sequences = /a\nTOTP = " + testSecret, `knockd.conf:1: door "a": TOTP and totp in the Sequence need each other: Sequence = 7000, totp`},
		{"no base32", "[a]\nSequence = 7000, totp\nTOTP = 0189", `knockd.conf:3: door "a": TOTP: the secret of an app is needed, in base32 and without blanks, and a base for its ports if it is not 20000: TOTP = SECRET 30000; sesame init --totp draws one, not "0189"`},
		{"base", "[a]\nSequence = 7000, totp\nTOTP = " + testSecret + " 65000", `knockd.conf:3: door "a": TOTP: the base is a number from 1 to 64536, as each half of a code is added to it, not "` + testSecret + ` 65000"`},
		{"a knock among codes", "[a]\nSequence = 20999, totp\nTOTP = " + testSecret, `knockd.conf:3: door "a": TOTP: a knock or one of Open_Ports of door "a" is among the ports of its codes, 20000 to 20999: write another base: TOTP = SECRET 30000`},
		{"ports of others among codes", "[a]\nSequence = 7000, totp:udp\nTOTP = " + testSecret + "\n[b]\nSequence = 20000\nOpen_Ports = 20000:udp\n[c]\nSequence = 1\nOpen_Ports = 20500:udp -> 10.0.0.1:22",
			`knockd.conf:3: door "a": TOTP: a knock or one of Open_Ports of door "b" is among the ports of its codes, 20000 to 20999: write another base: TOTP = SECRET 30000` + "\n" +
				`knockd.conf:3: door "a": TOTP: a knock or one of Open_Ports of door "c" is among the ports of its codes, 20000 to 20999: write another base: TOTP = SECRET 30000`},
		{"no sequence", "[a]\nCommand = open\n[b]\nSequence = 1", `knockd.conf:1: door "a": a door needs a Sequence, or One_Time_Sequences, or a Key: Sequence = 7000,8000:udp,9000`},

		{"misspelt directive", "[a]\nSequence = 1\nCmd_Timout = 5", `knockd.conf:3: door "a": unknown directive "Cmd_Timout" (did you mean Cmd_Timeout?)`},
		{"unknown directive", "[options]\nColour = red", `knockd.conf:2: unknown directive "Colour"`},
		{"no directive", "[a]\nSequence = 1\n; a comment", `knockd.conf:3: door "a": "; a comment" is not a directive: a line is [section], Directive = value or # comment`},
		{"misspelt bare directive", "[options]\nUseSyslock", `knockd.conf:2: "UseSyslock" is not a directive: a line is [section], Directive = value or # comment (did you mean UseSyslog?)`},
		{"no =", "[a]\nSequence = 1\nCommand", `knockd.conf:3: door "a": Start_Command needs a value: Start_Command = ...`},
		{"before any section", "LogFile = /a\nUseSyslog",
			"knockd.conf:1: LogFile is before the first section: write [options] or a door's [name] above it\n" +
				"knockd.conf:2: UseSyslog is before the first section: write [options] or a door's [name] above it"},
		{"door's directive in options", "[options]\nTCPFlags = syn", `knockd.conf:2: TCPFlags belongs in a door's section, not in [options]`},
		{"option in a door", "[a]\nSequence = 1\nInterface = eth0\nLogFile = /a\nPidFile = /a",
			`knockd.conf:4: door "a": LogFile belongs in [options]` + "\n" +
				`knockd.conf:5: door "a": PidFile belongs in [options]`},
		{"no name", "[ ]\nSequence = 1", `knockd.conf:1: a section needs a name: [options] or a door's [name]`},
		{"name that is no text", "[\xff]\nSequence = 1", `knockd.conf:1: a door's name must be UTF-8 text: it stands in the log`},
		{"section that is not closed", "[a\nSequence = 7000", `knockd.conf:1: a section is [name]: the ] is missing`},
		{"behind a section", "[options] # comment", `knockd.conf:1: a section is [name] and nothing after it: put the rest on a line of its own`},

		{"unknown flag", "[a]\nSequence = 1\nTCPFlags = syn,ecn", `knockd.conf:3: door "a": TCPFlags: "ecn"` + isFlag},
		{"no flag", "[a]\nSequence = 1\nTCPFlags =", `knockd.conf:3: door "a": TCPFlags: ""` + isFlag},
		{"name as target", "[a]\nSequence = 1\nTarget = host.lan", `knockd.conf:3: door "a": Target is an address such as 192.0.2.7 or 2001:db8::7, not "host.lan"`},
		{"target with a zone", "[a]\nSequence = 1\nTarget = fe80::1%eth0", `knockd.conf:3: door "a": Target is an address such as 192.0.2.7 or 2001:db8::7, not "fe80::1%eth0"`},
		{"negative seconds", "[a]\nSequence = 1\nSeq_Timeout = -5", `knockd.conf:3: door "a": Seq_Timeout` + seconds + `"-5"`},
		{"no seconds", "[a]\nSequence = 1\nTimeout =", `knockd.conf:3: door "a": Seq_Timeout` + seconds + `""`},
		{"seconds in words", "[a]\nSequence = 1\nCmd_Timeout = ten", `knockd.conf:3: door "a": Cmd_Timeout` + seconds + `"ten"`},
		{"too many seconds", "[a]\nSequence = 1\nSeq_Cooldown = 2147483648", `knockd.conf:3: door "a": Seq_Cooldown` + seconds + `"2147483648"`},
		{"far too many seconds", "[a]\nSequence = 1\nSeq_Timeout = 99999999999999999999", `knockd.conf:3: door "a": Seq_Timeout` + seconds + `"99999999999999999999"`},
		{"syslog with a file", "[options]\nUseSyslog = /var/log/a", `knockd.conf:2: UseSyslog stands alone on its line, or is yes or no, not "/var/log/a"`},
		{"interface with a slash", "[options]\nInterface = eth0/1", `knockd.conf:2: Interface: "eth0/1"` + isLink},
		{"interface too long", "[options]\nInterface = abcdefghijklmnop", `knockd.conf:2: Interface: "abcdefghijklmnop"` + tooLong},
		{"beginning too long", "[options]\nInterface = abcdefghijklmno*", `knockd.conf:2: Interface: "abcdefghijklmno*"` + tooLong},
		{"star in the middle", "[options]\nInterface = e*h*", `knockd.conf:2: Interface: "e*h*" never fits: a pattern is the beginning of a name and one * (ppp*)`},
		{"question mark", "[options]\nInterface = eth?", `knockd.conf:2: Interface: "eth?"` + isLink},
		{"empty interface of a door", "[a]\nSequence = 1\nInterface = # all", `knockd.conf:3: door "a": Interface needs a value: Interface = ..., or delete the line`},
		{"interface of a door", "[a]\nSequence = 1\nInterface = eth0/1", `knockd.conf:3: door "a": Interface: "eth0/1"` + isLink},
		{"empty interface", "[options]\nInterface = eth0,", `knockd.conf:2: Interface: ""` + isLink},
		{"empty one-time file", "[a]\nOne_Time_Sequences =\nSequence = 1", `knockd.conf:2: door "a": One_Time_Sequences needs a file`},
		{"open port too high", door + "Open_Ports = 70000", open + `"70000"`},
		{"open port 0", door + "Open_Ports = 22,0:udp", open + `"0:udp"`},
		{"open port by name", door + "Open_Ports = ssh", open + `"ssh"`},
		{"range of open ports", door + "Open_Ports = 22-25", open + `"22-25"`},
		{"open port of another protocol", door + "Open_Ports = 22:sctp", open + `"22:sctp"`},
		{"blanks between open ports", door + "Open_Ports = 22 23", open + `"22 23"`},
		{"comma behind open ports", door + "Open_Ports = 22,", open + `""`},
		{"no open ports", door + "Open_Ports =\nHide = yes", open + `""`},
		{"too many open ports", door + "Open_Ports = 22" + strings.Repeat(",22", maxOpenPorts),
			`knockd.conf:3: door "a": Open_Ports: 1 to 64 ports, not 65: put the rest into another door of the same sequence`},
		{"bare hide", native + "Hide", `knockd.conf:4: door "a": Hide needs a value: Hide = ...`},
		{"decoys what", "[a]\nSequence = 1,2\nDecoys = 7", `knockd.conf:3: door "a": Decoys is yes or no, not "7": Decoys = yes`},
		{"strict what", "[a]\nSequence = 1,2\nStrict =", `knockd.conf:3: door "a": Strict is yes or no, not "": Strict = yes`},
		{"allow what", "[a]\nSequence = 1,2\nAllow = eth0", `knockd.conf:3: door "a": Allow is addresses and networks with commas between them, such as 192.168.1.0/24, 2001:db8::/32, 10.0.0.7, not "eth0"`},
		{"none open", "[a]\nSequence = 1,2\nMax_Open = 0", `knockd.conf:3: door "a": Max_Open is how many sources a door is open for at once, from 1 to 4096, not "0"`},
		{"too many open", "[a]\nSequence = 1,2\nMax_Open = 4097", `knockd.conf:3: door "a": Max_Open is how many sources a door is open for at once, from 1 to 4096, not "4097"`},
		{"no ring", "[options]\nRing_Size = 0", `knockd.conf:2: Ring_Size is how many megabytes of packets can wait, from 1 to 64, not "0"`},
		{"ring in other words", "[options]\nRing_Size = 4 MB", `knockd.conf:2: Ring_Size is how many megabytes of packets can wait, from 1 to 64, not "4 MB"`},
		{"ignored what", "[options]\nIgnore_Ports = 7000,x", `knockd.conf:2: Ignore_Ports: ports are numbers from 1 to 65535 with commas between them, each optionally followed by :tcp or :udp, not "x"`},
		{"ignored in a door", "[a]\nSequence = 1,2\nIgnore_Ports = 7000", `knockd.conf:3: door "a": Ignore_Ports belongs in [options]`},
		{"empty hide", native + "Hide =", `knockd.conf:4: door "a": Hide is yes or no, not "": Hide = yes`},
		{"hide what", native + "Hide = 22", `knockd.conf:4: door "a": Hide is yes or no, not "22": Hide = yes`},
		{"exception with a zone", native + "Hide = yes\nHide_Except = fe80::1%eth0", except + `"fe80::1%eth0"`},
		{"exception with a netmask", native + "Hide = yes\nHide_Except = 10.0.0.0/255.0.0.0", except + `"10.0.0.0/255.0.0.0"`},
		{"exception of too many bits", native + "Hide = yes\nHide_Except = 10.0.0.0/33", except + `"10.0.0.0/33"`},
		{"exception by name", native + "Hide = yes\nHide_Except = 10.0.0.7,lan", except + `"lan"`},
		{"no exception", native + "Hide = yes\nHide_Except =", except + `""`},
		{"too many exceptions", native + "Hide = yes\nHide_Except = 10.0.0.7" + strings.Repeat(",10.0.0.7", maxHideExcept),
			`knockd.conf:5: door "a": Hide_Except: at most 64 addresses and networks, not 65: join them to larger networks`},
		{"hide and no open ports", door + "Hide = yes", `knockd.conf:3: door "a": Hide` + hides},
		{"hide, exceptions and no open ports", door + "Hide = yes\nHide_Except = 10.0.0.7", `knockd.conf:3: door "a": Hide` + hides},
		{"exceptions and no open ports", door + "Hide_Except = 10.0.0.7", `knockd.conf:3: door "a": Hide_Except` + hides},
		{"exceptions and no hide", native + "Hide_Except = 10.0.0.7",
			`knockd.conf:4: door "a": Hide_Except without Hide = yes: nothing is hidden: write Hide = yes, or delete this line`},
		{"exceptions and hide = no", native + "Hide = no\nHide_Except = 10.0.0.7",
			`knockd.conf:5: door "a": Hide_Except without Hide = yes: nothing is hidden: write Hide = yes, or delete this line`},
		{"open ports of a target", native + "Target = 192.0.2.7", `knockd.conf:3: door "a": Open_Ports opens ports of this host, and Target is for another one: ` +
			`write that one's address before its ports: Open_Ports = 192.0.2.7:443:tcp`},
		{"open ports for no time", native + "Cmd_Timeout = 0",
			`knockd.conf:4: door "a": Cmd_Timeout = 0 closes Open_Ports at once: write how many seconds they are to be open, from 1 to 2147483647`},
		{"all that does not go together", "[a]\nCmd_Timeout = 0\nTarget = 192.0.2.7\nHide_Except = 10.0.0.7\nOpen_Ports = 22",
			`knockd.conf:1: door "a": a door needs a Sequence, or One_Time_Sequences, or a Key: Sequence = 7000,8000:udp,9000` + "\n" +
				`knockd.conf:2: door "a": Cmd_Timeout = 0 closes Open_Ports at once: write how many seconds they are to be open, from 1 to 2147483647` + "\n" +
				`knockd.conf:4: door "a": Hide_Except without Hide = yes: nothing is hidden: write Hide = yes, or delete this line` + "\n" +
				`knockd.conf:5: door "a": Open_Ports opens ports of this host, and Target is for another one: write that one's address before its ports: Open_Ports = 192.0.2.7:443:tcp`},
		{"forward to nowhere", door + "Open_Ports = 8443 ->", behind + `after the arrow: ADDRESS[:PORT], optionally masquerade, not "8443 ->"`},
		{"forward to a name", door + "Open_Ports = 8443 -> nas:443", behind + `"nas:443" is no ADDRESS or ADDRESS:PORT with IPv6 addresses in brackets, not "8443 -> nas:443"`},
		{"forward to an address without brackets", door + "Open_Ports = 8443 -> fd77::10:443, 22 -> [fd77::10, 8443 -> fd77::10", behind + `"fd77::10:443" is no ADDRESS or ADDRESS:PORT with IPv6 addresses in brackets, not "8443 -> fd77::10:443"` + "\n" +
			behind + `"[fd77::10" is no ADDRESS or ADDRESS:PORT with IPv6 addresses in brackets, not "22 -> [fd77::10"` + "\n" + behind + `"fd77::10" is no ADDRESS or ADDRESS:PORT with IPv6 addresses in brackets, not "8443 -> fd77::10"`},
		{"forward with a protocol on the right", door + "Open_Ports = 8443 -> 192.168.77.10:443:udp",
			behind + `after the arrow, a port is a number from 1 to 65535; the protocol is before the arrow, not "8443 -> 192.168.77.10:443:udp"`},
		{"forward to port 0", door + "Open_Ports = 8443 -> 192.168.77.10:0", behind + `after the arrow, a port is a number from 1 to 65535; the protocol is before the arrow, not "8443 -> 192.168.77.10:0"`},
		{"forward to more", door + "Open_Ports = 8443 -> 192.168.77.10 masquerade please", behind + `after the arrow: ADDRESS[:PORT], optionally masquerade, not "8443 -> 192.168.77.10 masquerade please"`},
		{"forward to a multicast address", door + "Open_Ports = 8443 -> 224.0.0.1", behind + `"224.0.0.1" is no address of a host to forward to, not "8443 -> 224.0.0.1"`},
		{"forward to loopback", door + "Open_Ports = 8443 -> 127.0.0.1:80", behind + `"127.0.0.1" is no address of a host to forward to, not "8443 -> 127.0.0.1:80"`},
		{"forward to one link", door + "Open_Ports = 8443 -> [fe80::1]:80", behind + `"fe80::1" is no address of a host to forward to, not "8443 -> [fe80::1]:80"`},
		{"forward to a zone", door + "Open_Ports = 8443 -> [fd77::10%eth0]:80", behind + `"fd77::10%eth0" is no address of a host to forward to, not "8443 -> [fd77::10%eth0]:80"`},
		{"forward of a network", door + "Open_Ports = 192.0.2.0/24:8443 -> 192.168.77.10",
			behind + `192.0.2.0/24 is a network: what is forwarded is asked of one address of this host, or of all: PORT -> ADDRESS, not "192.0.2.0/24:8443 -> 192.168.77.10"`},
		{"forward from IPv4 to IPv6", door + "Open_Ports = 192.0.2.1:8443 -> [fd77::10]", behind + `what is asked over IPv4 cannot be forwarded over IPv6, or the other way round, not "192.0.2.1:8443 -> [fd77::10]"`},
		{"forward of no port", door + "Open_Ports = -> 192.168.77.10", behind + `a port is [ADDRESS:]PORT[:udp], or [ADDRESS:]PORT[:udp] -> ADDRESS[:PORT] [masquerade], with IPv6 addresses in brackets, not "-> 192.168.77.10"`},
		{"routed host without brackets", door + "Open_Ports = 2001:db8::7:443", behind + `a port is [ADDRESS:]PORT[:udp], or [ADDRESS:]PORT[:udp] -> ADDRESS[:PORT] [masquerade], with IPv6 addresses in brackets, not "2001:db8::7:443"`},
		{"routed host without a port", door + "Open_Ports = 192.0.2.7", behind + `a port is [ADDRESS:]PORT[:udp], or [ADDRESS:]PORT[:udp] -> ADDRESS[:PORT] [masquerade], with IPv6 addresses in brackets, not "192.0.2.7"`},
		{"all that is routed", door + "Open_Ports = 0.0.0.0/0:22", behind + `"0.0.0.0/0" is no address or network of hosts, not "0.0.0.0/0:22"`},
		{"forward of an ignored port", door + "Open_Ports = 22\n[options]\nIgnore_Ports = 22 -> 192.168.77.10", `knockd.conf:5: Ignore_Ports: ports are numbers from 1 to 65535 with commas between them, each optionally followed by :tcp or :udp, not "22 -> 192.168.77.10"`},
		{"one port to two hosts", door + "Open_Ports = 8443 -> 192.168.77.10, 8443 -> 192.168.77.11",
			`knockd.conf:3: door "a": Open_Ports: 8443:tcp -> 192.168.77.11:8443, but on line 3 the same port leads elsewhere (8443:tcp -> 192.168.77.10:8443): take another port`},
		{"one port to two hosts in two doors", door + "Open_Ports = 8443 -> 192.168.77.10:443\n[b]\nSequence = 3,2,1\nOpen_Ports = 8443 -> [fd77::10]:443, 8443 -> 192.168.77.10:444",
			`knockd.conf:6: door "b": Open_Ports: 8443:tcp -> 192.168.77.10:444, but on line 3 the same port leads elsewhere (8443:tcp -> 192.168.77.10:443): take another port`},
		{"one port here and behind, of both families", door + "Open_Ports = 8443 -> 192.168.77.10:443, 8443 -> [fd77::10]:443\n[b]\nSequence = 3,2,1\nOpen_Ports = 8443",
			`knockd.conf:6: door "b": Open_Ports: 8443:tcp, but on line 3 the same port leads elsewhere (8443:tcp -> 192.168.77.10:443): take another port`},
		{"one port here and behind", door + "Open_Ports = 8443 -> 192.168.77.10:443\n[b]\nSequence = 3,2,1\nOpen_Ports = 8443",
			`knockd.conf:6: door "b": Open_Ports: 8443:tcp, but on line 3 the same port leads elsewhere (8443:tcp -> 192.168.77.10:443): take another port`},
		{"open ports of a target, and a forward", door + "Target = 192.0.2.7\nOpen_Ports = 192.0.2.7:443, 8443 -> 192.168.77.10",
			`knockd.conf:4: door "a": Open_Ports opens ports of this host, and Target is for another one: write that one's address before its ports: Open_Ports = 192.0.2.7:443:tcp`},
		{"open ports in options", "[options]\nOpen_Ports = 22\nHide = yes",
			"knockd.conf:2: Open_Ports belongs in a door's section, not in [options]\nknockd.conf:3: Hide belongs in a door's section, not in [options]"},
		{"firewall in a door", door + "Firewall = nft\nFirewall_Mark = 1\nStateDir = /a", `knockd.conf:3: door "a": Firewall belongs in [options]` + "\n" +
			`knockd.conf:4: door "a": Firewall_Mark belongs in [options]` + "\n" +
			`knockd.conf:5: door "a": StateDir belongs in [options]`},
		{"directive without its beginning", door + "cooldown = 5", `knockd.conf:3: door "a": unknown directive "cooldown" (did you mean Seq_Cooldown?)`},
		{"misspelt open ports", door + "Open_Port = 22\nHide = yes", `knockd.conf:3: door "a": unknown directive "Open_Port" (did you mean Open_Ports?)`},
		{"unknown firewall", "[options]\nFirewall = pf", `knockd.conf:2: Firewall is auto, iptables or nft, not "pf"`},
		{"no firewall", "[options]\nFirewall =", `knockd.conf:2: Firewall is auto, iptables or nft, not ""`},
		{"two bits", "[options]\nFirewall_Mark = 0x3", mark + `"0x3"`},
		{"no bit", "[options]\nFirewall_Mark = 0", mark + `"0"`},
		{"bit 33", "[options]\nFirewall_Mark = 0x100000000", mark + `"0x100000000"`},
		{"mark without a number", "[options]\nFirewall_Mark = 0x", mark + `"0x"`},
		{"mark with a sign", "[options]\nFirewall_Mark = 0x+1", mark + `"0x+1"`},
		{"relative state directory", "[options]\nStateDir = sesame", `knockd.conf:2: StateDir is a directory's absolute path, such as /var/lib/sesame, not "sesame"`},
		{"no state directory", "[options]\nStateDir =", `knockd.conf:2: StateDir is a directory's absolute path, such as /var/lib/sesame, not ""`},
		{"control character", "[a]\nSequence = 1\nCommand = a\x00b", `knockd.conf:3: door "a": a control character (0x00) is not allowed in a configuration: delete it`},
		{"delete character", "[a]\nSequence = 1\nCommand = a\x7f", `knockd.conf:3: door "a": a control character (0x7f) is not allowed in a configuration: delete it`},
		{"escape in a name", "[a\x1b[2J]\nSequence = 1", "knockd.conf:1: a control character (0x1b) is not allowed in a configuration: delete it\n" +
			"knockd.conf:2: Sequence is before the first section: write [options] or a door's [name] above it"},
		{"too large", strings.Repeat("#", maxConfigSize+1), `knockd.conf:1: a configuration is at most 1048576 bytes`},

		{"all of them at once", "[options]\nInterfaec = eth0\n[a]\nSequence = x,7000,y\nTCPFlags = z\n[b]\n[c]\nSequence = 1\nSeq_Timeout = x",
			`knockd.conf:2: unknown directive "Interfaec" (did you mean Interface?)` + "\n" +
				`knockd.conf:4: door "a": Sequence: a port is a number from 1 to 65535, not "x"` + "\n" +
				`knockd.conf:4: door "a": Sequence: a port is a number from 1 to 65535, not "y"` + "\n" +
				`knockd.conf:5: door "a": TCPFlags: "z"` + isFlag + "\n" +
				`knockd.conf:6: door "b": a door needs a Sequence, or One_Time_Sequences, or a Key: Sequence = 7000,8000:udp,9000` + "\n" +
				`knockd.conf:9: door "c": Seq_Timeout` + seconds + `"x"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := mistakesOf(test.in); got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
		})
	}
}

func TestTooManyWarnings(t *testing.T) {
	c, err := parseConfig("knockd.conf", strings.NewReader(strings.Repeat("[a]\nSequence = 1\n", maxConfigErrors)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(c.Warnings), maxConfigErrors+1; got != want {
		t.Errorf("got %d warnings, want %d", got, want)
	}
	if got, want := c.Warnings[len(c.Warnings)-1], "knockd.conf: 298 more warnings"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTooManyMistakes(t *testing.T) {
	lines := strings.Split(mistakesOf("[a]\n"+strings.Repeat("Colour = red\n", 2*maxConfigErrors)), "\n")
	if got, want := len(lines), maxConfigErrors+1; got != want {
		t.Errorf("got %d lines, want %d", got, want)
	}
	if got, want := lines[len(lines)-1], `knockd.conf:101: door "a": too many mistakes: reading ends here`; got != want {
		t.Errorf("last line: got %q, want %q", got, want)
	}
}

func TestUnreadableConfig(t *testing.T) {
	broken := errors.New("disk on fire")
	if _, err := parseConfig("knockd.conf", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestWarnings(t *testing.T) {
	const (
		head      = "[a]\nSequence = 7000,3000,9000\n"
		door      = head + "Command = open\n"
		twoKnocks = `knockd.conf:1: door "a": a sequence of two knocks is opened by one in 8400 scans in random order, so in about `
		adjacent  = `knockd.conf:1: door "a": a scan of a few adjacent ports in order completes the sequence: let it go up and down, over thousands of ports`
		unfit     = `knockd.conf:1: door "a": TCPFlags do not fit a connection's first packet, which carries SYN alone: knock clients cannot open it`
		oneKnock  = `knockd.conf:1: door "a": a sequence of one knock is opened by any port scan`
		noCommand = `knockd.conf:1: door "a": it has neither Open_Ports nor a Start_Command: knocking is only logged`
		run       = "\nCommand = open\n"
	)
	tests := []struct{ name, in, want string }{
		{"nothing to say", door + "TCPFlags = syn,!ack\nStop_Command = close\nCmd_Timeout = 10 # comment\nSeq_Timeout = 5\n[options]\nUseSyslog\nUseSyslog\n", ""},
		{"no door", "[options]\n", `knockd.conf:2: there is no door: nothing can be opened`},
		{"no command", head, noCommand},
		{"nothing for IPv6", door + "Start_Command_6 =", ""},
		{"nothing for IPv4", head + "Start_Command_6 = open", ""},
		{"stop and no start", head + "Stop_Command = close", `knockd.conf:1: door "a": a Stop_Command without a Start_Command is never run`},
		{"stop and no time", door + "Stop_Command = close", `knockd.conf:1: door "a": Stop_Command without Cmd_Timeout: it runs after 10 seconds`},
		{"time and no stop", door + "Cmd_Timeout = 5", `knockd.conf:1: door "a": Cmd_Timeout without Stop_Command has no effect`},
		{"no time to knock", door + "Seq_Timeout = 0", `knockd.conf:1: door "a": Seq_Timeout = 0 leaves no time: the sequence can never be completed`},
		{"no time for one knock", "[a]\nSequence = 7000\nSeq_Timeout = 0" + run, oneKnock},
		{"native door", head + "Open_Ports = 22\nHide = yes\nHide_Except = 10.0.0.7,10.0.0.8/30\nCmd_Timeout = 5", ""},
		{"native door with commands", door + "Open_Ports = 22\nStop_Command = close\nCmd_Timeout = 5", ""},
		{"native door with a start command", door + "Open_Ports = 22\nCmd_Timeout = 5", ""},
		{"native door with a stop command", head + "Open_Ports = 22\nCmd_Timeout = 5\nStop_Command = close", ""},
		{"open ports and no time", door + "Open_Ports = 22", `knockd.conf:1: door "a": Open_Ports without Cmd_Timeout: they are closed after 10 seconds`},
		{"open ports that are repeated", head + "Open_Ports = 22, 22:tcp\nCmd_Timeout = 5", `knockd.conf:3: door "a": Open_Ports: 22:tcp stands there twice`},
		{"exception of more bits than it has", head + "Open_Ports = 22\nCmd_Timeout = 5\nHide = yes\nHide_Except = 10.0.0.7/8",
			`knockd.conf:6: door "a": Hide_Except: "10.0.0.7/8" is read as 10.0.0.0/8`},
		{"hidden port that is knocked on", head + "Open_Ports = 7000\nCmd_Timeout = 5\nHide = yes",
			`knockd.conf:1: door "a": a knock is one of Open_Ports, too: whoever tries that port knocks: take another one`},
		{"port hidden by one and opened by another", head + "Open_Ports = 22\nCmd_Timeout = 5\nHide = yes\n[b]\nSequence = 9000,3000,5000\nOpen_Ports = 22\nCmd_Timeout = 5", ""},
		{"repeated open ports", head + "Open_Ports = 23\nOpen_Ports = 22\nCmd_Timeout = 5", `knockd.conf:4: door "a": Open_Ports is already on line 3: this line holds`},
		{"repeated hide", head + "Open_Ports = 23\nHide = no\nHide = yes\nCmd_Timeout = 5", `knockd.conf:5: door "a": Hide is already on line 4: this line holds`},
		{"repeated mark", "[options]\nFirewall_Mark = 1\nFirewall_Mark = 2\n" + door, `knockd.conf:3: Firewall_Mark is already on line 2: this line holds`},
		{"letters behind seconds", door + "Seq_Timeout = 5s", `knockd.conf:4: door "a": Seq_Timeout: "5s" is read as 5 seconds`},

		{"repeated sequence", "[a]\nSequence = 1,65535,2\nSequence = 7000,3000,9000" + run, `knockd.conf:3: door "a": Sequence is already on line 2: this line holds`},
		{"repeated alias", door + "Start_Command = b", `knockd.conf:4: door "a": Start_Command is already on line 3: this line holds`},
		{"repeated file", "[options]\nLogFile = /a\nLogFile = /b\n" + door, `knockd.conf:3: LogFile is already on line 2: this line holds`},
		{"two doors of one name", door + "[a]\nSequence = 9000,2,5000" + run, `knockd.conf:4: door "a": a door of this name is already on line 1: the log will not tell them apart`},
		{"repeated interface", "[options]\nInterface = eth0\nInterface = eth1\n" + door, `knockd.conf:3: Interface is already on line 2: that line holds`},
		{"other door's directive", door + "[b]\nSequence = 9000,3000,5000\nCommand = b", ""},
		{"empty interface", "[options]\nInterface = # eth0\n" + door, `knockd.conf:2: Interface is empty: all interfaces but lo are listened on`},
		{"comment behind a path", "[options]\nLogFile = /a # comment\n" + door, `knockd.conf:2: LogFile: the comment behind the path is read as a part of it: put it on a line of its own`},

		{"flags on two lines", door + "TCPFlags = syn\nTCPFlags = !ack,syn", ""},
		{"opposite flags", door + "TCPFlags = !syn\nTCPFlags = SYN", `knockd.conf:5: door "a": TCPFlags asks for SYN and for its opposite: the last one holds`},
		{"flags of an answer", door + "TCPFlags = syn,ack", unfit},
		{"no syn", door + "TCPFlags = !syn", unfit},
		{"flags of a udp door", "[a]\nSequence = 7000:udp,3000:udp,5000:udp" + run + "TCPFlags = ack", ""},

		{"one knock", "[a]\nSequence = 7000" + run, oneKnock},
		{"two knocks up", "[a]\nSequence = 1,65535" + run, twoKnocks + "58 hours by scanning again and again: add a third knock"},
		{"two knocks in a short time", "[a]\nSequence = 9,1:udp\nSeq_Timeout = 0" + run, `knockd.conf:1: door "a": Seq_Timeout = 0 leaves no time: the sequence can never be completed` + "\n" + twoKnocks + "1 hour by scanning again and again: add a third knock"},
		{"two knocks, for some alone", "[a]\nSequence = 9,1\nAllow = 192.0.2.7" + run, ""},
		{"two knocks down without decoys", "[a]\nSequence = 65535,1\nDecoys = no" + run,
			`knockd.conf:1: door "a": a sequence of two knocks without decoys is opened by every second scan in random order: add a third knock, or leave out Decoys = no`},
		{"two knocks up without decoys", "[a]\nSequence = 1,65535\nDecoys = no" + run, adjacent},
		{"up, for some alone", "[a]\nSequence = 100,110,120\nAllow = 192.0.2.7" + run, ""},
		{"one knock, for some alone", "[a]\nSequence = 100\nAllow = 192.0.2.7" + run, ""},
		{"a UDP knock among the ports of programs", "[a]\nSequence = 100,40000:udp,9" + run, `knockd.conf:1: door "a": a knock from 32768 to 60999, where programs have their own ports: answers to them may count as scans: take another one, or write TCPFlags = syn if it is TCP`},
		{"a single one there", "[a]\nSequence = 40000:udp" + run, oneKnock},
		{"a TCP knock there, of any flags", "[a]\nSequence = 100,40000,9" + run, `knockd.conf:1: door "a": a knock from 32768 to 60999, where programs have their own ports: answers to them may count as scans: take another one, or write TCPFlags = syn if it is TCP`},
		{"a TCP knock there, of a SYN", "[a]\nSequence = 100,40000,9\nTCPFlags = syn" + run, ""},
		{"two knocks down", "[a]\nSequence = 65535,1\nSeq_Timeout = 5" + run, twoKnocks + "12 hours by scanning again and again: add a third knock"},
		{"up within the span", "[a]\nSequence = 100,110,120" + run, adjacent},
		{"up beyond the span", "[a]\nSequence = 100,110,121" + run, ""},
		{"up and down", "[a]\nSequence = 100,102,101" + run, ""},
		{"up in both protocols", "[a]\nSequence = 100,101:udp,102" + run, ""},
		{"up in udp", "[a]\nSequence = 100:udp,101:udp,102:udp" + run, adjacent},
		{"same port", "[a]\nSequence = 8,8,8" + run, `knockd.conf:1: door "a": a sequence of one port alone is opened by whoever tries it often: take different ones`},
		{"same port, for some alone", "[a]\nSequence = 8,8,8\nAllow = 192.0.2.7" + run, ""},

		{"same sequence", door + "[b]\nSequence = 7000:tcp, 3000, 9000\nCommand = b", `knockd.conf:1: door "a": it has the same sequence as door "b" (line 4): both open at once`},
		{"beginning of another", door + "[b]\nSequence = 7000,3000\nAllow = ::/0\nCommand = b", `knockd.conf:4: door "b": its sequence is the beginning of that of door "a" (line 1): it opens on the way`},
		{"beginning of another, and a one-time door", door + "[b]\nSequence = 7000,3000\nAllow = ::/0\nCommand = b\n[c]\nOne_Time_Sequences = /c\nCommand = c",
			`knockd.conf:4: door "b": its sequence is the beginning of that of door "a" (line 1): it opens on the way`},
		{"digits of another", door + "[b]\nSequence = 7000,3000,90\nCommand = b", ""},
		{"end of another", door + "[b]\nSequence = 3000,9000,1\nCommand = b", ""},
		{"codes", "[a]\nSequence = 7000, totp\nTOTP = " + testSecret + run, ""},
		{"a short secret", "[a]\nSequence = 7000, totp\nTOTP = JBSWY3DPEHPK3PXP" + run, `knockd.conf:3: door "a": TOTP: a secret of 10 bytes can be guessed from the codes that somebody has seen: take 16 or more`},
		{"codes of two secrets", "[a]\nSequence = 7000, totp\nTOTP = " + testSecret + run + "[b]\nSequence = 7000, totp\nTOTP = GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ" + run,
			`knockd.conf:1: door "a": its knocks are those of door "b" (line 5): each one's codes are wrong ones for the other: take another knock before totp`},
		{"same ports, other protocol", door + "[b]\nSequence = 7000,3000,9000:udp\nCommand = b", ""},

		{"in the order of lines", "[a]\nSequence = 7000\nSeq_Timeout = 5s\nTimeout = 5\nTCPFlags = fin\n",
			noCommand + "\n" + unfit + "\n" + oneKnock + "\n" +
				`knockd.conf:3: door "a": Seq_Timeout: "5s" is read as 5 seconds` + "\n" +
				`knockd.conf:4: door "a": Seq_Timeout is already on line 3: this line holds`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := readText(test.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(c.Warnings, "\n"); got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
		})
	}
}

func TestConfigRuleset(t *testing.T) {
	lan := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	ssh, vpn := Knock{22, tcp}, Knock{51820, udp}
	commands := &Door{Name: "commands", Start: "open"}
	hidden := &Door{Name: "hidden", OpenPorts: []Knock{ssh, vpn}, Hide: true, HideExcept: lan}
	oneSide := &Door{Name: "one side", OpenPorts: []Knock{ssh}, Hide: true, Interfaces: []string{"ppp*", "auto"}}
	open := &Door{Name: "open", OpenPorts: []Knock{vpn, {80, tcp}}}
	// port0 and port1 are ports of bridges, slave of a bond which is a port of one, and in and wan2 of a VRF.
	links := map[int]*Link{
		1: {Name: "lo", Loopback: true}, 2: {Name: "eth0"}, 3: {Name: "port0", Upper: 5}, 4: {Name: "port1", Upper: 6}, 5: {Name: "br0"}, 6: {Name: "br1"},
		7: {Name: "slave", Upper: 8}, 8: {Name: "bond0", Upper: 5}, 9: {Name: "in", Upper: 11}, 10: {Name: "wan2", Upper: 11}, 11: {Name: "vrf"},
	}
	onLinks := func(links ...string) Ruleset {
		return Ruleset{Kept: []Knock{ssh, vpn}, Hidden: []Hidden{{Door: "hidden", Ports: []Knock{ssh, vpn}, Links: links, Except: lan}}}
	}
	for _, test := range []struct {
		name   string
		doors  []*Door
		links  []string
		native bool
		want   Ruleset
	}{
		{"no door", nil, nil, false, Ruleset{}},
		{"a bridge's port", []*Door{hidden}, []string{"eth0", "port0"}, true, onLinks("eth0", "port0", "br0")},
		{"two bridges' ports", []*Door{hidden}, []string{"port*"}, true, onLinks("port*", "br0", "br1")},
		{"a bridge and its port", []*Door{hidden}, []string{"b*", "port0"}, true, onLinks("b*", "port0")},
		{"a bridge's port by way of a bond", []*Door{hidden}, []string{"slave"}, true, onLinks("slave", "bond0", "br0")},
		{"a bridge alone", []*Door{hidden}, []string{"br0"}, true, onLinks("br0")},
		{"a VRF's ports", []*Door{hidden}, []string{"in", "wan2"}, true, onLinks("in", "wan2", "vrf")},
		{"a port that has held a default route", []*Door{hidden}, []string{"auto", "port1"}, true, onLinks("eth5", "wan", "port1", "br1")},
		{"commands alone", []*Door{commands}, []string{"eth0"}, false, Ruleset{}},
		{"open", []*Door{commands, open}, []string{"eth0"}, true, Ruleset{Kept: []Knock{vpn, {80, tcp}}}},
		{"hidden", []*Door{hidden, open}, []string{"eth0", "ppp0"}, true, Ruleset{Kept: []Knock{ssh, vpn, {80, tcp}},
			Hidden: []Hidden{{Door: "hidden", Ports: []Knock{ssh, vpn}, Links: []string{"eth0", "ppp0"}, Except: lan}}}},
		{"hidden everywhere", []*Door{hidden}, []string{"*"}, true, Ruleset{Kept: []Knock{ssh, vpn},
			Hidden: []Hidden{{Door: "hidden", Ports: []Knock{ssh, vpn}, Except: lan}}}},
		{"hidden everywhere, lo being listened on", []*Door{hidden}, []string{"*", "lo"}, true, Ruleset{Kept: []Knock{ssh, vpn},
			Hidden: []Hidden{{Door: "hidden", Ports: []Knock{ssh, vpn}, Except: lan}}}},
		{"hidden on lo", []*Door{hidden}, []string{"lo"}, true, Ruleset{Kept: []Knock{ssh, vpn},
			Hidden: []Hidden{{Door: "hidden", Ports: []Knock{ssh, vpn}, Links: []string{"lo"}, Except: lan}}}},
		{"hidden on one side", []*Door{oneSide}, []string{"*"}, true, Ruleset{Kept: []Knock{ssh},
			Hidden: []Hidden{{Door: "one side", Ports: []Knock{ssh}, Links: []string{"ppp*", "eth5", "wan"}}}}},
	} {
		c := &Config{Doors: test.doors}
		if got := c.ruleset(test.links, []string{"eth5", "wan"}, links); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
		if got := c.native(); got != test.native {
			t.Errorf("%s: native: got %v, want %v", test.name, got, test.native)
		}
	}
}

// TestSecrets reads files of which every knock is on port 41941 or 42942: neither may come up in what a daemon logs.
func TestSecrets(t *testing.T) {
	const more = "\n[b]\nSequence = 41941,42942,41941\nCommand = open\n"
	for _, in := range []string{
		"[a]\nSequence = 41941",
		"[a]\nSequence = 41941,42942",
		"[a]\nSequence = 41941,42942,41941\nSequence = 42942,41941",
		"[a]\nSequence = 41941,42942,41941",
		"[a]\nSequence = 41941\nSeq_Timeout = 0",
		"[a]\nSequence = 41941,$42942",
		"[a]\nSequence = 41941;42942",
		"[a]\nSequence = 41941:tpc,42942",
		"[a]\nSequence = 41941 42942",
		"[a]\nSequence = 41941" + strings.Repeat(",42942", maxKnocks),
		"[a]\nSequence = 41941,42942\x07",
		"[a]\nSeqence = 41941,42942",
		"[a]\nSequence 41941,42942",
		"[a]\nSequence: 41941,42942",
		"[a]\nSequence 41941 = 42942",
		"[a]\nSequence = 41941,\n42942",
		"[a] Sequence = 41941,42942",
		"Sequence = 41941,42942",
		"[options]\nSequence = 41941,42942",
		"[a]\nSequence = 41941,42942\nOpen_Ports = 22,22\nHide = yes\nHide_Except = 10.0.0.7/8",
		"[a]\nSequence = 41941,42942\nHide = yes",
		"[a]\nSequence = 41941,42942\nOpen_Ports = 70000\nTarget = 192.0.2.7\nCmd_Timeout = 0",
	} {
		c, err := readText(in + more)
		var lines []string
		if err == nil {
			lines = c.Warnings
		} else {
			lines = strings.Split(withoutSecrets(err).Error(), "\n")
		}
		for _, line := range lines {
			if strings.Contains(line, "41941") || strings.Contains(line, "42942") {
				t.Errorf("%q: a port stands in %q", in, line)
			}
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{
		"",
		"[options]\n\tlogfile = /var/log/knockd.log\n[openSSH]\n\tsequence = 7000,8000,9000\n\ttcpflags = syn\n\tcommand = /bin/sh -s %IP%\n",
		"\xef\xbb\xbf[a]\r\nSequence = 1:udp , 2:TCP # c\r\nStart_Command_6 =\r\nStop_Command = b\r\n",
		"[a]\nOne_Time_Sequences = /a\nTarget = ::ffff:192.0.2.7\nTCPFlags = syn, !ack\nTCPFlags = !syn\n",
		"[options]\nInterface = \"eth0\",any\nInterface = eth1\nUseSyslog = yes\nPidFile = /a # b\n",
		"[a]\nSequence = 5,5,5\nSeq_Timeout = 5s\nSeq_Timeout = 99999999999\n[b]\nSequence = 5,5\n[a]\nSequence = 5,5\n",
		"Sequnce = 1\n[\n[]\n[ ]\n[=]\n=\n==1\n[a]\x00\n[\xff]\nUseSyslog\x1b\nSequence = ,0,65536,$A,1:,:1\n",
		"[a]\nSequence = 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33\n",
		"[options]\nFirewall = NFT # x\nFirewall_Mark = 0x20000000\nStateDir = /a # b\n[a]\nSequence = 1\nOpen_Ports = 22, 3389:TCP,22,51820:udp\n" +
			"Hide = yes\nHide_Except = 192.168.1.7/24, 2001:db8::/32, ::ffff:10.0.0.7, ::ffff:0:0/95\nCmd_Timeout = 5\n",
		"[options]\nFirewall = pf\nFirewall_Mark = 0x3\nStateDir = a\n[a]\nHide\nHide = x\nHide_Except = fe80::1%eth0,10.0.0.0/33\nOpen_Ports = 70000,\n" +
			"Target = ::1\n[b]\nSequence = 1\nOpen_Ports = 22\nTarget = ::1\nCmd_Timeout = 0\n",
		"[a]\nSequence = 1\nOpen_Ports = 8443 -> 192.168.77.10:443, 8053:udp->[fd77::10]:5353 masquerade, 192.0.2.1:80 -> 10.0.0.7\n" +
			"Hide = yes\n[b]\nSequence = 2\nTarget = 2001:db8::7\nOpen_Ports = [2001:db8::/48]:22, 192.0.2.7/28:53:udp\n",
		"[a]\nSequence = 1\nOpen_Ports = ->, 1->, ->1, [::]:1, [fd77::10, []:1 -> [], 1 -> 1, 1 -> ::1, 1:2 -> 3:4, 1 -> 1.1.1.1 masquerade masquerade\n",
	} {
		f.Add([]byte(seed))
	}
	located := regexp.MustCompile(`^fuzz\.conf:[0-9]+: [^\n]+$`)
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig("fuzz.conf", bytes.NewReader(text))
		if err != nil {
			var mistakes configErrors
			if !errors.As(err, &mistakes) || len(mistakes) == 0 {
				t.Fatalf("got %#v, want configErrors", err)
			}
			for _, line := range append(strings.Split(err.Error(), "\n"), strings.Split(withoutSecrets(err).Error(), "\n")...) {
				if !located.MatchString(line) {
					t.Errorf("mistake without a place: %q", line)
				}
			}
			return
		}
		for _, w := range c.Warnings {
			if !located.MatchString(w) {
				t.Errorf("warning without a place: %q", w)
			}
		}
		if bits.OnesCount32(c.FirewallMark) != 1 || !slices.Contains([]string{"auto", "iptables", "nft"}, c.Firewall) {
			t.Errorf("options out of bounds: %+v", c)
		}
		for _, d := range c.Doors {
			if len(d.OpenPorts) > maxOpenPorts || len(d.HideExcept) > maxHideExcept || !d.native() && (d.Hide || d.HideExcept != nil) ||
				d.native() && (d.CmdTimeout == 0 || d.Target.IsValid() && d.OpenPorts != nil) || !d.Hide && d.HideExcept != nil {
				t.Errorf("native door out of bounds: %+v", d)
			}
			for _, b := range d.Behind {
				if again, err := parseOpenPort(b.String()); err != nil || again != b || b.At.IsValid() && b.At != b.At.Masked() || !b.At.IsValid() && !b.forwarded() {
					t.Errorf("%v reads as %v, %v", b, again, err)
				}
				if hosts, port := b.target(); port == 0 || !hosts.IsValid() || hosts.Addr().Zone() != "" || hosts.Addr().Is4In6() || strings.Contains(b.String(), ",") {
					t.Errorf("behind out of bounds: %v", b)
				}
			}
			for _, p := range d.HideExcept {
				if again, err := parsePrefix(p.String()); err != nil || again != p || p != p.Masked() || p.Addr().Is4In6() {
					t.Errorf("exception %v reads as %v, %v", p, again, err)
				}
			}
			if d.Name == "" || d.Line < 1 || d.SeqTimeout < 0 || d.CmdTimeout < 0 || d.Cooldown < 0 || d.Flags.Value&^d.Flags.Mask != 0 {
				t.Errorf("door out of bounds: %+v", d)
			}
			if len(d.Sequence) > maxKnocks || len(d.Sequence) == 0 && d.OneTime == "" {
				t.Errorf("door %q has %d knocks", d.Name, len(d.Sequence))
			}
			for _, k := range slices.Concat(d.Sequence, d.OpenPorts) {
				if again, err := parseKnock(k.String()); err != nil || again != k || k.Port == 0 {
					t.Errorf("knock %v reads as %v, %v", k, again, err)
				}
			}
		}
	})
}
