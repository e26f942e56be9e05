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
	"sync/atomic"
	"time"

	"colod/compare"
	"colod/coordinator/config"
	"colod/internal/record"
	"colod/internal/report"
	"colod/proxy"
)

// reporter is what a driver does for reports and recordings of its pair. A nil collector, when the store could not be
// opened, takes nothing: reports never keep a guest from running.
type reporter struct {
	c          *report.Collector
	generation atomic.Uint64
	mu         sync.Mutex
	bytes      uint64 // of state, up to the last checkpoint
	recording  atomic.Bool
	tolerances toleranceCounts
}

// reportsDir is where a pair's reports are.
func reportsDir(stateDir, pair string) string { return filepath.Join(stateDir, "reports", pair) }

func (d *driver) openReports(self *config.Config) {
	d.reports.tolerances.init(d.cfg.Tolerances)
	o := self.Reports
	c, err := report.NewCollector(report.Options{
		Dir: reportsDir(self.StateDir, d.cfg.Name), Node: d.node, Pair: d.cfg.Name, Payload: report.Payload(o.Payload),
		Limits: report.Limits{MaxSize: o.MaxSize.Bytes(), MaxAge: o.MaxAge.D()}, Rate: float64(o.Rate),
		Failed: func(err error) { d.log.Warn().Err(err).Msg("write a report") },
	})
	if err != nil {
		d.log.Warn().Err(err).Msg("there will be no reports of divergences")
		return
	}
	d.reports.c = c
}

// close writes what waits. What could not be written was told of by then.
func (r *reporter) close() {
	if r.c != nil {
		_ = r.c.Close()
	}
}

// diverged is called on the data path's thread.
func (r *reporter) diverged(v compare.Divergence) {
	if r.c != nil {
		r.c.Diverged(&v, r.generation.Load())
	}
}

// session says that a protection begins.
func (r *reporter) session() {
	if r.c != nil {
		r.c.Session()
	}
}

func (r *reporter) begun(n uint64, reasons []string) {
	if r.c != nil {
		r.c.CheckpointBegun(n, reasons)
	}
}

// done takes the cost of checkpoint n from the counters.
func (r *reporter) done(n uint64, s *stats) {
	if r.c == nil {
		return
	}
	s.mu.Lock()
	stop, took, bytes := time.Duration(0), time.Since(s.began), s.bytes
	if !s.stopAt.IsZero() {
		stop = max(s.resumeT.Sub(s.stopAt), 0)
	}
	s.mu.Unlock()
	r.mu.Lock()
	sent := bytes - r.bytes
	r.bytes = bytes
	r.mu.Unlock()
	r.c.CheckpointDone(n, stop, took, sent)
}

// reportRoutes adds the routes of reports and recordings.
func (s *apiServer) reportRoutes(handle func(string, func(http.ResponseWriter, *http.Request))) {
	handle("GET /v1/pairs/{name}/reports", s.reports)
	handle("GET /v1/pairs/{name}/reports/stats", s.reportStats)
	handle("POST /v1/pairs/{name}/record", s.record)
}

// reports streams a pair's reports, one JSON object a line, oldest first.
func (s *apiServer) reports(w http.ResponseWriter, r *http.Request) {
	d := s.n.drivers[r.PathValue("name")]
	if d == nil {
		s.noPair(w, r)
		return
	}
	f, err := reportFilter(r)
	if err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	if d.reports.c != nil {
		d.reports.c.Flush()
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	if _, err := report.Read(reportsDir(s.n.cfg.StateDir, d.cfg.Name), f, func(x *report.Report) error { return enc.Encode(x) }); err != nil {
		s.n.log.Warn().Err(err).Msg("read reports")
	}
}

func reportFilter(r *http.Request) (f report.Filter, err error) {
	q := r.URL.Query()
	for _, t := range []struct {
		name string
		to   *time.Time
	}{{"since", &f.Since}, {"until", &f.Until}} {
		if v := q.Get(t.name); v != "" {
			if *t.to, err = time.Parse(time.RFC3339Nano, v); err != nil {
				return f, fmt.Errorf("%s %q is not a time such as 2026-01-31T12:00:00Z", t.name, v)
			}
		}
	}
	if v := q.Get("number"); v != "" {
		if f.Number, err = strconv.ParseUint(v, 10, 64); err != nil {
			return f, fmt.Errorf("number %q is not a report's number", v)
		}
	}
	if v := q.Get("last"); v != "" {
		if f.Last, err = strconv.Atoi(v); err != nil || f.Last < 1 {
			return f, fmt.Errorf("last %q is not a number of reports", v)
		}
	}
	return f, nil
}

// ReportStats is what GET /v1/pairs/{name}/reports/stats answers.
type ReportStats struct {
	Reports    report.Stats    `json:"reports"`
	Tolerances []ToleranceUses `json:"tolerances"` // since colod started
}

// ToleranceUses counts the uses of one rule.
type ToleranceUses struct {
	Name     string `json:"name"`
	Uses     uint64 `json:"uses"`
	Bytes    uint64 `json:"bytes"`    // that differed and were hidden
	Followed uint64 `json:"followed"` // divergences in connections in which it had hidden something
}

// ReportStats are the counters of reports and tolerances.
func (d *driver) reportStats() ReportStats {
	out := ReportStats{Tolerances: d.reports.tolerances.uses()}
	if d.reports.c != nil {
		out.Reports = d.reports.c.Stats()
	}
	return out
}

func (s *apiServer) reportStats(w http.ResponseWriter, r *http.Request) {
	d := s.n.drivers[r.PathValue("name")]
	if d == nil {
		s.noPair(w, r)
		return
	}
	reply(w, http.StatusOK, d.reportStats())
}

// errNotRecorded is the answer of a data path that is no listener.
var errNotRecorded = errors.New("this data path cannot be recorded")

// listener is a data path that can be recorded.
type listener interface {
	Listen(ctx context.Context, start func(cfg compare.Config, state []byte, mono, real int64) compare.Tap) error
	Unlisten(ctx context.Context, tap compare.Tap) (bool, error)
}

var _ listener = (*proxy.Proxy)(nil)

// Bounds of a recording.
const (
	defaultRecording = time.Minute
	maxRecording     = time.Hour
)

// record streams a recording of what the pair's comparison is told and says.
func (s *apiServer) record(w http.ResponseWriter, r *http.Request) {
	d := s.n.drivers[r.PathValue("name")]
	if d == nil {
		s.noPair(w, r)
		return
	}
	var req struct {
		For string `json:"for"`
	}
	if err := body(r, &req); err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	length := defaultRecording
	if req.For != "" {
		v, err := config.ParseDuration(req.For)
		if err != nil || v.D() <= 0 || v.D() > maxRecording {
			reply(w, http.StatusBadRequest, apiError{fmt.Sprintf("for %q is not a duration up to %s", req.For, maxRecording)})
			return
		}
		length = v.D()
	}
	l, ok := d.data.(listener)
	if !ok {
		reply(w, http.StatusConflict, apiError{errNotRecorded.Error()})
		return
	}
	if !d.reports.recording.CompareAndSwap(false, true) {
		reply(w, http.StatusConflict, apiError{fmt.Sprintf("pair %s is being recorded already", d.cfg.Name)})
		return
	}
	defer d.reports.recording.Store(false)
	ctx, cancel := context.WithTimeout(r.Context(), pathTimeout)
	defer cancel()
	var rec *record.Writer
	err := l.Listen(ctx, func(cfg compare.Config, state []byte, mono, real int64) compare.Tap {
		rec = record.NewWriter(record.Header{Node: d.node, Pair: d.cfg.Name}, cfg, state, mono, real)
		return rec
	})
	if err != nil {
		reply(w, http.StatusConflict, apiError{fmt.Sprintf("record pair %s: %v; only a protected pair's speaker has something to record", d.cfg.Name, err)})
		return
	}
	w.Header().Set("Content-Type", "application/vnd.colod.recording")
	end, stop := context.WithTimeout(r.Context(), length)
	defer stop()
	defer context.AfterFunc(s.ctx, stop)()
	detach := func() (bool, error) {
		ctx, cancel := context.WithTimeout(context.Background(), pathTimeout)
		defer cancel()
		return l.Unlisten(ctx, rec)
	}
	if err := rec.Stream(end, w, http.NewResponseController(w).Flush, detach); err != nil {
		d.log.Warn().Err(err).Msg("recording ended early")
	}
}
