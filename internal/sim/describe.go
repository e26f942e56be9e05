package sim

import (
	"errors"
	"fmt"

	"colod/internal/frame"
	"colod/proxy"
)

func isRole(err error) bool { return errors.Is(err, proxy.ErrRole) }

// describe is a frame in words.
func describe(b []byte) string {
	var p frame.Parsed
	frame.Parse(b, &p)
	switch p.Kind {
	case frame.KindTCP:
		port := p.DstPort
		if p.DstPort == tcpPort {
			port = p.SrcPort
		}
		return fmt.Sprintf("tcp port %d flags %#02x seq %d len %d ack %d ts %d", port, p.Flags, p.Seq, p.Len(), p.Ack, p.TSVal)
	case frame.KindUDP, frame.KindICMP:
		return fmt.Sprintf("%v id %x", p.Kind, b[headLen+8:headLen+12])
	}
	return p.Kind.String()
}
