package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"colod/internal/conntest"
)

func isErr(err, want error) bool { return errors.Is(err, want) }

// streams is a stream with a server behind it that answers as serve says.
func streams(t *testing.T, serve func(net.Conn)) (p, s *Stream, sock string, refused chan error) {
	t.Helper()
	dir := t.TempDir()
	server := filepath.Join(dir, "server")
	l, err := net.Listen("unix", server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	refused = make(chan error, 8)
	s = NewSecondaryStream(func(err error) { refused <- err })
	t.Cleanup(s.Cut)
	sock = filepath.Join(dir, "client")
	p, err = NewPrimaryStream(sock, func(ctx context.Context) (net.Conn, error) {
		a, b := conntest.Loopback(t)
		return a, s.Join(ctx, b, server)
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Cut)
	return p, s, sock, refused
}

func ended(t *testing.T, s *Stream) error {
	t.Helper()
	select {
	case <-s.Done():
		return s.Err()
	case <-time.After(60 * time.Second):
		t.Fatal("the stream goes on")
		return nil
	}
}

// TestStreamOrderly: QEMU may open and close connections as it likes; bytes are counted.
func TestStreamOrderly(t *testing.T) {
	p, _, sock, _ := streams(t, func(c net.Conn) { io.Copy(c, c) })
	for range 5 {
		c, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		var b [5]byte
		if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != "hello" {
			t.Fatalf("%q, %v", b, err)
		}
		c.Close()
	}
	if st := p.Stats(); st.Out != 25 || st.In != 25 {
		t.Errorf("stats %+v", st)
	}
	select {
	case <-p.Done():
		t.Fatalf("it ended: %v", p.Err())
	case <-time.After(2 * orderlyWait):
	}
	p.Cut()
	if err := p.Err(); !errors.Is(err, ErrCut) {
		t.Error(err)
	}
	if _, err := net.Dial("unix", sock); err == nil {
		t.Error("it still listens")
	}
}

// TestStreamLost: a connection that the other side ends, alone, ends the whole stream, and all connections of
// QEMU with it.
func TestStreamLost(t *testing.T) {
	for _, how := range []string{"server closes", "other node cut"} {
		t.Run(how, func(t *testing.T) {
			p, s, sock, _ := streams(t, func(c net.Conn) {
				var b [1]byte
				io.ReadFull(c, b[:])
				if how == "other node cut" {
					io.ReadFull(c, b[:])
				}
			})
			idle, err := net.Dial("unix", sock)
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			c, err := net.Dial("unix", sock)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if how == "other node cut" {
				for p.Stats().Out == 0 {
					time.Sleep(time.Millisecond)
				}
				s.Cut()
			}
			if err := ended(t, p); err == nil || errors.Is(err, ErrCut) {
				t.Errorf("ended with %v", err)
			}
			idle.SetReadDeadline(time.Now().Add(60 * time.Second))
			if _, err := idle.Read(make([]byte, 1)); err == nil || errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("an idle connection is left: %v", err)
			}
		})
	}
}

// TestStreamCutStuck: a client that does not read and a server that does not either do not hold Cut up.
func TestStreamCutStuck(t *testing.T) {
	stop := make(chan struct{})
	p, s, sock, _ := streams(t, func(net.Conn) { <-stop })
	defer close(stop)
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for err == nil {
		_, err = c.Write(make([]byte, 1<<20))
	}
	p.Cut()
	s.Cut()
}

func be(v ...any) (b []byte) {
	for _, x := range v {
		b, _ = binary.Append(b, binary.BigEndian, x)
	}
	return b
}

// conversation is what a server says that agrees on chunks, then answers.
func conversation(answers ...[]byte) []byte {
	return slices.Concat(
		be(uint64(nbdMagic), uint64(nbdOptMagic), uint16(3)),
		be(uint64(nbdOptReply), uint32(8), uint32(1), uint32(0)),                           // chunks agreed
		be(uint64(nbdOptReply), uint32(nbdOptGo), uint32(3), uint32(12), make([]byte, 12)), // information
		be(uint64(nbdOptReply), uint32(nbdOptGo), uint32(nbdRepAck), uint32(0)),            // begin
		slices.Concat(answers...))
}

func simpleReply(code uint32) []byte { return be(uint32(nbdSimple), code, uint64(1)) }

func chunkReply(kind uint16, payload []byte) []byte {
	return be(uint32(nbdStructured), uint16(1), kind, uint64(1), uint32(len(payload)), payload)
}

func extendedReply(kind uint16, payload []byte) []byte {
	return be(uint32(nbdExtended), uint16(1), kind, uint64(1), uint64(0), uint64(len(payload)), payload)
}

// TestReplies: refusals are seen however the bytes come, and nothing else is taken for one.
func TestReplies(t *testing.T) {
	text := func(code uint32) []byte { return be(code, uint16(5), []byte("sorry")) }
	good := conversation(simpleReply(0), chunkReply(1, make([]byte, 1000)), chunkReply(0, nil), extendedReply(1, make([]byte, 70000)),
		chunkReply(nbdErrorBit|1, text(uint32(syscall.ENOTSUP))), simpleReply(uint32(syscall.ENOTSUP)), simpleReply(0))
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"none", good, nil},
		{"simple", slices.Concat(good, simpleReply(28)), syscall.ENOSPC},
		{"chunk", slices.Concat(good, chunkReply(nbdErrorBit|1, text(5))), syscall.EIO},
		{"chunk with offset", slices.Concat(good, chunkReply(nbdErrorBit|2, slices.Concat(text(5), make([]byte, 8)))), syscall.EIO},
		{"extended", slices.Concat(good, extendedReply(nbdErrorBit|1, text(1)), simpleReply(0)), syscall.EPERM},
		{"no NBD", []byte("SSH-2.0-OpenSSH_9.2 and more than that"), nil},
		{"unknown answer", slices.Concat(good, be(uint32(7)), simpleReply(28)), nil},
	} {
		for _, size := range []int{1, 3, 16, 1 << 20} {
			var r replies
			var got error
			for p := range slices.Chunk(c.data, size) {
				if err := r.saw(p); err != nil && got == nil {
					got = err
				}
			}
			if !errors.Is(got, c.want) {
				t.Errorf("%s in pieces of %d: %v, want %v", c.name, size, got, c.want)
			}
		}
	}
}

func FuzzReplies(f *testing.F) {
	f.Add(conversation(simpleReply(0), chunkReply(1, make([]byte, 100)), simpleReply(28)), 7)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		if size <= 0 {
			size = 1
		}
		var whole, pieces replies
		a := whole.saw(data) != nil
		b := false
		for p := range slices.Chunk(data, size) {
			b = pieces.saw(p) != nil || b
		}
		if a != b || whole.stage != pieces.stage || whole.skip != pieces.skip {
			t.Errorf("as a whole %v, in pieces %v", a, b)
		}
		if len(whole.buf) > nbdExtendedLen {
			t.Errorf("%d bytes are kept", len(whole.buf))
		}
	})
}
