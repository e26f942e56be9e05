package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"
)

// Connection parameters. A member that comes back is to be noticed within a second or two, as a node may be mute until
// then; gRPC's own backoff grows to two minutes.
const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 1500 * time.Millisecond
	connectMin = 3 * time.Second
	// etcd refuses pings that come more often than every 5 s (--grpc-keepalive-min-time).
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
)

// endpoint is one member, with a client of its own: which member is asked, and when the next one is, is decided here
// and not in a balancer.
type endpoint struct {
	index  int
	url    string
	client *clientv3.Client
	kv     clientv3.KV
}

func checkEndpoint(e string, plain bool) error {
	u, err := url.Parse(e)
	switch {
	case err != nil:
		return fmt.Errorf("endpoint %q is not a URL: %w", e, err)
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("endpoint %q: write https://host:port", e)
	case u.Hostname() == "" || u.Port() == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil:
		return fmt.Errorf("endpoint %q: write https://host:port and nothing else", e)
	case u.Scheme == "http" && !plain:
		return fmt.Errorf("endpoint %q: without TLS anybody on the network can decide who speaks; write https, and set the files of tls", e)
	case u.Scheme == "https" && plain:
		return fmt.Errorf("endpoint %q: https with TLS switched off", e)
	}
	return nil
}

// clientTLS reads the files; nil without TLS.
func (c *Config) clientTLS() (*tls.Config, error) {
	if c.Plain {
		return nil, nil
	}
	if c.TLS.CA == "" || c.TLS.Cert == "" || c.TLS.Key == "" {
		return nil, errors.New("tls: ca, cert and key are all needed")
	}
	ca, err := os.ReadFile(c.TLS.CA)
	if err != nil {
		return nil, fmt.Errorf("read the authority of etcd's certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("read the authority of etcd's certificates: no certificate in %s", c.TLS.CA)
	}
	cert, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s with key %s: %w", c.TLS.Cert, c.TLS.Key, err)
	}
	return &tls.Config{
		RootCAs: pool, ServerName: c.TLS.ServerName, MinVersion: tls.VersionTLS13,
		// Also when etcd names authorities that this one is not of: its refusal says more than silence.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}, nil
}

func newEndpoint(ctx context.Context, index int, url string, cfg Config, conf *tls.Config, log *zap.Logger) (*endpoint, error) {
	opts := []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: backoffMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: backoffMax},
			MinConnectTimeout: connectMin,
		}),
		grpc.WithStatsHandler(departures{}),
		// The connection goes where the configuration says, whatever the environment's proxies are.
		grpc.WithNoProxy(),
	}
	if cfg.Dial != nil {
		opts = append(opts, grpc.WithContextDialer(cfg.Dial))
	} else {
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}))
	}
	if conf != nil {
		opts = append(opts, grpc.WithTransportCredentials(newCredentials(&cfg, conf)))
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{url}, Context: ctx, Logger: log, DialOptions: opts,
		DialKeepAliveTime: keepaliveTime, DialKeepAliveTimeout: keepaliveTimeout,
		MaxUnaryRetries: 1, // none: repeating is decided here
	})
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", url, err)
	}
	// Not client.KV, which waits for a broken connection instead of telling what is wrong with it.
	kv := clientv3.NewKVFromKVClient(pb.NewKVClient(client.ActiveConnection()), nil)
	client.ActiveConnection().Connect()
	return &endpoint{index: index, url: url, client: client, kv: kv}, nil
}

// freshTLS reads the files of the connection at each handshake, so that neither a new certificate nor a new authority needs a
// restart. Files that cannot be used together, such as while they are being replaced, fail that handshake, and it is tried again.
type freshTLS struct {
	credentials.TransportCredentials // of what the files held at the start
	cfg                              *Config
}

func newCredentials(cfg *Config, conf *tls.Config) credentials.TransportCredentials {
	return freshTLS{credentials.NewTLS(conf), cfg}
}

func (f freshTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conf, err := f.cfg.clientTLS()
	if err != nil {
		return nil, nil, err
	}
	if conf.ServerName != "" { // one name in the certificate, whatever the endpoint's host is; clientv3 sees to the host only
		authority = conf.ServerName
	}
	return credentials.NewTLS(conf).ClientHandshake(ctx, authority, conn)
}

func (f freshTLS) Clone() credentials.TransportCredentials {
	return freshTLS{f.TransportCredentials.Clone(), f.cfg}
}

// wake makes a connection that waits to be tried again try now.
func (e *endpoint) wake() {
	conn := e.client.ActiveConnection()
	switch conn.GetState() {
	case connectivity.Idle:
		conn.Connect()
	case connectivity.TransientFailure:
		conn.ResetConnectBackoff()
	}
}

func (e *endpoint) close() error {
	if err := e.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close connection to %s: %w", e.url, err)
	}
	return nil
}

// departures notes when a request has left: one that has not cannot have changed anything.
type departures struct{}

type departureKey struct{}

// withDeparture returns a context whose requests set the flag once they are on the wire.
func withDeparture(ctx context.Context) (context.Context, *atomic.Bool) {
	left := new(atomic.Bool)
	return context.WithValue(ctx, departureKey{}, left), left
}

func (departures) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (departures) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.OutHeader, *stats.OutPayload:
		if left, ok := ctx.Value(departureKey{}).(*atomic.Bool); ok {
			left.Store(true)
		}
	}
}

func (departures) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (departures) HandleConn(context.Context, stats.ConnStats) {}
