package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	// lastPatience is how long answers are waited for behind the last packet, and an answer to a timed connection: after
	// it the system would send its packet again (RFC 6298, section 2).
	lastPatience = time.Second
	// pingSlots is how many packets an answer can still be for. Each has a source port of its own.
	pingSlots = 4096

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

// inMS are milliseconds as in 0.3.
func inMS(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()*1000) }

// pinger is one call of ping.
type pinger struct {
	env
	pingOptions
	to    netip.AddrPort
	send  func(slot int) error // sends a packet, or begins a connection
	heard chan *heard          // what came of them; nobody waits for it after the end
	slots []pingPacket         // used in turn

	sent, received   int
	least, most, sum time.Duration
}

// pingPacket is a packet that was sent.
type pingPacket struct {
	seq      int
	at       time.Duration // 0: none was sent
	received bool
	told     bool // of a second answer, or of an error
}

// heard is what came of the packet in a slot.
type heard struct {
	slot   int
	at     time.Duration
	failed string // an error in words, or "": it is an answer
	answer
}

func (p *pinger) sendBy(send func(slot int) error) { p.send = send }

// run sends and shows, until all have answered, or the time is up, or somebody ends it.
func (p *pinger) run() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, os.Interrupt, syscall.SIGTERM)
	for p.count == 0 || p.sent < p.count {
		p.transmit()
		wait := p.interval
		if p.sent == p.count {
			wait = lastPatience
		}
		for next := time.After(wait); next != nil && (p.count == 0 || p.received < p.count); {
			select {
			case <-next:
				next = nil
			case h := <-p.heard:
				p.show(h)
			case <-ends:
				return
			}
		}
	}
}

func (p *pinger) transmit() {
	slot := p.sent % pingSlots
	p.slots[slot] = pingPacket{seq: p.sent, at: p.now()}
	p.sent++
	if err := p.send(slot); err != nil {
		p.show(&heard{slot: slot, failed: err.Error()})
	}
}

// show prints what came of a packet. Of each packet it shows two lines at most, so that nobody can flood the screen.
func (p *pinger) show(h *heard) {
	s := &p.slots[h.slot]
	rtt, duplicate := h.at-s.at, ""
	switch {
	case s.at == 0:
		return
	case h.failed != "" || s.received:
		if s.told {
			return
		}
		s.told = true
		if h.failed != "" {
			fmt.Fprintf(p.stdout, "seq=%d %s\n", s.seq, h.failed)
			return
		}
		duplicate = "DUP! "
	default:
		s.received = true
		if p.received == 0 || rtt < p.least {
			p.least = rtt
		}
		p.most = max(p.most, rtt)
		p.sum += rtt
		p.received++
	}
	fmt.Fprintf(p.stdout, "%s%s seq=%d %srtt=%s ms\n", duplicate, h.text, s.seq, h.window, inMS(rtt))
}

// connect begins a connection in place of a packet.
func (p *pinger) connect(slot int) error {
	go func() {
		conn, came := connect(context.Background(), p.to, p.from, lastPatience)
		h := &heard{slot: slot, at: p.now()}
		flags := "SA"
		switch came {
		case reached:
			_ = conn.Close()
		case refused, refusedWords():
			flags = "RA"
		case filtered:
			return
		default:
			h.failed = came
		}
		h.text = fmt.Sprintf("ip=%v sport=%d flags=%s", p.to.Addr(), p.to.Port(), flags)
		p.heard <- h
	}()
	return nil
}
