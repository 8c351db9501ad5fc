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
	_, err = o.script("reload")
	config, _ = o.output("cat /var/etc/sesame.conf 2>/dev/null")
	said, _ = o.output("cat /tmp/logd 2>/dev/null")
	return config, said, err
}

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

// TestOpenwrt installs on a router, and starts, reloads and stops the daemon by the init script, as procd is told to.
func TestOpenwrt(t *testing.T) {
	o := newOpenwrt(t)
	o.want("installing", o.run("PATH=/router /machine/sesame install"), `put /usr/sbin/sesame
link /usr/sbin/knockd to sesame
link /usr/bin/knock to ../sbin/sesame
put /etc/config/sesame
put /etc/init.d/sesame
put /usr/share/nftables.d/chain-pre/input/sesame.nft
put /lib/upgrade/keep.d/sesame
next:
  /etc/init.d/firewall reload
  /etc/init.d/sesame enable
  /etc/init.d/sesame restart
`)
	o.want("what sysupgrade keeps", o.run("while read -r f; do [ ! -e $f ] || echo $f; done < /lib/upgrade/keep.d/sesame"),
		"/etc/sesame.installed\n/lib/upgrade/keep.d/sesame\n/usr/sbin/sesame\n/usr/sbin/knockd\n/usr/bin/knock\n/etc/config/sesame\n/etc/init.d/sesame\n"+
			"/usr/share/nftables.d/chain-pre/input/sesame.nft\n")
	// A new firmware has nothing but what is kept; and so has the next one.
	for n := range 2 {
		o.run(`cd /; list=$(cat lib/upgrade/keep.d/*); tar -cf /tmp/kept.tar $(ls -d $list 2>/dev/null) 2>/dev/null
rm -rf $list lib/upgrade/keep.d/*; tar --keep-directory-symlink -xf /tmp/kept.tar`)
		o.want(fmt.Sprint("after sysupgrade ", n+1), o.run("sesame version >/dev/null && ls /etc/init.d/sesame /lib/upgrade/keep.d/sesame"),
			"/etc/init.d/sesame\n/lib/upgrade/keep.d/sesame\n")
	}
	// As it comes it does not start, and while wan is down neither.
	start := func() string {
		out, err := o.script("start")
		if err != nil {
			t.Errorf("start: %v: %s", err, out)
		}
		return o.run("cat /tmp/procd 2>/dev/null; true")
	}
	o.want("the example", start(), "")
	o.config(uciDoor)
	o.want("without wan", start(), "")
	o.want("the log", o.run("cat /tmp/logd"), "logger: none of the networks wan is up, and until then nothing is hidden: list device need not be up\n")
	triggers, _ := o.script("triggers")
	o.want("triggers", triggers, "reload_trigger sesame\ninterface_trigger interface.* wan /etc/init.d/sesame reload\n")
	o.run("mkdir /tmp/up; echo eth0 > /tmp/up/wan; /router/syslogd -O /tmp/syslog")
	o.want("what procd is told", start(), `command /usr/sbin/knockd --keep /etc/sesame.good.conf -c /var/etc/sesame.conf
respawn 3600 5 0
stdout 1
stderr 1
term_timeout 20
`)
	o.want("the rendered file", o.run("stat -c '%a %U' /var/etc/sesame.conf"), "600 root\n")
	procd := func() {
		o.Helper()
		cmd := o.command("echo $$ > /tmp/pid; exec $(sed -n 's/^command //p' /tmp/procd)")
		o.world.must(cmd.Start())
		go func() { _ = cmd.Wait() }()
		o.world.eventually("the daemon's start", func() bool {
			out, _ := o.output("cat /tmp/syslog")
			return strings.Contains(out, "daemon.notice knockd: starting up, listening on eth0")
		})
	}
	procd()
	o.world.wantPort(0, hostSSH, hidden)
	o.world.knock(0, hostAddr, "7000", "18000:udp", "9000")
	o.world.awaitPort(0, hostSSH, reached)

	o.config(strings.Replace(uciDoor, "9000", "9001", 1))
	pid := o.run("cat /tmp/pid")
	reload := func() error { _, err := o.script("reload"); return err }
	if err := reload(); err != nil {
		t.Errorf("reload: %v", err)
	}
	o.world.eventually("the reload", func() bool { return strings.Contains(o.run("cat /tmp/syslog"), "re-reading") })
	o.run("sesame close --all")
	o.world.awaitPort(0, hostSSH, hidden)
	o.world.knock(0, hostAddr, "7000", "18000:udp", "9001")
	o.world.awaitPort(0, hostSSH, reached)
	o.config(uciDoor + "	option seq_timeout 'soon'\n")
	if err := reload(); err == nil {
		t.Error("reload of a bad configuration: got no error")
	}
	if said := o.run("tail -n1 /tmp/logd"); !strings.Contains(said, "Seq_Timeout is a number of seconds") {
		t.Errorf("reload of a bad configuration: got %s", said)
	}
	o.want("the configuration after a bad one", o.run("grep -c 9001 /etc/sesame.good.conf; kill -0 "+pid), "1\n")
	o.run("kill $(cat /tmp/pid)")
	o.world.eventually("the daemon's end", func() bool { _, err := o.output("kill -0 " + pid); return err != nil })
	o.want("uninstalling", o.run("PATH=/router /usr/sbin/sesame uninstall"), `nothing of sesame is left in the firewall
remove /lib/upgrade/keep.d/sesame
remove /usr/share/nftables.d/chain-pre/input/sesame.nft
remove /etc/init.d/sesame
/etc/config/sesame was changed, and stays
remove /usr/bin/knock
remove /usr/sbin/knockd
remove /usr/sbin/sesame
`)
	o.run("rm -r /etc/config/sesame /var/etc")
	o.want("the host", o.changed(), "")
}

// TestOpenwrtConfig has the script render what may stand in /etc/config/sesame, and sesame check reads that. No value can
// add a line of its own.
func TestOpenwrtConfig(t *testing.T) {
	o := newOpenwrt(t)
	o.run("PATH=/router /machine/sesame install -s procd; mkdir /tmp/up; echo pppoe-wan > /tmp/up/wan")
	const options = "[options]\nUseSyslog\n"
	const first = "config sesame 'main'\n\toption enabled '1'\n"
	const door = "config door 'a'\n\toption sequence '7000,18000:udp,9000'\n"
	const rendered = "\n[a]\nSequence = 7000,18000:udp,9000\n"
	const line = "a value is one line"
	for _, tt := range []struct{ uci, config, said string }{
		{uciDoor, options + "Interface = pppoe-wan\n\n[ssh]\nSequence = 7000,18000:udp,9000\nOpen_Ports = 22,51820:udp\n" +
			"Hide_Except = 10.9.0.77\nHide = 1\nCmd_Timeout = 600\n", ""},
		{first + "\tlist network 'wan'\n\tlist device 'tun0'\n\toption firewall 'nft'\n" + door, options + "Interface = pppoe-wan,tun0\nFirewall = nft\n" + rendered, ""},
		{first + "\toption device 'eth1'\n" + door, options + "Interface = eth1\n" + rendered, ""},
		{first + door + "\toption enabled '0'\n", options, ""},
		{first + door + "\toption start_command 'echo \"%IP%\" `id` $(id) [x] # = %s \\n; true'\n",
			options + rendered + "Start_Command = echo \"%IP%\" `id` $(id) [x] # = %s \\n; true\n", ""},
		{first + "\tlist ignore_ports '7001'\n\toption ring_size '2'\n" + door + "\tlist interface 'wan'\n\tlist interface 'ppp*'\n" +
			"\tlist allow '10.9.0.0/24'\n\toption decoys '0'\n\toption strict '1'\n\toption max_open '9'\n",
			options + "Ring_Size = 2\nIgnore_Ports = 7001\n" + rendered + "Interface = wan,ppp*\nAllow = 10.9.0.0/24\n" +
				"Decoys = 0\nStrict = 1\nMax_Open = 9\n", ""},
		{strings.Replace(first, "1", "0", 1) + door, "", ""},
		// What would add a directive, a door, or nothing that is known.
		{first + door + "\toption target '10.0.0.1\nStart_Command = touch /tmp/owned'\n", "", "Target: " + line},
		{first + door + "\tlist open_ports '22\n[b]\nSequence = 1'\n", "", "Open_Ports: " + line},
		{first + door + "\toption hide 'yes\rStart_Command = touch /tmp/owned'\n", "", "Hide: " + line},
		{first + "\tlist device 'eth0\nStateDir = /tmp'\n" + door, "", "Interface: " + line},
		{first + "config door 'a'\n\toption sequence ''\n", "", "a door needs a Sequence"},
		{first + door + "\toption cmd_timeout 'x'\n", "", "Cmd_Timeout is a number"},
	} {
		config, said, err := o.rendered(tt.uci)
		if tt.said == "" && (said != "" || config != tt.config) || !strings.Contains(said, tt.said) || (err != nil) != (tt.said != "") {
			t.Errorf("%s: got %v, %q and\n%s\nwant %q and\n%s", tt.uci, err, said, config, tt.said, tt.config)
		}
		if config == "" {
			continue
		}
		// A value with a line of its own is written as a mistake.
		if out, err := o.output("sesame check -c /var/etc/sesame.conf"); (err != nil) != (tt.said != "") || strings.Contains(config, "/tmp") {
			t.Errorf("%s: sesame check: %v: %s of\n%s", tt.uci, err, out, config)
		}
	}
	// What the script does not know would be left out without a word.
	script, err := os.ReadFile("dist/openwrt/sesame.init")
	o.world.must(err)
	for _, d := range directives {
		if !strings.Contains(string(script), " "+d.name+"\n") && !slices.Contains([]string{"UseSyslog", "LogFile", "PidFile", "Interface"}, d.name) {
			t.Errorf("the script leaves out %s", d.name)
		}
	}
	// Another file than doors of UCI.
	o.run("printf '[a]\\nSequence = 7000,18000:udp,9000\\n' > /etc/knockd.conf")
	if config, said, err := o.rendered(first + "\toption config_file '/etc/knockd.conf'\n"); err != nil || said != "" || config != "" {
		t.Errorf("config_file: got %v, %s, %s", err, said, config)
	}
	if got := o.run("cat /tmp/procd"); !strings.HasPrefix(got, "command /usr/sbin/knockd --keep /etc/sesame.good.conf -c /etc/knockd.conf\n") {
		t.Errorf("config_file: got %s", got)
	}
}
