package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// translatedEvery is how often the kernel is asked about a port at most. maxTranslated is about how many ports in that
	// time, and of how many in all it is believed: a host that forwards every port is to keep decoys.
	translatedEvery = time.Second
	maxTranslated   = 64
	// trackingTime is more than the kernel takes from when a capture sees a packet to when its connection is known: of 1,500
	// it was 3 times late, by less than 50 µs.
	trackingTime = time.Millisecond
)

// trackedFile has how many connections the kernel tracks. It is missing where conntrack is.
const trackedFile = "/proc/sys/net/netfilter/nf_conntrack_count"

// What x/sys has not of linux/netfilter/nfnetlink_conntrack.h, and IPS_DST_NAT of nf_conntrack_common.h.
const (
	connectionAnswer = unix.NFNL_SUBSYS_CTNETLINK << 8 // IPCTNL_MSG_CT_NEW
	connectionAsked  = connectionAnswer | 1            // IPCTNL_MSG_CT_GET

	ctTupleOrig, ctStatus                   = 1, 3
	ctTupleIP, ctTupleProto                 = 1, 2
	ctIPv4From, ctIPv6From                  = 1, 3 // and one more is where to
	ctProtoNum, ctPortFrom, ctPortTo        = 1, 2, 3
	connectionIsTranslated           uint32 = 1 << 5
)

// Translations asks conntrack which ports nat rules translate (docker -p, a router's redirect): clients use them who
// have never knocked. No rule is read, as the connection of a packet tells.
type Translations struct {
	fd     int // ctnetlink; -1: not yet open
	off    bool
	until  time.Duration  // for which asked is good
	asked  map[Knock]bool // not to be asked about
	known  []Knock        // that are translated
	answer [4096]byte     // one connection
}

func newTranslations() *Translations { return &Translations{fd: -1} }

// forget has the kernel asked anew about all ports.
func (t *Translations) forget() {
	if t != nil {
		t.off, t.until, t.known = false, 0, nil
	}
}

// found are the ports that nat rules are known to translate.
func (t *Translations) found() []Knock {
	if t == nil {
		return nil
	}
	return t.known
}

// finds reports whether nat rules are seen to translate the port of a packet that has just come in.
func (t *Translations) finds(now time.Duration, hit *Hit) bool {
	if t == nil || t.off || len(t.known) == maxTranslated {
		return false
	}
	if now >= t.until {
		t.until, t.asked = now+translatedEvery, nil
		// To ask where nobody tracks connections could load the kernel's module for that.
		if n, err := os.ReadFile(trackedFile); err == nil && string(n) != "0\n" {
			t.asked = map[Knock]bool{}
		}
	}
	if t.asked == nil || t.asked[hit.Knock] || len(t.asked) == maxTranslated {
		return false
	}
	t.asked[hit.Knock] = true
	translated, err := t.ask(hit)
	if err == unix.ENOENT {
		time.Sleep(hit.When + trackingTime - now)
		translated, err = t.ask(hit)
	}
	if t.off = err != nil && err != unix.ENOENT; translated {
		t.known = append(t.known, hit.Knock)
	}
	return translated
}

// ask asks for the connection that a packet has begun, or belongs to. A packet in answer to one of this host's belongs to
// one that began the other way.
func (t *Translations) ask(hit *Hit) (translated bool, err error) {
	if t.fd < 0 {
		// As with Sources, the kernel answers before sendto returns.
		if t.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER); err != nil {
			return false, err
		}
	}
	family, first, begin := byte(unix.AF_INET6), uint16(ctIPv6From), 0
	if hit.source().Is4() {
		family, first, begin = unix.AF_INET, ctIPv4From, 12
	}
	addresses := appendAttribute(nil, first, hit.From[begin:])
	addresses = appendAttribute(addresses, first+1, hit.To[begin:])
	ports := appendAttribute(nil, ctProtoNum, []byte{byte(hit.Knock.Proto)})
	ports = appendAttribute(ports, ctPortFrom, binary.BigEndian.AppendUint16(nil, hit.FromPort))
	ports = appendAttribute(ports, ctPortTo, binary.BigEndian.AppendUint16(nil, hit.Knock.Port))
	tuple := appendAttribute(nil, ctTupleIP|unix.NLA_F_NESTED, addresses)
	tuple = appendAttribute(tuple, ctTupleProto|unix.NLA_F_NESTED, ports)
	// struct nfgenmsg: family, version and resource.
	if err := askNetlink(t.fd, connectionAsked, 0, appendAttribute([]byte{family, 0, 0, 0}, ctTupleOrig|unix.NLA_F_NESTED, tuple)); err != nil {
		return false, err
	}
	n, err := unix.Read(t.fd, t.answer[:])
	if err != nil {
		return false, err
	}
	const nfgenmsgLen = 4
	_, err = takeAnswers(t.answer[:n], connectionAnswer, nfgenmsgLen, func(body []byte) {
		same := false
		eachAttribute(body[nfgenmsgLen:], func(kind uint16, value []byte) {
			switch kind {
			case ctTupleOrig:
				same = bytes.Equal(value, tuple)
			case ctStatus:
				translated = same && len(value) == 4 && binary.BigEndian.Uint32(value)&connectionIsTranslated != 0
			}
		})
	})
	return translated, err
}

func (t *Translations) close() {
	if t != nil && t.fd >= 0 {
		_ = unix.Close(t.fd)
	}
}
