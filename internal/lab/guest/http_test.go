package guest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"colod/internal/lab/pattern"
)

func get(t *testing.T, h http.Handler, path string) (*http.Response, []byte) {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	resp := rec.Result()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

func TestStaticIsThePattern(t *testing.T) {
	resp, b := get(t, handler(), "/static/2m")
	if resp.StatusCode != 200 || len(b) != 2<<20 || resp.ContentLength != 2<<20 {
		t.Fatalf("status %d, %d bytes, length %d", resp.StatusCode, len(b), resp.ContentLength)
	}
	for off := int64(0); off < int64(len(b)); {
		want := pattern.Static(off)
		want = want[:min(len(want), len(b)-int(off))]
		if !bytes.Equal(b[off:int(off)+len(want)], want) {
			t.Fatalf("content differs after offset %d", off)
		}
		off += int64(len(want))
	}
}

// Nothing in an answer may come from the clock, or the two guests would differ
// in every one.
func TestAnswersHaveNoDate(t *testing.T) {
	for _, path := range []string{"/", "/static/10", "/counter", "/time", "/random?bytes=1", "/nowhere", "/static/x"} {
		srv := httptest.NewServer(handler())
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if d, ok := resp.Header["Date"]; ok {
			t.Errorf("%s: Date %q", path, d)
		}
		srv.Close()
	}
}

func TestRandomDiffersAndIsWhole(t *testing.T) {
	h := handler()
	seen := map[string]bool{}
	for range 100 {
		resp, b := get(t, h, "/random?bytes=32")
		sum := sha256.Sum256(b)
		if len(b) != 32 || resp.Header.Get("X-Sha256") != hex.EncodeToString(sum[:]) {
			t.Fatalf("%d bytes, digest %s", len(b), resp.Header.Get("X-Sha256"))
		}
		if seen[string(b)] {
			t.Fatal("an answer came twice")
		}
		seen[string(b)] = true
	}
	for _, q := range []string{"", "?bytes=-1", "?bytes=17m", "?bytes=x"} {
		if resp, _ := get(t, h, "/random"+q); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("/random%s: status %d", q, resp.StatusCode)
		}
	}
}

func TestCounterAndUpload(t *testing.T) {
	h := handler()
	for _, want := range []string{"1\n", "2\n", "3\n"} {
		if _, b := get(t, h, "/counter"); string(b) != want {
			t.Errorf("counter says %q, want %q", b, want)
		}
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/upload", strings.NewReader("abc")))
	if want := "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"; rec.Body.String() != want {
		t.Errorf("digest %q", rec.Body)
	}
}

func TestFetchHandsOn(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/gone" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, "from outside")
	}))
	defer page.Close()
	h := handler()
	if resp, b := get(t, h, "/fetch?url="+page.URL); resp.StatusCode != 200 || string(b) != "from outside" {
		t.Errorf("status %d, %q", resp.StatusCode, b)
	}
	if resp, _ := get(t, h, "/fetch?url="+page.URL+"/gone"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("status %d", resp.StatusCode)
	}
	page.Close()
	if resp, _ := get(t, h, "/fetch?url="+page.URL); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("nobody there: status %d", resp.StatusCode)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "17": 17, "64k": 64 << 10, "100m": 100 << 20} {
		if n, err := ParseSize(s); err != nil || n != want {
			t.Errorf("%q: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "k", "-1", "1g", "1.5m", "99999999999999m"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("%q: %d, want an error", s, n)
		}
	}
}

func TestEcho(t *testing.T) {
	here, there := net.Pipe()
	go echoStream(there)
	defer here.Close()
	if _, err := here.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(here, b); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestMainRefusesToRunOutsideAGuest(t *testing.T) {
	if err := Main(); err == nil || !strings.Contains(err.Error(), "not a lab guest") {
		t.Errorf("got %v", err)
	}
}
