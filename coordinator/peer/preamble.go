// Package peer is the way to the other node: one TCP listener a node,
// connections of several classes, mutual TLS 1.3, heartbeats and a bounded
// message stream.
//
// What the other side says is input like any other: its length is bounded
// before it is read, its content is checked, and whatever is wrong with it
// ends the connection, never the service. The package decides nothing about
// roles: it reports that the other node is there, silent, or says something.
package peer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
)

// Class tells what a connection is for.
type Class uint8

// The classes. Each has its own connections, so that bulk never delays a
// heartbeat.
const (
	ClassCtl   Class = 1 // heartbeats, roles, checkpoint requests
	ClassNet   Class = 2 // mirrored input, descriptors, watermarks
	ClassState Class = 3 // the guest's memory and devices
	ClassDisk  Class = 4 // replicated disk writes
)

func (c Class) String() string {
	switch c {
	case ClassCtl:
		return "ctl"
	case ClassNet:
		return "net"
	case ClassState:
		return "state"
	case ClassDisk:
		return "disk"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// Every connection begins with these 16 bytes, before TLS: "COLOD", the
// version of the protocol, the class, flags, and eight zero bytes.
const (
	preambleLen     = 16
	protocolVersion = 1
	// flagPlain says that no TLS follows; accepted for state connections
	// that were announced with a token only.
	flagPlain = 1 << 0
)

var magic = []byte("COLOD")

// ErrPreamble is the cause of every refusal of a connection's first bytes.
var ErrPreamble = errors.New("not a colod connection")

// writePreamble begins a connection of class c.
func writePreamble(w io.Writer, c Class, plain bool) error {
	var b [preambleLen]byte
	copy(b[:], magic)
	b[5], b[6] = protocolVersion, byte(c)
	if plain {
		b[7] = flagPlain
	}
	_, err := w.Write(b[:])
	return err
}

// readPreamble reads and checks the first bytes of a connection. It never
// reads more than they are.
func readPreamble(r io.Reader) (c Class, plain bool, err error) {
	var b [preambleLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, false, fmt.Errorf("read preamble: %w", err)
	}
	switch {
	case !bytes.Equal(b[:5], magic):
		return 0, false, fmt.Errorf("%w: it begins with %q", ErrPreamble, b[:5])
	case b[5] != protocolVersion:
		return 0, false, fmt.Errorf("%w of version %d: it has version %d; run the same release of colod on both nodes", ErrPreamble, protocolVersion, b[5])
	case b[6] < byte(ClassCtl) || b[6] > byte(ClassDisk):
		return 0, false, fmt.Errorf("%w: class %d is not known", ErrPreamble, b[6])
	case b[7]&^flagPlain != 0 || !bytes.Equal(b[8:], make([]byte, 8)):
		return 0, false, fmt.Errorf("%w: its reserved bytes are not zero", ErrPreamble)
	}
	return Class(b[6]), b[7]&flagPlain != 0, nil
}

// tune sets what every connection between nodes wants. Go sets TCP_NODELAY itself.
func tune(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetNoDelay(true)
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepIdle, Interval: keepInterval, Count: keepCount})
		setUserTimeout(t)
	}
}
