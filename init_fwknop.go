//go:build linux

package main

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// fwknopLine is one of fwknopd's configuration: NAME VALUE, up to a semicolon.
type fwknopLine struct{ at, name, value string }

func fwknopLines(folder, file string) (lines []fwknopLine, err error) {
	file = filepath.Join(folder, file)
	text, err := os.ReadFile(file)
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(strings.TrimSpace(line), ";")
		if fields := strings.Fields(line); len(fields) > 0 && line[0] != '#' {
			value := strings.TrimSpace(strings.TrimPrefix(line, fields[0]))
			lines = append(lines, fwknopLine{fmt.Sprint(file, ":", number), strings.TrimSuffix(fields[0], ":"), value})
		}
	}
	return lines, err
}

// fwknopLost has, by how names begin, why lines have no place here. After a name with a blank, only that value has none.
var fwknopLost = map[string]string{
	"GPG_":                      "packets by GnuPG are not read",
	"CMD_":                      "no packet runs a command: Start_Command is run when the door opens",
	"ENABLE_CMD_EXEC Y":         "no packet runs a command: Start_Command is run when the door opens",
	"ENABLE_CMD_SUDO_EXEC Y":    "no packet runs a command: Start_Command is run when the door opens",
	"%include":                  "it is not followed: copy its lines into this file, and run sesame init --from once more",
	"DESTINATION":               "Target and Interface say where a door listens",
	"REQUIRE_USERNAME":          "the key alone tells who it is, and has this name",
	"ACCESS_EXPIRE":             "a key has no end: delete its line then",
	"FORCE_SNAT":                "masquerade after a port's arrow is the like",
	"FORCE_MASQUERADE Y":        "masquerade after a port's arrow is the like",
	"FORWARD_ALL Y":             "ports are forwarded one by one",
	"DISABLE_DNAT Y":            "ports are forwarded one by one",
	"MAX_FW_TIMEOUT":            "clients may ask for up to Cmd_Timeout",
	"PCAP_INTF":                 "Interface in [options], or in a door, says where to listen",
	"MAX_SPA_PACKET_AGE":        "clocks may differ by 120 s",
	"ENABLE_SPA_PACKET_AGING N": "clocks may differ by 120 s",
	"ENABLE_SPA_OVER_HTTP Y":    "packets come over UDP alone",
	"ENABLE_TCP_SERVER Y":       "packets come over UDP alone",
}

// lost is a comment for a line that has no place here, or "".
func (l fwknopLine) lost() string {
	for begin, why := range fwknopLost {
		if strings.HasPrefix(l.name+" "+strings.ToUpper(l.value), begin) {
			return fmt.Sprintf("# %s: %s: %s\n", l.at, l.name, why)
		}
	}
	return ""
}

// fwknopDoor is a SOURCE and what follows it, as a door of a name; or as a comment that says why it is none, without a key.
func fwknopDoor(name string, stanza []fwknopLine) (text string, err error) {
	has, notes := map[string]string{}, ""
	for _, l := range stanza {
		has[l.name] = l.value
		notes += l.lost()
	}
	if has["OPEN_PORTS"] == "" {
		has["OPEN_PORTS"] = "tcp/22"
		notes += fmt.Sprintf("# %s: without OPEN_PORTS fwknopd opens whatever is asked for: name here what your clients ask for\n", stanza[0].at)
	}
	for _, key := range []string{"KEY", "HMAC_KEY"} {
		if has[key] != "" && has[key+"_BASE64"] == "" {
			has[key+"_BASE64"] = base64.StdEncoding.EncodeToString([]byte(has[key]))
		}
	}
	words := func(name string) []string {
		return strings.FieldsFunc(has[name], func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	}
	target := ""
	if to := words("FORCE_NAT"); len(to) == 2 {
		target = " -> " + to[0] + ":" + to[1]
	}
	var ports []string
	for _, item := range words("OPEN_PORTS") {
		proto, port, _ := strings.Cut(strings.ToLower(item), "/")
		ports = append(ports, strings.TrimSuffix(port+":"+proto, ":tcp")+target)
	}
	strict := ""
	if strings.EqualFold(cmp.Or(has["REQUIRE_SOURCE_ADDRESS"], has["REQUIRE_SOURCE"]), "Y") {
		strict = " strict"
	}
	person := strings.Join(strings.Fields(cmp.Or(has["REQUIRE_USERNAME"], "fwknop")), "-")
	text = fmt.Sprintf("[%s]\n\tKey         = %s %s %s%s\n\tOpen_Ports  = %s\n\tCmd_Timeout = %s\n", name, person, has["KEY_BASE64"], has["HMAC_KEY_BASE64"],
		strict, strings.Join(ports, ", "), cmp.Or(has["FW_ACCESS_TIMEOUT"], "30"))
	if sources := words("SOURCE"); !slices.ContainsFunc(sources, func(s string) bool { return strings.EqualFold(s, "ANY") }) {
		text += "\tAllow       = " + strings.Join(sources, ", ") + "\n"
	}
	switch _, err = parseConfig("", strings.NewReader(text)); {
	case has["KEY_BASE64"] == "":
		err = errors.New("it has no KEY, and packets by GnuPG are not read")
	case has["HMAC_KEY_BASE64"] == "":
		err = errors.New("it has no HMAC_KEY, without which anybody could change packets: sesame init --key makes a key with one")
	case !strings.EqualFold(cmp.Or(has["ENCRYPTION_MODE"], "CBC"), "CBC"), !strings.EqualFold(cmp.Or(has["HMAC_DIGEST_TYPE"], "SHA256"), "SHA256"):
		err = errors.New("its ENCRYPTION_MODE is not CBC, or its HMAC_DIGEST_TYPE is not SHA256")
	case has["RESTRICT_PORTS"] != "":
		err = errors.New("it has RESTRICT_PORTS: leave those out of OPEN_PORTS")
	case err != nil:
		_, what, _ := strings.Cut(err.(configErrors)[0].text, ": door ")
		err = errors.New("as one it would be wrong: " + what)
	}
	if err != nil {
		return fmt.Sprintf("# %s: no door: %v\n%s\n", stanza[0].at, err, notes), err
	}
	return fmt.Sprintf("# %s\n%s%s\n", stanza[0].at, notes, text), nil
}

// fwknopText is an fwknopd's configuration as a part of ours, and how many doors there are in it. free says whether a name
// is.
func fwknopText(access, options []fwknopLine, free func(name string) bool) (text string, doors int) {
	port := ""
	for _, l := range options {
		if fields := strings.Fields("- " + l.value); l.name == "PCAP_FILTER" || l.name == "UDPSERV_PORT" {
			port = fields[len(fields)-1]
		}
		text += l.lost()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil && n != defaultKeyPort {
		text += fmt.Sprintf("[options]\n\tKey_Port = %d\n\n", n)
	}
	isSource := func(l fwknopLine) bool { return l.name == "SOURCE" }
	next := func() (name string) {
		for n := 1; ; n++ {
			if name = fmt.Sprint("fwknop", n); free(name) && !strings.Contains(text, "\n["+name+"]\n") {
				return name
			}
		}
	}
	for len(access) > 0 {
		n := slices.IndexFunc(access[1:], isSource) + 1
		if n == 0 {
			n = len(access)
		}
		if isSource(access[0]) {
			door, err := fwknopDoor(next(), access[:n])
			if text += door; err == nil {
				doors++
			}
		} else { // before the first one
			for _, l := range access[:n] {
				text += l.lost()
			}
		}
		access = access[n:]
	}
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
	access, err := fwknopLines(o.from, "access.conf")
	options, optionsErr := fwknopLines(o.from, "fwknopd.conf")
	was, wasErr := os.ReadFile(file)
	for i, err := range []error{err, optionsErr, wasErr} {
		if err != nil && (i == 0 || !errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	text := beforeDoors(string(was), links)
	c, err := parseConfig(file, strings.NewReader(text))
	if err != nil {
		return err
	}
	added, doors := fwknopText(access, options, func(name string) bool { return c.lastDoor(name) == nil })
	text += added
	if c, err = parseConfig(file, strings.NewReader(text)); err != nil {
		return withoutSecrets(err)
	}
	if _, err := writeFile(file, []byte(text), nil, notWritten(file, was)); err != nil {
		return err
	}
	say := func(format string, a ...any) { fmt.Fprintf(e.stderr, format+"\n", a...) }
	say("%s now has %d %s of %s, not in force yet. Lines there that begin with # have what could not be taken over.", file, doors, plural(doors, "door"), o.from)
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	if slices.ContainsFunc(names, func(name string) bool { text, _ := os.ReadFile(name); return string(text) == "fwknopd\n" }) {
		say("fwknopd still runs, and opens its ports, too. Before the last session ends: systemctl disable --now fwknop-server")
	}
	o.tellNext(e, c, say)
	return nil
}
