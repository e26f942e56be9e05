package guest

import (
	"fmt"
	"net"
	"sync"
)

// serveEcho offers RFC 862 on TCP and UDP, over IPv4 and IPv6.
func serveEcho(listening *sync.WaitGroup) error {
	addr := fmt.Sprintf(":%d", PortEcho)
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("serve echo: %w", err)
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return fmt.Errorf("serve echo: %w", err)
	}
	listening.Done()
	go echoDatagrams(udp)
	for {
		c, err := tcp.Accept()
		if err != nil {
			return fmt.Errorf("serve echo: %w", err)
		}
		go echoStream(c)
	}
}

func echoStream(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func echoDatagrams(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			continue
		}
		c.WriteTo(buf[:n], from)
	}
}
