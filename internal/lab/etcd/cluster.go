// Package etcd starts real etcd clusters of one or more members, for tests and the lab: each member in a network
// namespace of its own choice, with mutual TLS, and removes every trace of them.
//
// It runs Debian's etcd (package etcd-server, program etcd) and does not link etcd's client. Members survive the
// process that started them, as the lab's commands are processes of their own; Remove finds them by their directory.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"colod/internal/certs"
)

// Ports of members that name none: etcd's own.
const (
	DefaultClientPort = 2379
	DefaultPeerPort   = 2380
)

// Config describes a cluster. Dir and Members must be set.
type Config struct {
	// Dir is made, and holds everything: data, logs, certificates. It must be an absolute path that does not exist or
	// is empty.
	Dir     string
	Members []Member
	// Binary is the etcd program; empty means etcd in PATH.
	Binary string
	// Plain serves HTTP without any check of who asks. Else clients and members need certificates.
	Plain bool
	// Authority signs the members' certificates, and clients that it knows are let in. Nil makes one for this cluster.
	Authority *certs.Authority
	// Heartbeat and Election are etcd's --heartbeat-interval and --election-timeout; zero takes 50 ms and 500 ms, half
	// of etcd's own, for hosts on one network.
	Heartbeat, Election time.Duration
}

// Member is one member of a cluster.
type Member struct {
	Name string // letters, digits and dashes
	// Namespace is the named network namespace (ip netns) that the member runs in; empty means the caller's.
	Namespace string
	// Address is the IP address on which clients and members reach it; empty means 127.0.0.1.
	Address string
	// ClientPort and PeerPort are unique to the member on its address; zero takes the defaults.
	ClientPort, PeerPort int
}

// Cluster is a set of members. Its methods are not safe for use by several goroutines, except for those of different
// members.
type Cluster struct {
	cfg     Config
	members []*member
	ca      *certs.Authority
}

var memberName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Local are n members on one address of a namespace, with ports from 2379 upwards.
func Local(namespace string, n int) []Member {
	var ms []Member
	for i := range n {
		ms = append(ms, Member{
			Name: fmt.Sprintf("m%d", i+1), Namespace: namespace,
			ClientPort: DefaultClientPort + 10*i, PeerPort: DefaultPeerPort + 10*i,
		})
	}
	return ms
}

// Start makes the cluster and waits until every member serves. A failure leaves nothing behind; its error holds the
// end of the member's log.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c, err := prepare(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	for i := range c.members {
		if err := c.launch(i); err != nil {
			return nil, errors.Join(fmt.Errorf("start etcd: %w", err), c.Close())
		}
	}
	for i := range c.members {
		if err := c.WaitHealthy(ctx, i); err != nil {
			return nil, errors.Join(fmt.Errorf("start etcd: %w", err), c.Close())
		}
	}
	return c, nil
}

// Attach finds a cluster that Start made before, in this process or another. Its members may run or not.
func Attach(cfg Config) (*Cluster, error) {
	c, err := check(cfg)
	if err != nil {
		return nil, fmt.Errorf("find etcd: %w", err)
	}
	if _, err := os.Stat(c.cfg.Dir); err != nil {
		return nil, fmt.Errorf("find etcd: %w", err)
	}
	for _, m := range c.members {
		if pids := Processes(m.dir); len(pids) > 0 {
			m.adopt(pids[0])
		}
	}
	return c, nil
}

func prepare(cfg Config) (*Cluster, error) {
	c, err := check(cfg)
	if err != nil {
		return nil, err
	}
	if left, err := os.ReadDir(c.cfg.Dir); err == nil && len(left) > 0 {
		return nil, fmt.Errorf("directory %s is not empty; remove what an earlier cluster left", c.cfg.Dir)
	}
	if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if !c.cfg.Plain {
		if err := c.makeCertificates(); err != nil {
			return nil, errors.Join(err, os.RemoveAll(c.cfg.Dir))
		}
	}
	return c, nil
}

// check completes a configuration without touching anything.
func check(cfg Config) (*Cluster, error) {
	if cfg.Binary == "" {
		cfg.Binary = "etcd"
	}
	bin, err := exec.LookPath(cfg.Binary)
	if err != nil {
		return nil, fmt.Errorf("%w; install Debian's package etcd-server (make setup)", err)
	}
	cfg.Binary = bin
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 50 * time.Millisecond
	}
	if cfg.Election == 0 {
		cfg.Election = 500 * time.Millisecond
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("directory %q is not an absolute path", cfg.Dir)
	}
	if len(cfg.Members) == 0 {
		return nil, errors.New("a cluster needs a member")
	}
	c := &Cluster{cfg: cfg, ca: cfg.Authority}
	seen := map[string]bool{}
	for _, m := range cfg.Members {
		if m.Address == "" {
			m.Address = "127.0.0.1"
		}
		if m.ClientPort == 0 {
			m.ClientPort = DefaultClientPort
		}
		if m.PeerPort == 0 {
			m.PeerPort = DefaultPeerPort
		}
		switch {
		case !memberName.MatchString(m.Name):
			return nil, fmt.Errorf("%q is not a member's name: lower-case letters, digits and dashes", m.Name)
		case seen[m.Name]:
			return nil, fmt.Errorf("two members are called %s", m.Name)
		case net.ParseIP(m.Address) == nil:
			return nil, fmt.Errorf("member %s: %q is not an IP address", m.Name, m.Address)
		}
		seen[m.Name] = true
		c.members = append(c.members, &member{Member: m, dir: filepath.Join(cfg.Dir, m.Name)})
	}
	return c, nil
}

// Size is the number of members.
func (c *Cluster) Size() int { return len(c.members) }

// Endpoints are the members' client URLs, in their order.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, m := range c.members {
		all = append(all, c.clientURL(m))
	}
	return all
}

func (c *Cluster) scheme() string {
	if c.cfg.Plain {
		return "http"
	}
	return "https"
}

func (c *Cluster) clientURL(m *member) string {
	return fmt.Sprintf("%s://%s", c.scheme(), net.JoinHostPort(m.Address, fmt.Sprint(m.ClientPort)))
}

func (c *Cluster) peerURL(m *member) string {
	return fmt.Sprintf("%s://%s", c.scheme(), net.JoinHostPort(m.Address, fmt.Sprint(m.PeerPort)))
}

// args are the member's command line. Members always know the whole cluster; etcd ignores that once it has data.
func (c *Cluster) args(m *member) []string {
	var cluster []string
	for _, o := range c.members {
		cluster = append(cluster, o.Name+"="+c.peerURL(o))
	}
	args := []string{
		"--name", m.Name, "--data-dir", filepath.Join(m.dir, "data"), "--logger", "zap", "--log-outputs", "stderr",
		"--listen-client-urls", c.clientURL(m), "--advertise-client-urls", c.clientURL(m),
		"--listen-peer-urls", c.peerURL(m), "--initial-advertise-peer-urls", c.peerURL(m),
		"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new",
		"--heartbeat-interval", fmt.Sprint(c.cfg.Heartbeat.Milliseconds()),
		"--election-timeout", fmt.Sprint(c.cfg.Election.Milliseconds()),
	}
	if !c.cfg.Plain {
		cert, key := filepath.Join(m.dir, "cert.pem"), filepath.Join(m.dir, "key.pem")
		args = append(args,
			"--cert-file", cert, "--key-file", key, "--trusted-ca-file", c.caPath(), "--client-cert-auth",
			"--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", c.caPath(), "--peer-client-cert-auth")
	}
	return args
}

// Close ends every member and removes the directory.
func (c *Cluster) Close() error {
	var errs []error
	for i := range c.members {
		errs = append(errs, c.Kill(i))
	}
	// Found once more by their directory: also those that another process started again.
	errs = append(errs, Remove(c.cfg.Dir))
	return errors.Join(errs...)
}
