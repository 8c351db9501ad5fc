package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stdioTarget splits what -W has been given.
func (o *knockOptions) stdioTarget() (host string, port uint16) {
	host, digits, _ := net.SplitHostPort(o.stdio)
	n, _ := strconv.ParseUint(digits, 10, 16)
	return host, uint16(n)
}

// defaultDelay lets knocks arrive in their order where a network would overtake them.
const defaultDelay = 50 * time.Millisecond

// lookupTime bounds the resolving of a name.
const lookupTime = 10 * time.Second

const (
	defaultTimeout = 5 * time.Second
	defaultRetries = 5       // so that the last try comes after defaultSeqTimeout
	maxDelay       = 3600000 // milliseconds
	maxTimeout     = time.Hour
	maxRetries     = 100
)

// knockOptions are the client's options; a profile sets them, too.
type knockOptions struct {
	udp, ipv4, ipv6, verbose, quiet, list, show bool
	delay                                       time.Duration
	port                                        uint16 // that is to open; 0: none
	timeout                                     time.Duration
	retries                                     int
	stdio                                       string // HOST:PORT to join standard input and output to, or ""
	flags                                       uint8  // of TCP knocks that name none
	from                                        route
}

func (o *knockOptions) options() []option {
	o.delay, o.timeout, o.retries, o.flags = defaultDelay, defaultTimeout, defaultRetries, flagSYN
	return append([]option{
		flagOption('u', "udp", "make all knocks UDP", &o.udp),
		numberOption('d', "delay", "MS", "milliseconds between two knocks (default 50)", " of milliseconds", 0, maxDelay, func(n int) {
			o.delay = time.Duration(n) * time.Millisecond
		}),
		flagOption('4', "ipv4", "knock over IPv4 only", &o.ipv4),
		flagOption('6', "ipv6", "knock over IPv6 only", &o.ipv6),
		{'w', "verify", "PORT", "see whether this TCP port opens; if not, knock again", o.setVerify},
		{0, "timeout", "SECONDS", "how long the port may take to open after each knock (default 5)", o.setTimeout},
		numberOption(0, "retries", "N", "how often to knock again if it does not (default 5)", "", 0, maxRetries, func(n int) { o.retries = n }),
		{'W', "stdio", "HOST:PORT", "connect there, and join standard input and output to it", o.setStdio},
		{0, "flags", "FLAGS", "TCP flags of the knocks, such as fin,urg, or none: needs root", o.setFlags},
		{0, "source", "ADDRESS", "the address of this host to knock from", o.setSource},
		{0, "interface", "NAME", "the interface to knock through", o.setInterface},
		numberOption(0, "ttl", "N", "how many routers a knock may pass, from 1 to 255", "", 1, 255, func(n int) { o.from.ttl = n }),
		flagOption('q', "quiet", "print errors only", &o.quiet),
		flagOption('v', "verbose", "print each knock", &o.verbose),
		flagOption(0, "list", "list the profiles", &o.list),
		flagOption(0, "show", "print the ports of a profile with totp as they are now, and do not knock", &o.show),
	}, helpOptions()...)
}

func (o *knockOptions) setVerify(value string) error {
	if strings.Contains(value, ",") {
		return fmt.Errorf("it takes one port, not %q", value)
	}
	port, err := strconv.ParseUint(withoutService(value), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("a port is a number from 1 to 65535, or the name of a service, not %q", value)
	}
	o.port = uint16(port)
	return nil
}

func (o *knockOptions) setTimeout(value string) error {
	timeout, ok := parseSeconds(value)
	if !ok || timeout <= 0 || timeout > maxTimeout {
		return fmt.Errorf("a timeout is seconds, a number above 0 and up to 3600, such as 5 or 0.5, not %q", value)
	}
	o.timeout = timeout
	return nil
}

// parseSeconds reads 5 or 0.5, to the millisecond.
func parseSeconds(value string) (d time.Duration, ok bool) {
	d, err := time.ParseDuration(value + "s")
	return d.Truncate(time.Millisecond), err == nil && strings.Trim(value, "0123456789.") == ""
}

func (o *knockOptions) setStdio(value string) error {
	host, port, err := net.SplitHostPort(value)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || portErr != nil || n == 0 {
		return fmt.Errorf("HOST:PORT is needed, such as 192.0.2.1:22 or [2001:db8::1]:22, not %q", value)
	}
	o.stdio = value
	return nil
}

func (o *knockOptions) setFlags(value string) (err error) {
	o.flags, err = parseFlags(value)
	return err
}

// parseFlags reads the flags of a packet with commas or + between them; "none" is a packet without any. Those with a ! before
// them are not set, as TCPFlags of a door has it.
func parseFlags(value string) (flags uint8, err error) {
	if strings.EqualFold(value, "none") {
		return 0, nil
	}
	for _, item := range strings.Split(strings.ReplaceAll(value, "+", ","), ",") {
		name, not := strings.CutPrefix(strings.TrimSpace(item), "!")
		bit, known := flagBits[strings.ToLower(name)]
		if !known {
			return 0, fmt.Errorf("flags are fin, syn, rst, psh, ack and urg with commas between them, or none, not %q", value)
		}
		if !not {
			flags |= bit
		}
	}
	return flags, nil
}

func (o *knockOptions) setSource(value string) error {
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return fmt.Errorf("an address is needed, such as 192.0.2.7 or 2001:db8::7, not %q", value)
	}
	o.from.source = addr.Unmap()
	return nil
}

func (o *knockOptions) setInterface(value string) error {
	if value == "" || len(value) > maxLinkName {
		return fmt.Errorf("the name of an interface is needed, such as eth0, not %q", value)
	}
	o.from.link = value
	return nil
}

// splitCommand takes what stands behind "--" for a command, if there is a host before it: else "--" only ends the
// options, as in getopt_long(3).
func splitCommand(args []string) (before, command []string, err error) {
	i := slices.Index(args, "--")
	if i < 0 {
		return args, nil, nil
	}
	rest, err := getopt(args[:i], new(knockOptions).options())
	switch {
	case err != nil:
		return nil, nil, err
	case len(rest) == 0: // and the one after it may be before a command
		if j := slices.Index(args[i+1:], "--"); j > 0 {
			return args[:i+1+j], args[i+j+2:], nil
		}
		return args, nil, nil
	case i+1 == len(args):
		return nil, nil, usageError("a command is needed after --: -- ssh HOST")
	}
	return args[:i], args[i+1:], nil
}

// contradictions are options that cannot be had together.
func (o *knockOptions) contradictions(host string, sequence []sentKnock, command []string) error {
	port := o.port
	if o.stdio != "" {
		var to string
		if to, port = o.stdioTarget(); to != host {
			port = 0
		}
	}
	switch source := o.from.source; {
	case o.ipv4 && o.ipv6:
		return errors.New("-4 and -6 exclude each other: give neither to knock over both")
	case source.IsValid() && (o.ipv4 && !source.Is4() || o.ipv6 && source.Is4()):
		return fmt.Errorf("%v is an address of the other family than -4 or -6 asks for", source)
	case o.udp && o.flags != flagSYN:
		return errors.New("-u and --flags exclude each other: a UDP knock has no flags")
	case o.quiet && o.verbose:
		return errors.New("-q and -v exclude each other")
	case o.stdio != "" && command != nil:
		return errors.New("-W and a command exclude each other: both want standard input and output")
	case port != 0 && slices.ContainsFunc(sequence, func(k sentKnock) bool { return k == sentKnock{Knock: Knock{port, tcp}, Flags: flagSYN} }):
		return errors.New("the port that is to open is one of the knocks: to connect to it, and see whether it opens, would be a knock too")
	}
	return nil
}

// over has the options of the command line, which opts set in o, win over those of the profile.
func (o *knockOptions) over(profile knockOptions, opts []option, args []string, command bool) error {
	given := *o
	*o = profile
	_, err := getopt(args, opts)
	// Of what excludes each other, the command line has no way to take back what the profile has.
	if given.ipv4 || given.ipv6 {
		o.ipv4, o.ipv6 = given.ipv4, given.ipv6
	}
	if given.quiet || given.verbose {
		o.quiet, o.verbose = given.quiet, given.verbose
	}
	if given.port != 0 || command {
		o.stdio = given.stdio
	}
	switch {
	case given.udp:
		o.flags = given.flags
	case given.flags != flagSYN:
		o.udp = given.udp
	}
	return err
}

// parseArguments reads HOST and the knocks, also with commas between them.
func (o *knockOptions) parseArguments(args []string) (host string, sequence []sentKnock, err error) {
	if len(args) == 0 {
		return "", nil, errors.New("a host and its ports are needed: HOST 7000 8000:udp 9000")
	}
	if host = strings.TrimSuffix(strings.TrimPrefix(args[0], "["), "]"); host == "" {
		return "", nil, errors.New("the host is empty")
	}
	first, _, _ := strings.Cut(host, ",")
	if _, err := parseKnock(first); err == nil {
		return "", nil, fmt.Errorf("%s is a port and no host: write the host before the ports: HOST %s", host, strings.Join(args, " "))
	}
	sequence, item, err := o.parseSequence(strings.Join(args[1:], ","))
	if err != nil {
		return "", nil, fmt.Errorf("%w, not %q", err, item)
	}
	if len(sequence) == 0 {
		return "", nil, fmt.Errorf("the ports to knock on are needed: %s 7000 8000:udp 9000", host)
	}
	if slices.ContainsFunc(sequence, sentKnock.half) {
		return "", nil, errors.New("totp is for profiles, which have its secret: totp = SECRET")
	}
	return host, sequence, nil
}

// parseSequence reads knocks with commas between them. With an error it returns the item that is wrong.
func (o *knockOptions) parseSequence(text string) (sequence []sentKnock, wrong string, err error) {
	for _, item := range strings.Split(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue // "15000, 16000" is two arguments, the first with a comma
		}
		k, err := o.parseSentKnock(item)
		if err != nil {
			return nil, item, err
		}
		if sequence = append(sequence, k); k.half() {
			sequence = append(sequence, k)
		}
	}
	return sequence, "", nil
}

// sent is a knock as it is sent where it names no flags of its own.
func (o *knockOptions) sent(k Knock) sentKnock {
	if o.udp {
		k.Proto = udp
	}
	if k.Proto == udp {
		return sentKnock{Knock: k}
	}
	return sentKnock{Knock: k, Flags: o.flags}
}

// parseSentKnock reads PORT, PORT:PROTOCOL or PORT:tcp/FLAGS, with + between the flags; the name of a service stands for
// its port. The error tells what is allowed, and not what was given.
func (o *knockOptions) parseSentKnock(item string) (k sentKnock, err error) {
	port, flags, own := strings.Cut(item, "/")
	if strings.EqualFold(flags, "udp") || strings.EqualFold(flags, "tcp") {
		port, own = item, false // it is not written so, as parseKnock says
	}
	knock, err := parseItem(withoutService(port))
	if err != nil {
		return k, err
	}
	k = o.sent(knock)
	switch {
	case !own:
	case k.Proto == udp:
		return k, errors.New("a UDP knock has no flags")
	default:
		if k.Flags, err = parseFlags(flags); err != nil {
			return k, errors.New("a knock with flags is PORT:tcp/FLAGS, such as 7000:tcp/fin+urg")
		}
	}
	return k, nil
}

// withoutService has the number of a port in the place of the service's name that it begins with, if that is one
// (services(5)).
func withoutService(item string) string {
	name, _, _ := strings.Cut(item, ":")
	if strings.Trim(name, "+-0123456789") == "" { // what LookupPort takes for a number
		return item
	}
	for _, network := range []string{"tcp", "udp"} {
		if port, err := net.LookupPort(network, name); err == nil {
			return strconv.Itoa(port) + item[len(name):]
		}
	}
	return item
}

// resolve looks the name up once: an address, or the first one of each family asked for.
func (o *knockOptions) resolve(host string) (addresses []netip.Addr, err error) {
	// LookupNetIP would lose the zone of fe80::1%eth0.
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		if isLocal := addr.Is6() && addr.IsLinkLocalUnicast() && addr.Zone() == ""; isLocal && o.from.link != "" {
			addr = addr.WithZone(o.from.link)
		} else if isLocal {
			return nil, fmt.Errorf("%s is an address of one link only: say which, as in %s%%eth0", host, host)
		}
		if o.ipv4 && !addr.Is4() || o.ipv6 && addr.Is4() {
			return nil, fmt.Errorf("%s is an address of the other family than -4 or -6 asks for", host)
		}
		if source := o.from.source; source.IsValid() && source.Is4() != addr.Is4() {
			return nil, fmt.Errorf("%s and the source %v are addresses of different families", host, source)
		}
		return []netip.Addr{addr}, nil
	}
	network := "ip"
	switch source := o.from.source; {
	case o.ipv4 || source.Is4():
		network = "ip4"
	case o.ipv6 || source.Is6():
		network = "ip6"
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	all, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, fmt.Errorf("looking up the host: %w", err)
	}
	for _, want4 := range []bool{true, false} {
		for _, addr := range all {
			if addr = addr.Unmap(); addr.Is4() == want4 {
				addresses = append(addresses, addr)
				break
			}
		}
	}
	if addresses == nil {
		return nil, fmt.Errorf("looking up the host: %s has no such address", host)
	}
	return addresses, nil
}
