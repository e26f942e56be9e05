package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/compare"
	"colod/internal/frame"
	"colod/internal/record"
	"colod/internal/report"
)

// colodRun runs a command line and returns its exit code and what it said.
func colodRun(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = execute(context.Background(), args, &o, &e)
	return code, o.String(), e.String()
}

// madeReports is a directory with three reports.
func madeReports(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "guest1")
	s, err := report.Open(dir, report.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	key := frame.FlowKey{Kind: frame.KindTCP, Proto: frame.ProtoTCP, Ether: frame.EtherIPv4, GuestPort: 80, PeerPort: 40000,
		Guest: [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: 2, 15: 10}, Peer: [16]byte{10: 0xff, 11: 0xff, 12: 198, 13: 51, 14: 100, 15: 7}}
	for i := range 3 {
		v := &compare.Divergence{ID: uint32(i + 1), Reason: compare.ReasonPayload, Key: key, Final: true, Exact: true, Absolute: true, Position: 47, FrameOffset: 113, Offset: 47, Around: 47,
			PrimaryAround:   []byte("HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 15:09:25 GMT\r\n\r\n"),
			SecondaryAround: []byte("HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 15:09:26 GMT\r\n\r\n")}
		r := report.Of(v, time.Date(2026, 11, 21, 15, 9, 26+i, 0, time.UTC))
		r.Node, r.Pair, r.Checkpoint = "a", "guest1", &report.Checkpoint{Number: uint64(i), StopMS: 7, Reasons: []string{"payload"}, SharedBy: 1}
		if err := s.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestReportCommands: every form of colod report on a directory of reports.
func TestReportCommands(t *testing.T) {
	dir := madeReports(t)
	page, capture := filepath.Join(dir, "x.html"), filepath.Join(dir, "x.pcapng")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"list"}, []string{"HTTP Date header", "http (tcp 80)", "2026-11-21 15:09:28.000"}},
		{[]string{"list", "--last", "1", "--json"}, []string{`"number":3`, `"kind":"http-date"`}},
		{[]string{"show", "2"}, []string{"report 2: HTTP Date header", "byte 47 of the connection, byte 113 of the primary's frame", "^^"}},
		{[]string{"show", "2", "--json"}, []string{`"stream": 47`}},
		{[]string{"summary"}, []string{"3 divergences, 21 ms of standstill", "HTTP Date header"}},
		{[]string{"summary", "--json"}, []string{`"count": 3`}},
		{[]string{"suggest"}, []string{"- {name: date-80, protocol: tcp, port: 80, header: Date}", "would have saved 3 divergences"}},
		{[]string{"export"}, []string{"report 1:", "report 3:"}},
		{[]string{"export", "--format", "json"}, []string{`"number":1`}},
		{[]string{"export", "--format", "html", "-o", page}, []string{"3 divergences written"}},
		{[]string{"export", "--format", "pcapng", "-o", capture}, []string{"3 divergences written"}},
		{[]string{"list", "--since", "2026-11-21T15:09:28Z"}, []string{"15:09:28"}},
	} {
		code, out, errOut := colodRun(append(append([]string{"report"}, c.args...), "--dir", dir)...)
		if code != exitOK || errOut != "" {
			t.Errorf("%v: exit code %d: %s", c.args, code, errOut)
		}
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				t.Errorf("%v: no %q in\n%s", c.args, w, out)
			}
		}
	}
	for path, want := range map[string]string{page: "<!doctype html>", capture: "\x0a\x0d\x0d\x0a"} {
		b, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(b), want) {
			t.Errorf("%s: %v", path, err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, st.Mode(), err)
		}
	}
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"show", "9", "--dir", dir}, exitFailed},
		{[]string{"show", "x", "--dir", dir}, exitUsage},
		{[]string{"show"}, exitUsage},
		{[]string{"list", "guest1", "--dir", dir}, exitUsage},
		{[]string{"list", "--since", "yesterday", "--dir", dir}, exitUsage},
		{[]string{"export", "--format", "pdf", "--dir", dir}, exitUsage},
		{[]string{"list", "--dir", filepath.Join(dir, "absent")}, exitFailed},
		{[]string{"list", "guest1", "--socket", filepath.Join(dir, "absent.sock")}, exitUnreachable},
	} {
		if code, _, _ := colodRun(append([]string{"report"}, c.args...)...); code != c.code {
			t.Errorf("%v: exit code %d, want %d", c.args, code, c.code)
		}
	}
}

// TestReplayCommand: a recording is replayed, with its own rules and with others.
func TestReplayCommand(t *testing.T) {
	dir := t.TempDir()
	cfg := compare.Config{Key: [16]byte{1}}
	e := compare.NewTapped(cfg)
	w := record.NewWriter(record.Header{Node: "a", Pair: "guest1"}, cfg, e.Snapshot(nil), 1e9, 1e18)
	e.SetTap(w)
	for i := range int64(100) {
		e.Tick(1e9 + i*1e6)
		e.Out().Reset()
	}
	e.SetTap(nil)
	var b bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Stream(ctx, &b, func() error { return nil }, func() (bool, error) { return true, nil }); err != nil {
		t.Fatal(err)
	}
	rec, rules, bad := filepath.Join(dir, "x.rec"), filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "bad.yaml")
	for path, text := range map[string]string{rec: b.String(), rules: "tolerances:\n  - {name: date, port: 80, header: Date}\n", bad: "tolerances:\n  - {name: date, port: 80}\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, out, _ := colodRun("replay", rec); code != exitOK || !strings.Contains(out, "every answer is the recorded one") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, out, _ := colodRun("replay", rec, "--tolerances", rules, "--list"); code != exitOK || !strings.Contains(out, "tolerance date: not used") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	code, out, _ := colodRun("replay", rec, "--json")
	var v map[string]any
	if err := json.Unmarshal([]byte(out), &v); code != exitOK || err != nil || v["same"] != true {
		t.Errorf("exit code %d %v\n%s", code, err, out)
	}
	if code, _, errOut := colodRun("replay", rec, "--tolerances", bad); code != exitUsage || !strings.Contains(errOut, "not safe") {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
	if code, _, errOut := colodRun("replay", rules); code != exitFailed || !strings.Contains(errOut, "not a recording") {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
	if code, _, _ := colodRun("record", "guest1"); code != exitUsage {
		t.Errorf("exit code %d", code)
	}
}
