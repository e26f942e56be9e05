package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"colod/coordinator"
	"colod/internal/termsafe"
)

// evil is what a name or a reason may hold at worst.
const evil = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\r\n\u009b31m\xff"

func samplePair(name string) coordinator.PairStatus {
	return coordinator.PairStatus{
		Pair: name, Node: "a", State: "protected", Role: "speaker", Speaker: "a", Standby: "b", Generation: 4, Mode: "lockstep",
		Peer: coordinator.Peer{Node: "b", Up: true, RTTUS: 180}, Reason: "the record names b as standby", Since: time.Now().Add(-75 * time.Second),
		Checkpoints: coordinator.Checkpoints{Count: 42, Reasons: map[string]uint64{"payload": 40, "timer": 2}, PauseMS: coordinator.Quantiles{P50: 9.25, P99: 31.5}},
		Divergences: coordinator.Divergences{Count: 40, ByReason: map[string]uint64{"payload": 30, "length": 5, "flags": 3, "silence-secondary": 1, "options": 1}},
		Released:    coordinator.Released{Frames: 12345, Bytes: 20 << 20, Agreed: 12000, Covered: 300, Alone: 45},
		HoldUS:      coordinator.Quantiles{P50: 210, P99: 4100},
	}
}

func sampleStatus(names ...string) *coordinator.NodeStatus {
	st := &coordinator.NodeStatus{Node: "a", Version: "1.2.3", Since: time.Now().Add(-3 * time.Hour)}
	for _, n := range names {
		st.Pairs = append(st.Pairs, samplePair(n))
	}
	return st
}

func samplePoints(n int) []coordinator.Point {
	var pts []coordinator.Point
	for i := range n {
		pts = append(pts, coordinator.Point{
			ID: uint64(i + 1), Time: time.Now(), State: "protected", Role: "speaker", Frames: float64(i * 10), Bytes: float64(i * 15000),
			LinkOut: float64(i * 700), LinkIn: float64(i * 20), DelayP99: float64(100 + i), HoldP99: float64(90 + i), StopP50: 9, StopMax: float64(i % 20),
			Checkpoints: uint64(i % 3),
		})
	}
	return pts
}

func sampleModel(st *coordinator.NodeStatus, width, height int) topModel {
	m := topModel{screen: screen{width: width, height: height, unicode: true}}
	l := topLook{status: st, series: map[string][]coordinator.Point{}}
	for _, p := range st.Pairs {
		l.series[p.Pair] = samplePoints(100)
	}
	m.take(l)
	return m
}

func checkFits(t *testing.T, text string, width, height int) {
	t.Helper()
	lines := strings.Split(text, "\n")
	if height > 0 && len(lines) != height {
		t.Errorf("%d lines, want %d", len(lines), height)
	}
	for i, l := range lines {
		if w := termsafe.Width(l); w > width {
			t.Errorf("line %d has %d columns, want at most %d: %q", i+1, w, width, l)
		}
	}
}

func TestTopFits(t *testing.T) {
	for _, n := range []int{1, 3, 40} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("guest%d", i+1))
		}
		st := sampleStatus(names...)
		for _, size := range [][2]int{{80, 24}, {200, 60}, {40, 10}, {20, 3}, {20, 1}, {79, 25}, {300, 24}} {
			t.Run(fmt.Sprintf("%d pairs in %dx%d", n, size[0], size[1]), func(t *testing.T) {
				m := sampleModel(st, size[0], size[1])
				checkFits(t, m.render(time.Now()), size[0], size[1])
				m.err = errors.New(strings.Repeat("long ", 100))
				checkFits(t, m.render(time.Now()), size[0], size[1])
			})
		}
	}
}

func TestTopShowsCauses(t *testing.T) {
	m := sampleModel(sampleStatus("guest1"), 80, 24)
	m.take(topLook{status: m.status, causes: map[string]map[string]uint64{"guest1": {"http-date": 7, evil: 3}}})
	text := m.render(time.Now())
	if !strings.Contains(text, "http-date") || strings.Contains(text, "silence-secondary ") || strings.Contains(text, "\x1b") {
		t.Errorf("got\n%s", text)
	}
	checkFits(t, text, 80, 24)
}

func TestTopShows(t *testing.T) {
	m := sampleModel(sampleStatus("guest1", "guest2"), 80, 24)
	text := m.render(time.Now())
	for _, want := range []string{
		"node a  1.2.3  up 3h00m", "guest1      protected     speaker   lockstep      990", "199 us",
		"guest1: speaker a, standby b, generation 4, other node b up", "protected for 1m15s: the record names b as standby",
		"released/s", "▇█", "divergences  payload", "█████", "2 more", "checkpoints: 40 payload, 2 timer", "q quit",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not shown", want)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("colours without being asked for")
	}
	next, _ := m.Update(tea.KeyPressMsg{Code: tea.KeyDown})
	m = next.(topModel)
	if m.selected != "guest2" {
		t.Errorf("after the key down %q is selected", m.selected)
	}
	if t.Failed() {
		t.Log(text)
	}
	for _, key := range []tea.KeyPressMsg{{Code: 'q', Text: "q"}, {Code: 'c', Mod: tea.ModCtrl}} {
		_, cmd := m.Update(key)
		if cmd == nil {
			t.Fatalf("the key %s does nothing", key)
		}
		if _, ok := cmd().(tea.QuitMsg); !ok {
			t.Errorf("the key %s does not quit", key)
		}
	}
}

// TestTopKeepsWhatItSaw: while the daemon does not answer, the last picture stays, with a word on it.
func TestTopKeepsWhatItSaw(t *testing.T) {
	m := sampleModel(sampleStatus("guest1"), 80, 24)
	m.take(topLook{err: coordinator.ErrUnreachable})
	text := m.render(time.Now())
	if !strings.Contains(text, "not answering since") || !strings.Contains(text, "guest1") {
		t.Errorf("got\n%s", text)
	}
	// Another colod, whose points count from 1.
	m.take(topLook{status: sampleStatus("guest1"), series: map[string][]coordinator.Point{"guest1": samplePoints(2)}})
	if n := len(m.points["guest1"]); n != 2 {
		t.Errorf("%d points, want the new ones only", n)
	}
}

func TestHostileStringsOnTheTerminal(t *testing.T) {
	p := samplePair(evil)
	p.State, p.Role, p.Speaker, p.Standby, p.Reason, p.Mode, p.Peer.Node = evil, evil, evil, evil, evil, evil, evil
	p.Divergences.ByReason = map[string]uint64{evil: 1, "x" + evil: 2}
	p.Checkpoints.Reasons = map[string]uint64{evil: 1}
	p.Divergences.Last = &coordinator.DivergenceInfo{Reason: evil, Flow: evil}
	st := &coordinator.NodeStatus{Node: evil, Version: evil, Pairs: []coordinator.PairStatus{p}}
	m := sampleModel(st, 80, 24)
	m.err = errors.New(evil)
	var table strings.Builder
	printStatus(&table, st)
	event := eventLine(coordinator.Event{Pair: evil, From: evil, State: evil, Role: evil, Reason: evil})
	for name, text := range map[string]string{"top": m.render(time.Now()), "status": table.String(), "events": event} {
		for line := range strings.Lines(text) {
			if line = strings.TrimSuffix(line, "\n"); termsafe.Line(line) != line {
				t.Errorf("%s writes %q", name, line)
			}
		}
	}
	checkFits(t, m.render(time.Now()), 80, 24)
	m.color = true
	if text := m.render(time.Now()); strings.Contains(text, "\x1b]") || strings.Contains(text, "\x1b[2J") {
		t.Errorf("in colour: %q", text)
	}
}

// fakeDaemon answers as a daemon does, with values that change.
type fakeDaemon struct {
	socket string
	mu     sync.Mutex
	looks  int
	events []coordinator.Event
}

func newFakeDaemon(t *testing.T) *fakeDaemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "colod") // short: a unix socket lives in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &fakeDaemon{socket: filepath.Join(dir, "api.sock")}
	ln, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	write := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		d.looks++
		st := sampleStatus("guest1", "guest2")
		st.Pairs[0].Generation = uint64(d.looks)
		d.mu.Unlock()
		write(w, st)
	})
	mux.HandleFunc("GET /v1/pairs/{name}/series", func(w http.ResponseWriter, r *http.Request) {
		write(w, coordinator.SeriesAnswer{Pair: r.PathValue("name"), EveryMS: 1000, Points: samplePoints(60)})
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		for _, e := range d.events {
			write(w, e)
		}
	})
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: mux}}
	srv.Start()
	t.Cleanup(srv.Close)
	return d
}
