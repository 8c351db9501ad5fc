package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// blockTimeout is how long the kernel keeps packets in a block before it hands the block over, in milliseconds.
	// It is the price of the ring in latency; a reader that is woken for each packet pays in CPU instead.
	blockTimeout = 4
	minRing      = 16 // blocks
	maxCaptures  = 32
	frameSize    = 2048 // tells the kernel how many frames a block is to hold at least; they are packed
)

// blockSize is small, as a packet that comes alone takes a block: the ring lasts for 64 times blockTimeout at least while
// the reader has no processor. Larger ones wake the reader less often in a flood. The kernel demands whole pages
// (packet_set_ring in net/packet/af_packet.c), which have 64 KB on some machines.
var blockSize = max(ringSize/64, os.Getpagesize())

// Offsets in the ring of linux/if_packet.h. A block begins with struct tpacket_block_desc: version, offset of private
// data, then struct tpacket_hdr_v1: status, number of packets, offset of the first one. A packet begins with struct
// tpacket3_hdr, and struct sockaddr_ll stands behind that (Documentation/networking/packet_mmap.rst).
const (
	blockOffStatus = 8
	blockOffCount  = 12
	blockOffFirst  = 16

	frameOffNext    = 0
	frameOffSnapLen = 12
	frameOffLen     = 16
	frameOffStatus  = 20
	frameOffNet     = 26 // uint16: where the IP header begins
	frameOffVLAN    = 32 // tp_vlan_tci
	frameOffLink    = unix.SizeofTpacket3Hdr

	linkOffProtocol = 2 // in network byte order (packet(7))
	linkOffIndex    = 4
	linkOffType     = 10
)

// Capture is an AF_PACKET socket with a ring of the packets that its filter let through.
type Capture struct {
	fd    int
	ring  []byte
	block int   // the next one to come
	frame Frame // the one that read gives
}

// openCapture listens on the interface with that index, or on all of them for 0. No packet is queued before the filter
// is in place: the socket's protocol is 0 until it is bound.
func openCapture(index int, spec FilterSpec, ring int) (_ *Capture, err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, noSocket(err)
	}
	c := &Capture{fd: fd}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.attach(spec); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return nil, fmt.Errorf("asking for a TPACKET_V3 ring: %w: it needs Linux 3.2", err)
	}
	ring = max(ring/blockSize, minRing) * blockSize
	req := unix.TpacketReq3{
		Block_size: uint32(blockSize), Block_nr: uint32(ring / blockSize),
		Frame_size: frameSize, Frame_nr: uint32(ring / frameSize),
		Retire_blk_tov: blockTimeout,
	}
	if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
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

// read gives each packet in the blocks that the kernel has handed over to take, in their order.
func (c *Capture) read(take func(*Frame)) {
	f := &c.frame
	for range len(c.ring) / blockSize {
		block := c.ring[c.block*blockSize:][:blockSize]
		status := (*uint32)(unsafe.Pointer(&block[blockOffStatus]))
		if atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0 {
			return
		}
		count := binary.NativeEndian.Uint32(block[blockOffCount:])
		at := binary.NativeEndian.Uint32(block[blockOffFirst:])
		for range count {
			frame := block[at:]
			net := binary.NativeEndian.Uint16(frame[frameOffNet:])
			f.Bytes = frame[net:][:binary.NativeEndian.Uint32(frame[frameOffSnapLen:])]
			f.Len = int(binary.NativeEndian.Uint32(frame[frameOffLen:]))
			f.Protocol = binary.BigEndian.Uint16(frame[frameOffLink+linkOffProtocol:])
			f.Link = int(binary.NativeEndian.Uint32(frame[frameOffLink+linkOffIndex:]))
			f.Outgoing = frame[frameOffLink+linkOffType] == unix.PACKET_OUTGOING
			f.Foreign = frame[frameOffLink+linkOffType] == unix.PACKET_OTHERHOST
			f.Tagged = binary.NativeEndian.Uint32(frame[frameOffStatus:])&unix.TP_STATUS_VLAN_VALID != 0 &&
				binary.NativeEndian.Uint32(frame[frameOffVLAN:])&0xfff != 0
			take(f)
			at += binary.NativeEndian.Uint32(frame[frameOffNext:])
		}
		atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
		c.block = (c.block + 1) % (len(c.ring) / blockSize)
	}
}

// drops is how many packets the ring had no room for since the last call (packet(7), PACKET_STATISTICS).
func (c *Capture) drops() uint64 {
	stats, err := unix.GetsockoptTpacketStatsV3(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
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

// wait blocks until a capture or the wake-up descriptor has something, or timeout has passed (milliseconds, -1 for
// ever). It reports whether the wake-up came.
func wait(captures []*Capture, wake int, timeout int, fds []unix.PollFd) (woken bool, err error) {
	fds = append(fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	for _, c := range captures {
		fds = append(fds, unix.PollFd{Fd: int32(c.fd), Events: unix.POLLIN})
	}
	if _, err := unix.Poll(fds, timeout); err != nil && err != unix.EINTR {
		return false, os.NewSyscallError("poll", err)
	}
	for i, c := range captures {
		if fds[i+1].Revents&unix.POLLERR != 0 {
			c.clearError()
		}
	}
	return fds[0].Revents&unix.POLLIN != 0, nil
}
