//go:build linux

package main

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// fwknopLine is one of fwknopd's configuration: NAME VALUE, up to a semicolon.
type fwknopLine struct {
	number      int
	name, value string
}

func fwknopLines(text string) (lines []fwknopLine) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		line, _, _ = strings.Cut(line, ";")
		fields := append(strings.Fields(line), "")
		value := strings.TrimSpace(strings.TrimPrefix(line, fields[0]))
		lines = append(lines, fwknopLine{number, strings.TrimSuffix(fields[0], ":"), value})
	}
	return lines
}

// notTaken says why a line of access.conf has no place in a door; "": it has one, or means nothing here.
func (l fwknopLine) notTaken() string {
	on := !strings.EqualFold(l.value, "N")
	switch name := l.name; {
	case strings.HasPrefix(name, "GPG_") || name == "GPG_ALLOW_NO_PW":
		return "packets by GnuPG are not read"
	case strings.HasPrefix(name, "CMD_") || strings.HasPrefix(name, "ENABLE_CMD") && on:
		return "no packet runs a command: Start_Command and Stop_Command are run when the door opens and closes"
	case strings.HasPrefix(name, "%include"):
		return "it is not followed: run sesame init --from for it, too, or copy its lines here"
	case name == "DESTINATION" && !strings.EqualFold(l.value, "ANY"):
		return "Target and Interface say where a door listens"
	case name == "REQUIRE_USERNAME":
		return "the key alone tells who it is: its name is taken from here"
	case strings.HasPrefix(name, "ACCESS_EXPIRE"):
		return "a key has no end: delete its line then"
	case strings.HasPrefix(name, "FORCE_SNAT"), name == "FORCE_MASQUERADE" && on:
		return "masquerade after a port's arrow is the like"
	case name == "FORWARD_ALL" && on, name == "DISABLE_DNAT" && on:
		return "ports are forwarded one by one"
	case name == "MAX_FW_TIMEOUT":
		return "clients may ask for up to Cmd_Timeout"
	}
	return ""
}

// fwknopDoor is a SOURCE and what follows it, as a door of a name.
func fwknopDoor(file, name string, stanza []fwknopLine) string {
	has, notes := map[string]string{}, ""
	for _, l := range stanza {
		has[l.name] = l.value
		if why := l.notTaken(); why != "" {
			notes += fmt.Sprintf("# %s:%d: %s: %s\n", file, l.number, l.name, why)
		}
	}
	if has["OPEN_PORTS"] == "" {
		notes += fmt.Sprintf("# %s:%d: without OPEN_PORTS fwknopd opens whatever is asked for: name here what your clients ask for\n", file, stanza[0].number)
	}
	body, err := fwknopBody(has)
	if err != nil {
		return fmt.Sprintf("# %s:%d: no door: %v\n%s\n", file, stanza[0].number, err, notes)
	}
	return fmt.Sprintf("# %s:%d\n%s[%s]\n%s\n", file, stanza[0].number, notes, name, body)
}

// fwknopBody are a door's directives. An error has no key in it.
func fwknopBody(has map[string]string) (string, error) {
	key := func(name string) (string, error) {
		switch text := has[name+"_BASE64"]; {
		case has[name] == "__CHANGEME__" || text == "__CHANGEME__":
			return "", fmt.Errorf("its %s is still to be chosen", name)
		case text != "":
			return text, nil
		case has[name] != "":
			return base64.StdEncoding.EncodeToString([]byte(has[name])), nil
		case name == "KEY":
			return "", errors.New("it has no KEY: packets by GnuPG are not read")
		}
		return "", fmt.Errorf("it has no %s, without which anybody could change packets: sesame init --key makes a key with one", name)
	}
	secret, err := key("KEY")
	auth, authErr := key("HMAC_KEY")
	mode, digest := strings.ToUpper(cmp.Or(has["ENCRYPTION_MODE"], "CBC")), strings.ToUpper(cmp.Or(has["HMAC_DIGEST_TYPE"], "SHA256"))
	switch {
	case err != nil || authErr != nil:
		return "", cmp.Or(err, authErr)
	case mode != "CBC":
		return "", fmt.Errorf("ENCRYPTION_MODE is %s, and CBC alone is read", mode)
	case digest != "SHA256":
		return "", fmt.Errorf("HMAC_DIGEST_TYPE is %s, and SHA256 alone is read", digest)
	}
	words := func(list string) []string {
		return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	}
	target, ports, allow := "", []string{}, []string{}
	if to := words(has["FORCE_NAT"]); len(to) == 2 {
		target = " -> " + to[0] + ":" + to[1]
	}
	for _, item := range words(cmp.Or(has["OPEN_PORTS"], "tcp/22")) {
		proto, port, _ := strings.Cut(strings.ToLower(item), "/")
		if slices.ContainsFunc(words(has["RESTRICT_PORTS"]), func(r string) bool { return strings.EqualFold(r, item) }) {
			continue
		}
		ports = append(ports, strings.TrimSuffix(port+":"+proto, ":tcp")+target)
	}
	for _, item := range words(has["SOURCE"]) {
		if strings.EqualFold(item, "ANY") {
			allow = nil
			break
		}
		if network, mask, ok := strings.Cut(item, "/"); ok && strings.Contains(mask, ".") {
			bits := 0
			for m, _ := netip.ParseAddr(mask); bits < 32 && m.IsValid() && m.As4()[bits/8]>>(7-bits%8)&1 == 1; bits++ {
			}
			item = network + "/" + strconv.Itoa(bits)
		}
		allow = append(allow, item)
	}
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune(plainLetters, r|0x20) {
			return r
		}
		return '-'
	}, cmp.Or(has["REQUIRE_USERNAME"], "fwknop"))
	strict := ""
	if strings.EqualFold(cmp.Or(has["REQUIRE_SOURCE_ADDRESS"], has["REQUIRE_SOURCE"]), "Y") {
		strict = " strict"
	}
	body := fmt.Sprintf("\tKey         = %s %s %s%s\n\tOpen_Ports  = %s\n\tCmd_Timeout = %s\n", name, secret, auth, strict,
		strings.Join(ports, ", "), cmp.Or(has["FW_ACCESS_TIMEOUT"], "30"))
	if allow != nil {
		body += "\tAllow       = " + strings.Join(allow, ", ") + "\n"
	}
	if _, err := parseConfig("", strings.NewReader("[x]\n"+body)); err != nil {
		text := err.(configErrors)[0].text
		return "", fmt.Errorf("it would not do as one: %s", text[strings.Index(text, ": ")+2:])
	}
	return body, nil
}

// fwknopText are the doors of an access.conf, and the options of an fwknopd.conf, as a part of our configuration. free says
// whether a name is.
func fwknopText(folder, access, options string, free func(name string) bool) (text string, doors int) {
	file := filepath.Join(folder, "fwknopd.conf")
	port := ""
	for _, l := range fwknopLines(options) {
		switch {
		case l.name == "UDPSERV_PORT" && port == "":
			port = l.value
		case l.name == "PCAP_FILTER":
			if words := strings.Fields(l.value); len(words) > 0 {
				port = words[len(words)-1]
			}
		case l.name == "MAX_SPA_PACKET_AGE" && l.value != strconv.Itoa(keyWindow), l.name == "ENABLE_SPA_PACKET_AGING" && l.value == "N":
			text += fmt.Sprintf("# %s:%d: %s: clocks may differ by %d s\n", file, l.number, l.name, keyWindow)
		case l.name == "ENABLE_SPA_OVER_HTTP" && l.value == "Y", l.name == "ENABLE_TCP_SERVER" && l.value == "Y":
			text += fmt.Sprintf("# %s:%d: %s: packets come over UDP alone\n", file, l.number, l.name)
		case l.name == "PCAP_INTF":
			text += fmt.Sprintf("# %s:%d: %s %s: Interface in [options], or in a door, says where to listen\n", file, l.number, l.name, l.value)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil && n != defaultKeyPort && n != 0 {
		text += fmt.Sprintf("[options]\n\tKey_Port = %d\n\n", n)
	}
	file = filepath.Join(folder, "access.conf")
	var stanza []fwknopLine
	number := 0
	finish := func() {
		if stanza == nil {
			return
		}
		name := "fwknop"
		for n := number; n > 0 || !free(name); n++ {
			if name = fmt.Sprint("fwknop", n+1); free(name) {
				break
			}
		}
		door := fwknopDoor(file, name, stanza)
		if strings.Contains(door, "\n[") {
			doors, number = doors+1, number+1
		}
		text += door
	}
	for _, l := range fwknopLines(access) {
		if l.name == "SOURCE" {
			finish()
			stanza = nil
		} else if stanza == nil {
			if why := l.notTaken(); why != "" {
				text += fmt.Sprintf("# %s:%d: %s: %s\n", file, l.number, l.name, why)
			}
			continue
		}
		stanza = append(stanza, l)
	}
	finish()
	return text, doors
}

// takeOver adds the doors of an fwknopd to a configuration.
func (o *initOptions) takeOver(e env, rest []string, links map[int]*Link) error {
	file, _ := o.file()
	switch {
	case len(rest) > 0 || o.key+o.ports+o.to != "":
		return usageError("--from takes a folder, and beside it -c alone: doors and their ports are in its access.conf")
	case file == uciFile:
		return usageError("on OpenWrt, -c names the file to write the doors to, which is config_file then")
	}
	access, err := os.ReadFile(filepath.Join(o.from, "access.conf"))
	if err != nil {
		return err
	}
	options, err := os.ReadFile(filepath.Join(o.from, "fwknopd.conf"))
	was, wasErr := os.ReadFile(file)
	for _, err := range []error{err, wasErr} {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	text := beforeDoors(string(was), links)
	c, err := parseConfig(file, strings.NewReader(text))
	if err != nil {
		return err
	}
	taken, doors := fwknopText(o.from, string(access), string(options), func(name string) bool { return c.lastDoor(name) == nil })
	if c, err = parseConfig(file, strings.NewReader(text+taken)); err != nil {
		return withoutSecrets(err)
	}
	if _, err := writeFile(file, []byte(text+taken), nil, notWritten(file, was)); err != nil {
		return err
	}
	say := func(format string, a ...any) { fmt.Fprintf(e.stderr, format+"\n", a...) }
	say("%s now has %d %s of %s, which %s not in force yet. Read the lines there that begin with # %[4]s: they have what could not be taken over.",
		file, doors, plural(doors, "door"), o.from, map[bool]string{true: "is", false: "are"}[doors == 1])
	if fwknopdRuns() {
		say("fwknopd still runs, and opens its ports, too. When you are in by sesame: systemctl disable --now fwknop-server")
	}
	o.tellNext(e, c, say)
	return nil
}

func fwknopdRuns() bool {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	return slices.ContainsFunc(names, func(name string) bool {
		text, _ := os.ReadFile(name)
		return string(text) == "fwknopd\n"
	})
}
