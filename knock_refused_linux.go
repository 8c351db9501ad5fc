package main

import "golang.org/x/sys/unix"

// refusedWords are for a connection that was refused, and no ICMP error came. Before Linux 6.0 it may have come unseen.
func refusedWords() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil || name.Release[1] == '.' && name.Release[0] < '6' {
		return "closed (refused)"
	}
	return refused
}
