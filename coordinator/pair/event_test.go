package pair

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"colod/coordinator/arbiter"
)

// TestSwapResult: only what an arbiter is sure of is won, lost or failed.
func TestSwapResult(t *testing.T) {
	r := arbiter.Record{Pair: "g", Generation: 3, Speaker: "a"}
	for _, c := range []struct {
		err  error
		want Outcome
	}{
		{nil, SwapWon},
		{fmt.Errorf("etcd: %w", arbiter.ErrLost), SwapLost},
		{fmt.Errorf("etcd: %w", arbiter.ErrUnknown), SwapUnknown},
		{fmt.Errorf("etcd: %w", context.DeadlineExceeded), SwapUnknown},
		{errors.New("refused"), SwapFailed},
	} {
		ev := SwapResult(7, r, c.err)
		told := c.want == SwapUnknown || c.want == SwapFailed
		if ev.Op != 7 || ev.Outcome != c.want || ev.Record != r || (ev.Err != "") != told {
			t.Errorf("%v: %+v, want %v", c.err, ev, c.want)
		}
	}
}
