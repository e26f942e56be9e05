package coordinator

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"colod/internal/report"
)

// Reports calls fn with the pair's reports that f admits, oldest first.
func (c *Client) Reports(ctx context.Context, pair string, f report.Filter, fn func(*report.Report) error) error {
	q := url.Values{}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		q.Set("until", f.Until.Format(time.RFC3339Nano))
	}
	if f.Number > 0 {
		q.Set("number", strconv.FormatUint(f.Number, 10))
	}
	if f.Last > 0 {
		q.Set("last", strconv.Itoa(f.Last))
	}
	resp, err := c.open(ctx, http.MethodGet, "/v1/pairs/"+url.PathEscape(pair)+"/reports?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		r := new(report.Report)
		if err := dec.Decode(r); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read reports: %w", err)
		}
		if err := fn(r); err != nil {
			return err
		}
	}
}

// ReportStats asks for the counters of a pair's reports and tolerances.
func (c *Client) ReportStats(ctx context.Context, pair string) (*ReportStats, error) {
	st := new(ReportStats)
	return st, c.do(ctx, http.MethodGet, "/v1/pairs/"+url.PathEscape(pair)+"/reports/stats", nil, st)
}

// Record writes a recording of a pair to w; it ends after length, or when ctx does.
func (c *Client) Record(ctx context.Context, pair string, length time.Duration, w io.Writer) (int64, error) {
	resp, err := c.open(ctx, http.MethodPost, "/v1/pairs/"+url.PathEscape(pair)+"/record", map[string]any{"for": length.String()})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(w, resp.Body)
}
