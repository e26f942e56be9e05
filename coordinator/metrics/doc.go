package metrics

import (
	"fmt"
	"strings"
)

// Markdown is the documentation of all metrics; docs/metrics.md is made of it.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Metrics

colod serves its metrics at ` + "`/metrics`" + ` of the API: on the unix socket, and over TLS where ` + "`api.listen`" + ` is given.
This table is made from the code by ` + "`go test ./coordinator/metrics -update`" + `.

| name | type | unit | labels | what |
|---|---|---|---|---|
`)
	for _, f := range families {
		unit, labels := f.Unit, strings.Join(f.Labels, ", ")
		if unit == "" {
			unit = "-"
		}
		if labels == "" {
			labels = "-"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f.Name, f.Type, unit, labels, f.Help)
	}
	b.WriteString(`
Histograms have buckets from 8 µs to 67 s, each twice as wide as the one before. Counters begin at 0 when colod starts.
Metrics of the Go runtime (` + "`go_`" + `) and of the process (` + "`process_`" + `) are served as well.

Alert rules are in ` + "`deploy/prometheus`" + `, a dashboard for Grafana in ` + "`deploy/grafana`" + `.
`)
	return b.String()
}
