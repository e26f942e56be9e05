package metrics

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// deploy is where the rules and the dashboard are.
const deploy = "../../deploy"

// promtool runs Prometheus' own checker, of Debian's package prometheus.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("promtool is missing; make setup installs it (Debian package prometheus)")
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPromtoolMetrics(t *testing.T) {
	promtool(t, scrape(t, registry(sample())), "check", "metrics")
}

func TestPromtoolRules(t *testing.T) {
	rules, err := filepath.Glob(deploy + "/prometheus/*.rules.yml")
	if err != nil || len(rules) == 0 {
		t.Fatalf("no rules: %v", err)
	}
	promtool(t, "", append([]string{"check", "rules", "--lint-fatal"}, rules...)...)
	tests, err := filepath.Glob(deploy + "/prometheus/*.test.yml")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no tests of rules: %v", err)
	}
	promtool(t, "", append([]string{"test", "rules"}, tests...)...)
}

// names are the metrics that can be asked for.
func names() map[string]bool {
	all := map[string]bool{"up": true, "process_resident_memory_bytes": true, "process_cpu_seconds_total": true, "process_open_fds": true, "go_goroutines": true}
	for _, f := range families {
		all[f.Name] = true
		if f.Type == Histogram {
			for _, s := range []string{"_bucket", "_sum", "_count"} {
				all[f.Name+s] = true
			}
		}
	}
	return all
}

var (
	quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	metric = regexp.MustCompile(`\b(?:colod|process|go|node|prometheus)_[a-z0-9_]+|\bup\b`)
)

// checkQuery reports metrics that nobody serves, and labels of colod's that they do not have.
func checkQuery(t *testing.T, where, query string) {
	t.Helper()
	known := names()
	used := metric.FindAllString(quoted.ReplaceAllString(query, ""), -1)
	if len(used) == 0 {
		t.Errorf("%s: no metric in %s", where, query)
	}
	for _, m := range used {
		if !known[m] {
			t.Errorf("%s: %s is not served; in %s", where, m, query)
		}
	}
}

// TestDashboard: the dashboard asks only for what exists, and for each of colod's own metrics that people look at.
func TestDashboard(t *testing.T) {
	data, err := os.ReadFile(deploy + "/grafana/colod.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID, Title string
		Panels     []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr string }
			GridPos struct{ X, Y, W, H int }
		}
		Templating struct {
			List []struct {
				Name, Type string
				Query      json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || len(d.Panels) < 8 {
		t.Errorf("dashboard %q has UID %q and %d panels", d.Title, d.UID, len(d.Panels))
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q: ID %d is given twice", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if at[0] >= 24 || taken[at] != "" {
					t.Fatalf("panel %q lies over %q at %v", p.Title, taken[at], at)
				}
				taken[at] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, q := range p.Targets {
			checkQuery(t, p.Title, q.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			var q string
			if err := json.Unmarshal(v.Query, &q); err != nil {
				t.Errorf("variable %s: %v", v.Name, err)
			}
			checkQuery(t, "variable "+v.Name, q)
		}
	}
}

// TestRulesNameWhatExists: the same for the rules.
func TestRulesNameWhatExists(t *testing.T) {
	files, err := filepath.Glob(deploy + "/prometheus/*.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^ *expr: (.*)$`).FindAllStringSubmatch(string(data), -1) {
			checkQuery(t, filepath.Base(f), m[1])
		}
	}
}
