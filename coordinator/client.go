package coordinator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"colod/coordinator/pair"
)

// ErrUnreachable says that no daemon answers on the socket.
var ErrUnreachable = errors.New("colod does not answer")

// Client speaks with a daemon over its API socket.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client; nothing is connected yet.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Status asks for the node's status.
func (c *Client) Status(ctx context.Context) (*NodeStatus, error) {
	st := new(NodeStatus)
	return st, c.do(ctx, http.MethodGet, "/v1/status", nil, st)
}

// Ask asks for an operation on a pair and waits for its outcome. grace is
// for OpStop; below zero the pair's own is used.
func (c *Client) Ask(ctx context.Context, name string, op pair.Op, grace time.Duration) (*PairStatus, error) {
	var req OpRequest
	if grace >= 0 {
		req.Grace = grace.String()
	}
	return c.Do(ctx, name, op, req)
}

// Do asks for an operation on a pair and waits for its outcome.
func (c *Client) Do(ctx context.Context, name string, op pair.Op, req OpRequest) (*PairStatus, error) {
	st := new(PairStatus)
	return st, c.do(ctx, http.MethodPost, "/v1/pairs/"+url.PathEscape(name)+"/"+string(op), req, st)
}

// Maintenance holds, or no longer, what happens by itself with all pairs of
// the node.
func (c *Client) Maintenance(ctx context.Context, on bool, why string) (*NodeStatus, error) {
	st := new(NodeStatus)
	return st, c.do(ctx, http.MethodPost, "/v1/maintenance", OpRequest{On: on, Why: why}, st)
}

// Cluster asks for all nodes and pairs.
func (c *Client) Cluster(ctx context.Context) (*Cluster, error) {
	cl := new(Cluster)
	return cl, c.do(ctx, http.MethodGet, "/v1/cluster", nil, cl)
}

// ForgetNode removes a node from the registry.
func (c *Client) ForgetNode(ctx context.Context, name string) (*Cluster, error) {
	cl := new(Cluster)
	return cl, c.do(ctx, http.MethodDelete, "/v1/nodes/"+url.PathEscape(name), nil, cl)
}

// Audit asks for the last entries of the audit log, of one pair if it is
// named.
func (c *Client) Audit(ctx context.Context, limit int, name string) ([]AuditEntry, error) {
	var all []AuditEntry
	q := url.Values{"limit": {strconv.Itoa(limit)}, "pair": {name}}
	return all, c.do(ctx, http.MethodGet, "/v1/audit?"+q.Encode(), nil, &all)
}

// Stop asks the daemon to stop.
func (c *Client) Stop(ctx context.Context, withGuests bool) error {
	return c.do(ctx, http.MethodPost, "/v1/stop", map[string]any{"with_guests": withGuests}, nil)
}

// Events calls fn for each recent event and for all that follow, until ctx
// ends, fn returns an error or the daemon stops.
func (c *Client) Events(ctx context.Context, fn func(Event) error) error {
	resp, err := c.open(ctx, http.MethodGet, "/v1/events", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		var e Event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			return fmt.Errorf("read event: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return sc.Err()
}

func (c *Client) open(ctx context.Context, method, path string, req any) (*http.Response, error) {
	var rd io.Reader
	if req != nil {
		b, err := json.Marshal(req)
		if err != nil {
			return nil, err
		}
		rd = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://colod"+path, rd)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var op *net.OpError
		if errors.As(err, &op) {
			return nil, fmt.Errorf("%w on %s: %w; is it running (colod run), and may you open the socket?", ErrUnreachable, c.socket, op.Err)
		}
		return nil, fmt.Errorf("%w on %s: %w", ErrUnreachable, c.socket, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		var e apiError
		b, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if json.Unmarshal(b, &e) != nil || e.Error == "" {
			e.Error = fmt.Sprintf("colod answered %s", resp.Status)
		}
		return nil, errors.New(e.Error)
	}
	return resp, nil
}

func (c *Client) do(ctx context.Context, method, path string, req, answer any) error {
	resp, err := c.open(ctx, method, path, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("read colod's answer: %w", err)
	}
	return nil
}

// strictJSON decodes one JSON value without unknown fields.
func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows the object")
	}
	return nil
}
