package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"colod/coordinator/config"
	"colod/coordinator/history"
	"colod/coordinator/metrics"
	"colod/coordinator/pair"
	"colod/coordinator/web"
	"colod/internal/report"
)

// surface is what people and programs look at: events that are kept, metrics,
// rates of the last minutes, the page, and the API over TLS.
type surface struct {
	n       *Node
	kept    *history.Store[Event]
	ckpts   *ckptHistory
	series  *metrics.Series
	handler http.Handler // of all routes, not guarded
	remote  *web.Server  // nil: the API is served on the socket only
	quit    chan struct{}
	wg      sync.WaitGroup
	stopped sync.Once
}

// sampleEvery is the time between two points of the series.
const sampleEvery = time.Second

// openSurface opens the history of events; new ones go on counting from its last.
func openSurface(n *Node) (*surface, error) {
	s := &surface{n: n, series: metrics.NewSeries(), quit: make(chan struct{})}
	var err error
	if s.kept, err = history.Open[Event](filepath.Join(n.cfg.StateDir, "events"), history.Options{}); err != nil {
		return nil, err
	}
	if err := s.kept.Read(func(e Event) bool { n.hub.last = max(n.hub.last, e.ID); return true }); err != nil {
		return s, err
	}
	n.hub.keep = s.kept.Add
	if s.ckpts, err = openCkptHistory(n.cfg.StateDir); err != nil {
		return s, err
	}
	return s, nil
}

// serve begins to take samples and, if configured, to answer over TLS.
func (s *surface) serve() {
	s.wg.Go(func() {
		t := time.NewTicker(sampleEvery)
		defer t.Stop()
		for {
			snap := s.snapshot()
			s.series.Add(time.Now(), &snap)
			s.ckpts.keep(s.n.all())
			select {
			case <-s.quit:
				return
			case <-t.C:
			}
		}
	})
	if s.remote != nil {
		s.remote.Serve()
		s.n.log.Info().Stringer("listen", s.remote.Addr()).Msg("the API is served over TLS")
	}
}

// stop ends what looks at the drivers; close, after their end, the rest.
func (s *surface) stop() {
	s.stopped.Do(func() { close(s.quit) })
	if s.n.api != nil {
		s.n.api.cancel() // ends what streams events
	}
	if s.remote != nil {
		if err := s.remote.Close(); err != nil {
			s.n.log.Warn().Err(err).Msg("the API over TLS did not end in order")
		}
	}
	s.wg.Wait()
	s.ckpts.keep(s.n.all())
}

func (s *surface) close() error {
	if s.kept == nil {
		return nil
	}
	return errors.Join(s.kept.Close(), s.ckpts.close())
}

// routes adds the surface's own routes to the API's; ctx ends before the server does.
func (s *surface) routes(mux *routes, ctx context.Context) {
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) { s.events(ctx, w, r) })
	mux.HandleFunc("GET /v1/pairs/{name}/series", s.points)
	mux.HandleFunc("GET /v1/pairs/{name}/checkpoints", s.checkpoints)
	reg := metrics.NewRegistry(s.snapshot, stateNames())
	mux.HandleFunc("GET /metrics", metrics.Handler(reg).ServeHTTP)
	web.Routes(mux.HandleFunc)
	s.handler = mux
}

// listen takes the address of the API over TLS, if one is configured.
func (s *surface) listen() error {
	a := s.n.cfg.API
	if a.Listen == "" {
		return nil
	}
	var err error
	s.remote, err = web.Listen(web.Options{
		Listen: a.Listen, Cert: a.Cert, Key: a.Key, ClientCA: a.ClientCA, Tokens: a.Tokens, Handler: s.handler, Log: s.n.log,
	})
	return err
}

// routes is a mux that knows its patterns, for the check of the API's description.
type routes struct {
	http.ServeMux
	patterns []string
}

func newRoutes() *routes { return &routes{} }

// HandleFunc registers a handler, as http.ServeMux does.
func (m *routes) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	m.patterns = append(m.patterns, pattern)
	m.ServeMux.HandleFunc(pattern, h)
}

func stateNames() []string {
	var names []string
	for s := pair.Idle; s.String() != "invalid"; s++ {
		names = append(names, s.String())
	}
	return names
}

// snapshot looks at all pairs.
func (s *surface) snapshot() metrics.Snapshot {
	n := s.n
	snap := metrics.Snapshot{Node: n.cfg.Node, Version: n.opt.Version, Since: n.start, CertExpires: n.id.Expires(), EventsLost: s.kept.Lost(),
		Supervision: n.sup.sample()}
	seen := map[string]bool{}
	for _, st := range n.Status().Pairs {
		d := n.driverOf(st.Pair)
		if d == nil {
			continue
		}
		snap.Pairs = append(snap.Pairs, d.sample(&st))
		for _, p := range append(st.Peers, st.Peer) {
			if p.Node == "" || seen[p.Node] {
				continue
			}
			seen[p.Node] = true
			peer := metrics.Peer{Name: p.Node, Up: p.Up, RTT: micros(p.RTTUS)}
			for _, path := range p.Paths {
				peer.Paths = append(peer.Paths, metrics.Path{Number: path.Path, Up: path.Up, RTT: micros(path.RTTP50US), Lost: path.Lost})
			}
			snap.Peers = append(snap.Peers, peer)
		}
	}
	return snap
}

// micros is a time in microseconds, as the status tells it.
func micros(us float64) time.Duration { return time.Duration(us * float64(time.Microsecond)) }

// sample adds to a status what the status does not tell.
func (d *driver) sample(st *PairStatus) metrics.Pair {
	p := d.data.Stats()
	d.stats.mu.Lock()
	stop, transfer, delay := d.stats.stop, d.stats.transfer, d.stats.records.all
	phase := d.stats.records.hist
	d.stats.mu.Unlock()
	var reports report.Stats
	if d.reports.c != nil {
		reports = d.reports.c.Stats()
	}
	sampled := metrics.Pair{
		Paused: st.Paused, Held: st.Maintenance != nil, Causes: reports.ByCause, LeftOut: reports.LeftOut,
		Name: st.Pair, State: st.State, Role: st.Role, Protected: st.State == "protected" || st.State == "checkpointing",
		Runs: st.VM != nil, Generation: st.Generation, Since: st.Since,
		Released: metrics.Released{Agreed: p.Agreed, Covered: p.Covered, Alone: p.Alone, Frames: p.ReleasedFrames, Bytes: p.ReleasedBytes},
		Delay:    p.Delay, Hold: p.Hold, HeldFrames: p.Held, Budget: p.Budget,
		Mirrored: p.Mirrored, InputLost: p.InputLost, OutputLost: p.OutputLost, Rewritten: p.Rewritten, LinkIn: p.LinkIn, LinkOut: p.LinkOut,
		Checkpoints: st.Checkpoints.Count, ByReason: st.Checkpoints.Reasons, StateBytes: st.Checkpoints.Bytes,
		Stop: &stop, Transfer: &transfer, CkptDelay: &delay, Divergences: st.Divergences.ByReason,
	}
	for _, u := range d.reports.tolerances.uses() {
		sampled.Tolerances = append(sampled.Tolerances, metrics.Tolerance{Name: u.Name, Uses: u.Uses, Bytes: u.Bytes, Followed: u.Followed})
	}
	for i := range phase {
		sampled.Phase[i] = &phase[i]
	}
	return sampled
}

// points answers with what a pair did in the last 15 minutes, second by second.
func (s *surface) points(w http.ResponseWriter, r *http.Request) {
	var after uint64
	if q := r.URL.Query().Get("after"); q != "" {
		n, err := strconv.ParseUint(q, 10, 64)
		if err != nil {
			reply(w, http.StatusBadRequest, apiError{fmt.Sprintf("after %q is not the ID of a point", q)})
			return
		}
		after = n
	}
	name := r.PathValue("name")
	pts, ok := s.series.After(name, after)
	if !ok {
		if s.n.driverOf(name) == nil {
			s.n.api.noPair(w, r)
			return
		}
		pts = []metrics.Point{} // colod has just started
	}
	reply(w, http.StatusOK, SeriesAnswer{Pair: name, EveryMS: sampleEvery.Milliseconds(), Points: pts})
}

// SeriesAnswer is what a pair did lately.
type SeriesAnswer struct {
	Pair    string          `json:"pair"`
	EveryMS int64           `json:"every_ms"` // time between two points
	Points  []metrics.Point `json:"points"`
}

// EventQuery selects events.
type EventQuery struct {
	Since    time.Time // zero: the recent ones that are in memory
	All      bool      // all that are kept, however old
	Pair     string    // "": all pairs
	NoFollow bool      // end after those that there are
	Routine  bool      // begins and ends of checkpoints too
}

// parseEventQuery reads the parameters of GET /v1/events; now is for durations.
func parseEventQuery(r *http.Request, now time.Time) (EventQuery, error) {
	v := r.URL.Query()
	q := EventQuery{Pair: v.Get("pair"), Routine: true}
	for _, b := range []struct {
		name string
		set  func(bool)
	}{
		{"follow", func(on bool) { q.NoFollow = !on }},
		{"routine", func(on bool) { q.Routine = on }},
	} {
		if s := v.Get(b.name); s != "" {
			on, err := strconv.ParseBool(s)
			if err != nil {
				return q, fmt.Errorf("%s %q is neither true nor false", b.name, s)
			}
			b.set(on)
		}
	}
	switch s := v.Get("since"); {
	case s == "":
	case s == "all":
		q.All = true
	default:
		if d, err := config.ParseDuration(s); err == nil && d >= 0 {
			q.Since = now.Add(-d.D())
		} else if q.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return q, fmt.Errorf("since %q is neither a duration such as 1h, nor a time such as 2026-01-31T12:00:00Z, nor all", s)
		}
	}
	return q, nil
}

// events streams the events asked for and, unless told not to, all that follow.
func (s *surface) events(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	q, err := parseEventQuery(r, time.Now())
	if err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	recent, ch := s.n.hub.listen()
	defer s.n.hub.leave(ch)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	flush := http.NewResponseController(w).Flush
	var last uint64
	send := func(e Event) bool {
		if e.ID <= last {
			return true // both on disk and in memory
		}
		last = e.ID
		if q.Pair != "" && e.Pair != q.Pair || e.Routine && !q.Routine || e.Time.Before(q.Since) {
			return true
		}
		return enc.Encode(e) == nil
	}
	if q.All || !q.Since.IsZero() {
		gone := false
		if err := s.kept.Read(func(e Event) bool { gone = !send(e); return !gone }); err != nil {
			s.n.log.Warn().Err(err).Msg("the events on disk cannot be read")
		}
		if gone {
			return
		}
	}
	for _, e := range recent {
		if !send(e) {
			return
		}
	}
	if flush() != nil || q.NoFollow {
		return
	}
	for {
		select {
		case e, ok := <-ch:
			if !ok || !send(e) || flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		case <-ctx.Done():
			return
		}
	}
}
