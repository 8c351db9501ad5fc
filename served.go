//go:build linux

package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// servedTables are the kernel's lists of sockets in procNet.
var servedTables = []struct {
	file  string
	proto Protocol
	state string // of a socket that anybody can send to: TCP_LISTEN, or for UDP TCP_CLOSE (net/tcp_states.h)
}{
	{"tcp", tcp, "0A"}, {"tcp6", tcp, "0A"}, {"udp", udp, "07"}, {"udp6", udp, "07"},
}

// maxServedTable is how much of each list is read.
const maxServedTable = 4 << 20

// procNet has them for the network namespace that the process is in (proc_net(5)).
const procNet = "/proc/net/"

// servedPorts returns where something on this host listens, sorted. folder is procNet.
func servedPorts(folder string) (ports []Knock, err error) {
	for _, table := range servedTables {
		f, err := os.Open(folder + table.file)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		ports, err = readServed(f, table.proto, table.state, ports)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s%s: %w", folder, table.file, err)
		}
	}
	sort.SliceStable(ports, func(i, j int) bool {
		return cmp.Or(cmp.Compare(ports[i].Proto, ports[j].Proto), cmp.Compare(ports[i].Port, ports[j].Port)) < 0
	})
	return slices.Compact(ports), nil
}

// readServed appends the ports of a list of sockets that are in that state. After the sockets that listen the kernel
// lists TCP's connections (tcp_seq_start in net/ipv4/tcp_ipv4.c), of which there can be very many: the first of them is
// the end.
//
//	sl  local_address rem_address   st tx_queue ...
//	 0: 0100007F:0016 00000000:0000 0A 00000000:00000000 ...
func readServed(r io.Reader, proto Protocol, state string, ports []Knock) ([]Knock, error) {
	lines := bufio.NewReader(io.LimitReader(r, maxServedTable))
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF { // what is cut off is no line
			return ports, nil
		}
		if err != nil {
			return nil, err
		}
		fields := strings.Fields(line)
		switch {
		case len(fields) < 4 || fields[0] == "sl":
			continue
		case fields[3] != state && proto == tcp:
			return ports, nil
		case fields[3] != state:
			continue
		}
		colon := strings.LastIndexByte(fields[1], ':')
		port, err := strconv.ParseUint(fields[1][colon+1:], 16, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is no port", fields[1])
		}
		ports = append(ports, Knock{uint16(port), proto})
	}
}
