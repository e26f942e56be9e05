package coordinator

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"colod/qmp/disk"
	"colod/qmp/relay"
)

// session is what the driver holds for one synchronisation and the
// protection that follows.
type session struct {
	name   string
	with   string // the other node
	secret [32]byte

	ctx    context.Context // ends with the session
	cancel context.CancelFunc

	mu    sync.Mutex
	cut   bool
	relay Relay
	disk  *disk.Stream // of a guest with replicated disks
	conns []net.Conn   // its connections, without what secures them
	// Of the secondary: when its VM last stopped for a checkpoint, whether it
	// still stands still, and how many checkpoints the data path has been
	// told the end of.
	stopAt  time.Time
	stopped bool
	told    uint64
}

func newSession(name, with string, secret [32]byte) *session {
	s := &session{name: name, with: with, secret: secret}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// number is the session in the greeting of the net link.
func (s *session) number() uint64 { return sessionNumber(s.name) }

func sessionNumber(name string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, name)
	return h.Sum64()
}

// derive makes independent keys of the session's secret, which only the two
// nodes know: it crossed the ctl connection.
func (s *session) derive(purpose string) [sha256.Size]byte {
	return sha256.Sum256(append([]byte("colod "+purpose+"\x00"), s.secret[:]...))
}

// digestKey is the key of the descriptors' digests.
func (s *session) digestKey() (k [16]byte) {
	d := s.derive("digest")
	copy(k[:], d[:])
	return k
}

// token proves that a state connection comes from the node that the ctl
// connection speaks with.
func (s *session) token() [sha256.Size]byte { return s.derive("state") }

func (s *session) encoded() string { return hex.EncodeToString(s.secret[:]) }

func parseSecret(text string) (k [32]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("secret of %d characters is not %d hexadecimal ones", len(text), 2*len(k))
	}
	copy(k[:], b)
	return k, nil
}

// sock is the unix socket between QEMU and relay. Each session has its own:
// QEMU's listener of an earlier one may still be there.
func (s *session) sock(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("m-%08x", uint32(s.number())))
}

// setRelay gives the session its relay; a session that was cut meanwhile
// cuts it at once.
func (s *session) setRelay(r Relay) {
	s.mu.Lock()
	cut := s.cut
	s.relay = r
	s.mu.Unlock()
	if cut {
		r.Cut()
	}
}

// carries tells the session of a connection of its own.
func (s *session) carries(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
}

// leave breaks the connections whose ends fulfil over.
func (s *session) leave(over func(local, remote net.Addr) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if over(c.LocalAddr(), c.RemoteAddr()) {
			hangUp(c)
		}
	}
}

// hangUp ends a TCP connection for whoever uses it, also over a duplicate of
// its descriptor.
func hangUp(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.CloseRead() // closed already: it is what is wanted
		_ = t.CloseWrite()
	}
}

// tellStopped and tellResumed count the checkpoints of whose end the
// secondary's data path knows. The relay's reading may be behind QEMU's events,
// but not by a checkpoint: QEMU stops the secondary for one only after its word
// that it has loaded the one before has passed the relay. So the count is
// taken when it stops, and the checkpoint that it stopped for is one more.
func (s *session) tellStopped(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopAt, s.stopped = at, true
	if s.relay != nil {
		s.told = s.relay.Stats().Checkpoints
	}
}

func (s *session) tellResumed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped && s.relay != nil {
		// Nothing on the stream since it stopped: an operator's stop and cont.
		if st := s.relay.Stats(); st.Phase != relay.Idle || st.Checkpoints != s.told {
			s.told++
		}
	}
	s.stopped = false
}

// untold reports whether the secondary has taken a checkpoint of whose end
// its data path does not know, and when its VM stopped for it.
//
// QEMU loads a checkpoint if and only if its word that it has received it
// could be sent (migration/colo.c, colo_incoming_process_checkpoint), and the
// relay has seen that word. A checkpoint that was not received as a whole is
// thrown away, and the VM goes on from its own state.
func (s *session) untold() (stopAt time.Time, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopAt, s.taken() > s.told
}

// taken is how many checkpoints the secondary has received as a whole;
// needs s.mu.
func (s *session) taken() uint64 {
	if s.relay == nil {
		return 0
	}
	st := s.relay.Stats()
	if st.Phase == relay.Loading {
		return st.Checkpoints + 1
	}
	return st.Checkpoints
}

// quiet reports that no checkpoint is under way that the secondary could
// still take: it has not even answered to one.
func (s *session) quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.relay != nil && s.relay.Stats().Phase == relay.Idle && s.taken() == s.told
}

// end closes the relay hard and ends whatever waits for the peer. A disk
// request that waits for it would keep QEMU from everything else: it comes first.
func (s *session) end() {
	s.mu.Lock()
	s.cut = true
	r, disk := s.relay, s.disk
	s.mu.Unlock()
	s.cancel()
	if disk != nil {
		disk.Cut()
	}
	if r != nil {
		r.Cut()
	}
}

// The greeting of a state connection, inside TLS where that is used: lengths
// of pair and session (one byte each), both, and the token. The answer is one
// byte of length and a refusal; length 0 means welcome.
const stateGreetingMax = 2 + 64 + 64 + sha256.Size

type stateGreeting struct {
	pair, session string
	token         [sha256.Size]byte
}

func (g *stateGreeting) write(w io.Writer) error {
	if len(g.pair) == 0 || len(g.pair) > 64 || len(g.session) == 0 || len(g.session) > 64 {
		return errors.New("name of pair or session is too long")
	}
	b := make([]byte, 0, stateGreetingMax)
	b = append(b, byte(len(g.pair)), byte(len(g.session)))
	b = append(b, g.pair...)
	b = append(b, g.session...)
	b = append(b, g.token[:]...)
	_, err := w.Write(b)
	return err
}

func readStateGreeting(r io.Reader) (*stateGreeting, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, fmt.Errorf("read greeting: %w", err)
	}
	if n[0] == 0 || n[0] > 64 || n[1] == 0 || n[1] > 64 {
		return nil, fmt.Errorf("greeting with names of %d and %d bytes, 1 to 64 allowed", n[0], n[1])
	}
	b := make([]byte, int(n[0])+int(n[1])+sha256.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read greeting: %w", err)
	}
	g := &stateGreeting{pair: string(b[:n[0]]), session: string(b[n[0] : int(n[0])+int(n[1])])}
	copy(g.token[:], b[len(b)-sha256.Size:])
	return g, nil
}

func writeStateAnswer(w io.Writer, refusal error) error {
	b := []byte{0}
	if refusal != nil {
		s := refusal.Error()
		if len(s) > 255 {
			s = s[:255]
		}
		b = append([]byte{byte(len(s))}, s...)
	}
	_, err := w.Write(b)
	return err
}

func readStateAnswer(r io.Reader) error {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if n[0] == 0 {
		return nil
	}
	text := make([]byte, n[0])
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return fmt.Errorf("the other node refused: %s", text)
}

// admits checks a greeting against the session.
func (s *session) admits(g *stateGreeting, pair string) error {
	want := s.token()
	switch {
	case g.pair != pair || g.session != s.name:
		return fmt.Errorf("session %q of pair %q is not expected here", g.session, g.pair)
	case subtle.ConstantTimeCompare(want[:], g.token[:]) != 1:
		return errors.New("the token is wrong")
	}
	return nil
}

// greetState says on a fresh state connection what it is for and waits to be
// welcomed.
func greetState(conn net.Conn, g *stateGreeting, limit time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if err := g.write(conn); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	if err := readStateAnswer(conn); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}
