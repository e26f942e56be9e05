// Package web is the way in for people and programs: it decides who may call
// the API, on the local socket and over TLS, and holds the page that shows a
// node in a browser.
//
// The local socket is guarded by its file mode. Over TLS, a caller shows a
// client certificate or a token, and each of them may either read or operate.
package web

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
)

// Role is what a caller may do.
type Role uint8

// The roles; each includes those before it.
const (
	NoRole  Role = iota
	Read         // look at everything, reports with their payload included
	Operate      // change things: end guests, fail over, stop colod
)

var roleNames = [...]string{"none", "read", "operate"}

func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("Role(%d)", uint8(r))
}

// ParseRole reads "read" or "operate".
func ParseRole(s string) (Role, error) {
	for r := Read; r <= Operate; r++ {
		if s == r.String() {
			return r, nil
		}
	}
	return NoRole, fmt.Errorf("role %q is not known; there are read and operate", s)
}

// needs is the role that a request needs.
func needs(r *http.Request) Role {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return Read
	}
	return Operate
}

// Identity is a caller.
type Identity struct {
	Name string // of the token or certificate; "local" on the unix socket
	Role Role
}

type identityKey struct{}

// Caller is who makes a request that came through this package's guards.
func Caller(ctx context.Context) Identity {
	id, _ := ctx.Value(identityKey{}).(Identity)
	return id
}

func withCaller(r *http.Request, id Identity) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), identityKey{}, id))
}

// RoleURI is the name in a client certificate that gives its holder a role.
func RoleURI(r Role) *url.URL { return &url.URL{Scheme: "colod", Opaque: r.String()} }

// certificateIdentity is what a verified client certificate says. The
// certificate of a node has no role.
func certificateIdentity(c *x509.Certificate) Identity {
	id := Identity{Name: c.Subject.CommonName}
	for _, u := range c.URIs {
		if u.Scheme != "colod" {
			continue
		}
		if r, err := ParseRole(u.Opaque); err == nil {
			id.Role = max(id.Role, r)
		}
	}
	return id
}
