//go:build linux && !pure

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// openwrtLibrary is where the stand-ins in testdata/openwrt are put for OpenWrt's shell library, uci and procd, which are not
// here. The script was tried by hand on the real ones of 19.07, 21.02, 22.03, 23.05, 24.10, 25.12 and main (functions.sh,
// uci.sh, rc.common, procd.sh, jshn, uci), and the stand-ins do as those did:
//   - rc.common's start sends procd what start_service has opened, whatever that returns: without an instance, procd ends the
//     one that runs. The exit status is service_started's.
//   - config_load is not strict: a wrong section's name is left out without a word, and its options go to the one before.
//   - procd keeps triggers until the next start. One for interface.* hears each event of each interface.
//   - network_get_device unsets its variable and fails for a network that is down.
//   - An empty option is none to uci, and a section of the same name goes on with the first one.
var openwrtLibrary = map[string]string{
	"functions.sh": "lib/functions.sh", "network.sh": "lib/functions/network.sh", "rc.common": "etc/rc.common", "uci": "sbin/uci",
}

// openwrt is a host with OpenWrt's folders, busybox's programs and a stand-in for its library.
type openwrt struct {
	*bootedHost
	world *world
}

func newOpenwrt(t *testing.T) *openwrt {
	w := newWorld(t, 1)
	w.listen("22")
	// The folders of Debian's programs are not in PATH, but for nft's.
	before := `
rm -f usr/sbin/knockd usr/bin/knock etc/knockd.conf etc/init.d/knockd
mkdir -p lib/functions etc/config lib/upgrade/keep.d usr/share/nftables.d/chain-pre/input usr/share/nftables.d/chain-pre/forward etc/rc.d router
busybox --install -s "$PWD/router"
ln -sf /usr/sbin/nft router/nft
ln -sf /sbin/uci router/uci
ln -sf /bin/busybox bin/sh
touch sbin/procd
`
	for name, path := range openwrtLibrary {
		text, err := os.ReadFile("testdata/openwrt/" + name)
		w.must(err)
		before += "cat > " + path + " <<'END'\n" + string(text) + "END\nchmod 755 " + path + "\n"
	}
	return &openwrt{boot(t, w.host, noInit, before), w}
}

// network writes /etc/config/network; the networks that are up have these devices.
func (o *openwrt) network(text string, up ...string) {
	o.Helper()
	o.world.must(os.WriteFile(o.dir+"/network", []byte(text), 0o600))
	o.run("cp /machine/network /etc/config/network; rm -rf /tmp/up; mkdir /tmp/up")
	for _, u := range up {
		network, device, _ := strings.Cut(u, " ")
		o.run("echo " + device + " > /tmp/up/" + network)
	}
}

// script runs a command of the init script. What it prints is shown if the test fails.
func (o *openwrt) script(command string) (string, error) {
	o.Helper()
	out, err := o.output("PATH=/router; export PATH; /etc/init.d/sesame " + command)
	o.Logf("%s: %v: %s", command, err, out)
	return out, err
}

// config writes /etc/config/sesame.
func (o *openwrt) config(text string) {
	o.Helper()
	o.world.must(os.WriteFile(o.dir+"/config", []byte(text), 0o600))
	o.run("cp /machine/config /etc/config/sesame")
}

// rendered is the configuration that the script makes of /etc/config/sesame, and what it says.
func (o *openwrt) rendered(text string) (config, said string, err error) {
	o.Helper()
	o.config(text)
	o.run("rm -rf /var/etc /tmp/logd")
	_, err = o.script("check")
	config, _ = o.output("cat /var/etc/sesame.conf 2>/dev/null")
	said, _ = o.output("cat /tmp/logd 2>/dev/null")
	return config, said, err
}

// awaitDaemon waits until the daemon answers, and returns its process number.
func (o *openwrt) awaitDaemon() string {
	o.Helper()
	o.world.eventually("the daemon's start", func() bool { _, err := o.output("sesame status"); return err == nil })
	return o.run("cat /tmp/pid")
}

const wanUp = "config interface 'wan'\n\toption proto 'dhcp'\n\toption device 'eth0'\n"

const uciDoor = `
config sesame 'main'
	option enabled '1'
	list network 'wan'

config door 'ssh'
	list sequence '7000'
	list sequence '18000:udp'
	list sequence '9000'
	list open_ports '22'
	list open_ports '51820:udp'
	option hide '1'
	list hide_except '10.9.0.77'
	option cmd_timeout '600'
`

// TestOpenwrt installs on a router, opens a door by the next steps that install names, and follows the daemon through
// changes by the init script and a sysupgrade to the end.
func TestOpenwrt(t *testing.T) {
	o := newOpenwrt(t)
	o.network(wanUp, "wan eth0")
	o.run("/router/syslogd -O /tmp/syslog")
	installed := o.run("PATH=/router /machine/sesame install")
	_, next, _ := strings.Cut(installed, "next:\n")
	o.want("installing", installed, `put /usr/sbin/sesame
link /usr/sbin/knockd to sesame
link /usr/bin/knock to ../sbin/sesame
put /etc/config/sesame
put /etc/init.d/sesame
put /usr/share/nftables.d/chain-pre/input/sesame.nft
put /usr/share/nftables.d/chain-pre/forward/sesame.nft
put /lib/upgrade/sesame.sh
put /lib/upgrade/keep.d/sesame
next:
`+next)
	// As it comes it does not start, and says how it would.
	for _, command := range []string{"start", "check", "reload"} {
		if said, err := o.script(command); err != nil || said != "sesame is off: uci set sesame.main.enabled=1; uci commit sesame\n" {
			t.Errorf("%s of the example: got %v, %s", command, err, said)
		}
	}
	o.want("the example", o.run("cat /tmp/procd 2>/dev/null; true"), "")

	// The README has the same steps.
	steps := strings.ReplaceAll(strings.TrimSpace(next), "\n  ", "\n")
	if block := strings.Join(blocks(t, "README.md", "openwrt"), ""); !strings.Contains(block, "/tmp/sesame install\n"+steps+"\n") {
		t.Errorf("the README has other steps than install: %s", block)
	}
	const init = "sesame init ssh --port 22\n"
	rest, first := strings.CutPrefix(steps, init)
	if !first {
		t.Fatalf("next steps: got %q, want %s first", steps, init)
	}
	line, err := parseLine(o.run("PATH=/router; export PATH; /usr/sbin/sesame init ssh --port 22 --host 192.0.2.1 2>/dev/null"))
	o.world.must(err)
	o.run("PATH=/router; export PATH; set -e\n" + rest)
	pid := o.awaitDaemon()
	o.want("what procd is told", o.run("cat /tmp/procd"), `command /usr/sbin/knockd --keep /etc/sesame.good.conf -c /var/etc/sesame.conf
respawn 3600 5 0
stdout 1
stderr 1
term_timeout 20
`)
	o.want("triggers", o.run("cat /tmp/triggers"), "config.change.sesame /etc/init.d/sesame reload\ninterface.* /etc/init.d/sesame reload link\n")
	o.want("the rendered file", o.run("stat -c '%a %U' /var/etc/sesame.conf"), "600 root\n")
	o.want("started at boot", o.run("readlink /etc/rc.d/S19sesame /etc/rc.d/K90sesame"), "../init.d/sesame\n../init.d/sesame\n")
	o.world.wantPort(0, hostSSH, hidden)
	o.world.knock(0, append([]string{hostAddr}, strings.Split(line.sequence, ",")...)...)
	o.world.awaitPort(0, hostSSH, reached)
	if help := o.run("sed -n '2,9p' /etc/init.d/sesame"); !strings.Contains(help, "enabled; network, names of /etc/config/network; device") {
		t.Errorf("after uci commit, what the options are is nowhere: %s", help)
	}

	// A reload keeps the daemon, and a bad configuration changes nothing.
	o.config(strings.Replace(uciDoor, "9000", "9001", 1))
	if out, err := o.script("reload"); err != nil {
		t.Errorf("reload: %v: %s", err, out)
	}
	o.world.eventually("the reload", func() bool { return strings.Contains(o.run("cat /tmp/syslog"), "re-reading") })
	o.run("sesame close --all")
	o.world.awaitPort(0, hostSSH, hidden)
	o.world.knock(0, hostAddr, "7000", "18000:udp", "9001")
	o.world.awaitPort(0, hostSSH, reached)
	o.want("the daemon", o.run("cat /tmp/pid"), pid)
	o.world.eventually("the copy", func() bool { return strings.Contains(o.run("cat /etc/sesame.good.conf"), "9001") })

	// What sysupgrade keeps: with a StateDir and one-time sequences elsewhere.
	o.config(uciDoor + "\nconfig door 'once'\n\toption one_time_sequences '/etc/doors/once'\n\toption start_command 'true'\n")
	o.run("mkdir -p /etc/doors/state; echo '# 7000,8000,7000' > /etc/doors/once; touch /etc/doors/state/journal" +
		"; uci set sesame.main.state_dir=/etc/doors/state; uci commit sesame; /etc/init.d/sesame check")
	const kept = `touch /tmp/list; sysupgrade_init_conffiles=build
{ while read -r f; do find $f -type f -o -type l; done < /lib/upgrade/keep.d/sesame; } 2>/dev/null >/tmp/list
. /lib/upgrade/sesame.sh
for hook in ${sysupgrade_init_conffiles#build}; do $hook /tmp/list; done; cat /tmp/list`
	list := o.run("PATH=/router; export PATH; " + kept)
	for _, file := range []string{"/etc/doors/once", "/etc/doors/state/journal", "/usr/sbin/sesame", "/etc/sesame.good.conf", "/lib/upgrade/sesame.sh", "/etc/rc.d/S19sesame"} {
		if strings.Count(list, file+"\n") != 1 {
			t.Errorf("sysupgrade keeps %s %d times: %s", file, strings.Count(list, file+"\n"), list)
		}
	}
	// A new firmware has nothing but what is kept; and so has the next one.
	for n := range 2 {
		o.run("PATH=/router; export PATH; cd /; " + kept + ` >/dev/null
tar -cf /tmp/kept.tar $(cat /tmp/list) 2>/dev/null; rm -rf $(cat /tmp/list) lib/upgrade/keep.d/*; tar -xf /tmp/kept.tar`)
		o.want(fmt.Sprint("after sysupgrade ", n+1), o.run("sesame version >/dev/null && ls /etc/init.d/sesame /lib/upgrade/keep.d/sesame /etc/doors/once"),
			"/etc/doors/once\n/etc/init.d/sesame\n/lib/upgrade/keep.d/sesame\n")
	}
	o.run("rm -r /etc/doors")
	if _, err := o.script("stop"); err != nil {
		t.Errorf("stop: %v", err)
	}
	o.world.wantPort(0, hostSSH, hidden)
	o.run("rm /etc/rc.d/*")
	o.want("uninstalling", o.run("PATH=/router /usr/sbin/sesame uninstall"), `nothing of sesame is left in the firewall
remove /lib/upgrade/keep.d/sesame
remove /lib/upgrade/sesame.sh
remove /usr/share/nftables.d/chain-pre/forward/sesame.nft
remove /usr/share/nftables.d/chain-pre/input/sesame.nft
remove /etc/init.d/sesame
/etc/config/sesame was changed, and stays
remove /usr/bin/knock
remove /usr/sbin/knockd
remove /usr/sbin/sesame
`)
	o.run("rm -r /etc/config/sesame /etc/config/network /var/etc")
	o.want("the host", o.changed(), "")
}

// TestOpenwrtPackage has the package install what install does, and stop and flush when it is removed, but not when it is
// upgraded. Beside it, install does nothing.
func TestOpenwrtPackage(t *testing.T) {
	o := newOpenwrt(t)
	text, err := os.ReadFile("dist/openwrt/sesame/Makefile")
	o.world.must(err)
	part := func(name string) string {
		_, rest, _ := strings.Cut(string(text), "define Package/sesame/"+name+"\n")
		body, _, found := strings.Cut(rest, "endef\n")
		if !found {
			t.Fatalf("the package has no %s", name)
		}
		return strings.NewReplacer("$$", "$", "$(INCLUDES)", fw4Includes[:len(fw4Includes)-1]).Replace(body)
	}
	for _, item := range initSystems[slices.IndexFunc(initSystems, func(s initSystem) bool { return s.name == "procd" })].items {
		if !strings.Contains(part("install"), "$(1)"+item.path+"\n") {
			t.Errorf("the package leaves out %s", item.path)
		}
	}
	if strings.Contains(part("install"), "keep.d") { // which the build makes of these
		t.Error("the package has a file in keep.d of its own")
	}
	o.want("conffiles", part("conffiles"), "/etc/config/sesame\n"+defaultConfigFile+"\n"+keptOnRouter+"\n")
	o.world.must(os.WriteFile(o.dir+"/prerm", []byte(part("prerm")), 0o755))
	o.network(wanUp, "wan eth0")
	o.config(uciDoor)
	o.run("PATH=/router /machine/sesame install -s procd")
	if out, err := o.script("start"); err != nil {
		t.Fatalf("start: %v: %s", err, out)
	}
	pid := o.awaitDaemon()
	o.run("PATH=/router PKG_UPGRADE=1 sh /machine/prerm; PATH=/router IPKG_INSTROOT=/nowhere sh /machine/prerm")
	o.want("the daemon after an upgrade", o.awaitDaemon(), pid)
	o.world.wantPort(0, hostSSH, hidden)
	o.run("PATH=/router sh /machine/prerm; ! test -e " + keptOnRouter)
	o.world.wantPort(0, hostSSH, reached)
	o.want("what is left", o.run("nft list tables; sesame status >/dev/null 2>&1 || true"), "")
	o.run("PATH=/router /usr/sbin/sesame uninstall")
	for _, file := range []string{"/usr/lib/opkg/info/sesame.control", "/lib/apk/packages/sesame.list"} {
		o.run("mkdir -p " + file + "; rmdir " + file + "; touch " + file)
		out, err := o.output("PATH=/router /machine/sesame install")
		if err == nil || !strings.Contains(out, "OpenWrt's package sesame is installed ("+file+"), and has the same files: upgrade or remove that one\n") {
			t.Errorf("with %s: got %v, %s", file, err, out)
		}
		o.run("rm " + file + "; test ! -e /etc/init.d/sesame")
	}
}

// The sections that tests add options to.
const (
	uciMain  = "config sesame 'main'\n\toption enabled '1'\n"
	uciShort = "config door 'a'\n\toption sequence '7000,18000:udp,9000'\n"
)

// TestOpenwrtConfig has the script render what may be in /etc/config/sesame, and sesame check read that.
func TestOpenwrtConfig(t *testing.T) {
	o := newOpenwrt(t)
	o.network(wanUp, "wan pppoe-wan")
	o.run("PATH=/router /machine/sesame install -s procd")
	const options = "[options]\nUseSyslog\n"
	const rendered = "\n[a]\nsequence = 7000,18000:udp,9000\n"
	for _, tt := range []struct{ uci, config string }{
		{uciDoor, options + "Interface = pppoe-wan\n\n[ssh]\nsequence = 7000,18000:udp,9000\nopen_ports = 22,51820:udp\n" +
			"hide = 1\nhide_except = 10.9.0.77\ncmd_timeout = 600\n"},
		{uciMain + "\tlist network 'wan'\n\tlist device 'tun0'\n\toption firewall 'nft'\n" + uciShort, options + "firewall = nft\nInterface = pppoe-wan,tun0\n" + rendered},
		{uciMain + "\toption device 'eth1 eth2, eth1'\n\toption device 'eth1 eth2,eth1'\n" + uciShort, options + "Interface = eth1,eth2\n" + rendered},
		{uciMain + "\tlist network 'wan'\n\tlist device 'pppoe-wan ppp*'\n" + uciShort, options + "Interface = pppoe-wan,ppp*\n" + rendered},
		{uciMain + uciShort + "\toption enabled '0'\n\toption nonsense '1'\n", options},
		{uciMain + uciShort + "\toption start_command 'echo \"%IP%\" `id` $(id) [x] # = %s \\n; true'\n",
			options + rendered + "start_command = echo \"%IP%\" `id` $(id) [x] # = %s \\n; true\n"},
		{uciMain + "\tlist ignore_ports '7001'\n\toption ring_size '2'\n\toption state_dir '/etc/sesame'\n" + uciShort + "\tlist interface 'wan'\n\tlist device 'ppp*'\n" +
			"\tlist allow '10.9.0.0/24'\n\toption decoys '0'\n\toption strict '1'\n\toption max_open '9'\n",
			options + "ignore_ports = 7001\nring_size = 2\nStateDir = /etc/sesame\n" + rendered + "allow = 10.9.0.0/24\n" +
				"decoys = 0\nstrict = 1\nmax_open = 9\nInterface = wan,ppp*\n"},
		// Blanks and commas between items, networks of a door, sections without names.
		{"config sesame\n\toption enabled 'yes'\n\toption network 'wan'\nconfig door\n\toption name 'my-door.2'\n\toption sequence '7000 18000:udp, 9000'\n\tlist open_ports '22 80'\n\tlist open_ports 443\n" +
			"\toption network 'wan'\n\toption hide on\n\toption cmd_timeout 9\n",
			options + "Interface = pppoe-wan\n\n[my-door.2]\nsequence = 7000,18000:udp,9000\nopen_ports = 22,80,443\nhide = on\ncmd_timeout = 9\nInterface = pppoe-wan\n"},
		{uciMain + "\toption key_port '7777'\n" + "config door 'a'\n\tlist key 'alice " + aliceSecret + " " + aliceAuth + "'\n\tlist key 'bob dGVzdHRlc3Q= aG1hY3Rlc3Q= strict'\n\tlist open_ports '22'\n\toption cmd_timeout '9'\n",
			options + "key_port = 7777\n\n[a]\nkey = alice " + aliceSecret + " " + aliceAuth + "\nkey = bob dGVzdHRlc3Q= aG1hY3Rlc3Q= strict\nopen_ports = 22\ncmd_timeout = 9\n"},
		{uciMain + uciShort + "\toption decoys off\n\toption start_command_6 'true'\n", options + rendered + "decoys = off\nstart_command_6 = true\n"},
		{strings.Replace(uciMain, "1", "0", 1) + uciShort, ""},
	} {
		config, said, err := o.rendered(tt.uci)
		if err != nil || said != "" || config != tt.config {
			t.Errorf("%s: got %v, %q and\n%s\nwant\n%s", tt.uci, err, said, config, tt.config)
		}
	}
	// An arrow takes a port to a host behind the router, and nothing to a file.
	_, said, err := o.rendered(uciMain + "\tlist network 'wan'\n" + uciShort + "\tlist open_ports '8443 -> 192.168.77.10:443'\n\tlist open_ports '22 8080->[fd77::10]:80'\n\toption cmd_timeout 9\n")
	arrows := o.run("cat /var/etc/sesame.conf /var/etc/sesame.conf.new 2>/dev/null; true")
	if !strings.Contains(arrows, "\nopen_ports = 8443 -> 192.168.77.10:443,22,8080->[fd77::10]:80\n") || (err != nil) != strings.Contains(said, "Open_Ports") {
		t.Errorf("arrows: got %v, %s and\n%s", err, said, arrows)
	}
	o.want("files of their names", o.run("cd /; ls -d 192* 443* '[fd'* 80* /etc/192* /etc/init.d/192* /var/etc/192* 2>/dev/null; true"), "")
	// Another file than doors of UCI.
	o.run("printf '[a]\\nSequence = 7000,18000:udp,9000\\n' > /etc/knockd.conf")
	if config, said, err := o.rendered(uciMain + "\toption config_file '/etc/knockd.conf'\n"); err != nil || said != "" || config != "" {
		t.Errorf("config_file: got %v, %s, %s", err, said, config)
	}
	// Going over to it is a start, and not a signal to a daemon that reads the other one.
	o.config(uciDoor)
	_, _ = o.script("start")
	o.awaitDaemon()
	o.config(uciMain + "\toption config_file '/etc/knockd.conf'\n")
	_, _ = o.script("reload")
	if got := o.run("cat /tmp/procd"); !strings.HasPrefix(got, "command /usr/sbin/knockd --keep /etc/sesame.good.conf -c /etc/knockd.conf\n") {
		t.Errorf("config_file: got %s", got)
	}
	// The include fits the mark, or check says so; and what fw4 leaves out.
	o.run("printf 'config defaults\\n\\toption auto_includes 0\\n' > /etc/config/firewall")
	o.config(uciDoor + "\nconfig sesame 'main'\n\toption firewall_mark '0x100'\n")
	out, err := o.script("check")
	for _, want := range []string{"Firewall_Mark is 0x100, and /usr/share/nftables.d/chain-pre/input/sesame.nft lets another one in", "auto_includes 0 in /etc/config/firewall"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("check: got %v, %s, want %s", err, out, want)
		}
	}
}

// TestOpenwrtBadInput puts what is wrong into /etc/config/sesame while a daemon runs. A reload names section and option, and
// not the value, which may be a sequence; the daemon, its configuration and the hidden port stay as they are.
func TestOpenwrtBadInput(t *testing.T) {
	o := newOpenwrt(t)
	o.network(wanUp, "wan eth0")
	o.run("PATH=/router /machine/sesame install -s procd")
	o.config(uciDoor)
	if out, err := o.script("start"); err != nil {
		t.Fatalf("start: %v: %s", err, out)
	}
	pid := o.awaitDaemon()
	o.world.eventually("the copy", func() bool { _, err := o.output("test -e " + keptOnRouter); return err == nil })
	o.run("cp /var/etc/sesame.conf /tmp/before")
	// door is a section of that name with the options, and main one that is right.
	door := func(name string, options ...string) string {
		return "config door '" + name + "'\n\toption sequence '7000,18000:udp,9000'\n\t" + strings.Join(options, "\n\t") + "\n"
	}
	const main = uciMain + "\tlist network 'wan'\n"
	const line, list, small = "a value is one line, or a quote is missing", "it has one value, and is no list", "options are in small letters, as open_ports"
	for _, tt := range []struct{ uci, wants string }{
		// What uci cannot read, and functions.sh leaves out.
		{strings.Replace(uciDoor, "door 'ssh'", "door 'ss-h'", 1), "uci: Parse error (invalid character in name field) at line 6, byte 19"},
		{strings.Replace(uciDoor, "600'", "600", 1), "uci: Parse error (EOF with unterminated ') at line 14"},
		{uciDoor + "\toption", "uci: Parse error ("},
		{uciDoor + "config sesame 'ssh'\n", "uci: Parse error (section of different type overwrites prior section with same name)"},
		// What the script sees. No value is printed, nor run.
		{strings.Replace(uciDoor, "enabled '1'\n\tlist network 'wan'\n\nconfig door 'ssh'", "enabled '1\n\tlist network wan\n\nconfig door ssh'", 1),
			"config sesame 'main': option enabled: it is 0 or 1, or a quote is missing"},
		{door("a"), "there is no config sesame"},
		{uciMain + door("a", "option open_ports 22", "option hide on", "option cmd_timeout 9"), "config sesame 'main': without network and device, hide keeps the LAN out, too"},
		{uciMain + "\tlist network 'wann'\n\tlist network 'wan;id'\n\tlist device 'eth0\nStateDir = /tmp'\n\toption Firewall nft\n\tlist ignore_ports ''\n" +
			"config Door 'b'\nconfig sesame 'more'\n" + door("Options") + door("c", "option name 'x$(touch /tmp/owned)'") + door("d", "option name 'a] b'") +
			door("e", "option enabled '$(touch /tmp/owned)'") + door("f", "list enabled 1", "list enabled 0") + door("g", "option allow2 '192.0.2.1'") +
			door("h", "option network '* `touch`'", "list device ''", "option target '10.0.0.1\nStart_Command = touch /tmp/owned'") +
			door("i", "list open_ports '22\n[b]\nSequence = 1'", "option hide 'yes\rStart_Command = touch /tmp/owned'", "option cmd_timeout '1\t0'", "option start_command 'a\x7fb'") +
			door("j", "list cmd_timeout '1'", "list cmd_timeout '2'", "list start_command true", "list start_command false"),
			"config sesame 'main': option network: /etc/config/network has no network wann\nconfig sesame 'main': option network: \"wan;id\" is no name of a network\n" +
				"config sesame 'main': option device: " + line + "\nconfig sesame 'main': option Firewall: " + small + "\nconfig sesame 'main': option ignore_ports: it is empty\n" +
				"config Door 'b': sections are one config sesame, and config door\nconfig sesame 'more': sections are one config sesame, and config door\n" +
				"config door 'Options': option name: no door can have this one\nconfig door 'c': option name: no door can have this one\nconfig door 'd': option name: no door can have this one\n" +
				"config door 'e': option enabled: it is 0 or 1, or a quote is missing\nconfig door 'f': option enabled: it is 0 or 1, or a quote is missing\nconfig door 'g': option allow2: " + small +
				"\nconfig door 'h': option network: \"*\" is no name of a network\nconfig door 'h': option network: \"`touch`\" is no name of a network\nconfig door 'h': option device: it is empty\n" +
				"config door 'h': option target: " + line + "\nconfig door 'i': option open_ports: " + line + "\nconfig door 'i': option hide: " + line + "\nconfig door 'i': option cmd_timeout: " + line +
				"\nconfig door 'i': option start_command: " + line + "\nconfig door 'j': option cmd_timeout: " + list + "\nconfig door 'j': option start_command: " + list},
		// What the daemon's own check sees: names, types and ranges.
		{main + "\toption firewal 'nft'\n\toption hide '1'\n\toption firewall 'pf'\n\toption firewall_mark '3'\n\toption state_dir 'relative'\n\toption ring_size '1000'\n\tlist ignore_ports 'x'\n\tlist device 'eth0/1'\n" + door("a"),
			"unknown directive \"firewal\" (did you mean Firewall?)\nHide belongs in a door's section, not in [options]\nFirewall is auto, iptables or nft\nFirewall_Mark is one bit of 32\n" +
				"StateDir is a directory's absolute path\nRing_Size\nIgnore_Ports\nInterface: \"eth0/1\" is no interface"},
		{main + door("a", "list alow '192.0.2.1'", "option firewall 'nft'", "option sequence '7000,,9000'", "list open_ports '8443 -> > /tmp/owned'", "option cmd_timeout '-1'", "option seq_timeout 'soon'",
			"option seq_cooldown '$(id)'", "option hide 'perhaps'") + "config door 'b'\n\toption open_ports '22'\n",
			"door \"a\": unknown directive \"alow\" (did you mean Allow?)\ndoor \"a\": Firewall belongs in [options]\ndoor \"a\": Sequence: an item is empty\ndoor \"a\": Open_Ports: \n" +
				"door \"a\": Cmd_Timeout is a number\ndoor \"a\": Seq_Timeout is a number\ndoor \"a\": Seq_Cooldown is a number\ndoor \"a\": Hide is yes or no\ndoor \"b\": a door needs a Sequence"},
		{main + door("a", "option strict '\"1\"'", "option decoys '2'", "option max_open '0'", "list allow '192.0.2.0/33'", "option hide_except 'here'", "option target 'x'", "option tcpflags 'syn quack'",
			"option sequence '$(touch /tmp/owned) `touch /tmp/owned` 70000'"),
			"door \"a\": Strict is yes or no\ndoor \"a\": Decoys is yes or no\ndoor \"a\": Max_Open\ndoor \"a\": Allow is addresses\ndoor \"a\": Hide_Except is addresses\ndoor \"a\": Target\ndoor \"a\": TCPFlags\ndoor \"a\": Sequence: "},
		{uciMain + "\toption config_file '/nowhere'\n", "/nowhere"},
	} {
		o.world.must(os.WriteFile(o.dir+"/config", []byte(tt.uci), 0o600))
		out, err := o.output("PATH=/router; export PATH; cp /machine/config /etc/config/sesame; rm -f /tmp/logd; /etc/init.d/sesame reload; status=$?\n" +
			"cmp /var/etc/sesame.conf /tmp/before || echo the file has changed; [ -s /tmp/logd ] || echo nothing was logged; exit $status")
		if statusOf(err) != 1 || strings.Contains(out, "18000") || strings.HasSuffix(out, "ed\n") {
			t.Errorf("%s\ngot %v, %s", tt.uci, err, out)
		}
		for want := range strings.SplitSeq(tt.wants, "\n") {
			if !strings.Contains(out, want) {
				t.Errorf("%s\ngot %s\nwant %s", tt.uci, out, want)
			}
		}
	}
	o.want("the daemon", o.run("cat /tmp/pid; sesame status >/dev/null; test ! -e /tmp/owned"), pid)
	if log := o.run("cat /tmp/daemon"); strings.Contains(log, "re-reading") {
		t.Errorf("the daemon was told of a bad configuration: %s", log)
	}
	o.world.wantPort(0, hostSSH, hidden)
	o.world.knock(0, hostAddr, "7000", "18000:udp", "9000")
	o.world.awaitPort(0, hostSSH, reached)
}

// TestOpenwrtBadStart starts with a configuration that is bad or gone: the daemon runs on with the kept one, or comes up with
// it, and the exit status is 1. Only whoever turns it off ends it.
func TestOpenwrtBadStart(t *testing.T) {
	o := newOpenwrt(t)
	o.network(wanUp, "wan eth0")
	o.run("PATH=/router /machine/sesame install -s procd")
	o.config("config sesame 'main'\n\toption enabled '1'\n\toption network 'wan'\n")
	o.config(strings.Replace(uciDoor, "'600'", "'soon'", 1))
	if out, err := o.script("start"); statusOf(err) != 1 || !strings.Contains(out, "Cmd_Timeout is a number") {
		t.Errorf("the first start: got %v, %s", err, out)
	}
	o.want("what procd is told without a kept configuration", o.run("cat /tmp/procd 2>/dev/null; true"), "")
	o.config(uciDoor)
	if out, err := o.script("start"); err != nil {
		t.Fatalf("start: %v: %s", err, out)
	}
	o.awaitDaemon()
	o.world.eventually("the copy", func() bool { _, err := o.output("test -e " + keptOnRouter); return err == nil })
	for _, tt := range []struct{ do, said string }{
		{"sed -i \"s/door 'ssh'/door 'ss-h'/\" /etc/config/sesame", "Parse error (invalid character in name field)"},
		{"rm /etc/config/sesame", "it is missing"},
		{"printf \"config sesame 'main'\\n\\toption enabled 'x'\\n\" > /etc/config/sesame", "option enabled: it is 0 or 1"},
		{"cp /machine/config /etc/config/sesame; sed -i 's/600/soon/' /etc/config/sesame", "Cmd_Timeout is a number"},
	} {
		pid := o.awaitDaemon()
		o.run(tt.do)
		for _, command := range []string{"start", "restart"} {
			out, err := o.script(command)
			if statusOf(err) != 1 || !strings.Contains(out, tt.said) || !strings.Contains(o.run("cat /tmp/logd"), tt.said) {
				t.Errorf("%s: %s: got %v, %s", tt.do, command, err, out)
			}
			if got := o.awaitDaemon(); command == "start" && got != pid {
				t.Errorf("%s: %s: the daemon was started anew", tt.do, command)
			}
			o.world.wantPort(0, hostSSH, hidden)
		}
		if out, _ := o.output("sesame status"); !strings.Contains(out, "running with the configuration of") {
			t.Errorf("%s: sesame status: got %s", tt.do, out)
		}
	}
	o.world.knock(0, hostAddr, "7000", "18000:udp", "9000")
	o.world.awaitPort(0, hostSSH, reached)
	o.config(strings.Replace(uciDoor, "enabled '1'", "enabled '0'", 1))
	if out, err := o.script("start"); err != nil || !strings.Contains(out, "sesame is off") {
		t.Errorf("off: got %v, %s", err, out)
	}
	o.run("test ! -e /tmp/procd; test ! -e " + keptOnRouter)
	o.world.wantPort(0, hostSSH, hidden)
}

// TestOpenwrtNetworks has networks come, go and dial again. Their devices are known before, between and after that.
func TestOpenwrtNetworks(t *testing.T) {
	o := newOpenwrt(t)
	o.run("PATH=/router /machine/sesame install -s procd")
	const networks = wanUp + `
config interface 'lan'
	option type 'bridge'
	option proto 'static'
	option ifname 'eth1 eth2'
config interface 'dsl'
	option proto 'pppoe'
	option device 'eth0.7'
config interface 'dsl6'
	option proto 'dhcpv6'
	option device '@dsl'
config interface 'named'
	option proto 'pptp'
	option pppname 'work'
config interface 'wg'
	option proto 'wireguard'
config interface 'lte'
	option proto 'qmi'
	option device '/dev/cdc-wdm0'
config interface 'round'
	option proto 'dhcp'
	option device '@round'
`
	devices := func() string {
		o.Helper()
		return strings.TrimSpace(o.run("sed -n 's/^Interface = //p' /var/etc/sesame.conf"))
	}
	for _, tt := range []struct {
		names, devices string
		up             []string
	}{
		{"wan", "eth0", nil}, {"lan", "br-lan", nil}, {"dsl dsl6", "pppoe-dsl", nil}, {"named", "work", nil}, {"wg", "wg", nil},
		{"dsl", "ppp7", []string{"dsl ppp7"}}, {"wan dsl", "eth0,pppoe-dsl", nil}, {"lte", "wwan0", []string{"lte wwan0"}},
		{"lte wan", "eth0", nil}, {"wan6_1", "eth9", []string{"wan6_1 eth9"}},
	} {
		o.run("rm -f /var/etc/sesame.devices")
		o.network(networks, tt.up...)
		if _, said, err := o.rendered(uciMain + "\toption network '" + tt.names + "'\n" + uciShort); err != nil || devices() != tt.devices {
			t.Errorf("%s with %q up: got %v, %s, %s, want %s", tt.names, tt.up, err, said, devices(), tt.devices)
		}
	}
	// Nobody knows the device: nothing is hidden, but all is said.
	o.network(networks)
	o.run("rm -rf /var/etc")
	for name, command := range map[string]string{"lte": "start", "round": "check"} {
		o.config(uciMain + "\toption network '" + name + "'\n" + uciShort)
		out, err := o.script(command)
		if want := "until it is up once, nobody knows the device of " + name + ": list device need not be up"; !strings.Contains(out, want) || (err == nil) != (command == "start") {
			t.Errorf("%s: %s: got %v, %s, want %s", name, command, err, out, want)
		}
	}
	o.run("test ! -e /tmp/procd")
	// A door of a network that nobody knows yet is not one of all interfaces.
	if _, _, err := o.rendered(uciMain + "\toption network 'wan'\n" + uciShort + "\toption network 'lte'\n"); statusOf(err) != 1 {
		t.Errorf("a door's network: got %v", err)
	}

	// While it dials again the port is as hidden as before, and no event of an interface has the daemon read its file anew.
	o.network(networks, "lte eth0")
	o.config(strings.Replace(uciDoor, "'wan'", "'lte'", 1))
	o.run("/router/syslogd -O /tmp/syslog")
	if out, err := o.script("start"); err != nil {
		t.Fatalf("start: %v: %s", err, out)
	}
	pid := o.awaitDaemon()
	o.world.wantPort(0, hostSSH, hidden)
	o.network(networks)
	for _, event := range []string{"interface.down", "interface.update"} {
		if out, err := o.script("event " + event); err != nil {
			t.Errorf("%s: %v: %s", event, err, out)
		}
	}
	o.want("the device while it is down", devices(), "eth0")
	if log := o.run("cat /tmp/syslog"); strings.Contains(log, "re-reading") {
		t.Errorf("the daemon has read an unchanged file: %s", log)
	}
	o.world.wantPort(0, hostSSH, hidden)
	// The list changes, and then an interface that is new on it.
	o.config(strings.Replace(uciDoor, "'wan'", "'lte wan6_1'", 1))
	if out, _ := o.script("event config.change.sesame"); !strings.Contains(out, "/etc/config/network has no network wan6_1") {
		t.Errorf("a network that is not there: got %s", out)
	}
	o.network(networks, "wan6_1 eth9")
	if out, err := o.script("event interface.up"); err != nil {
		t.Errorf("interface.up: %v: %s", err, out)
	}
	o.want("the devices then", devices(), "eth0,eth9")
	o.world.eventually("the reload", func() bool { return strings.Contains(o.run("cat /tmp/syslog"), "re-reading") })
	o.want("the daemon", o.run("cat /tmp/pid"), pid)
	o.world.wantPort(0, hostSSH, hidden)
}

// TestOpenwrtTried has an event of an interface put nothing into force that nobody has, or that was tried and not kept. Then
// the file that the daemon reads is another one, as it names the device.
func TestOpenwrtTried(t *testing.T) {
	o := newOpenwrt(t)
	o.network(wanUp, "wan eth0")
	o.run("PATH=/router /machine/sesame install -s procd; /router/syslogd -O /tmp/syslog")
	o.config(uciMain + "\tlist network 'wan'\n" + uciShort)
	if out, err := o.script("start"); err != nil {
		t.Fatalf("start: %v: %s", err, out)
	}
	o.awaitDaemon()
	o.world.eventually("the copy", func() bool { _, err := o.output("test -e " + keptOnRouter); return err == nil })
	o.config(uciDoor)
	o.run("touch -d '2001-01-01 00:00' /var/etc/sesame.conf /var/etc/sesame.started")
	o.network(wanUp, "wan eth7")
	_, _ = o.script("event interface.up")
	o.want("the device before a reload", o.run("grep Interface /var/etc/sesame.conf"), "Interface = eth0\n")
	o.network(wanUp, "wan eth0")
	if out, err := o.output("PATH=/router /usr/sbin/sesame try 60 </dev/null"); statusOf(err) != 1 || !strings.Contains(out, "it was not kept") {
		t.Fatalf("try: got %v, %s", err, out)
	}
	o.want("what was tried", o.run("cat "+keptOnRouter+triedSuffix), uciDoor)
	o.network(wanUp, "wan eth7")
	_, _ = o.script("event interface.up")
	o.world.eventually("the reload's refusal", func() bool { return strings.Contains(o.run("cat /tmp/syslog"), "the configuration stays as it was") })
	o.want("the device then", o.run("grep Interface /var/etc/sesame.conf"), "Interface = eth7\n")
	o.world.wantPort(0, hostSSH, reached)
}

// TestInitOpenwrt writes a door by uci, in the place of install's example and of nothing else.
func TestInitOpenwrt(t *testing.T) {
	o := newOpenwrt(t)
	o.network(wanUp, "wan eth0")
	installed := o.run("/machine/sesame install")
	const next = "sesame init ssh --port 22\n  uci set sesame.main.enabled=1\n  uci commit sesame\n  /etc/init.d/sesame enable\n  /etc/init.d/sesame restart\n"
	if !strings.HasSuffix(installed, "\nnext:\n  "+next) {
		t.Errorf("install: got\n%s", installed)
	}
	fails := func(what, command, want string) {
		t.Helper()
		before := o.run("cat /etc/config/sesame; uci changes sesame")
		if out, err := o.output(command); err == nil || !strings.HasSuffix(out, want+"\n") {
			t.Errorf("%s: got %v, %s", what, err, out)
		}
		o.want(what, o.run("cat /etc/config/sesame; uci changes sesame"), before)
	}
	if out, err := o.output("/machine/sesame init a-b --port 22 --host 192.0.2.1"); err == nil || !strings.Contains(out, "letters, digits and _ alone") {
		t.Errorf("a name that uci does not take: got %v, %s", err, out)
	}
	taken := func(name string) string {
		return uciFile + ": there is a section \"" + name + "\" already: choose another name"
	}
	fails("the options", "/machine/sesame init main --port 22 --host 192.0.2.1", taken("main"))
	o.run("uci set sesame.ssh.hide=0")
	fails("the changes of others", "/machine/sesame init --host 192.0.2.1", "there are changes that nobody has committed: uci commit sesame, or uci revert sesame")
	o.run("uci revert sesame; cp /etc/config/sesame /tmp/shipped; uci add_list sesame.ssh.allow=10.9.0.0/24; uci commit sesame")
	fails("a door with an option more", "/machine/sesame init --host 192.0.2.1", taken("ssh"))
	o.run("cp /tmp/shipped /etc/config/sesame")

	line, err := parseLine(o.run("/machine/sesame init --port 22,51820:udp --host 192.0.2.1 2>/tmp/said"))
	if err != nil || line.name != "ssh" || line.verify != 22 {
		t.Errorf("got %+v, %v", line, err)
	}
	door := func(name string) string {
		return "\nconfig door '" + name + "'\n\toption enabled '1'\n\toption sequence '" + line.sequence + "'\n\tlist open_ports '22'\n\tlist open_ports '51820:udp'\n" +
			"\toption cmd_timeout '30'\n\toption hide '1'\n"
	}
	const main = "\nconfig sesame 'main'\n\toption enabled '0'\n\tlist network 'wan'\n"
	o.want(uciFile, o.run("cat /etc/config/sesame; stat -c %a /etc/config/sesame"), main+door("ssh")+"600\n")
	said := o.run("cat /tmp/said")
	_, start, _ := strings.Cut(next, "\n")
	if !strings.HasPrefix(said, uciFile+` now has a door "ssh"`) || !strings.Contains(said, "and hides them from everybody else.\n") || !strings.Contains(said, "come in:\n"+start+"On the client") {
		t.Errorf("it says %s", said)
	}
	code, err := parseLine(o.run("/machine/sesame init code --totp --port 443 --host 192.0.2.1 2>/dev/null"))
	if got := o.run("uci get sesame.code.sequence; uci get sesame.code.totp"); err != nil || got != code.sequence+"\n"+code.totp.String()+"\n" || !strings.HasSuffix(code.sequence, ",totp") {
		t.Errorf("with a code: got %s, %v, %v", got, code, err)
	}
	fails("once more", "/machine/sesame init --host 192.0.2.1", taken("ssh"))
	o.run("PATH=/router; export PATH; " + strings.ReplaceAll(strings.TrimSpace(start), "\n  ", "; "))
	o.awaitDaemon()
	o.world.wantPort(0, hostSSH, hidden)
	o.world.knock(0, append([]string{hostAddr}, strings.Split(line.sequence, ",")...)...)
	o.world.awaitPort(0, hostSSH, reached)
	if got := o.run("cat /var/etc/sesame.conf"); !strings.Contains(got, "\n[code]\nsequence = "+code.sequence+"\ntotp = "+code.totp.String()+"\n") {
		t.Errorf("with a code: got %s", got)
	}
	// A key for the door that is there, and one for a new one.
	for _, name := range []string{"ssh", "vpn --port 51820:udp"} {
		keyed, err := parseLine(o.run("/machine/sesame init " + name + " --key alice --host 192.0.2.1 2>/dev/null"))
		section := strings.Fields(name)[0]
		if got, want := o.run("uci get sesame."+section+".key"), "alice "+keyed.key+"\n"; err != nil || got != want {
			t.Errorf("%s: got %s, want %s, %v", name, got, want, err)
		}
	}
	o.run("PATH=/router; export PATH; /etc/init.d/sesame reload")
	o.want("the doors", strings.ReplaceAll(o.run("/machine/sesame check -c /var/etc/sesame.conf 2>/dev/null | grep -o '.*by the key of alice'"), " ", "_"),
		"ssh:_4_knocks_within_25s_by_the_key_of_alice\nvpn:_by_the_key_of_alice\n")
	// A file that is named is written as anywhere, and is not what the daemon has.
	o.run("/machine/sesame init -c /tmp/c --host 192.0.2.1 2>/tmp/said && /machine/sesame check -c /tmp/c")
	if said := o.run("cat /tmp/said"); !strings.Contains(said, "\nThe daemon here runs with /var/etc/sesame.conf, and not with this file: -c names another one.\n") {
		t.Errorf("beside a daemon: it says %s", said)
	}
}
