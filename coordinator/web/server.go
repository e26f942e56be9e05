package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"
)

// Options of a server over TLS.
type Options struct {
	Listen    string // address and port
	Cert, Key string // files shown to callers, read anew when they change
	ClientCA  string // file with the authority of clients' certificates
	Tokens    string // file of tokens; may be empty
	Handler   http.Handler
	Log       zerolog.Logger
}

// maxConns bounds the connections, those that have not shown who they are included.
const maxConns = 128

// Server serves the API over TLS.
type Server struct {
	ln   net.Listener
	http *http.Server
	log  zerolog.Logger
	wg   sync.WaitGroup
}

// Listen reads the files and takes the address; Serve begins to answer.
func Listen(opt Options) (*Server, error) {
	tokens, err := OpenTokens(opt.Tokens)
	if err != nil {
		return nil, fmt.Errorf("serve the API on %s: %w", opt.Listen, err)
	}
	ca, err := os.ReadFile(opt.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("serve the API on %s: read authority of clients: %w", opt.Listen, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("serve the API on %s: %s holds no certificate", opt.Listen, opt.ClientCA)
	}
	shown := &certificate{cert: opt.Cert, key: opt.Key, log: opt.Log}
	if _, err := shown.get(nil); err != nil {
		return nil, fmt.Errorf("serve the API on %s: %w", opt.Listen, err)
	}
	ln, err := net.Listen("tcp", opt.Listen)
	if err != nil {
		return nil, fmt.Errorf("serve the API: %w", err)
	}
	s := &Server{ln: netutil.LimitListener(ln, maxConns), log: opt.Log}
	s.http = &http.Server{
		Handler:           NewRemote(tokens).Guard(opt.Handler),
		ReadHeaderTimeout: 10 * time.Second, // of the TLS handshake too
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          stdlog.New(quiet{opt.Log}, "", 0),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, GetCertificate: shown.get,
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
		},
	}
	return s, nil
}

// Addr is the address taken.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Serve answers until Close.
func (s *Server) Serve() {
	s.wg.Go(func() {
		if err := s.http.ServeTLS(s.ln, "", ""); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error().Err(err).Msg("the API over TLS ended")
		}
	})
}

// Close ends all connections; answers under way get a second.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	s.ln.Close() // also when Serve was never called
	s.wg.Wait()
	return err
}

// quiet passes what net/http complains of, such as handshakes that failed, on
// to the log at the level for details: anybody can cause it.
type quiet struct{ log zerolog.Logger }

func (q quiet) Write(b []byte) (int, error) {
	q.log.Debug().Msgf("API over TLS: %q", b)
	return len(b), nil
}

// certificate is a certificate that is read anew when its file changes.
type certificate struct {
	cert, key string
	log       zerolog.Logger

	mu    sync.Mutex
	mtime time.Time
	now   *tls.Certificate
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := os.Stat(c.cert)
	if err == nil && c.now != nil && st.ModTime().Equal(c.mtime) {
		return c.now, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.cert, c.key)
	}
	switch {
	case err == nil:
		c.now, c.mtime = &pair, st.ModTime()
	case c.now == nil:
		return nil, fmt.Errorf("read certificate of the API: %w", err)
	default:
		c.log.Warn().Err(err).Msg("the API's certificate cannot be read anew; the old one stays")
	}
	return c.now, nil
}
