// Echo sends back what comes to port 80 over TCP and port 53 over UDP. It is all that a container of the tests has in it.
package main

import (
	"io"
	"log"
	"net"
)

func main() {
	packets, err := net.ListenPacket("udp", ":53")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				log.Fatal(err)
			}
			_, _ = packets.WriteTo(b[:n], from)
		}
	}()
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}()
	}
}
