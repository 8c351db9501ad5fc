//go:build linux

package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"
)

// initDoor writes a door with a sequence of its own, of which nothing is in force yet. Standard output has one line, for
// the client; words for people are on standard error.
func initDoor(e env, args []string) error {
	var o initOptions
	rest, err := getopt(args, o.options())
	if err != nil {
		return err
	}
	if len(rest) > 1 {
		return usageError(fmt.Sprintf("unexpected argument %q", rest[1]))
	}
	links, err := readLinks(true)
	if err != nil {
		return err
	}
	if o.from != "" {
		return o.takeOver(e, rest, links)
	}
	o.name = strings.Join(append(rest, "ssh")[:1], "")
	there, err := o.hasDoor()
	if err == nil && !there {
		err = o.check()
	}
	if err != nil {
		return err
	}
	o.host = cmp.Or(o.host, ownAddress(links))
	if err := checkHost(o.host); err != nil {
		return usageError("option --host: " + err.Error())
	}
	random, err := os.Open("/dev/urandom") // crypto/rand would make the file 200 KB larger, and reads nothing else
	if err != nil {
		return err
	}
	defer random.Close()
	if o.key != "" {
		if err := o.drawKey(random); err != nil {
			return err
		}
	}
	write := o.writeConfig
	switch uci := o.config == "" && hasUCI(); {
	case there:
		write = o.writeKey
	case uci:
		write = o.writeUCI
	}
	c, err := write(random, links)
	switch {
	case err != nil:
		return err
	case o.key != "":
		return o.tellKey(e, c)
	}
	return o.tell(e, c, links)
}
