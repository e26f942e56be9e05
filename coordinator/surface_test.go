package coordinator

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/coordinator/web"
)

// TestOverTLS calls the API as a program does.
func TestOverTLS(t *testing.T) {
	p := newTestPair(t)
	token, line, err := web.NewToken("grafana", web.Read)
	if err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(p.dir, "tokens")
	if err := os.WriteFile(tokens, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddr(t)
	p.extra = fmt.Sprintf("api: {listen: %q, tokens: %q}\n", address, tokens)
	p.start("a")
	p.extra = ""
	p.start("b")
	p.protected("a", "b")
	pool := x509.NewCertPool()
	pool.AddCert(p.ca.Cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "a"}}}
	defer client.CloseIdleConnections()
	get := func(path, token string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(http.MethodGet, "https://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if code, body := get("/v1/status", ""); code != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", code, body)
	}
	code, body := get("/v1/status", token)
	var st NodeStatus
	if err := json.Unmarshal([]byte(body), &st); err != nil || code != http.StatusOK || len(st.Pairs) != 1 {
		t.Errorf("with a token: %d %s", code, body)
	}
	if code, body := get("/metrics", token); code != http.StatusOK || !strings.Contains(body, `colod_pair_protected{pair="g"} 1`) {
		t.Errorf("metrics: %d %s", code, body)
	}
}

// TestEventsAreKept: the history goes on over a restart, in order and
// without a gap, and a query selects from it.
func TestEventsAreKept(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	read := func(q EventQuery) []Event {
		t.Helper()
		q.NoFollow = true
		var got []Event
		if err := p.nodes["a"].client.Select(ctx, q, func(e Event) error { got = append(got, e); return nil }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	before := read(EventQuery{})
	if len(before) < 3 {
		t.Fatalf("events: %+v", before)
	}
	p.nodes["a"].stop(t)
	restarted := time.Now()
	p.start("a")
	p.await("a", "protected again", func(s PairStatus) bool { return s.State == "protected" })
	all := read(EventQuery{All: true})
	for i, e := range all {
		if i > 0 && e.ID <= all[i-1].ID || e.Routine {
			t.Fatalf("event %d of %+v", i, all)
		}
		if i < len(before) && (e.ID != before[i].ID || e.Reason != before[i].Reason) {
			t.Errorf("event %d is %+v, was %+v", i, e, before[i])
		}
	}
	if len(all) <= len(before) {
		t.Errorf("%d events, %d before the restart", len(all), len(before))
	}
	since := read(EventQuery{Since: restarted})
	if len(since) == 0 || len(since) >= len(all) || since[0].Time.Before(restarted) {
		t.Errorf("since the restart: %+v", since)
	}
	if other := read(EventQuery{All: true, Pair: "other"}); len(other) != 0 {
		t.Errorf("events of another pair: %+v", other)
	}
	enough := errors.New("enough")
	if err := p.nodes["a"].client.Select(ctx, EventQuery{All: true, Routine: true}, func(e Event) error {
		if e.ID <= all[len(all)-1].ID {
			return nil
		}
		return enough // new ones follow
	}); !errors.Is(err, enough) && ctx.Err() == nil {
		t.Errorf("following: %v", err)
	}
}

func TestSeriesOverTheAPI(t *testing.T) {
	p := newTestPair(t)
	p.start("a")
	p.start("b")
	p.protected("a", "b")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var last uint64
	for last < 2 {
		a, err := p.nodes["a"].client.Series(ctx, "g", last)
		if err != nil {
			t.Fatal(err)
		}
		for _, pt := range a.Points {
			if pt.ID != last+1 {
				t.Fatalf("point %d after %d", pt.ID, last)
			}
			last = pt.ID
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := p.nodes["a"].client.Series(ctx, "nobody", 0); err == nil || !strings.Contains(err.Error(), `no pair "nobody"`) {
		t.Errorf("another pair: %v", err)
	}
}
