package heartbeat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/pollset"
)

const (
	// maxExpected is how many keys of one peer are accepted at a time.
	maxExpected = 4
	// maxPeers bounds what is kept in all.
	maxPeers = 256
	// readBatch is how many datagrams are read of a socket before anything else
	// is done: a flood must not keep the service from sending.
	readBatch = 256
)

// loop is what the thread owns.
type loop struct {
	t     *thread
	socks []socket
	peers map[string]*remote
	keys  map[uint64]*recvKey
	stats Stats

	wakefd int
	fed    time.Duration // when the thread was fed
	unfed  bool          // that is too long ago
	retry  time.Duration // when to try again to open sockets
	buf    [packetLen + 1]byte
	out    [packetLen]byte
	events []Event
	set    *pollset.Set
}

// socket is one of this node's paths.
type socket struct {
	fd    int // -1: it cannot be opened, for the reason err
	local netip.AddrPort
	v6    bool
	err   error
}

// remote is one peer.
type remote struct {
	*state
	addrs  []netip.AddrPort
	to     []pathTo
	send   *signer // nil before use
	sendID uint64
	since  time.Duration // when these paths were made
	next   time.Duration // when to ping
	recv   []*recvKey    // oldest first
}

// pathTo is a path to a peer: from which socket, to which address.
type pathTo struct {
	sock int
	addr netip.AddrPort
	sa   unix.Sockaddr
	seq  uint64
	err  error
}

// recvKey are keys that a peer may send with.
type recvKey struct {
	peer    *remote
	id      uint64
	signer  *signer
	windows [MaxPaths]window
}

// now is the time since the service's start; Go's monotonic clock is
// CLOCK_MONOTONIC.
func (l *loop) now() time.Duration { return time.Since(l.t.start) }

func (t *thread) run(setup func() error, ready chan<- error) {
	if !t.own {
		// Not unlocked: the thread's priority, and its namespace, end with it.
		runtime.LockOSThread()
	}
	defer close(t.done)
	defer t.ended()
	l := &loop{t: t, wakefd: t.wakefd, peers: map[string]*remote{}, keys: map[uint64]*recvKey{}}
	defer l.close()
	if err := l.open(setup); err != nil {
		ready <- err
		return
	}
	t.is.Scheduling = raise()
	for _, so := range l.socks {
		t.is.Local = append(t.is.Local, so.local)
	}
	l.fed = l.now()
	ready <- nil
	l.turn()
}

func (l *loop) open(setup func() error) error {
	if setup != nil {
		if err := setup(); err != nil {
			return fmt.Errorf("set up the thread: %w", err)
		}
	}
	var err error
	if l.set, err = pollset.New(); err != nil {
		return err
	}
	for i, a := range l.t.Listen {
		so := socket{fd: -1, local: a, v6: a.Addr().Is6()}
		err := so.open()
		if err != nil && i == 0 {
			return fmt.Errorf("listen on UDP %s: %w; is the address of this host, and is no other colod running?", a, err)
		}
		l.socks = append(l.socks, so)
	}
	return nil
}

func (l *loop) close() {
	for _, so := range l.socks {
		if so.fd >= 0 {
			unix.Close(so.fd)
		}
	}
	if l.set != nil {
		l.set.Close()
	}
}

// open makes the socket; its error is kept for the status.
func (so *socket) open() (err error) {
	defer func() { so.err = err }()
	domain := unix.AF_INET
	if so.v6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	// Before bulk, in our own queues and, where it is obeyed, in the network's:
	// TC_PRIO_CONTROL (linux/pkt_sched.h), class selector 6 (RFC 2474). Harmless
	// where it fails.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 6)
	const cs6 = 48 << 2
	if so.v6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, cs6)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, cs6)
	}
	if err := unix.Bind(fd, sockaddr(so.local, so.v6)); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("bind", err)
	}
	if sa, err := unix.Getsockname(fd); err == nil {
		so.local = addrPort(sa)
	}
	so.fd = fd
	return nil
}

// sockaddr is an address for a socket, of IPv6 or not.
func sockaddr(a netip.AddrPort, v6 bool) unix.Sockaddr {
	if !v6 && a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if z := a.Addr().Zone(); z != "" {
		if n, err := strconv.ParseUint(z, 10, 32); err == nil {
			sa.ZoneId = uint32(n)
		} else if n, err := interfaceIndex(z); err == nil {
			sa.ZoneId = n
		}
	}
	return sa
}

func interfaceIndex(name string) (uint32, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return uint32(i.Index), nil
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// turn is the thread's loop.
func (l *loop) turn() {
	for {
		l.set.Clear()
		l.set.Add(l.wakefd, pollset.In, l)
		for i := range l.socks {
			if so := &l.socks[i]; so.fd >= 0 {
				l.set.Add(so.fd, pollset.In, so)
			}
		}
		at := l.deadline()
		if err := l.set.Wait(max(at-l.now(), 0)); err != nil {
			panic(fmt.Sprintf("heartbeat: %v", err)) // a descriptor of ours is bad: a bug
		}
		now := l.now()
		l.stats.Turns++
		if at < now {
			l.late(now - at)
		}
		if l.set.Ready(l.wakefd) && !l.runCalls() {
			return
		}
		for i := range l.socks {
			if l.socks[i].fd >= 0 && l.set.Ready(l.socks[i].fd) {
				l.read(i)
			}
		}
		l.work()
		for i, e := range l.events {
			l.t.emit(e)
			l.events[i] = nil
		}
		l.events = l.events[:0]
	}
}

// work does what is due.
func (l *loop) work() {
	now := l.now()
	if now >= l.retry {
		l.retry = now + time.Second
		for i := range l.socks {
			if l.socks[i].fd < 0 {
				_ = l.socks[i].open() // the status tells
			}
		}
	}
	if was := l.unfed; l.t.Feed > 0 {
		if l.unfed = now-l.fed > l.t.Feed; l.unfed && !was {
			l.stats.Unfed++
		}
	}
	for _, p := range l.peers {
		if l.unfed {
			p.sleep(now)
			continue
		}
		if p.send != nil && now >= p.next {
			l.ping(p, now)
		}
		l.events = p.look(now, l.events)
	}
}

func (l *loop) late(by time.Duration) {
	l.stats.Late = max(l.stats.Late, by)
	if by > l.t.Interval+l.t.Interval/2 {
		l.stats.Slept += by
	}
}

// deadline is when something has to be done without anything arriving.
func (l *loop) deadline() time.Duration {
	at := l.now() + time.Hour
	if slices.ContainsFunc(l.socks, func(so socket) bool { return so.fd < 0 }) {
		at = l.retry
	}
	if l.t.Feed > 0 && !l.unfed {
		at = min(at, l.fed+l.t.Feed+1)
	}
	for _, p := range l.peers {
		if l.unfed {
			break
		}
		if p.send != nil {
			at = min(at, p.next, p.deadline())
		}
	}
	return at
}

// runCalls carries out what was posted; false at the service's end.
func (l *loop) runCalls() bool {
	var drain [8]byte
	unix.Read(l.wakefd, drain[:])
	l.t.mu.Lock()
	calls, closed := l.t.calls, l.t.closed
	l.t.calls = nil
	l.t.mu.Unlock()
	for _, fn := range calls {
		fn(l)
	}
	return !closed
}

// read takes what has arrived at a socket.
func (l *loop) read(sock int) {
	for range readBatch {
		n, from, err := unix.Recvfrom(l.socks[sock].fd, l.buf[:], 0)
		if err != nil {
			return // nothing more, or an error of an earlier sending
		}
		l.take(sock, l.buf[:n], from)
	}
}

// take handles one datagram.
func (l *loop) take(sock int, b []byte, from unix.Sockaddr) {
	p, err := parsePacket(b)
	if err != nil {
		l.stats.Refused++
		return
	}
	k := l.keys[p.id]
	if k == nil || p.path >= len(k.peer.paths) || !k.signer.check(b) || !k.windows[p.path].take(p.seq) {
		l.stats.Refused++
		return
	}
	l.stats.Received++
	r := k.peer
	l.dropOlder(r, k)
	now := l.now()
	if p.kind == kindPing {
		r.heard(p.path)
		if r.send == nil || l.unfed {
			return
		}
		// To where it came from, and from where it arrived.
		l.sendTo(r, p.path, sock, from, &packet{kind: kindPong, path: p.path, time: p.time, held: int64(l.now() - now)})
		return
	}
	// The time is of our own clock, which it has come back from; the numbers
	// make sure that it comes back once.
	rtt := now - time.Duration(p.time) - time.Duration(p.held)
	if rtt < 0 || time.Duration(p.time) > now || time.Duration(p.time) < r.since {
		l.stats.Refused++
		return
	}
	l.events = r.answered(now, p.path, rtt, l.events)
}

// ping sends a ping on every path of the peer.
func (l *loop) ping(r *remote, now time.Duration) {
	for i := range r.to {
		t := &r.to[i]
		r.pinged(i)
		t.err = l.sendTo(r, i, t.sock, t.sa, &packet{kind: kindPing, path: i, time: int64(now)})
	}
	// In step, but without catching up on what was missed.
	r.next += l.t.Interval
	if r.next <= now {
		r.next = now + l.t.Interval
	}
}

func (l *loop) sendTo(r *remote, path, sock int, to unix.Sockaddr, p *packet) error {
	if l.socks[sock].fd < 0 {
		return nil // its own error tells
	}
	r.to[path].seq++
	p.id, p.seq = r.sendID, r.to[path].seq
	err := unix.Sendto(l.socks[sock].fd, r.send.appendPacket(l.out[:0], p), 0, to)
	if errors.Is(err, unix.EAGAIN) {
		return nil // the queue is full: as good as lost on the way
	}
	return err
}

func (l *loop) addPeer(name string, addrs []netip.AddrPort) error {
	old := l.peers[name]
	if old != nil && slices.Equal(old.addrs, addrs) {
		return nil
	}
	if old == nil && len(l.peers) >= maxPeers {
		return fmt.Errorf("more than %d nodes", maxPeers)
	}
	n := max(len(addrs), len(l.socks))
	r := &remote{state: newState(name, l.t.Interval, l.t.Timeout, l.now(), n), addrs: addrs, to: make([]pathTo, n), since: l.now()}
	for i := range r.to {
		t := &r.to[i]
		t.sock, t.addr = min(i, len(l.socks)-1), addrs[min(i, len(addrs)-1)]
		v6 := l.socks[t.sock].v6
		if !v6 && !t.addr.Addr().Is4() {
			return fmt.Errorf("path %d leads from %s to %s: addresses of different versions", i, l.socks[t.sock].local, t.addr)
		}
		t.sa = sockaddr(t.addr, v6)
	}
	if old != nil {
		r.send, r.sendID, r.next, r.recv = old.send, old.sendID, old.next, old.recv
		for _, k := range r.recv {
			k.peer = r
		}
		for i := range r.to {
			r.to[i].seq = 1 // of a new path; above all earlier ones of an old path
			for _, t := range old.to {
				r.to[i].seq = max(r.to[i].seq, t.seq+1)
			}
		}
	}
	l.peers[name] = r
	return nil
}

func (l *loop) removePeer(name string) {
	if r := l.peers[name]; r != nil {
		for _, k := range r.recv {
			delete(l.keys, k.id)
		}
		delete(l.peers, name)
	}
}

func (l *loop) expect(peer string, k Keys) error {
	r := l.peers[peer]
	if r == nil {
		return fmt.Errorf("node %s is not known to heartbeats", peer)
	}
	if l.keys[k.ID] != nil {
		return fmt.Errorf("keys %x are known already", k.ID)
	}
	rk := &recvKey{peer: r, id: k.ID, signer: newSigner(k.recv)}
	l.keys[k.ID] = rk
	r.recv = append(r.recv, rk)
	if len(r.recv) > maxExpected {
		// The first may be the one in use.
		delete(l.keys, r.recv[1].id)
		r.recv = append(r.recv[:1], r.recv[2:]...)
	}
	return nil
}

// dropOlder forgets the keys from before k.
func (l *loop) dropOlder(r *remote, k *recvKey) {
	for r.recv[0] != k {
		delete(l.keys, r.recv[0].id)
		r.recv = r.recv[1:]
	}
}

func (l *loop) use(peer string, k Keys) error {
	r := l.peers[peer]
	if r == nil {
		return fmt.Errorf("node %s is not known to heartbeats", peer)
	}
	if r.send == nil {
		r.next = l.now()
	}
	r.send, r.sendID = newSigner(k.send), k.ID
	for i := range r.to {
		r.to[i].seq = 0
	}
	return nil
}

func (l *loop) view(peer string) view {
	v := view{Stats: l.stats}
	r := l.peers[peer]
	if r == nil {
		return v
	}
	v.Up, v.Known = r.up, r.known
	now := l.now()
	v.Paths = make([]PathStatus, len(r.to))
	for i := range r.to {
		t, so := &r.to[i], &l.socks[r.to[i].sock]
		v.Paths[i] = r.status(now, i)
		v.Paths[i].Local, v.Paths[i].Addr = so.local.String(), t.addr.String()
		if err := errors.Join(so.err, t.err); err != nil {
			v.Paths[i].Err = err.Error()
		}
	}
	return v
}
