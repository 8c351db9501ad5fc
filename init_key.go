//go:build linux

package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// file is the configuration's, and read what is in it: on OpenWrt, what the init script made of it.
func (o *initOptions) file() (name, read string) {
	switch {
	case o.config != "":
		return o.config, o.config
	case hasUCI():
		return uciFile, uciRendered
	}
	return defaultConfigFile, defaultConfigFile
}

// hasDoor reports whether the key is for a door that is there.
func (o *initOptions) hasDoor() (bool, error) {
	if o.key == "" {
		return false, nil
	}
	if !isPlain(o.key) {
		return false, usageError(fmt.Sprintf("a key's name is made of letters, digits, - and _, and %q is not", o.key))
	}
	name, read := o.file()
	text, err := os.ReadFile(read)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c, err := parseConfig(name, strings.NewReader(string(text)+"\n[options]\n")) // which may be all
	if err != nil {
		return false, err
	}
	d := c.lastDoor(o.name)
	switch {
	case d == nil:
		return false, nil
	case slices.ContainsFunc(d.Keys, func(k Key) bool { return k.Name == o.key }):
		return true, fmt.Errorf("%s:%d: door %q has a key of %s already: delete that line, or take another name", name, d.line("Key"), o.name, o.key)
	case o.ports+o.to != "":
		return true, usageError(fmt.Sprintf("there is a door %q already, and --key adds a key to it: leave out --port and --to", o.name))
	}
	return true, nil
}

func (c *Config) lastDoor(name string) (found *Door) {
	for _, d := range c.Doors {
		if d.Name == name {
			found = d
		}
	}
	return found
}

// drawKey makes the keys.
func (o *initOptions) drawKey(random io.Reader) error {
	var both [32 + 64]byte
	if _, err := io.ReadFull(random, both[:]); err != nil {
		return fmt.Errorf("drawing keys: %w", err)
	}
	b64 := base64.StdEncoding.EncodeToString
	o.keyLine = o.key + " " + b64(both[:32]) + " " + b64(both[32:])
	return nil
}

// writeKey adds the key to its door: below the others, or below the section's name.
func (o *initOptions) writeKey(io.Reader, map[int]*Link) (*Config, error) {
	name, read := o.file()
	was, err := os.ReadFile(read)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(name, strings.NewReader(string(was)))
	if err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(was), "\n")
	at := c.lastDoor(o.name).line("Key")
	if !strings.HasSuffix(lines[at-1], "\n") {
		lines[at-1] += "\n"
	}
	text := strings.Join(slices.Insert(lines, at, "\tKey         = "+o.keyLine+"\n"), "")
	if c, err = parseConfig(name, strings.NewReader(text)); err != nil {
		return nil, withoutSecrets(err)
	}
	if name != uciFile {
		_, err = writeFile(name, []byte(text), nil, notWritten(name, was))
		return c, err
	}
	if err = uciCommitted(); err == nil {
		_, err = uci("add_list sesame."+o.name+".key='"+o.keyLine+"'\ncommit sesame\n", "batch")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", uciFile, err)
	}
	return c, os.Chmod(uciFile, 0o600)
}

// tellKey prints what a person is to do, fwknop's lines for the client, and then our own.
func (o *initOptions) tellKey(e env, c *Config) error {
	door := c.lastDoor(o.name)
	say := func(format string, a ...any) { fmt.Fprintf(e.stderr, format+"\n", a...) }
	say("%s now has a key of %s to door %q, which is not in force yet:\n\tKey = %s", c.File, o.key, o.name, o.keyLine)
	say("It opens %s for %.0f seconds by one packet to UDP port %d. If your provider has a firewall, let these ports in there, too.",
		strings.Join(door.opens(), ", "), door.CmdTimeout.Seconds(), c.KeyPort)
	if a, err := netip.ParseAddr(o.host); err == nil && a.IsPrivate() {
		say("%v is a private address: for clients elsewhere, name the public one by --host.", a)
	}
	o.tellNext(e, c, say)
	ports := slices.Clone(door.OpenPorts)
	for _, b := range door.Behind {
		ports = append(ports, b.Knock)
	}
	keys := strings.Fields(o.keyLine)[1:]
	link := clientLine{name: o.name, host: o.host, key: strings.Join(keys, " "), open: plainKnocks(ports)}
	access, port := []string{}, ""
	for _, k := range ports {
		access = append(access, fmt.Sprintf("%v/%d", k.Proto, k.Port))
		if k.Proto == tcp && link.verify == 0 {
			link.verify = k.Port
		}
	}
	if c.KeyPort != defaultKeyPort {
		link.keyPort, port = c.KeyPort, fmt.Sprintf("SPA_SERVER_PORT %d\n", c.KeyPort)
	}
	say("For fwknop's client, these lines go into ~/.fwknoprc, for fwknop -n %s:\n\n[%[1]s]\nSPA_SERVER      %s\n%sACCESS          %s\n"+
		"ALLOW_IP        source\nUSE_HMAC        Y\nKEY_BASE64      %s\nHMAC_KEY_BASE64 %s\n", o.name, o.host, port, strings.Join(access, ","), keys[0], keys[1])
	say("Or, on the client, run sesame add, and give it this line, which is secret, as are those above:")
	_, err := fmt.Fprintln(e.stdout, link)
	return err
}
