package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	minRing     = 16 // pages
	maxCaptures = 32

	// A slot holds one packet: the kernel's headers, which for SOCK_DGRAM take 80 bytes (tpacket_rcv in
	// net/packet/af_packet.c), and what each knock without extension headers fits into. The whole ring counts as memory that
	// is used, so slots are small. Of a longer packet that is let through, a copy of the whole waits in the socket's queue.
	slotSize = 80 + snapShort
	// Where there are keys, a slot holds a packet of the usual lengths, up to 247 bytes.
	keySlotSize = 80 + 288
)

// Offsets in a slot, of struct tpacket2_hdr and of struct sockaddr_ll behind it (linux/if_packet.h;
// Documentation/networking/packet_mmap.rst).
const (
	slotOffStatus  = 0
	slotOffLen     = 4
	slotOffSnapLen = 8
	slotOffNet     = 14 // uint16: where the IP header begins
	slotOffSec     = 16
	slotOffNsec    = 20
	slotOffVLAN    = 24 // uint16: tp_vlan_tci
	slotOffLink    = unix.SizeofTpacket2Hdr

	linkOffProtocol = 2 // in network byte order (packet(7))
	linkOffIndex    = 4
	linkOffType     = 10
)

// Capture is an AF_PACKET socket with a ring of the packets that its filter let through.
type Capture struct {
	fd    int
	ring  []byte
	size  int // of a slot, in bytes
	slots int
	slot  int           // the next one to come
	long  [snapKey]byte // what read gives of a packet that is longer than a slot
	frame Frame         // the one that read gives
}

// openCapture listens on the interface with that index, or on all of them for 0. No packet is queued before the filter
// is in place: the socket's protocol is 0 until it is bound.
func openCapture(index int, spec FilterSpec, ring int) (_ *Capture, err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, noSocket(err)
	}
	c := &Capture{fd: fd, size: slotSize}
	if spec.KeyPort != 0 {
		c.size = keySlotSize
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.attach(spec); err != nil {
		return nil, err
	}
	// Version 2 wakes the reader for each packet at once. Version 3 does so by a timer, which also ticks while nothing comes.
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return nil, fmt.Errorf("asking for a TPACKET_V2 ring: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_COPY_THRESH, 1); err != nil {
		return nil, fmt.Errorf("asking for copies of long packets: %w", err)
	}
	page := os.Getpagesize() // the kernel demands blocks of whole pages
	pages := max(ring/page, minRing)
	ring, c.slots = pages*page, pages*(page/c.size)
	req := unix.TpacketReq{Block_size: uint32(page), Block_nr: uint32(pages), Frame_size: uint32(c.size), Frame_nr: uint32(c.slots)}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return nil, fmt.Errorf("making a ring of %d bytes: %w", ring, err)
	}
	if c.ring, err = unix.Mmap(fd, 0, ring, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("mapping the ring: %w", err)
	}
	// Linux 4.20. Before that, sent packets are told by their type.
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: index}); err != nil {
		return nil, fmt.Errorf("binding the packet socket: %w", err)
	}
	return c, nil
}

// noSocket says what it takes to have a packet socket.
func noSocket(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("opening a packet socket: %w: it needs CAP_NET_RAW: run it as root", err)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("opening a packet socket: %w: the kernel needs CONFIG_PACKET, and a service manager must allow AF_PACKET", err)
	}
	return fmt.Errorf("opening a packet socket: %w", err)
}

// networkOrder puts a 16-bit number in network byte order, on machines of either order.
func networkOrder(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

// attach puts a filter in place, also instead of one that is there: the kernel swaps them, and no packet passes
// unfiltered. Where it has no room for the exact program (net.core.optmem_max), it gets a coarser one.
func (c *Capture) attach(spec FilterSpec) error {
	// A key packet may be longer than a slot: in a flood, as many wait as there are in a pause of the reader's.
	if spec.KeyPort != 0 && unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ringSize) != nil {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, ringSize)
	}
	for limit := maxFilterLen; ; limit /= 2 {
		limit = max(limit, minFilterLen)
		prog, err := buildFilter(spec, limit)
		if err != nil {
			return err
		}
		raw, err := bpf.Assemble(prog)
		if err != nil {
			return fmt.Errorf("assembling the filter: %w", err)
		}
		err = attachFilter(c.fd, raw)
		if err == nil {
			return nil
		}
		if limit == minFilterLen || !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("attaching a filter of %d instructions: %w", len(raw), err)
		}
	}
}

// attachFilter gives a socket a filter, in the place of the one that it has (socket(7), SO_ATTACH_FILTER).
func attachFilter(fd int, program []bpf.RawInstruction) error {
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog)
}

// read gives each packet that is in the ring to take, in their order, and returns how many they were: at most a ring full.
func (c *Capture) read(take func(*Frame)) (n int) {
	f, page := &c.frame, os.Getpagesize()
	for ; n < c.slots; n++ {
		inPage := page / c.size
		slot := c.ring[c.slot/inPage*page+c.slot%inPage*c.size:][:c.size]
		status := (*uint32)(unsafe.Pointer(&slot[slotOffStatus]))
		have := atomic.LoadUint32(status)
		if have&unix.TP_STATUS_USER == 0 {
			break
		}
		f.Bytes = slot[binary.NativeEndian.Uint16(slot[slotOffNet:]):][:binary.NativeEndian.Uint32(slot[slotOffSnapLen:])]
		if have&unix.TP_STATUS_COPY != 0 {
			// The queue has one for each such slot, in the order of the slots. An error, such as ENETDOWN, is told before it.
			for range 2 {
				if size, err := unix.Read(c.fd, c.long[:]); err == nil {
					f.Bytes = c.long[:size]
					break
				}
			}
		}
		f.Len = int(binary.NativeEndian.Uint32(slot[slotOffLen:]))
		f.Stamp = time.Duration(binary.NativeEndian.Uint32(slot[slotOffSec:]))*time.Second +
			time.Duration(binary.NativeEndian.Uint32(slot[slotOffNsec:]))
		f.Protocol = binary.BigEndian.Uint16(slot[slotOffLink+linkOffProtocol:])
		f.Link = int(binary.NativeEndian.Uint32(slot[slotOffLink+linkOffIndex:]))
		f.Outgoing = slot[slotOffLink+linkOffType] == unix.PACKET_OUTGOING
		f.Foreign = slot[slotOffLink+linkOffType] == unix.PACKET_OTHERHOST
		f.Tagged = have&unix.TP_STATUS_VLAN_VALID != 0 && binary.NativeEndian.Uint16(slot[slotOffVLAN:])&0xfff != 0
		take(f)
		atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
		c.slot = (c.slot + 1) % c.slots
	}
	return n
}

// drops is how many packets the ring had no room for since the last call (packet(7), PACKET_STATISTICS).
func (c *Capture) drops() uint64 {
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return uint64(stats.Drops)
}

// hears reports whether the capture is still bound to the link of that index. It is not after that has vanished, also if
// there is another one of the same index (packet_notifier in net/packet/af_packet.c).
func (c *Capture) hears(index int) bool {
	bound, err := syscall.Getsockname(c.fd)
	if err != nil {
		return false
	}
	at, ok := bound.(*syscall.SockaddrLinklayer)
	return ok && at.Ifindex == index
}

// clearError asks for an error such as ENETDOWN, which poll reports until somebody does. The kernel binds the socket
// again when the link is up again (packet_notifier in net/packet/af_packet.c).
func (c *Capture) clearError() { _, _ = unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR) }

func (c *Capture) close() {
	if c.ring != nil {
		_ = unix.Munmap(c.ring)
		c.ring = nil
	}
	_ = unix.Close(c.fd)
}

// wait blocks until a capture or the wake-up descriptor has something, or timeout has passed (negative: for ever). It
// reports whether the wake-up came.
func wait(captures []*Capture, wake int, timeout time.Duration, fds []unix.PollFd) (woken bool, err error) {
	fds = append(fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	for _, c := range captures {
		fds = append(fds, unix.PollFd{Fd: int32(c.fd), Events: unix.POLLIN})
	}
	var until *unix.Timespec
	if timeout >= 0 {
		left := unix.NsecToTimespec(int64(timeout))
		until = &left
	}
	if _, err := unix.Ppoll(fds, until, nil); err != nil && err != unix.EINTR {
		return false, os.NewSyscallError("ppoll", err)
	}
	for i, c := range captures {
		if fds[i+1].Revents&unix.POLLERR != 0 {
			c.clearError()
		}
	}
	return fds[0].Revents&unix.POLLIN != 0, nil
}
