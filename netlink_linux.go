package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// netlinkBuffer holds every batch of messages that the kernel sends (NLMSG_GOODSIZE in linux/netlink.h, 8 KB at most),
// but for a single message that is longer.
const netlinkBuffer = 1 << 16

// anyMessage reports whether is does for one of a batch of netlink messages (netlink(7)). What cannot be read counts
// as if it did. port is the netlink socket's for which the kernel has sent it: mostly its process has that number.
func anyMessage(b []byte, is func(kind uint16, port uint32, body []byte) bool) bool {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return true
		}
		// struct nlmsghdr of linux/netlink.h, in the machine's byte order: length (32 bits), type (16), flags (16),
		// sequence number (32), port (32).
		length, kind := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint16(b[4:])
		if length < unix.SizeofNlMsghdr || uint64(length) > uint64(len(b)) {
			return true
		}
		if is(kind, binary.NativeEndian.Uint32(b[12:]), b[unix.SizeofNlMsghdr:length]) {
			return true
		}
		// NLMSG_ALIGN; the last one may have no padding.
		b = b[min((uint64(length)+3)&^3, uint64(len(b))):]
	}
	return false
}

// followNetlink has hear get batches of messages, until the socket is closed; nil, where some were lost.
func followNetlink(socket *os.File, hear func(batch []byte)) {
	buf := make([]byte, netlinkBuffer)
	for {
		n, err := socket.Read(buf)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err == nil && n < len(buf):
			hear(buf[:n])
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS): // which tells that messages were lost (netlink(7))
			time.Sleep(time.Second) // none is known; if it stays, this is polling
		}
		hear(nil)
	}
}

// watchNetlink has followNetlink read the socket. stop ends that, and returns when it has ended.
func watchNetlink(socket *os.File, hear func(batch []byte)) (stop func()) {
	ended := make(chan struct{})
	go func() {
		followNetlink(socket, hear)
		close(ended)
	}()
	return func() {
		_ = socket.Close()
		<-ended
	}
}

// signals hears batches, and after one that tells of a change, or that was lost, sends on changed without waiting, and
// takes a pause. changed has room for one, so that a change while the receiver is busy is not lost.
func signals(tells func(batch []byte) bool, changed chan<- struct{}, pause time.Duration) (hear func(batch []byte)) {
	return func(batch []byte) {
		if batch != nil && !tells(batch) {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
		time.Sleep(pause)
	}
}

// eachAttribute gives take the attributes of a message, or those within an attribute (struct rtattr of
// linux/rtnetlink.h). One whose length lies is the end.
func eachAttribute(b []byte, take func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if length < unix.SizeofRtAttr || length > len(b) {
			return
		}
		take(kind&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:length])
		b = b[min((length+3)&^3, len(b)):] // RTA_ALIGN
	}
}

// appendAttribute appends an attribute (struct rtattr of linux/rtnetlink.h) and its padding.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(value)&3)...) // RTA_ALIGN
}

// askNetlink sends the kernel a request. body are a fixed header, the first byte of which is a family (0: all), and
// attributes.
func askNetlink(fd int, kind, flags uint16, body []byte) error {
	// struct nlmsghdr: length, type, flags, sequence and port.
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = append(append(b, make([]byte, 8)...), body...)
	return unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// allFamilies is a request's body: struct rtgenmsg, padded, or struct nfgenmsg.
var allFamilies = make([]byte, 4)

// dump asks rtnetlink(7) for everything of one kind and gives take each answer's body: a fixed header of headerLen
// bytes at least, and attributes. No more than one batch of answers is in memory, where syscall.NetlinkRIB would keep all:
// a table of routes can be long. what is the kind in an error.
func dump(what string, request, answer uint16, headerLen int, take func(body []byte)) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("reading the list of %s: %w", what, err)
		}
	}()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := askNetlink(fd, request, unix.NLM_F_DUMP, allFamilies); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	b := make([]byte, netlinkBuffer)
	for done := false; !done && err == nil; {
		n, failed := unix.Read(fd, b)
		switch failed {
		case nil:
			done, err = takeAnswers(b[:n], answer, headerLen, take)
		case unix.EINTR:
		default:
			err = os.NewSyscallError("read", failed)
		}
	}
	return err
}

// takeAnswers reads one batch of answers to a dump. done is whether it is the last one.
func takeAnswers(b []byte, answer uint16, headerLen int, take func(body []byte)) (done bool, err error) {
	bad := anyMessage(b, func(kind uint16, _ uint32, body []byte) bool {
		switch {
		case kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR:
			done = true
			if len(body) < 4 {
				return true
			}
			if errno := -int32(binary.NativeEndian.Uint32(body)); errno > 0 { // both begin with it, or with 0
				err = unix.Errno(errno)
			}
		case kind == answer && len(body) < headerLen:
			return true
		case kind == answer:
			take(body)
		}
		return false
	})
	if bad && err == nil {
		err = unix.EBADMSG
	}
	return done, err
}
