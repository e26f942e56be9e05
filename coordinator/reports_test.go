package coordinator

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"colod/compare"
	"colod/internal/frame"
	"colod/internal/report"
	"colod/proxy"
)

// TestReports: a divergence of the data path becomes a report with the checkpoint that it caused, which the API gives out.
func TestReports(t *testing.T) {
	p := newTestPair(t)
	p.extra = "    tolerances:\n      - {name: date, port: 80, header: Date}\n"
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := p.nodes["a"].client
	v := compare.Divergence{ID: 1, Reason: compare.ReasonPayload, Epoch: 1, Key: frame.FlowKey{Kind: frame.KindTCP, GuestPort: 80, PeerPort: 40000, Proto: 6}}
	events := p.nodes["a"].plat.dataPath().events
	events(proxy.Diverged{Divergence: v})
	v.Final, v.Exact, v.Position = true, true, 7
	v.PrimaryAround, v.SecondaryAround = []byte("count 17"), []byte("count 18")
	v.Around = 7
	events(proxy.Diverged{Divergence: v})
	p.await("a", "the checkpoint", func(s PairStatus) bool { return s.Checkpoints.Reasons["payload"] == 1 && s.State == "protected" })
	var found *report.Report
	for found == nil && ctx.Err() == nil {
		err := c.Reports(ctx, "g", report.Filter{}, func(r *report.Report) error {
			found = r
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if found == nil || found.Cause.Kind != report.KindCounter || found.Position.Stream != 7 || found.Pair != "g" || found.Node != "a" || found.Generation == 0 ||
		found.Checkpoint == nil || found.Checkpoint.StopMS <= 0 || found.Checkpoint.SharedBy != 1 {
		t.Fatalf("report %+v", found)
	}
	st, err := c.ReportStats(ctx, "g")
	if err != nil || st.Reports.Written != 1 || len(st.Tolerances) != 1 || st.Tolerances[0].Name != "date" {
		t.Errorf("%+v %v", st, err)
	}
	none := func(r *report.Report) error { t.Errorf("report %d", r.Number); return nil }
	if err := c.Reports(ctx, "g", report.Filter{Since: time.Now().Add(time.Hour)}, none); err != nil {
		t.Error(err)
	}
	if err := c.Reports(ctx, "other", report.Filter{}, none); err == nil || !strings.Contains(err.Error(), "no pair") {
		t.Error(err)
	}
	if _, err := c.Record(ctx, "g", time.Second, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "cannot be recorded") {
		t.Error(err)
	}
	if _, err := c.Record(ctx, "g", 100*time.Hour, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "1h") {
		t.Error(err)
	}
}
