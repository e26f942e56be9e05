package coordinator

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"colod/coordinator/peer"
	"colod/internal/netconn"
	"colod/qmp/disk"
)

// A connection of class disk begins with the greeting of a state connection, with a token of its own, and one
// byte that says what it carries.
const (
	diskTalk byte = 'T' // what the two nodes say of their images
	diskData byte = 'D' // one NBD connection
)

// diskToken proves that a disk connection comes from the node that the ctl connection speaks with.
func (s *session) diskToken() [sha256.Size]byte { return s.derive("disk") }

// setDisk gives the session its disk stream; a session that was cut meanwhile cuts it at once.
func (s *session) setDisk(r *disk.Stream) {
	s.mu.Lock()
	cut, old := s.cut, s.disk
	s.disk = r
	s.mu.Unlock()
	if old != nil {
		old.Cut()
	}
	if cut {
		r.Cut()
	}
}

// replicates reports whether the session has a disk stream that was not cut.
func (s *session) replicates() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disk != nil && !s.cut
}

// dialDisk makes a connection for the disks to the session's other node.
func (d *driver) dialDisk(ctx context.Context, s *session, what byte) (net.Conn, error) {
	conn, err := d.dialStream(ctx, s, peer.ClassDisk, s.diskToken())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte{what}); err != nil {
		netconn.CloseHard(conn)
		return nil, fmt.Errorf("disk connection: %w", err)
	}
	return conn, nil
}

func (n *Node) handleDisk(ctx context.Context, raw net.Conn, plain bool) {
	if err := n.takeDisk(ctx, raw, plain); err != nil {
		n.refused(peer.ClassDisk, raw, err)
		raw.Close()
	}
}

func (n *Node) takeDisk(ctx context.Context, raw net.Conn, plain bool) error {
	conn, name, g, err := n.receiveStream(ctx, raw, plain)
	if err != nil {
		return err
	}
	d := n.driverOf(g.pair)
	var s *session
	if d == nil {
		err = fmt.Errorf("pair %q is not known here", g.pair)
	} else {
		s, err = d.admitDisk(raw, name, g, plain)
	}
	if err != nil {
		_ = writeStateAnswer(conn, err) // the connection ends anyway
		return err
	}
	if err := writeStateAnswer(conn, nil); err != nil {
		return err
	}
	return d.acceptDisk(ctx, conn, s)
}

// admitDisk checks the greeting of a disk connection.
func (d *driver) admitDisk(raw net.Conn, from string, g *stateGreeting, plain bool) (*session, error) {
	s := d.sessNow.Load()
	switch {
	case s == nil:
		return nil, errors.New("no session is expected")
	case !d.disks.replicates():
		return nil, fmt.Errorf("the guest of pair %s has no disks here; compare the configurations", d.cfg.Name)
	case g.pair != d.cfg.Name || g.session != s.name:
		return nil, fmt.Errorf("session %q of pair %q is not expected here", g.session, g.pair)
	}
	want := s.diskToken()
	if subtle.ConstantTimeCompare(want[:], g.token[:]) != 1 {
		return nil, errors.New("the token is wrong")
	}
	if !plain && from != s.with {
		return nil, fmt.Errorf("node %q is not the other node of this session of pair %s, which is %q", from, d.cfg.Name, s.with)
	}
	if plain != (d.cfg.State.Encryption == "plain") {
		return nil, fmt.Errorf("the disks of pair %s are to be sent with encryption %q, and came differently; set state.encryption alike on both nodes", d.cfg.Name, d.cfg.State.Encryption)
	}
	s.carries(raw)
	return s, nil
}

// acceptDisk serves a welcomed disk connection, on its goroutine.
func (d *driver) acceptDisk(ctx context.Context, conn net.Conn, s *session) error {
	var what [1]byte
	if _, err := io.ReadFull(conn, what[:]); err != nil {
		return fmt.Errorf("read what the disk connection is for: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	switch what[0] {
	case diskData:
		s.mu.Lock()
		stream := s.disk
		s.mu.Unlock()
		if stream == nil {
			return errors.New("the disks are not offered yet")
		}
		return stream.Join(ctx, conn, s.diskSock(d.dir))
	case diskTalk:
		return d.disks.answer(ctx, conn, s)
	}
	return fmt.Errorf("disk connection for %q is not known", what[:])
}

// Talk between the nodes about their images: one JSON object after the other, each in its turn. The secondary's
// node begins with what its images are worth; the speaker says that it copies, then that they are equal.
type diskWord struct {
	Offer *disk.Offer `json:"offer,omitempty"` // secondary, first
	Copy  string      `json:"copy,omitempty"`  // speaker: "all" or "changes"
	Equal bool        `json:"equal,omitempty"` // speaker: the images are equal
	Done  bool        `json:"done,omitempty"`  // secondary: noted
	Error string      `json:"error,omitempty"` // secondary: cannot
}

// maxTalk bounds what one side reads of the other, in bytes.
const maxTalk = 16 << 10

// diskTalker is one side of the talk.
type diskTalker struct {
	conn net.Conn
	in   *json.Decoder
	out  *json.Encoder
	stop func() bool
}

func newTalker(conn net.Conn, s *session) *diskTalker {
	return &diskTalker{
		conn: conn, in: json.NewDecoder(io.LimitReader(conn, maxTalk)), out: json.NewEncoder(conn),
		stop: context.AfterFunc(s.ctx, func() { conn.Close() }),
	}
}

func (t *diskTalker) close() {
	t.stop()
	t.conn.Close()
}

func (t *diskTalker) say(w diskWord) error {
	_ = t.conn.SetWriteDeadline(time.Now().Add(dialTimeout))
	return t.out.Encode(w)
}

// hear waits for a word; limit 0 is without one: the session's end breaks it off.
func (t *diskTalker) hear(limit time.Duration) (w diskWord, err error) {
	var at time.Time
	if limit > 0 {
		at = time.Now().Add(limit)
	}
	_ = t.conn.SetReadDeadline(at)
	if err := t.in.Decode(&w); err != nil {
		return w, err
	}
	if w.Error != "" {
		return w, fmt.Errorf("the other node cannot: %s", w.Error)
	}
	return w, nil
}

// noteTimeout bounds a note that the other node writes to its disk.
const noteTimeout = 30 * time.Second

func (k *disks) talkTo(ctx context.Context, s *session) (*diskTalker, error) {
	conn, err := k.d.dialDisk(ctx, s, diskTalk)
	if err != nil {
		return nil, err
	}
	return newTalker(conn, s), nil
}

// begin hears the offer and tells what is copied; since is the session since which only changes are, or "".
func (t *diskTalker) begin(knows func(base string) (bool, error)) (since string, err error) {
	w, err := t.hear(noteTimeout)
	if err != nil {
		return "", err
	}
	if w.Offer == nil {
		return "", errors.New("the other node did not say what its images are")
	}
	what := "all"
	if yes, err := knows(w.Offer.Base); err != nil {
		return "", err
	} else if yes {
		what, since = "changes", w.Offer.Base
	}
	if err := t.say(diskWord{Copy: what}); err != nil {
		return "", err
	}
	w, err = t.hear(noteTimeout)
	if err == nil && !w.Done {
		err = errors.New("the other node did not agree")
	}
	return since, err
}

// equal tells that the images are equal, and waits until that is noted.
func (t *diskTalker) equal() error {
	if err := t.say(diskWord{Equal: true}); err != nil {
		return fmt.Errorf("tell that the disks are equal: %w", err)
	}
	w, err := t.hear(noteTimeout)
	if err == nil && !w.Done {
		err = errors.New("the other node did not agree")
	}
	if err != nil {
		return fmt.Errorf("tell that the disks are equal: %w", err)
	}
	return nil
}

// answer is the secondary's side of the talk, on the connection's goroutine.
func (k *disks) answer(ctx context.Context, conn net.Conn, s *session) error {
	t := newTalker(conn, s)
	defer t.close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	fail := func(err error) error {
		_ = t.say(diskWord{Error: clip(err.Error())})
		return err
	}
	o, err := k.layout.Offer()
	if err != nil {
		return fail(err)
	}
	if err := t.say(diskWord{Offer: &o}); err != nil {
		return err
	}
	w, err := t.hear(noteTimeout)
	if err != nil {
		return err
	}
	if w.Copy == "" {
		return fail(errors.New("word of the speaker is out of turn"))
	}
	if err := k.layout.BeginCopy(s.name, s.with); err != nil {
		return fail(err)
	}
	if err := t.say(diskWord{Done: true}); err != nil {
		return err
	}
	w, err = t.hear(0)
	if err != nil {
		return fmt.Errorf("the disks were not copied to the end: %w", err)
	}
	if !w.Equal {
		return fail(errors.New("word of the speaker is out of turn"))
	}
	if err := k.layout.EndCopy(s.name); err != nil {
		return fail(err)
	}
	return t.say(diskWord{Done: true})
}
