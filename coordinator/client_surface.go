package coordinator

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"colod/coordinator/history"
	"colod/coordinator/metrics"
)

// Select calls fn for each event that q asks for, until ctx ends, fn returns
// an error, the daemon stops, or, if q does not follow, there are no more.
func (c *Client) Select(ctx context.Context, q EventQuery, fn func(Event) error) error {
	resp, err := c.open(ctx, http.MethodGet, "/v1/events?"+q.values().Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 2*history.MaxLine)
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

// values are the query's parameters; parseEventQuery reads them.
func (q EventQuery) values() url.Values {
	v := url.Values{"follow": {strconv.FormatBool(!q.NoFollow)}, "routine": {strconv.FormatBool(q.Routine)}}
	switch {
	case q.All:
		v.Set("since", "all")
	case !q.Since.IsZero():
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Pair != "" {
		v.Set("pair", q.Pair)
	}
	return v
}

// Point is what a pair did in one interval of the series.
type Point = metrics.Point

// Series asks what a pair did lately: the points whose ID is above after.
func (c *Client) Series(ctx context.Context, pair string, after uint64) (*SeriesAnswer, error) {
	a := new(SeriesAnswer)
	return a, c.do(ctx, http.MethodGet, "/v1/pairs/"+url.PathEscape(pair)+"/series?after="+strconv.FormatUint(after, 10), nil, a)
}
