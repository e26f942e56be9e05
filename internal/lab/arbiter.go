package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"colod/internal/certs"
	"colod/internal/lab/etcd"
)

// arbiterConfig describes the lab's etcd.
func (l *Lab) arbiterConfig() etcd.Config {
	c := etcd.Config{Dir: filepath.Join(l.dir, "etcd")}
	for _, m := range l.Members() {
		c.Members = append(c.Members, etcd.Member{Name: m, Namespace: l.ns(m), Address: address(arbiterNet, m)})
	}
	return c
}

// endpoints are where the nodes reach etcd; none with the file arbiter.
func (l *Lab) endpoints() []string {
	var all []string
	for _, m := range l.Members() {
		all = append(all, fmt.Sprintf("https://%s:%d", address(arbiterNet, m), etcd.DefaultClientPort))
	}
	return all
}

// createArbiter starts etcd, if the lab has one. It lets in whom the lab's
// authority knows, so each node uses its own certificate.
func (l *Lab) createArbiter(ctx context.Context, authority *certs.Authority) error {
	if len(l.Members()) == 0 {
		return nil
	}
	l.progress("starting etcd on " + strings.Join(l.Members(), ", "))
	c := l.arbiterConfig()
	c.Authority = authority
	_, err := etcd.Start(ctx, c)
	return err
}

// stopArbiter kills members of etcd.
func (l *Lab) stopArbiter(member string) (string, error) {
	c, err := etcd.Attach(l.arbiterConfig())
	if err != nil {
		return "", err
	}
	var did []string
	for i, m := range l.Members() {
		if member == "" || m == member {
			if err := c.Kill(i); err != nil {
				return "", err
			}
			did = append(did, m)
		}
	}
	return "killed etcd on " + strings.Join(did, ", "), nil
}

// startArbiter starts the members of etcd that do not run, and says which; ""
// if there were none. It does not wait until they serve.
func (l *Lab) startArbiter(_ context.Context, member string) (string, error) {
	c, err := etcd.Attach(l.arbiterConfig())
	if err != nil {
		return "", err
	}
	var did []string
	for i, m := range l.Members() {
		if c.PID(i) != 0 || member != "" && m != member {
			continue
		}
		if err := c.Restart(i); err != nil {
			return "", err
		}
		did = append(did, m)
	}
	if len(did) == 0 {
		return "", nil
	}
	return "started etcd on " + strings.Join(did, ", "), nil
}

// ArbiterRuns tells which members of etcd have a process.
func (l *Lab) ArbiterRuns() ([]string, error) {
	c, err := etcd.Attach(l.arbiterConfig())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(l.Members(), func(m string) bool { return c.PID(slices.Index(l.Members(), m)) == 0 }), nil
}
