package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"colod/coordinator"
	"colod/internal/lab"
	rec "colod/internal/record"
	"colod/internal/report"
)

// ask gets a page of the guest as a client does.
func ask(t *testing.T, l *lab.Lab, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := l.Command(ctx, "client", "curl", "-s", "-S", "-o", "/dev/null", "http://192.0.2.10"+path).CombinedOutput(); err != nil {
		t.Fatalf("get %s: %v %s", path, err, out)
	}
}

// TestReportOfCookie: cookies that the two guests draw differ; the report names them, with the exact place, both sides'
// bytes and what the checkpoint cost. A recording of it is replayed with the same answers.
func TestReportOfCookie(t *testing.T) {
	l := protected(t)
	giveUpIfFailed(t, l)
	st := status(t, l)
	c := coordinator.NewClient(l.Socket(st.Speaker))
	path := filepath.Join(t.TempDir(), "x.rec")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	recorded := make(chan error, 1)
	go func() {
		_, err := c.Record(t.Context(), st.Pair, 10*time.Second, out)
		recorded <- err
	}()
	began := time.Now().Add(-time.Second)
	var found *report.Report
	asked := 0
	for end := time.Now().Add(5 * time.Minute); found == nil && time.Now().Before(end); asked++ {
		ask(t, l, "/cookie")
		err := c.Reports(t.Context(), st.Pair, report.Filter{Since: began}, func(r *report.Report) error {
			if r.Cause.Kind == report.KindHTTPCookie && r.Position.Exact && r.Checkpoint != nil {
				found = r
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found == nil {
		t.Fatalf("%d cookies, and no report of a difference: %+v", asked, status(t, l).Divergences)
	}
	b := found.Bytes
	if found.Cause.Field != "sid" || b == nil || !bytes.Contains(b.Primary[:b.At], []byte("sid=")) || b.Primary[b.At] == b.Secondary[b.At] ||
		!bytes.Equal(b.Primary[:b.At], b.Secondary[:b.At]) || !found.Position.Absolute || int(found.Position.Stream) != b.At {
		t.Errorf("report %+v, bytes %+v", found, b)
	}
	if found.Checkpoint.StopMS <= 0 || found.Checkpoint.Bytes == 0 || found.Timing.Primary == nil || found.Flow.Service != "http" {
		t.Errorf("checkpoint %+v, timing %+v, flow %+v", found.Checkpoint, found.Timing, found.Flow)
	}
	if err := <-recorded; err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	res, err := rec.Replay(in, rec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d cookies; report %d; %v recorded in %d events, replayed in %v: %d frames, %d divergences", asked, found.Number, res.Length, res.Events, res.Took,
		res.Replayed.Releases, res.Replayed.Divergences)
	if !res.Same || !res.Whole || res.Replayed.Releases == 0 {
		t.Errorf("same %t, whole %t: %s", res.Same, res.Whole, res.First)
	}
}
