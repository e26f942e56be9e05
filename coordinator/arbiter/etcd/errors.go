package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colod/coordinator/arbiter"
)

var errClosed = errors.New("the connection to etcd was closed")

// Error says why an operation failed, for each endpoint that was asked.
type Error struct {
	Op        string // what was to be done, such as "swap record of pair guest1"
	Endpoints []EndpointError
	// Unknown says that the swap may have been, or may still be, carried out. The error is then arbiter.ErrUnknown, too.
	Unknown bool

	ended error // why it was given up before an answer: the context's error, or nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Unknown {
		b.WriteString(": " + arbiter.ErrUnknown.Error())
	}
	for i, ep := range e.Endpoints {
		b.WriteString(map[bool]string{true: ": ", false: "; "}[i == 0])
		b.WriteString(ep.Error())
	}
	if len(e.Endpoints) == 0 && e.ended != nil {
		b.WriteString(": " + e.ended.Error())
	}
	return b.String()
}

// Unwrap gives arbiter.ErrUnknown if that is so, and the endpoints' errors.
func (e *Error) Unwrap() []error {
	var all []error
	if e.Unknown {
		all = append(all, arbiter.ErrUnknown)
	}
	if e.ended != nil && errors.Is(e.ended, context.Canceled) {
		all = append(all, e.ended)
	}
	for i := range e.Endpoints {
		all = append(all, &e.Endpoints[i])
	}
	return all
}

// EndpointError is what went wrong with one endpoint, and what an operator can do about it.
type EndpointError struct {
	Endpoint string
	Cause    error
	Cure     string
}

func (e *EndpointError) Error() string {
	s := e.Endpoint + ": " + tidy(e.Cause)
	if e.Cure != "" {
		s += " (" + e.Cure + ")"
	}
	return s
}

func (e *EndpointError) Unwrap() error { return e.Cause }

// CorruptError is a key whose value cannot be trusted. It is never overwritten by itself.
type CorruptError struct {
	Key string
	Why string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("read %s from etcd: %s; no node will take a role until it is repaired or removed (etcdctl get or del %[1]s; stop both nodes first)", e.Key, e.Why)
}

// WentBackError says that etcd holds an older record than was seen before, as when a backup of it was restored. Who
// speaks by the older record may not be who does.
type WentBackError struct {
	Key       string
	Seen, Now arbiter.Record
}

func (e *WentBackError) Error() string {
	return fmt.Sprintf("read %s from etcd: it went back from %q to %q, as when an older backup of etcd was restored or the key was removed; "+
		"no node will take a role until colod is restarted on both nodes, after having made sure that the guest runs on one of them only", e.Key, e.Seen, e.Now)
}

// OtherClusterError says that an endpoint belongs to another cluster than the one that was asked first, or that this
// one was emptied.
type OtherClusterError struct {
	Want, Have string // identities; "" = none
}

func (e *OtherClusterError) Error() string {
	if e.Have == "" {
		return fmt.Sprintf("etcd does not hold the identity %s that it held before: it was emptied, or this is another cluster", e.Want)
	}
	return fmt.Sprintf("etcd has identity %s, not %s: it is another cluster", e.Have, e.Want)
}

// failure makes an *Error of what the endpoints said.
func (a *Arbiter) failure(failures []error, cause error) error {
	e := &Error{ended: cause}
	for i, err := range failures {
		if err != nil {
			e.Endpoints = append(e.Endpoints, a.explain(a.endpoints[i].url, err))
		}
	}
	return e
}

// final reports whether the other endpoints would say the same.
func final(err error) bool {
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrNoSpace),
		errors.Is(err, rpctypes.ErrRequestTooLarge):
		return true
	}
	var corrupt *CorruptError
	return errors.As(err, &corrupt)
}

// harmless reports whether the error says that nothing was, or will be, changed by the request.
func harmless(err error) bool {
	var corrupt *CorruptError
	var other *OtherClusterError
	switch {
	case err == nil, errors.As(err, &corrupt), errors.As(err, &other):
		return true
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrNoSpace),
		errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyRequests):
		return true
	}
	return false
}

// explain names the cure of what etcd, gRPC or TLS said.
func (a *Arbiter) explain(endpoint string, err error) EndpointError {
	e := EndpointError{Endpoint: endpoint, Cause: err}
	text := err.Error()
	has := func(s string) bool { return strings.Contains(text, s) }
	var other *OtherClusterError
	switch {
	case errors.As(err, &other):
		e.Cure = "name only members of one cluster, the same one on both nodes; if etcd was emptied on purpose, restart colod on both nodes"
	case silent(err):
		e.Cause = errSilence
		e.Cure = "its host is unreachable or overloaded, it is frozen, or it cannot reach a majority of the members"
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		e.Cure = "grant the user of this node's certificate read and write on keys that begin with " + a.cfg.Prefix + "/"
	case errors.Is(err, rpctypes.ErrNoSpace):
		e.Cure = "etcd's database is full: etcdctl compact and defrag, then etcdctl alarm disarm"
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrLeaderChanged), errors.Is(err, rpctypes.ErrTimeout), errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail),
		errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost), has("raft proposal dropped"):
		e.Cure = "it has no leader: a majority of the members must run and reach each other"
	case has("certificate signed by unknown authority"), has("not signed by"), has("certificate is not trusted"):
		e.Cure = "its certificate is not signed by the authority in " + a.cfg.TLS.CA + ": name etcd's --trusted-ca-file there"
	case has("certificate is valid for"), has("doesn't contain any IP SANs"), has("not valid for any names"):
		e.Cure = "its certificate holds neither the endpoint's host nor server_name: set server_name to a name in it, or make a new one"
	case has("certificate has expired or is not yet valid"):
		e.Cure = "renew etcd's certificate, or set this host's clock"
	case has("remote error: tls"), has("tls: bad certificate"):
		e.Cure = "it refuses the certificate " + a.cfg.TLS.Cert + ": it must be valid and signed by etcd's --trusted-ca-file"
	case has("first record does not look like a TLS handshake"), has("authentication handshake failed: EOF"):
		e.Cure = "it speaks no TLS: give etcd --cert-file, --key-file and --trusted-ca-file"
	case has("broken pipe"), has("connection reset"), has("error reading server preface"):
		// With TLS 1.3 a client may write before it reads that it is refused.
		e.Cure = "it broke the connection off: it is being ended, or refuses the certificate " + a.cfg.TLS.Cert + ", which must be valid and signed by etcd's --trusted-ca-file"
		if a.cfg.Plain {
			e.Cure = "it broke the connection off: it is being ended, or wants https"
		}
	case has("connection refused"):
		e.Cure = "nothing listens there: start etcd, or correct the endpoint"
	case has("no route to host"), has("network is unreachable"), has("i/o timeout"):
		e.Cure = "its host cannot be reached"
	case has("no such host"):
		e.Cure = "the name of its host cannot be resolved; an address does not depend on DNS"
	}
	return e
}

var errSilence = errors.New("no answer")

// silent reports whether an attempt ended by our own limits, for which gRPC has words that say less.
func silent(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		status.Code(err) == codes.DeadlineExceeded || status.Code(err) == codes.Canceled
}

// tidy takes gRPC's wrapping off an error's text.
func tidy(err error) string {
	s := err.Error()
	if st, ok := status.FromError(err); ok && st.Code() != codes.OK {
		s = st.Message()
	}
	for _, p := range []string{"connection error: desc = ", "transport: ", "error while dialing: ", "Error while dialing: ", "authentication handshake failed: "} {
		s = strings.TrimPrefix(strings.TrimPrefix(s, `"`), p)
	}
	return strings.TrimSuffix(s, `"`)
}
