// Package etcd keeps the records of the pairs in an etcd cluster, for nodes on several hosts.
//
// One key holds one pair's record. It changes only by one transaction that compares the key's revision and value with
// what the caller has seen: etcd orders all of them, so of two contenders exactly one wins. There is no lease, no lock
// and no clock in it (package clientv3/concurrency is not used): who has won stays the speaker until somebody wins the
// next generation, however long either sleeps.
//
// Each swap carries a token of its own. That makes it repeatable: the same swap may be sent to several endpoints and
// sent again after silence, because it can be applied only once, and whoever reads the record later sees by the token
// whose swap that was. A swap whose answer is lost is therefore decided by sending it again; only when nobody answers
// until the context's deadline is its outcome unknown (arbiter.ErrUnknown).
//
// Requests go to the endpoint that answered last, and after a short silence to the others as well, so a dead, frozen or
// unreachable member costs a fraction of a second. All reads are linearizable.
package etcd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"colod/coordinator/arbiter"
	"colod/coordinator/registry"
)

// Config says which cluster, and how to be let in. Endpoints must be set, and TLS unless Plain is.
type Config struct {
	// Endpoints are the client URLs of the members of one cluster, https://host:port. Members that are not named are
	// never asked.
	Endpoints []string
	// Prefix begins every key; it starts with a slash. Empty means /colod. Pairs of one cluster must have different
	// names under one prefix.
	Prefix string
	// TLS are the files of the connection. They are read again at every connection, so that neither a new certificate
	// nor a new authority needs a restart.
	TLS TLS
	// Plain allows http endpoints, where anybody on the network can become a speaker. For tests.
	Plain bool

	// Timeout bounds an operation whose context has no deadline; default 3 s.
	Timeout time.Duration
	// Hedge is the silence of one endpoint after which the next one is asked as well; default 100 ms.
	Hedge time.Duration
	// Attempt bounds one question to one endpoint; default 1 s.
	Attempt time.Duration

	// Dial connects to addr, host:port; nil uses net.Dialer.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// TLS names PEM files.
type TLS struct {
	CA, Cert, Key string
	// ServerName is the name that the members' certificates must hold; empty means the host of each endpoint.
	ServerName string
}

// Defaults of Config.
const (
	DefaultPrefix  = "/colod"
	DefaultTimeout = 3 * time.Second
	DefaultHedge   = 100 * time.Millisecond
	DefaultAttempt = time.Second
)

// maxEndpoints is more than any sensible cluster has members.
const maxEndpoints = 16

// Arbiter is an open connection to the cluster. It is safe for use by many goroutines.
type Arbiter struct {
	cfg       Config
	endpoints []*endpoint
	preferred atomic.Uint32 // index of the endpoint that answered last

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // attempts and watches under way

	mu       sync.Mutex
	closed   bool
	identity string           // of the cluster; "" until the first contact
	seen     map[string]state // by pair: the newest that was seen
}

// state is a record as etcd holds it.
type state struct {
	record   arbiter.Record
	raw      []byte // the key's value; nil = no key
	revision int64  // the key's mod revision; 0 = no key
	writer   string // token of the swap that wrote it
}

var (
	_ arbiter.Arbiter   = (*Arbiter)(nil)
	_ registry.Registry = (*Arbiter)(nil)
)

var prefixForm = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)

// Open checks the configuration and begins to connect. An etcd that is away is no error here, as colod must be able to
// start and to adopt its guests meanwhile: see Check. ctx is for opening only.
func Open(ctx context.Context, cfg Config) (*Arbiter, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	conf, err := cfg.clientTLS()
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	a := &Arbiter{cfg: cfg, seen: map[string]state{}}
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for i, url := range cfg.Endpoints {
		e, err := newEndpoint(a.ctx, i, url, cfg, conf, zap.NewNop())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open etcd: %w", err), a.Close())
		}
		a.endpoints = append(a.endpoints, e)
	}
	return a, nil
}

// complete fills in the defaults and reports what cannot be used.
func (c *Config) complete() error {
	c.Endpoints = slices.Clone(c.Endpoints)
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	def := func(d *time.Duration, v time.Duration) error {
		if *d == 0 {
			*d = v
		}
		if *d < 0 {
			return fmt.Errorf("duration %s is negative", *d)
		}
		return nil
	}
	if err := errors.Join(def(&c.Timeout, DefaultTimeout), def(&c.Hedge, DefaultHedge), def(&c.Attempt, DefaultAttempt)); err != nil {
		return err
	}
	switch {
	case !prefixForm.MatchString(c.Prefix):
		return fmt.Errorf("prefix %q: it begins with a slash, ends with none, and has letters, digits, dots, dashes and underscores between them", c.Prefix)
	case len(c.Endpoints) == 0:
		return errors.New("no endpoints: name the client URL of each member, such as https://198.51.100.11:2379")
	case len(c.Endpoints) > maxEndpoints:
		return fmt.Errorf("%d endpoints, at most %d allowed", len(c.Endpoints), maxEndpoints)
	}
	for i, e := range c.Endpoints {
		if err := checkEndpoint(e, c.Plain); err != nil {
			return err
		}
		if slices.Contains(c.Endpoints[:i], e) {
			return fmt.Errorf("endpoint %s is given twice", e)
		}
	}
	return nil
}

// Close ends every operation under way and all connections. Records stay.
func (a *Arbiter) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	var errs []error
	for _, e := range a.endpoints {
		errs = append(errs, e.close())
	}
	a.work.Wait()
	return errors.Join(errs...)
}

// begin counts a goroutine that Close waits for; it reports false after Close.
func (a *Arbiter) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.work.Add(1)
	return true
}

// bounded gives an operation its deadline, and ends it with Close.
func (a *Arbiter) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	cancelTimeout := func() {}
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancelTimeout = context.WithTimeout(ctx, a.cfg.Timeout)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(a.ctx, cancel)
	return ctx, func() { stop(); cancel(); cancelTimeout() }
}

// Keys.

func (a *Arbiter) identityKey() string { return a.cfg.Prefix + "/identity" }

func (a *Arbiter) recordKey(pair string) string { return a.cfg.Prefix + "/pairs/" + pair + "/record" }

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$`)

func checkName(kind, name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%q is not the name of a %s", name, kind)
	}
	return nil
}

// newToken is 128 random bits.
func newToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}
