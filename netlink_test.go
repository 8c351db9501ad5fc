//go:build linux

package main

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func netlinkMessage(kind, padding int, data string) []byte {
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(data)+padding)
	binary.NativeEndian.PutUint32(b, uint32(len(b)+len(data)))
	binary.NativeEndian.PutUint16(b[4:], uint16(kind))
	return append(append(b, data...), make([]byte, padding)...)
}

// FuzzNetlinkBatch: a batch ends, whatever its lengths say.
func FuzzNetlinkBatch(f *testing.F) {
	for _, b := range [][]byte{
		nil, netlinkMessage(unix.RTM_NEWLINK, 1, "123"), netlinkMessage(unix.NLMSG_DONE, 0, "\x00\x00\x00\x00"),
		netlinkMessage(unix.NLMSG_ERROR, 0, "\xff\xff\xff\xff"), append(netlinkMessage(1, 0, ""), netlinkMessage(unix.RTM_NEWADDR, 0, "12345678")...),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = slices.Clip(b)
		tellsLinks(b)
		new(newsReader).read(b)
		n := 0
		_, _ = takeAnswers(b, unix.RTM_NEWLINK, unix.SizeofIfInfomsg, func(body []byte) {
			n++
			parseLink(body)
		})
		if n > len(b)/unix.SizeofNlMsghdr {
			t.Errorf("%d messages in %d bytes", n, len(b))
		}
	})
}

// TestTakeAnswers has what the kernel may answer to a dump.
func TestTakeAnswers(t *testing.T) {
	link := netlinkMessage(unix.RTM_NEWLINK, 0, strings.Repeat("\x00", unix.SizeofIfInfomsg))
	errno := binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EBUSY-1))
	zero := string(make([]byte, 4))
	for _, test := range []struct {
		name  string
		batch []byte
		taken int
		done  bool
		err   error
	}{
		{"two links", append(slices.Clone(link), link...), 2, false, nil},
		{"a link and the end", append(slices.Clone(link), netlinkMessage(unix.NLMSG_DONE, 0, zero)...), 1, true, nil},
		{"the end with an error", netlinkMessage(unix.NLMSG_DONE, 0, string(errno)), 0, true, unix.EBUSY},
		{"an error", netlinkMessage(unix.NLMSG_ERROR, 0, string(errno)), 0, true, unix.EBUSY},
		{"an error without a number", netlinkMessage(unix.NLMSG_ERROR, 0, ""), 0, true, unix.EBADMSG},
		{"another kind", netlinkMessage(unix.RTM_NEWADDR, 0, zero), 0, false, nil},
		{"too short", netlinkMessage(unix.RTM_NEWLINK, 0, zero), 0, false, unix.EBADMSG},
		{"cut off", link[:len(link)-1], 0, false, unix.EBADMSG},
	} {
		taken := 0
		done, err := takeAnswers(test.batch, unix.RTM_NEWLINK, unix.SizeofIfInfomsg, func([]byte) { taken++ })
		if taken != test.taken || done != test.done || err != test.err {
			t.Errorf("%s: got %d messages, done %v, error %v, want %d, %v, %v", test.name, taken, done, err, test.taken, test.done, test.err)
		}
	}
}
