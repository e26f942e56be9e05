package coordinator

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"colod/coordinator/config"
	"colod/coordinator/history"
)

// ckptLine is what the history of checkpoints holds in a line: those of about a second, so that a pair with many of
// them a second does not make the disk busy.
type ckptLine struct {
	Pair string             `json:"pair"`
	List []CheckpointRecord `json:"list"`
}

// maxCkptLine keeps a line below history.MaxLine: a record is below 600 bytes, unless it has many reasons.
const maxCkptLine = 64

// ckptHistory keeps the records of all pairs on disk. Its own goroutine takes them from the drivers' rings; what is read joins both.
type ckptHistory struct {
	store *history.Store[ckptLine]

	mu   sync.Mutex
	next map[*driver]int // number of the first record that is not on its way to the disk
}

func openCkptHistory(stateDir string) (*ckptHistory, error) {
	s, err := history.Open[ckptLine](filepath.Join(stateDir, "checkpoints"), history.Options{})
	if err != nil {
		return nil, err
	}
	return &ckptHistory{store: s, next: map[*driver]int{}}, nil
}

// keep takes what the drivers have taken since the last time.
func (h *ckptHistory) keep(drivers []*driver) {
	if h == nil {
		return // it could not be opened
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range drivers {
		list, next := d.stats.checkpointsAfter(h.next[d])
		h.next[d] = next
		for len(list) > 0 {
			n := min(len(list), maxCkptLine)
			h.store.Add(ckptLine{Pair: d.cfg.Name, List: list[:n]})
			list = list[n:]
		}
	}
	maps.DeleteFunc(h.next, func(d *driver, _ int) bool { return !slices.Contains(drivers, d) })
}

// read calls fn for a pair's records from since on, oldest first, until it returns false.
func (h *ckptHistory) read(d *driver, since time.Time, fn func(CheckpointRecord) bool) error {
	var last time.Time
	more := true
	one := func(r CheckpointRecord) bool {
		if r.Time.After(last) && !r.Time.Before(since) {
			more = fn(r)
		}
		if r.Time.After(last) {
			last = r.Time
		}
		return more
	}
	err := h.store.Read(func(l ckptLine) bool {
		if l.Pair == d.cfg.Name {
			for _, r := range l.List {
				if !one(r) {
					return false
				}
			}
		}
		return more
	})
	if err != nil || !more {
		return err
	}
	list, _ := d.stats.checkpointsAfter(0) // those that are not on disk yet
	for _, r := range list {
		if !one(r) {
			return nil
		}
	}
	return nil
}

func (h *ckptHistory) close() error {
	if h == nil {
		return nil
	}
	return h.store.Close()
}

// checkpointsAfter are the records from number from on, as far as they are in memory, and the next one's number.
func (s *stats) checkpointsAfter(from int) ([]CheckpointRecord, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records.after(from)
}

// lastState is how many bytes of state the newest checkpoint has carried.
func (s *stats) lastState() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records.n == 0 {
		return 0
	}
	return s.records.last[(s.records.n-1)%len(s.records.last)].Bytes
}

// checkpoints streams a pair's records, one JSON object a line, oldest first.
func (s *surface) checkpoints(w http.ResponseWriter, r *http.Request) {
	d := s.n.driverOf(r.PathValue("name"))
	if d == nil {
		s.n.api.noPair(w, r)
		return
	}
	q := r.URL.Query().Get("since")
	var since time.Time
	switch q {
	case "", "all":
	default:
		if ago, err := config.ParseDuration(q); err == nil && ago >= 0 {
			since = time.Now().Add(-ago.D())
		} else if since, err = time.Parse(time.RFC3339Nano, q); err != nil {
			reply(w, http.StatusBadRequest, apiError{fmt.Sprintf("since %q is neither a duration such as 1h, nor a time such as 2026-01-31T12:00:00Z, nor all", q)})
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	send := func(c CheckpointRecord) bool { return enc.Encode(c) == nil }
	if q == "" {
		list, _ := d.stats.checkpointsAfter(0)
		for _, c := range list {
			if !send(c) {
				return
			}
		}
		return
	}
	if err := s.ckpts.read(d, since, send); err != nil {
		s.n.log.Warn().Err(err).Msg("the records of checkpoints on disk cannot be read")
	}
}

// Checkpoints calls fn for each of a pair's checkpoints, oldest first: those in memory (the last 1024) with an empty since, else
// those that are kept since a duration ago, a time, or all.
func (c *Client) Checkpoints(ctx context.Context, pair, since string, fn func(CheckpointRecord) error) error {
	path := "/v1/pairs/" + url.PathEscape(pair) + "/checkpoints"
	if since != "" {
		path += "?since=" + url.QueryEscape(since)
	}
	resp, err := c.open(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, history.MaxLine)
	for sc.Scan() {
		var r CheckpointRecord
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			return fmt.Errorf("read checkpoint: %w", err)
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return sc.Err()
}
