package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The types of nftables messages that x/sys does not name (enum nf_tables_msg_types in linux/netfilter/nf_tables.h,
// Linux 6.3).
const (
	nftMsgDestroyTable = 26
	nftMsgDestroyChain = 27
	nftMsgDestroyRule  = 28
)

// firewallNews is that somebody has changed a table of nf_tables: the daemon itself, too.
type firewallNews struct {
	port  uint32 // the netlink socket's of whoever did: mostly its process has that number
	table string // as nft names it: inet fw4; "": messages were lost, and it may be any
	hook  bool   // a chain was made that sees packets to this host or through it
	nat   bool   // it translates what comes in
	ours  bool   // it may be the chain, or the rule, by which iptables hides
}

// ourTable is table inet sesame in the news. Of it alone they tell of elements of sets as well.
const ourTable = "inet sesame"

// watchFirewall sends news when a table, chain or rule of nf_tables has been made, changed or removed by anybody, in the
// network namespace of the thread that calls: those of a transaction together, when all of it is in force. That is also
// what iptables-nft does; what iptables-legacy does goes past it. Elements that expire are no news.
//
// stop ends it, and returns when it has ended. An error means that nothing will be told: the kernel has no nf_tables, or
// CAP_NET_ADMIN is missing.
func watchFirewall(news chan<- []firewallNews) (stop func(), err error) {
	socket, err := subscribeFirewall()
	if err != nil {
		return nil, err
	}
	stopped := make(chan struct{})
	var reader newsReader
	end := watchNetlink(socket, func(batch []byte) {
		if told := reader.read(batch); told != nil {
			select {
			case news <- told:
			case <-stopped:
			}
		}
	})
	return func() {
		close(stopped)
		end()
	}, nil
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

// newGeneration is the type of the message that ends those of a transaction (nf_tables_commit in the kernel).
const newGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN

// newsReader reads what nf_tables tells.
type newsReader struct{ begun []firewallNews } // of a transaction whose messages are not all there

// read returns the news of the transactions that end in a batch of netlink messages. nil is a batch that was lost.
func (r *newsReader) read(batch []byte) (told []firewallNews) {
	unreadable := anyMessage(batch, func(kind uint16, port uint32, body []byte) bool {
		if kind == newGeneration {
			told, r.begun = append(told, r.begun...), nil
		} else if n, ok := parseNews(kind, port, body); ok && !slices.Contains(r.begun, n) {
			r.begun = append(r.begun, n)
		}
		return false
	})
	if batch == nil || unreadable {
		told, r.begun = append(told, firewallNews{}), nil
	}
	return told
}

// newsFamilies are the families of tables that see packets to this host, by number (linux/netfilter.h).
var newsFamilies = map[byte]string{unix.NFPROTO_INET: "inet ", unix.NFPROTO_IPV4: "ip ", unix.NFPROTO_IPV6: "ip6 "}

// parseNews reads one message: struct nfgenmsg of linux/netfilter/nfnetlink.h (family, version, resource), and attributes,
// the first of which is the table's name in all that count. The subsystem is the upper half of the type.
func parseNews(kind uint16, port uint32, body []byte) (n firewallNews, ok bool) {
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(body) < 4 || newsFamilies[body[0]] == "" {
		return n, false
	}
	var table, chain, rule bool
	switch kind & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE, nftMsgDestroyTable:
		table = true
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, nftMsgDestroyChain:
		chain = true
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE, nftMsgDestroyRule:
		rule = true
	}
	n.port = port
	var name string // of the chain
	var before, nat bool
	eachAttribute(body[4:], func(kind uint16, value []byte) {
		switch text := func() string { return strings.TrimRight(string(value), "\x00") }; {
		case kind == unix.NFTA_TABLE_NAME: // and so for chains, rules, sets and elements
			n.table = newsFamilies[body[0]] + text()
		case chain && kind == unix.NFTA_CHAIN_NAME, rule && kind == unix.NFTA_RULE_CHAIN:
			name = text()
		case chain && kind == unix.NFTA_CHAIN_HOOK:
			eachAttribute(value, func(kind uint16, value []byte) {
				if kind == unix.NFTA_HOOK_HOOKNUM && len(value) == 4 {
					hook := binary.BigEndian.Uint32(value)
					n.hook, before = hook <= unix.NF_INET_FORWARD, hook == unix.NF_INET_PRE_ROUTING // or it is NF_INET_LOCAL_IN
				}
			})
		case chain && kind == unix.NFTA_CHAIN_TYPE:
			nat = text() == "nat"
		}
	})
	n.nat = before && nat
	n.ours = (n.table == "ip filter" || n.table == "ip6 filter") && (table || name == "INPUT" || name == ourChain)
	return n, table || chain || rule || n.table == ourTable
}

// askGeneration asks for the number of nf_tables' ruleset, and returns an error if it gets none.
func askGeneration(fd int) error {
	if err := askNetlink(fd, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0, allFamilies); err != nil {
		return err
	}
	// The kernel has answered before sendto returns (netlink_unicast_kernel in net/netlink/af_netlink.c).
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return err
	}
	err = unix.EPROTO
	anyMessage(answer[:n], func(kind uint16, _ uint32, body []byte) bool {
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

// legacyTables is what the kernel says of the tables of iptables-legacy: their names, which are in a folder of proc(5), and
// of table filter where its chains begin and how many rules it has, which a change mostly changes. "" is that there are
// none, or that it cannot be asked.
func legacyTables(folder string) string {
	var all []byte
	for _, family := range []struct {
		names         string
		domain, level int
	}{{"/ip_tables_names", unix.AF_INET, unix.SOL_IP}, {"/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6}} {
		names, _ := os.ReadFile(folder + family.names)
		if all = append(all, names...); !slices.Contains(strings.Fields(string(names)), "filter") {
			continue // to ask would make it
		}
		fd, err := unix.Socket(family.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return ""
		}
		// struct ipt_getinfo of linux/netfilter_ipv4/ip_tables.h: the name (32 bytes) and 13 numbers.
		const getInfo, infoLen = 64, 32 + 13*4 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
		info, length := [infoLen]byte{'f', 'i', 'l', 't', 'e', 'r'}, uint32(infoLen)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(family.level), getInfo,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&length)), 0)
		_ = unix.Close(fd)
		if errno != 0 {
			return ""
		}
		all = append(all, info[:]...)
	}
	return string(all)
}
