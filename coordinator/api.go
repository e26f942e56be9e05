package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"colod/coordinator/web"
)

// apiServer serves the local HTTP API on a unix socket; see apiRoutes.
//
// Errors are {"error":"sentence"} with a status of 4xx or 5xx.
type apiServer struct {
	n    *Node
	path string
	ln   net.Listener
	lock *os.File
	http *http.Server
	wg   sync.WaitGroup

	ctx    context.Context // ends before the server does, for endless answers
	cancel context.CancelFunc
}

// maxBody bounds a request's body.
const maxBody = 64 << 10

// newAPI takes the socket. A second colod with the same one is refused.
func newAPI(n *Node) (*apiServer, error) {
	path := n.cfg.API.Socket
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of the API socket: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the API socket: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock the API socket %s: another colod is running with it; stop that one first", path)
	}
	// Ours alone now: what is left there is of a dead process.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return nil, fmt.Errorf("remove the old API socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("listen on the API socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		lock.Close()
		return nil, fmt.Errorf("protect the API socket: %w", err)
	}
	s := &apiServer{n: n, path: path, ln: ln, lock: lock}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.http = &http.Server{Handler: web.Local(s.routes()), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10, ConnContext: callerContext}
	return s, nil
}

// routes are all routes of the API; docs/openapi.yaml describes them.
func (s *apiServer) routes() *routes {
	mux := newRoutes()
	for _, r := range s.table() {
		mux.HandleFunc(r.method+" "+r.path, r.handle)
	}
	s.reportRoutes(mux.HandleFunc)
	s.n.surface.routes(mux, s.ctx)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusNotFound, apiError{fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path)})
	})
	return mux
}

func (s *apiServer) serve() {
	s.wg.Go(func() {
		if err := s.http.Serve(s.ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.n.log.Error().Err(err).Msg("the API ended")
		}
	})
}

func (s *apiServer) close() error {
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	s.ln.Close()
	s.wg.Wait()
	os.Remove(s.path)
	s.lock.Close()
	return err
}

type apiError struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // a client that went away needs no answer
}

func (s *apiServer) status(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, s.n.Status())
}

func (s *apiServer) pair(w http.ResponseWriter, r *http.Request) {
	st, ok := s.n.pairStatus(r.PathValue("name"))
	if !ok {
		s.noPair(w, r)
		return
	}
	reply(w, http.StatusOK, st)
}

func (s *apiServer) noPair(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusNotFound, apiError{fmt.Sprintf("node %s has no pair %q; it has %q", s.n.cfg.Node, r.PathValue("name"), s.n.pairNames())})
}

// body reads a request's JSON strictly; none at all is as good as {}.
func body(r *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	if len(b) == 0 {
		return nil
	}
	if err := strictJSON(b, v); err != nil {
		return fmt.Errorf("body is not what is expected: %w", err)
	}
	return nil
}

func (s *apiServer) stop(w http.ResponseWriter, r *http.Request) {
	var req struct {
		WithGuests bool `json:"with_guests"`
	}
	if err := body(r, &req); err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	s.n.audit.write(AuditEntry{What: "stop colod", Who: caller(r), Args: map[string]any{"with_guests": req.WithGuests}, Outcome: "begun"})
	reply(w, http.StatusAccepted, struct{}{})
	s.n.Stop(req.WithGuests)
}
