package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"time"

	"colod/coordinator"
)

// Status is the state of the lab's pair, as one node's daemon tells it.
type Status = coordinator.PairStatus

// get asks a node's daemon; the caller closes the answer's body.
func (l *Lab) get(ctx context.Context, node, path string) (*http.Response, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", l.Socket(node))
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://colod"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", node, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return nil, fmt.Errorf("ask node %s: %s: %s", node, resp.Status, strings.TrimSpace(string(said)))
	}
	return resp, nil
}

// nodeStatus asks one node's daemon.
func (l *Lab) nodeStatus(ctx context.Context, node string) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := l.get(ctx, node, "/v1/status")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer coordinator.NodeStatus
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("ask node %s: %w", node, err)
	}
	for _, st := range answer.Pairs {
		if st.Pair == pairName {
			return &st, nil
		}
	}
	return nil, fmt.Errorf("ask node %s: it has no pair %q", node, pairName)
}

// Events calls fn for each change of state of a node's pair, the recent past
// first, until ctx ends or fn returns false.
func (l *Lab) Events(ctx context.Context, node string, fn func(coordinator.Event) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := l.get(ctx, node, "/v1/events")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var e coordinator.Event
		if err := d.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("read events of node %s: %w", node, err)
		}
		if e.Pair == pairName && !fn(e) {
			return nil
		}
	}
}

// NodeStatus asks the daemon of one node.
func (l *Lab) NodeStatus(ctx context.Context, node string) (*Status, error) {
	if err := checkHost(node, l.Nodes()); err != nil {
		return nil, err
	}
	return l.nodeStatus(ctx, node)
}

// Status asks all nodes and returns the word of the one that speaks by the
// newest record.
func (l *Lab) Status(ctx context.Context) (*Status, error) {
	if l.state.Native {
		return &Status{State: "unprotected", Role: "native", Speaker: NodeA, Reason: "this lab was made without protection"}, nil
	}
	var best *Status
	var errs []error
	for _, node := range l.Nodes() {
		st, err := l.nodeStatus(ctx, node)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if best == nil || st.Generation > best.Generation || (st.Generation == best.Generation && st.Speaker == st.Node) {
			best = st
		}
	}
	if best == nil {
		return nil, errors.Join(errs...)
	}
	return best, nil
}

// Checkpoint asks the speaker for a checkpoint and returns when it is done.
func (l *Lab) Checkpoint(ctx context.Context) error {
	st, err := l.Status(ctx)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, l.state.Program, "checkpoint", pairName, "--socket", l.Socket(st.Speaker)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("take checkpoint: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// printStatus shows the status to a person.
func printStatus(w io.Writer, s *Status) {
	fmt.Fprintf(w, "%s, speaker %s, generation %d: %s\n", s.State, s.Speaker, s.Generation, s.Reason)
	fmt.Fprintf(w, "checkpoints  %d (%s), pause p50 %.1f ms, p99 %.1f ms, max %.1f ms, %d bytes\n", s.Checkpoints.Count,
		counts(s.Checkpoints.Reasons), s.Checkpoints.PauseMS.P50, s.Checkpoints.PauseMS.P99, s.Checkpoints.PauseMS.Max, s.Checkpoints.Bytes)
	fmt.Fprintf(w, "divergences  %d (%s)\n", s.Divergences.Count, counts(s.Divergences.ByReason))
	fmt.Fprintf(w, "released     %d frames, %d bytes; held p50 %.0f us, p99 %.0f us\n", s.Released.Frames, s.Released.Bytes, s.HoldUS.P50, s.HoldUS.P99)
}

// counts writes a table of counts in one line, greatest first.
func counts(m map[string]uint64) string {
	names := sortedByCount(m)
	if len(names) == 0 {
		return "none"
	}
	var parts []string
	for _, n := range names {
		parts = append(parts, fmt.Sprintf("%s %d", n, m[n]))
	}
	return strings.Join(parts, ", ")
}

func sortedByCount(m map[string]uint64) []string {
	var names []string
	for n, c := range m {
		if c > 0 {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if m[a] != m[b] {
			if m[a] > m[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return names
}
