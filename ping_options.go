package main

import (
	"fmt"
	"strings"
	"time"
)

const (
	defaultPingPort     = 80
	defaultPingInterval = time.Second
	minPingInterval     = 10 * time.Millisecond
	maxPingInterval     = time.Hour
	maxPings            = 1 << 30
)

// pingOptions are knock's as far as they say where to send packets, and others.
type pingOptions struct {
	knockOptions
	count    int // 0: no end
	interval time.Duration
}

func (o *pingOptions) options() []option {
	o.port, o.interval = defaultPingPort, defaultPingInterval
	opts := []option{
		numberOption('c', "count", "N", "end after N packets", "", 1, maxPings, func(n int) { o.count = n }),
		{'i', "interval", "SECONDS", "time between two packets (default 1), or uN for N microseconds", o.setInterval},
		{'p', "port", "PORT", "the port to send them to (default 80)", o.setVerify},
		flagOption('4', "ipv4", "use IPv4 only", &o.ipv4),
		flagOption('6', "ipv6", "use IPv6 only", &o.ipv6),
	}
	for _, f := range flagLetters[:6] {
		opts = append(opts, option{f.letter, f.name, "", "set the TCP flag " + f.name, func(string) error { o.flags |= f.bit; return nil }})
	}
	return append(opts, helpOptions()...)
}

func (o *pingOptions) setInterval(value string) error {
	seconds, micro := strings.CutPrefix(value, "u")
	interval, ok := parseSeconds(seconds)
	if micro {
		interval /= 1000000
	}
	if !ok || interval < minPingInterval || interval > maxPingInterval {
		return fmt.Errorf("an interval is from 0.01 to 3600 seconds, such as 1, 0.5 or u500000, and not %q: at most 100 packets a second are sent", value)
	}
	o.interval = interval
	return nil
}
