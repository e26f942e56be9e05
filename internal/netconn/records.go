package netconn

import (
	"crypto/tls"
	"encoding/binary"
	"net"
	"sync"
)

// Records is a TCP connection below TLS that moves many of TLS's records (16 KiB of data each at most) with one system call: crypto/tls
// itself writes each record by itself, and gives one record a read. See [Gather].
//
// One goroutine may write and another one read, as with tls.Conn in use by a relay. Hold is for a connection whose handshake is done:
// what that says must not wait.
type Records struct {
	*net.TCPConn

	mu   sync.Mutex // TLS writes alerts when it reads, too
	hold bool
	out  []byte

	in   []byte // read and not yet taken: in[from:]
	from int
	left int // of the record that is being taken, bytes
}

const (
	gatherMax    = 256 << 10 // bytes that wait for one write, or are read at once
	recordHeader = 5         // type, version, length: RFC 8446, 5.1
)

// Gather puts Records below the TLS connection that is made of its result; another kind of connection than TCP is returned as it is.
func Gather(c net.Conn) net.Conn {
	if t, ok := c.(*net.TCPConn); ok {
		return &Records{TCPConn: t}
	}
	return c
}

// RecordsOf returns what Gather has put below a TLS connection, nil where there is none.
func RecordsOf(c net.Conn) *Records {
	if t, ok := c.(*tls.Conn); ok {
		r, _ := t.NetConn().(*Records)
		return r
	}
	return nil
}

// NetConn is the connection below.
func (r *Records) NetConn() net.Conn { return r.TCPConn }

// Hold lets what is written wait for Flush.
func (r *Records) Hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = true
}

// Flush sends what waits. An error is that of the connection; TLS does not learn of it.
func (r *Records) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = false
	return r.flush()
}

func (r *Records) flush() error {
	if len(r.out) == 0 {
		return nil
	}
	_, err := r.TCPConn.Write(r.out)
	r.out = r.out[:0]
	return err
}

// Write sends b, or keeps it for Flush.
func (r *Records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.hold {
		return r.TCPConn.Write(b)
	}
	if len(r.out)+len(b) > gatherMax {
		if err := r.flush(); err != nil {
			return 0, err
		}
	}
	r.out = append(r.out, b...)
	return len(b), nil
}

// Read gives what the connection has, never more than the rest of one record.
func (r *Records) Read(b []byte) (int, error) {
	if r.from == len(r.in) {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	for r.left == 0 {
		n, ok := r.next()
		if ok {
			r.left = n
			break
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(b[:min(len(b), r.left)], r.in[r.from:])
	r.from += n
	r.left -= n
	return n, nil
}

// next is the length of the record that begins at from, its header included, if that is here.
func (r *Records) next() (int, bool) {
	if len(r.in)-r.from < recordHeader {
		return 0, false
	}
	return recordHeader + int(binary.BigEndian.Uint16(r.in[r.from+3:])), true
}

// fill reads what there is behind what is kept.
func (r *Records) fill() error {
	if r.in == nil {
		r.in = make([]byte, 0, gatherMax+1<<16) // room for a record of any length behind a part of one
	}
	rest := copy(r.in[:cap(r.in)], r.in[r.from:])
	r.in, r.from = r.in[:rest], 0
	n, err := r.TCPConn.Read(r.in[rest:min(cap(r.in), rest+gatherMax)])
	r.in = r.in[:rest+n]
	if n > 0 {
		return nil
	}
	return err
}

// Whole reports whether a whole record is here that can be taken without waiting.
func (r *Records) Whole() bool {
	if r.left != 0 {
		return false
	}
	n, ok := r.next()
	return ok && len(r.in)-r.from >= n
}
