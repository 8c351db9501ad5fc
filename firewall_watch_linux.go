package main

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The types of nftables messages that x/sys does not name (enum nf_tables_msg_types in linux/netfilter/nf_tables.h,
// Linux 6.3).
const (
	nftMsgDestroyTable = 26
	nftMsgDestroyChain = 27
	nftMsgDestroyRule  = 28
)

// watchFirewall sends on changed, without waiting, when a table, chain or rule of nf_tables has been made, changed or
// removed by anybody, in the network namespace of the thread that calls. That is also what iptables-nft does, and what
// the daemon does itself; what iptables-legacy does goes past it. Elements of sets do not count, so that openings and
// expiries are no changes. changed has room for one, so that a change while the caller is busy is not lost.
//
// stop ends it, and returns when it has ended. An error means that nothing will be told: the kernel has no nf_tables, or
// CAP_NET_ADMIN is missing.
func watchFirewall(changed chan<- struct{}) (stop func(), err error) {
	socket, err := subscribeFirewall()
	if err != nil {
		return nil, err
	}
	return watchNetlink(socket, tellsFirewall, changed, 0), nil
}

// subscribeFirewall opens a netlink socket that gets nf_tables' messages.
func subscribeFirewall() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	// To subscribe succeeds also where there is no nf_tables (nfnetlink_bind in net/netfilter/nfnetlink.c).
	if err := askGeneration(fd); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("asking the kernel for nf_tables: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("subscribing to changes of nf_tables: %w", err)
	}
	return os.NewFile(uintptr(fd), "nftables"), nil // as it does not block, Close ends a Read
}

// tellsFirewall reports whether a table, chain or rule has changed, by a batch of netlink messages.
func tellsFirewall(b []byte) bool {
	return anyMessage(b, func(kind uint16, _ []byte) bool {
		// linux/netfilter/nfnetlink.h: the subsystem is the upper half of the type.
		if kind>>8 != unix.NFNL_SUBSYS_NFTABLES {
			return false
		}
		switch kind & 0xff {
		case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE, nftMsgDestroyTable,
			unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, nftMsgDestroyChain,
			unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE, nftMsgDestroyRule:
			return true
		}
		return false
	})
}

// askGeneration asks for the number of nf_tables' ruleset, and returns an error if it gets none.
func askGeneration(fd int) error {
	const kind, newGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	// struct nlmsghdr: length, type, flags, sequence and port; then struct nfgenmsg: family, version, resource.
	request := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], kind)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// The kernel has answered before sendto returns (netlink_unicast_kernel in net/netlink/af_netlink.c).
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return err
	}
	err = unix.EPROTO
	anyMessage(answer[:n], func(kind uint16, body []byte) bool {
		switch {
		case kind == newGeneration:
			err = nil
		case kind == unix.NLMSG_ERROR && len(body) >= 4: // struct nlmsgerr begins with the negative error number
			err = unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
		}
		return false
	})
	return err
}
