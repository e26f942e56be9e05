package metrics

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"colod/internal/loghist"
)

// Source takes a snapshot; it is called for each scrape.
type Source func() Snapshot

// collector turns snapshots into Prometheus' metrics.
type collector struct {
	source Source
	states []string
	desc   map[string]*prometheus.Desc
}

// maxReasons bounds the label values of a reason. The data path has a dozen;
// what comes beyond is counted together, as "other".
const maxReasons = 64

// maxLabel bounds the length of a label's value, bytes.
const maxLabel = 128

// NewRegistry makes a registry with colod's own metrics, those of the Go
// runtime and those of the process. states are the names of all states in
// which a pair can be.
func NewRegistry(source Source, states []string) *prometheus.Registry {
	c := &collector{source: source, states: states, desc: map[string]*prometheus.Desc{}}
	for _, f := range families {
		c.desc[f.Name] = prometheus.NewDesc(f.Name, f.Help, f.Labels, nil)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Handler serves a registry. Two scrapes may run at a time; more get 503.
func Handler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 2, Timeout: 10 * time.Second})
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range families {
		ch <- c.desc[f.Name]
	}
}

// sink writes metrics of one pair, whose name is the first label.
type sink struct {
	c      *collector
	ch     chan<- prometheus.Metric
	prefix []string
}

func (s sink) labels(more []string) []string {
	all := append(slices.Clone(s.prefix), more...)
	for i, l := range all {
		all[i] = label(l)
	}
	return all
}

func (s sink) gauge(name string, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(s.c.desc[name], prometheus.GaugeValue, v, s.labels(labels)...)
}

func (s sink) count(name string, v uint64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(s.c.desc[name], prometheus.CounterValue, float64(v), s.labels(labels)...)
}

func (s sink) flag(name string, v bool, labels ...string) {
	n := 0.0
	if v {
		n = 1
	}
	s.gauge(name, n, labels...)
}

func (s sink) at(name string, t time.Time, labels ...string) {
	if !t.IsZero() {
		s.gauge(name, float64(t.UnixNano())/1e9, labels...)
	}
}

func (s sink) hist(name string, h *loghist.Hist, labels ...string) {
	if h == nil {
		h = new(loghist.Hist)
	}
	buckets := make(map[float64]uint64)
	for i, n := range h.Cumulative() {
		buckets[bounds[i]] = n
	}
	s.ch <- prometheus.MustNewConstHistogram(s.c.desc[name], h.Total, h.Sum.Seconds(), buckets, s.labels(labels)...)
}

var bounds = loghist.Octaves()

// reasons counts by reason; equal labels are added up.
func (s sink) reasons(name string, by map[string]uint64) {
	sum := map[string]uint64{}
	for _, r := range slices.Sorted(maps.Keys(by)) {
		l := label(r)
		if _, known := sum[l]; !known && len(sum) >= maxReasons {
			l = "other"
		}
		sum[l] += by[r]
	}
	for _, r := range slices.Sorted(maps.Keys(sum)) {
		s.count(name, sum[r], r)
	}
}

// label makes a valid label value of any string.
func label(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxLabel {
		return s
	}
	cut := maxLabel
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	n := c.source()
	s := sink{c: c, ch: ch}
	s.gauge("colod_build_info", 1, n.Node, n.Version)
	s.at("colod_start_time_seconds", n.Since)
	s.at("colod_certificate_expiry_time_seconds", n.CertExpires)
	s.count("colod_events_lost_total", n.EventsLost)
	sup := &n.Supervision
	for _, state := range slices.Sorted(maps.Keys(sup.Parts)) {
		s.gauge("colod_supervised_parts", float64(sup.Parts[state]), state)
	}
	s.reasons("colod_supervision_failures_total", sup.Failures)
	s.reasons("colod_supervision_actions_total", sup.Actions)
	s.count("colod_supervision_actions_held_total", sup.ActionsHeld)
	s.count("colod_heartbeat_restarts_total", sup.HeartbeatRestarts)
	for _, p := range n.Peers {
		s.flag("colod_peer_up", p.Up, p.Name)
		if p.RTT > 0 {
			s.gauge("colod_peer_rtt_seconds", p.RTT.Seconds(), p.Name)
		}
		for _, path := range p.Paths {
			number := strconv.Itoa(path.Number)
			s.flag("colod_path_up", path.Up, p.Name, number)
			if path.RTT > 0 {
				s.gauge("colod_path_rtt_seconds", path.RTT.Seconds(), p.Name, number)
			}
			s.count("colod_path_heartbeats_lost_total", path.Lost, p.Name, number)
		}
	}
	for i := range n.Pairs {
		s.prefix = []string{n.Pairs[i].Name}
		c.pair(s, &n.Pairs[i])
	}
}

func (c *collector) pair(s sink, p *Pair) {
	for _, st := range c.states {
		s.flag("colod_pair_state", st == p.State, st)
	}
	s.at("colod_pair_state_since_time_seconds", p.Since)
	s.flag("colod_pair_speaker", p.Role == "speaker")
	s.flag("colod_pair_protected", p.Protected)
	s.flag("colod_pair_paused", p.Paused)
	s.flag("colod_pair_maintenance", p.Held)
	s.flag("colod_pair_vm_runs", p.Runs)
	s.gauge("colod_pair_generation", float64(p.Generation))

	s.count("colod_released_frames_total", p.Released.Agreed, "agreed")
	s.count("colod_released_frames_total", p.Released.Covered, "covered")
	s.count("colod_released_frames_total", p.Released.Alone, "alone")
	s.count("colod_released_bytes_total", p.Released.Bytes)
	s.hist("colod_hold_seconds", p.Hold)
	s.hist("colod_release_delay_seconds", p.Delay)
	s.gauge("colod_hold_budget_seconds", p.Budget.Seconds())
	s.gauge("colod_held_frames", float64(p.HeldFrames))
	s.count("colod_mirrored_frames_total", p.Mirrored)
	s.count("colod_lost_frames_total", p.OutputLost, "out")
	s.count("colod_lost_frames_total", p.InputLost, "in")
	s.gauge("colod_rewritten_connections", float64(p.Rewritten))
	s.count("colod_link_bytes_total", p.LinkIn, "in")
	s.count("colod_link_bytes_total", p.LinkOut, "out")

	s.count("colod_checkpoints_total", p.Checkpoints)
	s.reasons("colod_checkpoint_reasons_total", p.ByReason)
	s.count("colod_checkpoint_state_bytes_total", p.StateBytes)
	s.hist("colod_checkpoint_stop_seconds", p.Stop)
	s.hist("colod_checkpoint_transfer_seconds", p.Transfer)
	for i, h := range p.Phase {
		s.hist("colod_checkpoint_phase_seconds", h, PhaseNames[i])
	}
	s.hist("colod_checkpoint_delay_seconds", p.CkptDelay)
	s.reasons("colod_divergences_total", p.Divergences)
	s.reasons("colod_divergence_reports_total", p.Causes)
	s.reasons("colod_divergence_reports_left_out_total", p.LeftOut)
	uses, hidden, followed := map[string]uint64{}, map[string]uint64{}, map[string]uint64{}
	for _, t := range p.Tolerances {
		uses[t.Name], hidden[t.Name], followed[t.Name] = t.Uses, t.Bytes, t.Followed
	}
	s.reasons("colod_tolerance_uses_total", uses)
	s.reasons("colod_tolerance_bytes_total", hidden)
	s.reasons("colod_tolerance_divergences_total", followed)
}
