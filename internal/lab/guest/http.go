package guest

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"colod/internal/lab/pattern"
)

// maxRandom bounds /random's answer, which is made in memory, in bytes.
const maxRandom = 16 << 20

// serveHTTP offers the HTTP services on port 80 and, encrypted, on 443.
func serveHTTP(listening *sync.WaitGroup) error {
	plain, err := net.Listen("tcp", fmt.Sprintf(":%d", PortHTTP))
	if err != nil {
		return fmt.Errorf("serve http: %w", err)
	}
	secure, err := net.Listen("tcp", fmt.Sprintf(":%d", PortHTTPS))
	if err != nil {
		return fmt.Errorf("serve https: %w", err)
	}
	cert, err := tls.LoadX509KeyPair("/etc/colod/tls.pem", "/etc/colod/tls.key")
	if err != nil {
		return fmt.Errorf("serve https: %w", err)
	}
	listening.Done()
	srv := &http.Server{
		Handler:  handler(),
		ErrorLog: log.New(io.Discard, "", 0),
		// HTTP/1.1 only: an HTTP/2 server interleaves control frames by its own timing.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	errs := make(chan error, 2)
	go func() { errs <- srv.Serve(plain) }()
	go func() {
		errs <- srv.Serve(tls.NewListener(secure, &tls.Config{
			Certificates: []tls.Certificate{cert},
			NextProtos:   []string{"http/1.1"},
			// Record sizes that depend on nothing but the data.
			DynamicRecordSizingDisabled: true,
		}))
	}()
	return fmt.Errorf("serve http: %w", <-errs)
}

func handler() http.Handler {
	var counter atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /static/{size}", static)
	mux.HandleFunc("GET /random", random)
	mux.HandleFunc("GET /time", func(w http.ResponseWriter, _ *http.Request) {
		text(w, time.Now().UTC().Format(time.RFC3339Nano))
	})
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err != nil {
			http.Error(w, "read body: "+err.Error(), http.StatusBadRequest)
			return
		}
		text(w, hex.EncodeToString(h.Sum(nil)))
	})
	mux.HandleFunc("GET /counter", func(w http.ResponseWriter, _ *http.Request) {
		text(w, strconv.FormatInt(counter.Add(1), 10))
	})
	mux.HandleFunc("GET /date", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
		if r.URL.Query().Has("beside") { // a field that follows the date and that the other guest cannot say
			w.Header().Set("X-Beside", rand.Text())
		}
		text(w, "the date is in the header")
	})
	mux.HandleFunc("GET /cookie", func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "sid", Value: rand.Text(), Path: "/"})
		text(w, "the cookie is in the header")
	})
	mux.HandleFunc("GET /json", func(w http.ResponseWriter, _ *http.Request) {
		text(w, fmt.Sprintf(`{"service": "lab", "id": "%s", "ok": true}`, rand.Text()))
	})
	mux.HandleFunc("GET /fetch", fetch)
	mux.HandleFunc("GET /job/{name}", job)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		text(w, "colod lab guest\n/static/SIZE /random?bytes=N /time /upload /counter /date /cookie /json /fetch?url=URL /job/NAME?n=N")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The clock would make every answer differ between the two guests.
		w.Header()["Date"] = nil
		mux.ServeHTTP(w, r)
	})
}

func text(w http.ResponseWriter, s string) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(s)+1))
	io.WriteString(w, s+"\n")
}

// ParseSize reads a number of bytes with an optional k or m (binary).
func ParseSize(s string) (int64, error) {
	unit := int64(1)
	switch {
	case strings.HasSuffix(s, "k"):
		s, unit = s[:len(s)-1], 1<<10
	case strings.HasSuffix(s, "m"):
		s, unit = s[:len(s)-1], 1<<20
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<40)/unit {
		return 0, fmt.Errorf("size %q: want a number with k or m behind it, as in 64k", s)
	}
	return n * unit, nil
}

func static(w http.ResponseWriter, r *http.Request) {
	size, err := ParseSize(r.PathValue("size"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if r.Method == http.MethodHead {
		return
	}
	for off := int64(0); off < size; {
		chunk := pattern.Static(off)
		if int64(len(chunk)) > size-off {
			chunk = chunk[:size-off]
		}
		if len(chunk) > 64<<10 {
			chunk = chunk[:64<<10]
		}
		n, err := w.Write(chunk)
		if err != nil {
			return
		}
		off += int64(n)
	}
}

// random answers with bytes that the other guest of a pair cannot produce:
// the kernel's random numbers and the clock are in them. Straight after a
// checkpoint both guests hold the same generator; the clock still differs. The
// answer's digest is in a header, so that a client can tell a whole answer from
// a mixture of two.
func random(w http.ResponseWriter, r *http.Request) {
	n, err := ParseSize(r.URL.Query().Get("bytes"))
	if err != nil || n > maxRandom {
		http.Error(w, fmt.Sprintf("bytes: want 0 to %d", maxRandom), http.StatusBadRequest)
		return
	}
	body := make([]byte, n)
	rand.Read(body)
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts)
	key := sha256.Sum256(fmt.Appendf(nil, "%d %d", ts.Nano(), time.Now().UnixNano()))
	for i := range body {
		body[i] ^= key[i%len(key)]
	}
	sum := sha256.Sum256(body)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	w.Header().Set("X-Sha256", hex.EncodeToString(sum[:]))
	w.Write(body)
}

// fetch opens a connection of the guest's own and hands its answer on.
func fetch(w http.ResponseWriter, r *http.Request) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, r.URL.Query().Get("url"), nil)
	if err != nil {
		http.Error(w, "url: "+err.Error(), http.StatusBadRequest)
		return
	}
	req.Header.Set("User-Agent", "colod-guest")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	resp, err := client.Do(req)
	if err != nil {
		http.Error(w, "fetch: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	if resp.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}
