package report

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"colod/compare"
	"colod/internal/frame"
)

func collector(t *testing.T, opt Options) *Collector {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = filepath.Join(t.TempDir(), "r")
	}
	opt.Node, opt.Pair = "a", "guest1"
	c, err := NewCollector(opt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// diverged is a divergence as the comparison tells of it: at first without its place, then with it.
func diverged(id, epoch uint32, final bool) *compare.Divergence {
	v := &compare.Divergence{ID: id, Reason: compare.ReasonPayload, Epoch: epoch, Final: final, Seq: 1000, Len: 100, PrimaryTime: 1e18, SecondaryTime: 1e18 + 5, Waited: 3e6,
		Key: frame.FlowKey{Kind: frame.KindTCP, Proto: 6, Ether: frame.EtherIPv4, GuestPort: 80, PeerPort: 40000,
			Guest: [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: 2, 15: 10}, Peer: [16]byte{10: 0xff, 11: 0xff, 12: 198, 13: 51, 14: 100, 15: 7}}}
	if final {
		v.Exact, v.Absolute, v.Position, v.FrameOffset, v.Offset, v.Around = true, true, 22, 88, 22, 22
		v.PrimaryAround = []byte("HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 15:09:25 GMT\r\n\r\n")
		v.SecondaryAround = []byte("HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 15:09:26 GMT\r\n\r\n")
		v.Around = 47
	}
	return v
}

// TestReportIsWhole: divergence, place, checkpoint and cost come together in one report.
func TestReportIsWhole(t *testing.T) {
	c := collector(t, Options{})
	c.Session()
	c.CheckpointBegun(1, []string{"arming"})
	c.CheckpointDone(1, time.Millisecond, time.Millisecond, 5)
	c.Diverged(diverged(1, 1, false), 7)
	c.Diverged(diverged(2, 1, false), 7)
	c.CheckpointBegun(2, []string{"payload"})
	c.Diverged(diverged(1, 1, true), 7)
	c.CheckpointDone(2, 8*time.Millisecond, 30*time.Millisecond, 4096)
	c.Diverged(diverged(2, 1, true), 7) // its bytes come late
	c.Diverged(diverged(3, 2, true), 7) // of the next epoch
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	all := readAll(t, c.opt.Dir, Filter{})
	if len(all) != 3 {
		t.Fatalf("%d reports", len(all))
	}
	for i, r := range all[:2] {
		cp := r.Checkpoint
		if cp == nil || cp.Number != 2 || cp.SharedBy != 2 || cp.StopMS != 8 || cp.CostMS != 30 || cp.Bytes != 4096 || cp.Reasons[0] != "payload" {
			t.Errorf("report %d: checkpoint %+v", i, cp)
		}
		if r.Cause.Kind != KindHTTPDate || !r.Position.Exact || r.Position.Stream != 22 || r.Position.Frame != 88 || r.Generation != 7 || r.Epoch != 1 {
			t.Errorf("report %d: %+v", i, r)
		}
		if r.Flow.Service != "http" || r.Flow.Outgoing || r.Flow.Text != "tcp 192.0.2.10:80 -> 198.51.100.7:40000" || r.Timing.HeldUS != 3000 || r.Timing.Secondary == nil {
			t.Errorf("report %d: %+v %+v", i, r.Flow, r.Timing)
		}
	}
	if all[2].Checkpoint != nil || all[2].Epoch != 2 {
		t.Errorf("report 3: %+v", all[2].Checkpoint)
	}
	if st := c.Stats(); st.Found != 3 || st.Written != 3 || st.ByCause[KindHTTPDate] != 3 {
		t.Errorf("%+v", st)
	}
}

// TestFlood: a hundred thousand divergences at once cost bounded space and bounded work, which is the rate of those that are
// looked at and written, and are all accounted for; nobody waits.
func TestFlood(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	const rate = 50
	began := time.Now()
	c := collector(t, Options{Dir: dir, Rate: rate, Limits: Limits{MaxSize: leastMaxSize}})
	const n = 100_000
	for i := range uint32(n) {
		c.Diverged(diverged(i+1, 0, true), 1)
	}
	c.CheckpointDone(1, 0, 0, 0)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	st := c.Stats()
	if most := uint64(10*rate + rate*time.Since(began).Seconds() + 1); st.Written > most {
		t.Errorf("%d reports were made, at most %d are in the budget", st.Written, most)
	}
	all := readAll(t, dir, Filter{})
	if st.Written == 0 || st.Bytes > leastMaxSize || len(all) == 0 || uint64(len(all)) > st.Written {
		t.Errorf("%+v, %d reports", st, len(all))
	}
	left := uint64(0)
	for _, k := range st.LeftOut {
		left += k
	}
	if st.Written+left < n || st.Written+left > n+1 { // the checkpoint itself may have been dropped
		t.Errorf("written %d, left out %d of %d: %v", st.Written, left, n, st.LeftOut)
	}
}

// TestLeftOutIsTold: the report after a gap says how many there were.
func TestLeftOutIsTold(t *testing.T) {
	store, err := Open(t.TempDir(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	c := newCollector(Options{Dir: store.dir, Rate: 1, Payload: PayloadFull, Failed: func(error) {}}, store)
	var minutes atomic.Int64
	c.now = func() time.Time { return day.Add(time.Duration(minutes.Load()) * time.Minute) }
	go c.run()
	for i := range uint32(20) {
		c.Diverged(diverged(i+1, 0, true), 1)
	}
	c.Flush()
	minutes.Add(1)
	c.Diverged(diverged(21, 0, true), 1)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	all := readAll(t, c.opt.Dir, Filter{})
	told := uint64(0)
	for _, r := range all {
		told += r.LeftOut["rate"]
	}
	if len(all) != 11 || told != 10 {
		t.Errorf("%d reports, which tell of %d others", len(all), told)
	}
}

// TestPayloadModes: what must not be written is not, and the cause is found all the same.
func TestPayloadModes(t *testing.T) {
	for mode, want := range map[Payload]string{PayloadFull: "HTTP/1.1 200 OK", PayloadRedact: "AAAA/0.0 000 AA", PayloadNone: ""} {
		c := collector(t, Options{Payload: mode})
		c.Diverged(diverged(1, 0, true), 1)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		r := readAll(t, c.opt.Dir, Filter{})[0]
		if got := string(r.Bytes.Primary[:min(15, len(r.Bytes.Primary))]); got != want || r.Cause.Kind != KindHTTPDate || r.Bytes.Payload != string(mode) {
			t.Errorf("%s: %q, cause %s", mode, got, r.Cause.Kind)
		}
		if len(r.Bytes.Different) != 1 || r.Bytes.Different[0] != [2]int{47, 48} {
			t.Errorf("%s: different %v", mode, r.Bytes.Different)
		}
		if mode == PayloadNone && r.Cause.Field != "" {
			t.Errorf("field %q", r.Cause.Field)
		}
	}
	if _, err := NewCollector(Options{Dir: t.TempDir(), Payload: "some"}); err == nil {
		t.Error("an unknown mode is accepted")
	}
}

// TestSessions: numbers of divergences begin anew with each protection.
func TestSessions(t *testing.T) {
	c := collector(t, Options{})
	for range 3 {
		c.Session()
		for i := range uint32(4) {
			c.Diverged(diverged(i+1, 0, true), 1)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(readAll(t, c.opt.Dir, Filter{})); n != 12 {
		t.Error(n)
	}
}

// TestSuggest: rules follow from causes, the one that saves most first, and none is proposed that says too much.
func TestSuggest(t *testing.T) {
	var all []*Report
	for i := range 10 {
		all = append(all, sample(i))
	}
	j := sample(11)
	j.Cause = cause(KindJSONField, "id", true)
	j.Bytes = &Bytes{Payload: "full", At: 8, Primary: []byte(`{"id": "af01"}`), Secondary: []byte(`{"id": "bf02"}`), Different: [][2]int{{8, 9}, {11, 12}}}
	evil := sample(12)
	evil.Cause = cause(KindHTTPHeader, "X}, uncompared: true", true)
	all = append(all, j, evil)
	got := Suggest(all)
	if len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	if got[0].Rule != "- {name: date-80, protocol: tcp, port: 80, header: Date}" || got[0].Saves.Count != 10 || got[0].Saves.StopMS != 75 {
		t.Errorf("%+v", got[0])
	}
	if got[1].Rule != `- {name: json-id-80, protocol: tcp, port: 80, pattern: '"id"\s*:\s*"?([0-9a-f]+)'}` || got[1].Warning == "" {
		t.Errorf("%+v", got[1])
	}
}

// TestSummary: costs are shared by those that a checkpoint healed, and divided by the time.
func TestSummary(t *testing.T) {
	var all []*Report
	for i := range 7 {
		r := sample(i * 600)
		if i%2 == 1 {
			r.Cause, r.Checkpoint.SharedBy = cause(KindLag, "", true), 2
			r.Rule = "date"
		}
		all = append(all, r)
	}
	s := Summarize(all, time.Time{}, time.Time{})
	if s.Hours != 1 || s.Total.Count != 7 || s.Total.StopMS != 4*7.5+3*3.75 || len(s.Causes) != 2 || s.Causes[0].Cause.Kind != KindHTTPDate {
		t.Errorf("%+v", s)
	}
	if s.Causes[1].Cost.PerHour.StopMS != 3*3.75 || s.Causes[0].Flows[0] != "http (tcp 80)" || len(s.Rules) != 1 || s.Rules[0].Followed != 3 {
		t.Errorf("%+v %+v", s.Causes, s.Rules)
	}
	if s := Summarize(nil, time.Time{}, time.Time{}); s.Total.Count != 0 || fmt.Sprint(s.Causes) != "[]" {
		t.Errorf("%+v", s)
	}
}
