package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"colod/bench/rig"
	"colod/internal/netnstest"
)

// way is how the state goes from one QEMU to the other.
type way struct {
	name         string
	direct       bool // one unix socket, no relay
	copy, secure bool
}

const (
	direct  = "unix socket, no relay"
	copied  = "relay, copied"
	spliced = "relay, spliced"
	secured = "relay, TLS"
)

// ways in the order of the report; the first is the reference.
var ways = []way{
	{name: copied, copy: true},
	{name: spliced},
	{name: secured, secure: true},
	{name: direct, direct: true},
}

// stream is a state stream with stand-ins for the two QEMUs in this process.
type stream struct {
	way  way
	prim net.Conn
	sec  net.Conn
	pids []int // of the relays
}

// Messages of COLO's protocol, 32 bits big endian (QEMU qapi/migration.json, COLOMessage).
const (
	msgReady    = 0
	msgRequest  = 1
	msgReply    = 2
	msgReceived = 5
	msgLoaded   = 6
)

// chunk is what QEMU writes at once: 32 pages with a header of 8 bytes each (QEMU 7.2, migration/qemu-file.c: 64 vectors).
const chunk = 32 * (4096 + 8)

// open makes a stream over w. addr is where the secondary's relay listens, in namespace b.
func open(t *rig.TB, w way, a, b *netnstest.NS, addr, certs string) *stream {
	dir := t.TempDir()
	out, in := filepath.Join(dir, "p.sock"), filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", in)
	t.Must(err)
	t.Cleanup(func() { l.Close() })
	s := &stream{way: w}
	if w.direct {
		s.prim, err = net.Dial("unix", in)
		t.Must(err)
	} else {
		common := []string{}
		if w.copy {
			common = append(common, "-copy")
		}
		if w.secure {
			common = append(common, "-certs", certs)
		}
		s.part(t, b, append([]string{"relay-end", "-listen", addr, "-sock", in}, common...))
		s.part(t, a, append([]string{"relay-end", "-dial", addr, "-sock", out}, common...))
		s.prim, err = net.Dial("unix", out)
		t.Must(err)
	}
	t.Cleanup(func() { s.prim.Close() })
	t.Must(l.(*net.UnixListener).SetDeadline(time.Now().Add(20 * time.Second)))
	s.sec, err = l.Accept()
	t.Must(err)
	t.Cleanup(func() { s.sec.Close() })
	go s.secondary()
	var word [4]byte
	t.Must(s.prim.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err = io.ReadFull(s.prim, word[:])
	t.Must(err)
	return s
}

// part starts a relay and waits until it is ready.
func (s *stream) part(t *rig.TB, ns *netnstest.NS, args []string) {
	self, err := os.Executable()
	t.Must(err)
	c := exec.CommandContext(t.Context(), self, args...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	t.Must(err)
	t.Must(ns.Do(c.Start))
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ready" {
		t.Fatalf("start a relay: %q, %v", line, err)
	}
	s.pids = append(s.pids, c.Process.Pid)
}

// secondary answers checkpoints as a QEMU would that needs no time for loading. Each request says how much comes.
func (s *stream) secondary() {
	say := func(n byte) bool { _, err := s.sec.Write([]byte{0, 0, 0, n}); return err == nil }
	if !say(msgReady) {
		return
	}
	buf := make([]byte, 1<<20)
	for {
		var req [12]byte
		if _, err := io.ReadFull(s.sec, req[:]); err != nil {
			return
		}
		if !say(msgReply) {
			return
		}
		for left := int(binary.BigEndian.Uint64(req[4:])); left > 0; {
			n, err := s.sec.Read(buf[:min(left, len(buf))])
			if err != nil {
				return
			}
			left -= n
		}
		if !say(msgReceived) || !say(msgLoaded) {
			return
		}
	}
}

// checkpoint sends state and returns how long the guest would have stood still: from the first byte of the state, which QEMU sends when
// the guest has stopped, until the word that it is loaded.
func (s *stream) checkpoint(state []byte) (time.Duration, error) {
	if err := s.prim.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	var req [12]byte
	binary.BigEndian.PutUint32(req[:], msgRequest)
	binary.BigEndian.PutUint64(req[4:], uint64(len(state)))
	if _, err := s.prim.Write(req[:]); err != nil {
		return 0, err
	}
	if err := s.hear(msgReply); err != nil {
		return 0, err
	}
	began := time.Now()
	for left := state; len(left) > 0; {
		n := min(len(left), chunk)
		if _, err := s.prim.Write(left[:n]); err != nil {
			return 0, err
		}
		left = left[n:]
	}
	if err := s.hear(msgReceived); err != nil {
		return 0, err
	}
	if err := s.hear(msgLoaded); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

func (s *stream) hear(want uint32) error {
	var word [4]byte
	if _, err := io.ReadFull(s.prim, word[:]); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint32(word[:]); got != want {
		return fmt.Errorf("message %d of the back channel, want %d", got, want)
	}
	return nil
}

// cpu is what the relays have used.
func (s *stream) cpu() (d time.Duration, err error) {
	for _, pid := range s.pids {
		c, e := rig.ProcessCPU(pid)
		err = errors.Join(err, e)
		d += c.Total
	}
	return d, err
}
