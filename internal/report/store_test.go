package report

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var day = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func sample(i int) *Report {
	r := &Report{Version: Version, Time: day.Add(time.Duration(i) * time.Second), Node: "a", Pair: "guest1", Reason: "payload",
		Cause: cause(KindHTTPDate, "Date", true), Flow: tcpFlow(80),
		Position: Position{Exact: true, Absolute: true, Stream: uint64(i), Frame: 66, Seq: 1000, Length: 200, Offset: 20},
		Bytes:    &Bytes{Payload: "full", At: 20, Primary: []byte("HTTP/1.1 200 OK\r\nDate: 1\r\n"), Secondary: []byte("HTTP/1.1 200 OK\r\nDate: 2\r\n")}}
	r.Bytes.Different = [][2]int{{23, 24}}
	r.Flow.Text = "tcp 192.0.2.10:80 -> 198.51.100.1:40000"
	t := r.Time.Add(-time.Millisecond)
	r.Timing = Timing{Primary: &t, HeldUS: 1234}
	r.Checkpoint = &Checkpoint{Number: uint64(i), StopMS: 7.5, CostMS: 20, Bytes: 1 << 20, Reasons: []string{"payload"}, SharedBy: 1}
	return r
}

func readAll(t *testing.T, dir string, f Filter) (all []*Report) {
	t.Helper()
	if _, err := Read(dir, f, func(r *Report) error { all = append(all, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func fill(t *testing.T, dir string, lim Limits, n int) StoreStats {
	t.Helper()
	s, err := Open(dir, lim)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := s.Append(sample(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return s.Stats()
}

// TestStoreKeepsWhatIsWritten: over restarts, numbers go on and filters choose.
func TestStoreKeepsWhatIsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "reports", "guest1")
	fill(t, dir, Limits{}, 30)
	fill(t, dir, Limits{}, 20)
	all := readAll(t, dir, Filter{})
	if len(all) != 50 {
		t.Fatalf("%d reports", len(all))
	}
	for i, r := range all {
		if r.Number != uint64(i+1) || string(r.Bytes.Primary) != "HTTP/1.1 200 OK\r\nDate: 1\r\n" {
			t.Fatalf("report %d has number %d", i, r.Number)
		}
	}
	if got := readAll(t, dir, Filter{Last: 7}); len(got) != 7 || got[6].Number != 50 {
		t.Errorf("last: %d", len(got))
	}
	if got := readAll(t, dir, Filter{Number: 33}); len(got) != 1 || got[0].Number != 33 {
		t.Errorf("number: %d", len(got))
	}
	if got := readAll(t, dir, Filter{Since: day.Add(10 * time.Second), Until: day.Add(12 * time.Second)}); len(got) != 4 {
		t.Errorf("since and until: %d", len(got))
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", st.Mode(), err)
	}
	if got := readAll(t, filepath.Join(dir, "absent"), Filter{}); len(got) != 0 {
		t.Error("reports from nowhere")
	}
}

// TestStoreIsBounded: whatever is written, the size stays; the newest are there.
func TestStoreIsBounded(t *testing.T) {
	dir := t.TempDir()
	lim := Limits{MaxSize: leastMaxSize}
	st := fill(t, dir, lim, 2000)
	var total int64
	err := filepath.Walk(dir, func(_ string, i os.FileInfo, err error) error {
		if err == nil && i.Mode().IsRegular() {
			total += i.Size()
		}
		return err
	})
	if err != nil || total > leastMaxSize || st.Bytes != uint64(total) || st.Dropped == 0 {
		t.Errorf("%d bytes on disk, stats %+v, %v", total, st, err)
	}
	all := readAll(t, dir, Filter{})
	if len(all) < 50 || all[len(all)-1].Number != 2000 {
		t.Errorf("%d reports are left", len(all))
	}
}

// TestStoreForgetsByAge: segments whose newest report is too old go.
func TestStoreForgetsByAge(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, Limits{}, 5)
	s, err := Open(dir, Limits{MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	s.Expire(day.Add(30 * time.Minute))
	if len(readAll(t, dir, Filter{})) != 5 {
		t.Fatal("gone too early")
	}
	s.Expire(day.Add(3 * time.Hour))
	if n := len(readAll(t, dir, Filter{})); n != 0 {
		t.Fatalf("%d are left", n)
	}
	r := sample(4 * 3600)
	if err := s.Append(r); err != nil || r.Number != 6 {
		t.Errorf("number %d %v", r.Number, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCrash: a segment cut or damaged anywhere loses what is behind, never what is before, and can be written again.
func TestCrash(t *testing.T) {
	src := t.TempDir()
	fill(t, src, Limits{}, 5)
	names, _ := listSegments(src)
	whole, err := os.ReadFile(filepath.Join(src, names[0]))
	if err != nil || len(names) != 1 {
		t.Fatal(err, names)
	}
	for cut := 0; cut < len(whole); cut += 1 + len(whole)/150 {
		for _, how := range []string{"cut", "flip", "tail"} {
			dir := t.TempDir()
			b := append([]byte(nil), whole...)
			switch how {
			case "cut":
				b = b[:cut]
			case "flip":
				b[cut] ^= 0x10
			case "tail":
				b = append(b, whole[:cut]...)
			}
			if err := os.WriteFile(filepath.Join(dir, names[0]), b, 0o600); err != nil {
				t.Fatal(err)
			}
			before := readAll(t, dir, Filter{})
			s, err := Open(dir, Limits{})
			if err != nil {
				t.Fatalf("%s at %d: %v", how, cut, err)
			}
			if err := s.Append(sample(99)); err != nil {
				t.Fatalf("%s at %d: %v", how, cut, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			after := readAll(t, dir, Filter{})
			if len(after) != len(before)+1 {
				t.Fatalf("%s at %d: %d before, %d after", how, cut, len(before), len(after))
			}
			if how == "tail" && len(before) != 5 {
				t.Fatalf("a torn end at %d hides %d reports", cut, 5-len(before))
			}
		}
	}
}

// TestFullDisk: a write that fails leaves no torn record, is counted, and the next one that works is there.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	fails := false
	s.write = func(f *os.File, b []byte) (int, error) {
		if !fails {
			return f.Write(b)
		}
		n, _ := f.Write(b[:len(b)/2])
		return n, unix.ENOSPC
	}
	for i := range 10 {
		fails = i >= 3 && i < 7
		if err := s.Append(sample(i)); (err != nil) != fails || err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("report %d: %v", i, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	all := readAll(t, dir, Filter{})
	if st := s.Stats(); len(all) != 6 || st.Failed != 4 || st.Reports != 6 {
		t.Errorf("%d reports, %+v", len(all), st)
	}
	for i, r := range all {
		if r.Number != uint64(i+1) {
			t.Errorf("number %d in place %d", r.Number, i)
		}
	}
}

// TestForeignFiles: what is no segment of ours does no harm.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, Limits{}, 2)
	for name, text := range map[string]string{"README": "hello", "x.reports": "not one", segmentName(7): segmentMagic + "\xff\xff\xff\xff\xff\xff\xff\xff", segmentName(8): ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(readAll(t, dir, Filter{})); n != 2 {
		t.Errorf("%d reports", n)
	}
	fill(t, dir, Limits{}, 1)
	if n := len(readAll(t, dir, Filter{})); n != 3 {
		t.Errorf("%d reports", n)
	}
}

// TestLargestReport: the largest report that the limits allow fits a record.
func TestLargestReport(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r := sample(0)
	r.Bytes.Primary, r.Bytes.Secondary = make([]byte, 2*MaxContext), make([]byte, 2*MaxContext)
	r.Detail = Clean(strings.Repeat("\x00", 100000), maxText)
	for i := range maxRanges {
		r.Bytes.Different = append(r.Bytes.Different, [2]int{i * 100, i*100 + 1})
	}
	r.LeftOut = map[string]uint64{"rate": 1 << 62, "queue": 1 << 62, "disk": 1 << 62}
	for i := range 20 {
		r.Checkpoint.Reasons = append(r.Checkpoint.Reasons, fmt.Sprint("silence-secondary ", i))
	}
	if err := s.Append(r); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
