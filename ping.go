package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// target is the host of the profile of that name, or else the name itself. The packets leave from where the profile's
// knocks do.
func (o *pingOptions) target(name string, warnings io.Writer) (host string, err error) {
	if strings.Contains(name, ":") || strings.Trim(name, "0123456789.") == "" {
		return name, nil // an address
	}
	p, _, _, err := findProfile(name, warnings)
	if p == nil {
		if _, mistakes := errors.AsType[configErrors](err); mistakes && !strings.Contains(name, ".") {
			return "", withoutSecrets(err)
		}
		return name, nil
	}
	o.from = p.from
	if !o.ipv4 && !o.ipv6 {
		o.ipv4, o.ipv6 = p.ipv4, p.ipv6
	}
	return p.host, nil
}

// ping sends TCP packets to a port and shows the answers, in the form of hping. Without the right to do that, it has the
// system connect, and times that.
func ping(e env, args []string) error {
	var o pingOptions
	rest, err := getopt(args, o.options())
	switch {
	case err != nil:
		return err
	case len(rest) != 1:
		return usageError(fmt.Sprintf("one host is needed, not %d", len(rest)))
	case o.ipv4 && o.ipv6:
		return usageError("-4 and -6 exclude each other")
	case o.flags == 0:
		o.flags = flagSYN
	}
	host, err := o.target(strings.Trim(rest[0], "[]"), e.stderr)
	if err != nil {
		return err
	}
	addresses, err := o.resolve(host)
	if err != nil {
		return err
	}
	p := &pinger{env: e, pingOptions: o, to: netip.AddrPortFrom(addresses[0], o.port), heard: make(chan *heard), slots: make([]pingPacket, pingSlots)}
	if err := p.openRaw(); err == errNoRaw && o.flags == flagSYN {
		fmt.Fprintf(e.stderr, "%s ping: raw packets need %s: connections are timed instead\n", e.name, rawNeeds())
		p.sendBy(p.connect)
	} else if err != nil {
		return err
	}
	headers := tcpMinLen + ipv4MinLen
	if p.to.Addr().Is6() {
		headers = tcpMinLen + ipv6Len
	}
	fmt.Fprintf(e.stdout, "PING %s (%v): %s set, %d headers + 0 data bytes\n", host, p.to.Addr(), lettersOf(o.flags), headers)
	p.run()
	fmt.Fprintf(e.stdout, "\n--- %s ping statistic ---\n%d packets transmitted, %d packets received, %d%% packet loss\n",
		host, p.sent, p.received, int64(p.sent-p.received)*100/int64(p.sent))
	fmt.Fprintf(e.stdout, "round-trip min/avg/max = %s/%s/%s ms\n", inMS(p.least), inMS(p.sum/time.Duration(max(p.received, 1))), inMS(p.most))
	if p.received == 0 {
		return toldStatus(1)
	}
	return nil
}
