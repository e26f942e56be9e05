package metrics

import (
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"colod/internal/loghist"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

func hist(d ...time.Duration) *loghist.Hist {
	h := new(loghist.Hist)
	for _, d := range d {
		h.Add(d)
	}
	return h
}

var states = []string{"solo", "protected"}

// sample is a node with all that a snapshot can hold.
func sample() Snapshot {
	return Snapshot{
		Node: "a", Version: "1.0", Since: time.Unix(1000, 0), CertExpires: time.Unix(2000, 500e6), EventsLost: 1,
		Supervision: Supervision{Parts: map[string]uint64{"ok": 9, "failed": 1}, Failures: map[string]uint64{"vm": 2, "path": 0},
			Actions: map[string]uint64{"vm": 3}, ActionsHeld: 1, HeartbeatRestarts: 1},
		Peers: []Peer{{Name: "b", Up: true, RTT: 250 * time.Microsecond, Paths: []Path{{Up: true, RTT: time.Millisecond, Lost: 3}, {Number: 1}}}, {Name: "c"}},
		Pairs: []Pair{{
			Name: "g", State: "protected", Role: "speaker", Protected: true, Runs: true, Generation: 4, Since: time.Unix(1500, 0),
			Released: Released{Agreed: 10, Covered: 5, Alone: 2, Frames: 17, Bytes: 1700},
			Delay:    hist(time.Millisecond, 3*time.Second), Hold: hist(time.Millisecond),
			HeldFrames: 3, Budget: 5 * time.Millisecond, Mirrored: 9, InputLost: 1, OutputLost: 2, Rewritten: 1,
			LinkIn: 100, LinkOut: 200, Checkpoints: 2, ByReason: map[string]uint64{"payload": 1, "timer": 1},
			StateBytes: 4096, Stop: hist(10*time.Millisecond, 20*time.Millisecond), Transfer: hist(5 * time.Millisecond),
			Phase: [Phases]*loghist.Hist{hist(time.Millisecond), nil, hist(2 * time.Millisecond)}, CkptDelay: hist(3 * time.Millisecond),
			Divergences: map[string]uint64{"payload": 1}, Causes: map[string]uint64{"http-date": 1},
			Tolerances: []Tolerance{{Name: "date", Uses: 5, Bytes: 7, Followed: 1}, {Name: "build"}}, LeftOut: map[string]uint64{"rate": 2},
		}},
	}
}

func registry(n Snapshot) *prometheus.Registry {
	return NewRegistry(func() Snapshot { return n }, states)
}

func scrape(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(r).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("answer %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestValues(t *testing.T) {
	text := scrape(t, registry(sample()))
	for _, want := range []string{
		`colod_build_info{node="a",version="1.0"} 1`,
		`colod_certificate_expiry_time_seconds 2000.5`,
		`colod_peer_up{peer="c"} 0`,
		`colod_peer_rtt_seconds{peer="b"} 0.00025`,
		`colod_path_up{path="1",peer="b"} 0`,
		`colod_path_rtt_seconds{path="0",peer="b"} 0.001`,
		`colod_divergence_reports_total{cause="http-date",pair="g"} 1`,
		`colod_tolerance_uses_total{pair="g",rule="date"} 5`,
		`colod_tolerance_bytes_total{pair="g",rule="date"} 7`,
		`colod_tolerance_divergences_total{pair="g",rule="date"} 1`,
		`colod_tolerance_uses_total{pair="g",rule="build"} 0`,
		`colod_supervised_parts{state="failed"} 1`,
		`colod_supervision_failures_total{part="vm"} 2`,
		`colod_supervision_failures_total{part="path"} 0`,
		`colod_supervision_actions_total{part="vm"} 3`,
		`colod_supervision_actions_held_total 1`,
		`colod_heartbeat_restarts_total 1`,
		`colod_pair_state{pair="g",state="protected"} 1`,
		`colod_pair_state{pair="g",state="solo"} 0`,
		`colod_pair_protected{pair="g"} 1`,
		`colod_released_frames_total{pair="g",why="covered"} 5`,
		`colod_release_delay_seconds_bucket{pair="g",le="0.001024"} 1`,
		`colod_release_delay_seconds_bucket{pair="g",le="+Inf"} 2`,
		`colod_release_delay_seconds_sum{pair="g"} 3.001`,
		`colod_checkpoint_stop_seconds_count{pair="g"} 2`,
		`colod_checkpoint_phase_seconds_sum{pair="g",phase="transfer"} 0.002`,
		`colod_checkpoint_phase_seconds_count{pair="g",phase="load"} 0`,
		`colod_checkpoint_delay_seconds_sum{pair="g"} 0.003`,
		`colod_lost_frames_total{direction="out",pair="g"} 2`,
		`colod_divergences_total{pair="g",reason="payload"} 1`,
		`go_goroutines `, `process_open_fds `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(text, `colod_peer_rtt_seconds{peer="c"}`) {
		t.Error("a round trip that nobody measured is told")
	}
	if t.Failed() {
		t.Log(text)
	}
}

// TestEachFamilyIsServed: what is documented exists, with the labels that are documented.
func TestEachFamilyIsServed(t *testing.T) {
	got, err := registry(sample()).Gather()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]string{}
	for _, f := range got {
		served[f.GetName()] = f.GetType().String()
		if len(f.GetMetric()) == 0 {
			t.Errorf("%s has no value", f.GetName())
		}
	}
	for _, f := range Families() {
		if served[f.Name] != strings.ToUpper(string(f.Type)) {
			t.Errorf("%s is served as %q, documented as a %s", f.Name, served[f.Name], f.Type)
		}
		delete(served, f.Name)
	}
	for name := range served {
		if strings.HasPrefix(name, "colod_") {
			t.Errorf("%s is served and not documented", name)
		}
	}
}

func TestLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(registry(sample()))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestEmpty: a pair without a data path has all its metrics nevertheless, and
// a node without pairs its own.
func TestEmpty(t *testing.T) {
	text := scrape(t, registry(Snapshot{Pairs: []Pair{{Name: "g"}}}))
	if !strings.Contains(text, `colod_hold_seconds_count{pair="g"} 0`) {
		t.Errorf("no empty histogram in\n%s", text)
	}
	scrape(t, registry(Snapshot{}))
}

// TestHostileNames: whatever a name or a reason holds, the text stays one
// that can be read, with a bounded number of series.
func TestHostileNames(t *testing.T) {
	evil := "\"}\n# HELP x \x00\xff\x1b[31m" + strings.Repeat("é", 500)
	n := Snapshot{Node: evil, Version: evil, Pairs: []Pair{{Name: evil, ByReason: map[string]uint64{}, Divergences: map[string]uint64{}}}}
	for i := range 1000 {
		n.Pairs[0].Divergences[strings.Repeat("x", i%100)+evil+string(rune('a'+i))] = 1
		n.Pairs[0].ByReason[strings.Repeat("y", i)] = 1
	}
	r := registry(n)
	text := scrape(t, r)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "# HELP x") {
			t.Fatalf("a name made a line of its own: %q", line)
		}
	}
	got, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range got {
		if len(f.GetMetric()) > maxReasons+1 {
			t.Errorf("%s has %d series", f.GetName(), len(f.GetMetric()))
		}
		if f.GetName() == "colod_checkpoint_reasons_total" {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	if sum != 1000 {
		t.Errorf("%g of 1000 reasons are counted", sum)
	}
}

func TestDocumentation(t *testing.T) {
	const path = "../../docs/metrics.md"
	if *update {
		if err := os.WriteFile(path, []byte(Markdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != Markdown() {
		t.Error("docs/metrics.md does not tell what the code does; go test ./coordinator/metrics -update writes it anew")
	}
}
