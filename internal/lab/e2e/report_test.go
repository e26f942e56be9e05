package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"colod/coordinator"
	"colod/internal/browser"
	"colod/internal/lab"
	"colod/internal/lab/image"
	"colod/internal/report"
)

// reportLab is a protected pair whose differences are told by their bytes: a slower copy is waited for so long that its silence
// does not come first.
type reportLab struct {
	t *testing.T
	*lab.Lab
	began time.Time
	seen  []*report.Report // chosen ones, for the exports
}

// TestReports: what an operator is told of divergences, on a real pair: causes, formats, a recording and its replay, a
// tolerance, and the page.
func TestReports(t *testing.T) {
	r := &reportLab{t: t, Lab: up(t, "report", lab.Options{Hold: 3 * time.Second}), began: time.Now().Add(-time.Second)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.Logs(60))
		}
	})
	for _, part := range []struct {
		name string
		fn   func(*testing.T)
	}{{"causes", r.causes}, {"formats", r.formats}, {"top", r.top}, {"replay", r.replay}, {"page", r.page}, {"tolerance", r.tolerance}} {
		t.Run(part.name, func(t *testing.T) {
			r.t = t
			part.fn(t)
		})
	}
}

// protected waits for the pair, and returns its state.
func (r *reportLab) protected() *lab.Status {
	r.t.Helper()
	if err := r.AwaitState(r.t.Context(), "protected"); err != nil {
		r.t.Fatal(err)
	}
	return status(r.t, r.Lab)
}

// client runs a command on the client's host and returns what it said. It may fail: a client that asks a guest whose
// host dies is not the matter here.
func (r *reportLab) client(argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	return r.Command(ctx, lab.Client, argv...).Output()
}

// curl gets a page with its head; one like /x?[1-9] as many times, over one connection, for some seconds at most. What
// is there by then counts.
func (r *reportLab) curl(path string, seconds int) []byte {
	r.t.Helper()
	out, err := r.client("timeout", fmt.Sprint(seconds), "curl", "-s", "-S", "-N", "-i", "http://"+image.GuestIPv4+path)
	if err != nil && len(out) == 0 {
		r.t.Logf("get %s: %v", path, err)
	}
	return out
}

// speaker is the API of the node that writes the reports.
func (r *reportLab) speaker() (*coordinator.Client, *lab.Status) {
	r.t.Helper()
	st := status(r.t, r.Lab)
	return coordinator.NewClient(r.Socket(st.Speaker)), st
}

// reports are those since a time that ok admits.
func (r *reportLab) reports(since time.Time, ok func(*report.Report) bool) []*report.Report {
	r.t.Helper()
	c, st := r.speaker()
	var all []*report.Report
	err := c.Reports(r.t.Context(), st.Pair, report.Filter{Since: since}, func(x *report.Report) error {
		if ok(x) {
			all = append(all, x)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// until provokes a divergence until a report is there that ok admits and whose checkpoint is known.
func (r *reportLab) until(what string, provoke func(), ok func(*report.Report) bool) *report.Report {
	r.t.Helper()
	began := time.Now()
	for tries := 1; time.Since(began) < 5*time.Minute; tries++ {
		r.protected()
		provoke()
		// A report is written when its checkpoint is over and its bytes are here, or a second later.
		for asked := time.Now(); time.Since(asked) < 2500*time.Millisecond; time.Sleep(100 * time.Millisecond) {
			all := r.reports(began.Add(-time.Second), func(x *report.Report) bool { return x.Checkpoint != nil && ok(x) })
			if len(all) > 0 {
				r.t.Logf("%s: report %d after %d tries and %.1f s", what, all[0].Number, tries, time.Since(began).Seconds())
				r.seen = append(r.seen, all[0])
				return all[0]
			}
		}
	}
	got := map[string]int{}
	for _, x := range r.reports(began, func(*report.Report) bool { return true }) {
		got[x.Reason+" "+x.Cause.Kind+" "+x.Cause.Field+" "+x.Flow.Service]++
	}
	r.t.Fatalf("%s: no such report; there are %v", what, got)
	return nil
}

// export runs colod report export as an operator does.
func (r *reportLab) export(format, path string) {
	r.t.Helper()
	st := status(r.t, r.Lab)
	args := []string{"report", "export", st.Pair, "--format", format, "-o", path, "--since", r.began.UTC().Format(time.RFC3339), "--socket", r.Socket(st.Speaker)}
	if out, err := exec.CommandContext(r.t.Context(), program, args...).CombinedOutput(); err != nil {
		r.t.Fatalf("colod %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// formats: each of the divergences that were seen is in all four formats, with its cause and its place.
func (r *reportLab) formats(t *testing.T) {
	dir := t.TempDir()
	if pictures := os.Getenv("COLOD_PICTURES"); pictures != "" {
		dir = pictures
	}
	for _, format := range []string{"text", "json", "html", "pcapng"} {
		r.export(format, filepath.Join(dir, "divergences."+format))
	}
	text, page := readFile(filepath.Join(dir, "divergences.text")), readFile(filepath.Join(dir, "divergences.html"))
	objects := map[uint64]*report.Report{}
	for line := range strings.Lines(readFile(filepath.Join(dir, "divergences.json"))) {
		x := new(report.Report)
		if err := json.Unmarshal([]byte(line), x); err != nil {
			t.Fatal(err)
		}
		objects[x.Number] = x
	}
	var errs bytes.Buffer
	tshark := exec.CommandContext(t.Context(), "tshark", "-n", "-r", filepath.Join(dir, "divergences.pcapng"), "-T", "fields", "-E", "separator=|",
		"-e", "frame.interface_name", "-e", "frame.comment", "-e", "_ws.malformed")
	tshark.Stderr = &errs
	out, err := tshark.Output()
	if err != nil {
		t.Fatalf("tshark: %v: %s", err, errs.String())
	}
	comments := strings.Split(string(out), "\n")
	if len(page) > 5<<20 || len(objects) < len(r.seen) {
		t.Errorf("page of %d bytes, %d objects", len(page), len(objects))
	}
	for _, x := range r.seen {
		head := fmt.Sprintf("report %d: %s", x.Number, x.Cause.Title)
		if _, rest, ok := strings.Cut(text, head); !ok || x.Position.Exact && !strings.Contains(rest[:min(len(rest), 1000)], fmt.Sprintf("byte %d of the connection", x.Position.Stream)) {
			t.Errorf("text: no %q with its position", head)
		}
		if o := objects[x.Number]; o == nil || o.Cause != x.Cause || o.Position != x.Position {
			t.Errorf("json: report %d is %+v", x.Number, o)
		}
		if !strings.Contains(page, x.Cause.Title) || !strings.Contains(page, fmt.Sprintf(`id="r%d"`, x.Number)) {
			t.Errorf("html: nothing of report %d, %s", x.Number, x.Cause.Kind)
		}
		for _, side := range []string{"primary", "secondary"} {
			want := fmt.Sprintf("colod report %d, %s: %s", x.Number, side, x.Cause.Title)
			if !slices.ContainsFunc(comments, func(c string) bool { return strings.HasPrefix(c, side+"|"+want) }) {
				t.Errorf("pcapng: tshark shows no comment %q at a frame of the %s", want, side)
			}
		}
	}
	err = browser.Run(t.Context(), browser.Script{
		Name: "view.mjs", Env: []string{"COLOD_PAGES=" + filepath.Join(dir, "divergences.html")},
		Answers: browser.Answers{"seen": func(what string) (string, error) {
			t.Logf("Chromium shows %s", what)
			return "", nil
		}},
	})
	if err != nil {
		t.Error(err)
	}
}
