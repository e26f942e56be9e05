package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"colod/internal/browser"
	"colod/internal/lab"
	"colod/internal/lab/client"
	rec "colod/internal/record"
	"colod/internal/report"
)

// mixture is what a busy guest does: streams both ways, small answers, encrypted ones, and some that cannot agree.
func (r *reportLab) mixture() []client.Load {
	return []client.Load{
		{Kind: client.Echo, Rate: 64 << 10},
		{Kind: client.UDPEcho, Rate: 20},
		{Kind: client.Download, Size: 256 << 10, Rate: 256 << 10},
		{Kind: client.Upload, Size: 64 << 10, Rate: 64 << 10},
		{Kind: client.Counter, Rate: 20},
		{Kind: client.Redis, Rate: 20},
		{Kind: client.Random, Size: 2000, Rate: 2},
	}
}

// replay: a recording of real load gives the same answers again, in a tenth of the time.
func (r *reportLab) replay(t *testing.T) {
	r.protected()
	c, st := r.speaker()
	s := begin(t, r.Lab, nil, r.mixture()...)
	length := time.Duration(rounds(10, 60)) * time.Second
	path := filepath.Join(t.TempDir(), "x.rec")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	size, err := c.Record(t.Context(), st.Pair, length, out)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
	finished(t, s)
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	res, err := rec.Replay(in, rec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	speed := res.Length.Seconds() / res.Took.Seconds()
	t.Logf("%v recorded in %d events and %d bytes, replayed in %v (%.0f times as fast): %d frames, %d divergences %v, %d checkpoints", res.Length, res.Events, size, res.Took, speed,
		res.Replayed.Releases, res.Replayed.Divergences, res.Replayed.ByReason, res.Replayed.Checkpoints)
	if !res.Same || !res.Whole || res.Replayed.Releases == 0 || res.Replayed.Divergences == 0 || res.Length < length*9/10 {
		t.Errorf("same %t, whole %t, %v: %s", res.Same, res.Whole, res.Length, res.First)
	}
	// How fast is shown on a machine that does nothing else.
	if long && speed < 10 {
		t.Errorf("replay is %.1f times as fast as the load was, want ten times", speed)
	}
	record(t, map[string]any{"recorded_s": res.Length.Seconds(), "replayed_s": res.Took.Seconds(), "events": res.Events, "bytes": size,
		"frames": res.Replayed.Releases, "divergences": res.Replayed.Divergences, "same": res.Same})
}

// tunnel is what ssh -L does: a port of this machine leads to a node's socket. It ends with the test.
func (r *reportLab) tunnel(node string) (url string) {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ln.Close() })
	socket := r.Socket(node)
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", socket)
			if err != nil {
				near.Close() // the daemon is away
				continue
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				go func() {
					_, _ = io.Copy(way[0], way[1]) // its end is the other side's business
					way[0].Close()
					way[1].Close()
				}()
			}
		}
	}()
	return fmt.Sprintf("http://%s/", ln.Addr())
}

// page: Chromium shows both nodes' pages of the live pair, its reports, and a failover as it happens.
func (r *reportLab) page(t *testing.T) {
	st := r.protected()
	s := begin(t, r.Lab, nil, client.Load{Kind: client.Echo, Rate: 32 << 10}, client.Load{Kind: client.Counter, Rate: 10})
	standby := other(st.Speaker)
	err := browser.Run(t.Context(), browser.Script{
		Name: "live.mjs", Log: func(s string) { t.Log(s) },
		Env: []string{"COLOD_SPEAKER=" + r.tunnel(st.Speaker), "COLOD_OTHER=" + r.tunnel(standby), "COLOD_OTHER_NODE=" + standby},
		Answers: browser.Answers{
			"causes": func(string) (string, error) {
				var kinds []string
				for _, x := range r.seen {
					kinds = append(kinds, x.Cause.Kind)
				}
				return strings.Join(kinds, " "), nil
			},
			"kill": func(string) (string, error) { return r.Fault(t.Context(), lab.KillVM, st.Speaker) },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	finished(t, s)
}

// dates asks for the date for some seconds over one connection, and returns how often it was answered and how many divergences of
// what kind there were.
func (r *reportLab) dates(seconds int) (answers int, got map[string]int) {
	r.t.Helper()
	since := time.Now()
	r.protected()
	answers = strings.Count(string(r.curl("/date?[1-1000000]", seconds)), "\r\nDate: ")
	time.Sleep(1500 * time.Millisecond) // reports wait for their bytes
	r.protected()
	got = map[string]int{}
	for _, x := range r.reports(since, func(*report.Report) bool { return true }) {
		got[x.Cause.Kind]++
	}
	return answers, got
}

// tolerance: a rule for the Date header hides all that differs there, and nothing beside it.
func (r *reportLab) tolerance(t *testing.T) {
	seconds := rounds(10, 60)
	before, without := 0, map[string]int{}
	for begin := time.Now(); without[report.KindHTTPDate] == 0 && time.Since(begin) < 5*time.Minute; {
		before, without = r.dates(seconds)
	}
	if without[report.KindHTTPDate] == 0 {
		t.Fatalf("%d answers without a date that differs: %v", before, without)
	}

	const rule = "{name: date, port: 80, header: Date}"
	if err := r.SetTolerances(rule); err != nil {
		t.Fatal(err)
	}
	speaker := status(t, r.Lab).Speaker
	for _, node := range []string{other(speaker), speaker} {
		fault(t, r.Lab, lab.RestartColod, node)
	}
	r.protected()
	uses := func() uint64 {
		c, st := r.speaker()
		stats, err := c.ReportStats(t.Context(), st.Pair)
		if err != nil || len(stats.Tolerances) != 1 || stats.Tolerances[0].Name != "date" {
			t.Fatalf("tolerances: %+v, %v", stats, err)
		}
		return stats.Tolerances[0].Uses
	}
	after, with, used := 0, map[string]int{}, uint64(0)
	for begin := time.Now(); used == 0 && time.Since(begin) < 5*time.Minute; {
		answers, got := r.dates(seconds)
		for kind, n := range got {
			with[kind] += n
		}
		after += answers
		used = uses()
	}
	for kind := range with {
		// The client goes away in the middle; and the machine may be busy.
		if kind != report.KindLag && kind != report.KindAhead && kind != report.KindClose {
			t.Errorf("with the rule: %v", with)
		}
	}
	if used == 0 {
		t.Errorf("the rule was never used")
	}
	t.Logf("without the rule %d answers: %v; with it %d answers: %v, and %d dates that differ were hidden", before, without, after, with, used)
	text, err := exec.CommandContext(t.Context(), "curl", "-s", "-S", "--unix-socket", r.Socket(status(t, r.Lab).Speaker), "http://colod/metrics").CombinedOutput()
	if err != nil {
		t.Fatalf("get metrics: %v: %s", err, text)
	}
	m := regexp.MustCompile(`(?m)^colod_tolerance_uses_total\{pair="guest",rule="date"\} (\d+)$`).FindStringSubmatch(string(text))
	if m == nil {
		t.Errorf("no metric of the rule")
	} else if k, err := strconv.ParseUint(m[1], 10, 64); err != nil || k < used {
		t.Errorf("metric of the rule: %s, want %d at least", m[1], used)
	}

	// What stands beside the date is not hidden.
	beside := r.until("a field beside the date", func() { r.curl("/date?beside", 30) }, func(x *report.Report) bool {
		return x.Cause.Kind == report.KindHTTPHeader && x.Cause.Field == "X-Beside" && x.Position.Exact
	})
	if b := beside.Bytes; b == nil || !strings.Contains(string(b.Primary[:b.At]), "\r\nX-Beside: ") || !strings.Contains(string(b.Primary[:b.At]), "\r\nDate: ") {
		t.Errorf("beside the date: %+v", beside.Bytes)
	}
}
