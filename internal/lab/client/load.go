// Package client holds the clients that watch a guest: each checks every byte
// it gets and knows the longest time it had to wait. They run as a process of
// their own on the lab's client host ("colod lab client"), started and read by
// a Session.
//
// A client never repairs anything: no reconnect, no retry. What a real client
// would suffer is what it reports.
package client

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Kind of client.
type Kind string

// The kinds of clients.
const (
	Echo     Kind = "echo"     // numbered bytes over TCP, both ways all the time
	UDPEcho  Kind = "udp-echo" // numbered datagrams
	Download Kind = "download" // GET of static content, every byte compared
	Upload   Kind = "upload"   // POST whose digest the guest answers
	Counter  Kind = "counter"  // GET /counter over one connection, gapless
	Random   Kind = "random"   // GET /random over one connection, each answer whole
	HTTPS    Kind = "https"    // GET over one encrypted connection, kept alive
	Redis    Kind = "redis"    // pipelined INCR, gapless
	SSH      Kind = "ssh"      // an interactive session that counts aloud
	Fetch    Kind = "fetch"    // GET /fetch of a slow page that this client itself serves
)

// Load describes one client.
type Load struct {
	Kind  Kind   `json:"kind"`
	Name  string `json:"name"`            // unique in a session; Kind by default
	Host  string `json:"host"`            // the guest's address
	Port  int    `json:"port,omitempty"`  // the service's own by default
	Rate  int    `json:"rate,omitempty"`  // bytes a second and connection (streams), requests a second (the others); 0 = as fast as it goes
	Size  int64  `json:"size,omitempty"`  // bytes of one transfer or answer
	Count int    `json:"count,omitempty"` // ends after so many transfers, requests or answers; 0 = when told to
	Own   string `json:"own,omitempty"`   // fetch: address of the client host that the guest connects to
	Key   string `json:"key,omitempty"`   // ssh: private key; https: certificate of the guest
	Known string `json:"known,omitempty"` // ssh: known_hosts
}

// Report is what a client saw. Counts grow; Pause is the longest wait since
// the last mark.
type Report struct {
	Name     string  `json:"name"`
	Kind     Kind    `json:"kind"`
	Open     bool    `json:"open"`   // the connection is there and in use
	Done     bool    `json:"done"`   // ended by itself or as told, nothing outstanding
	Bytes    int64   `json:"bytes"`  // checked
	Rounds   int64   `json:"rounds"` // transfers, requests, datagrams or lines answered
	Lost     int64   `json:"lost"`   // bytes (udp-echo: datagrams) that never came
	Repeated int64   `json:"repeated"`
	Corrupt  int64   `json:"corrupt"`
	PauseMS  float64 `json:"pause_ms"` // longest wait for an answer since the last mark
	FirstMS  float64 `json:"first_ms"` // from the last mark to the first answer after it; 0 = none asked for yet
	Error    string  `json:"error,omitempty"`
	Last     string  `json:"last,omitempty"` // the newest line of a session that shows something
}

// Clean tells that nothing was lost, repeated or changed and nothing broke. A
// datagram may be lost or repeated, as by any network: not counted.
func (r Report) Clean() bool {
	if r.Kind == UDPEcho {
		return r.Corrupt == 0 && r.Error == ""
	}
	return r.Error == "" && r.Lost == 0 && r.Repeated == 0 && r.Corrupt == 0
}

// meter collects one client's report. It is safe for use by many goroutines.
type meter struct {
	mu    sync.Mutex
	r     Report
	since time.Time // the oldest thing asked for and not answered; zero if none
	first bool      // something was heard since the last mark
	stop  context.Context
}

func (m *meter) update(f func(r *Report)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.r)
}

// waiting starts the clock, if it does not run: an answer is expected.
func (m *meter) waiting() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since.IsZero() {
		m.since = time.Now()
	}
}

// heard notes that something came. The clock goes on from here when more is
// outstanding.
func (m *meter) heard(outstanding bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.lapse(now)
	m.first = m.first || !m.since.IsZero()
	m.since = time.Time{}
	if outstanding {
		m.since = now
	}
}

func (m *meter) lapse(now time.Time) {
	if !m.since.IsZero() {
		wait := float64(now.Sub(m.since).Microseconds()) / 1000
		m.r.PauseMS = max(m.r.PauseMS, wait)
		if !m.first {
			m.r.FirstMS = wait
		}
	}
}

// snapshot returns the report so far; mark starts the longest wait anew.
func (m *meter) snapshot(mark bool) Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.lapse(now) // a wait that still lasts counts
	r := m.r
	if mark {
		m.r.PauseMS, m.r.FirstMS, m.first = 0, 0, false
		if !m.since.IsZero() {
			m.since = now
		}
	}
	return r
}

// stopping tells that the session wants to end: start nothing new.
func (m *meter) stopping() bool { return m.stop.Err() != nil }

// run carries one client to its end.
func run(ctx context.Context, l Load, m *meter) {
	var err error
	switch l.Kind {
	case Echo:
		err = echo(ctx, l, m)
	case UDPEcho:
		err = udpEcho(ctx, l, m)
	case Download:
		err = download(ctx, l, m)
	case Upload:
		err = upload(ctx, l, m)
	case Counter:
		err = counter(ctx, l, m)
	case Random:
		err = random(ctx, l, m)
	case HTTPS:
		err = https(ctx, l, m)
	case Redis:
		err = redis(ctx, l, m)
	case SSH:
		err = ssh(ctx, l, m)
	case Fetch:
		err = fetch(ctx, l, m)
	default:
		err = fmt.Errorf("unknown kind of client %q", l.Kind)
	}
	m.update(func(r *Report) {
		r.Open = false
		if err != nil {
			r.Error = err.Error()
			return
		}
		r.Done = true
	})
}

// pacer spreads work evenly over time.
type pacer struct {
	start time.Time
	rate  float64 // units a second; 0 = no limit
	done  float64
}

func newPacer(rate int) *pacer { return &pacer{start: time.Now(), rate: float64(rate)} }

// wait returns when n more units may be sent.
func (p *pacer) wait(ctx context.Context, n int) {
	if p.rate == 0 {
		return
	}
	p.done += float64(n)
	due := p.start.Add(time.Duration(p.done / p.rate * float64(time.Second)))
	behind := time.Until(due)
	if behind <= 0 {
		if behind < -time.Second {
			// After a pause go on at the rate; do not catch up in a burst.
			p.start = p.start.Add(-behind)
		}
		return
	}
	t := time.NewTimer(behind)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
