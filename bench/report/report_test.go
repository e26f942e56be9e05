package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// sample is a result with everything in it that a report shows.
func sample() *Result {
	sh := NewSheet("down: bulk download", "kernel", "colod")
	for i := range 25 {
		sh.Add("kernel", "throughput", "Gbit/s", "more", 10+float64(i%3))
		sh.Add("colod", "throughput", "Gbit/s", "more", 8+float64(i%3))
	}
	up := NewSheet("up: bulk upload & <more>", "kernel", "colod")
	up.Add("kernel", "throughput", "Gbit/s", "more", 4)
	up.Add("colod", "throughput", "Gbit/s", "more", 5)
	r := &Result{
		Schema: Schema, Name: "sample", Title: "A sample, beside the kernel", Start: time.Date(2026, 11, 21, 18, 0, 0, 0, time.UTC), Seconds: 12, Rounds: 25,
		Machine: Machine{CPU: "some", CPUs: 2, Memory: 8 << 30, Kernel: "6.1", Go: "go1.26", QEMU: "7.2", Revision: "abc", LoadFrom: 0.1, LoadTo: 1.2},
		How:     []string{"Measured with `care`, *kernel* first."}, Limits: []string{"Nothing of < or &."},
		Cases: []Case{sh.Case(), up.Case()},
	}
	var memory []Point
	for _, n := range []float64{10, 100, 1000, 10000} {
		memory = append(memory, PointOf(n, []float64{3 * n, 2.9 * n, 3.1 * n}))
	}
	r.Curves = []Curve{
		{Name: "memory", Title: "Memory by connections", X: Axis{"connections", true}, Y: Axis{"bytes", true}, Series: []Series{Grown("proxy", memory), {Name: "empty"}}},
		{Name: "pause", Title: "Pauses", X: Axis{"ms", false}, Y: Axis{"% of runs", false}, Series: []Series{Distribution("colod", []float64{3, 1, 2})}},
	}
	r.AtLeast("throughput of the kernel's", 0.8, 0.75, "x")
	r.AtMost("false checkpoints", 0, 0, "")
	return r
}

// TestReport: what a result holds is in both forms of the report, with its plots.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	if err := sample().Write(filepath.Join(dir, "results")); err != nil {
		t.Fatal(err)
	}
	results, err := Read(filepath.Join(dir, "results"))
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, "plots", "of-an-earlier-report.svg")
	if err := errors.Join(os.Mkdir(filepath.Dir(stale), 0o755), os.WriteFile(stale, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := WriteAll(filepath.Join(dir, "REPORT.md"), results); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("a plot of an earlier report is left")
	}
	md, html := read(t, filepath.Join(dir, "REPORT.md")), read(t, filepath.Join(dir, "REPORT.html"))
	for _, want := range []string{
		"| [sample](#a-sample-beside-the-kernel) | throughput of the kernel's | at least 0.8 x | 0.75 x | **missed** |",
		"| false checkpoints | at most 0 | 0  | reached |", "## A sample, beside the kernel", "![Memory by connections](plots/sample-memory.svg)",
		"| throughput, Gbit/s | 11 [10..12] p99 12 | 9 [8..10] p99 10 = **0.818** x |", "- Nothing of < or &.", "Linux 6.1", "colod abc", "load 0.1 before",
	} {
		if !strings.Contains(md, want) {
			t.Errorf("the Markdown has no %q:\n%s", want, md)
		}
	}
	for _, want := range []string{
		`<span class="missed">missed</span>`, "at least 0.8 x", "<code>care</code>", "<em>kernel</em>", "Nothing of &lt; or &amp;.", "up: bulk upload &amp; &lt;more&gt;",
		"<strong>0.818</strong> x", `<section id="sample">`, "slope 1.00",
	} {
		if !strings.Contains(html, want) {
			t.Errorf("the HTML has no %q", want)
		}
	}
	// It opens without a network: nothing in it is fetched. Names of XML's vocabularies are not.
	bare := regexp.MustCompile(`xmlns(:xlink)?="[^"]*"`).ReplaceAllString(html, "")
	for _, bad := range []string{"http:", "https:", "<script", "url(", "@import", "src="} {
		if strings.Contains(bare, bad) {
			t.Errorf("the HTML has %q", bad)
		}
	}
	if n := strings.Count(html, "<svg"); n != 3 {
		t.Errorf("%d plots in the HTML, want 3", n)
	}
	plots, err := filepath.Glob(filepath.Join(dir, "plots", "*.svg"))
	if err != nil || len(plots) != 3 {
		t.Fatalf("plots: %v, %v", plots, err)
	}
	for _, p := range plots {
		d := xml.NewDecoder(strings.NewReader(read(t, p)))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", p, err)
			}
		}
	}
}

// TestSchema: results of another version are not taken for what they are not.
func TestSchema(t *testing.T) {
	r, dir := sample(), t.TempDir()
	r.Schema = Schema - 1
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "run the benchmark again") {
		t.Errorf("an old schema: %v", err)
	}
}

func TestNotANumber(t *testing.T) {
	r := sample()
	r.Cases[0].Systems[0].Values[0].Rounds[0] = math.NaN()
	if err := r.Write(t.TempDir()); err == nil || !strings.Contains(err.Error(), "throughput of kernel in down") {
		t.Errorf("NaN: %v", err)
	}
}

// TestNothing: a report of no results, and of one without cases, is one.
func TestNothing(t *testing.T) {
	for _, results := range [][]*Result{nil, {{Name: "empty", Title: "Empty"}}} {
		if err := WriteAll(filepath.Join(t.TempDir(), "REPORT.md"), results); err != nil {
			t.Error(err)
		}
	}
}

func TestFit(t *testing.T) {
	var p []Point
	for _, x := range []float64{1, 2, 4, 8, 16} {
		p = append(p, Point{X: x, Y: 5 * math.Pow(x, 1.5)})
	}
	p = append(p, Point{X: 0, Y: 1}, Point{X: 3, Y: 0}) // not on a logarithmic axis
	a, b, r2, ok := Fit(p)
	if !ok || math.Abs(a-5) > 1e-9 || math.Abs(b-1.5) > 1e-9 || math.Abs(r2-1) > 1e-9 {
		t.Errorf("fit %g x^%g, r² %g, %v", a, b, r2, ok)
	}
	if _, _, _, ok := Fit([]Point{{X: 2, Y: 1}, {X: 2, Y: 3}}); ok {
		t.Error("a fit through one x")
	}
	if s := Grown("flat", []Point{{X: 1, Y: 7}, {X: 10, Y: 7}}); s.Slope == nil || math.Abs(*s.Slope) > 1e-9 {
		t.Errorf("slope %v of what does not grow", s.Slope)
	}
}

func TestPercentile(t *testing.T) {
	v := []float64{5, 1, 4, 2, 3}
	for p, want := range map[float64]float64{0: 1, 20: 1, 50: 3, 99: 5, 100: 5} {
		if got := Percentile(v, p); got != want {
			t.Errorf("percentile %g is %g, want %g", p, got, want)
		}
	}
	if Percentile(nil, 50) != 0 {
		t.Error("percentile of nothing")
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(b))
}

// TestRevision: a run's own results do not make the tree a changed one, anything else that is tracked does.
func TestRevision(t *testing.T) {
	dir := t.TempDir()
	if got := revision(dir); got != "" {
		t.Fatalf("revision %q of no tree", got)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git := func(words ...string) {
		t.Helper()
		if out, err := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=n@example.org"}, words...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", words, err, out)
		}
	}
	results := []string{"bench/results/link.json", "bench/plots/link.svg", "bench/REPORT.md"}
	for _, name := range append(results, "code.go") {
		write(name, "one")
	}
	git("init", "-q")
	git("add", "-A")
	git("commit", "-q", "-m", "one")
	clean := revision(dir)
	if clean == "" || strings.Contains(clean, "+") {
		t.Fatalf("revision %q of a clean tree", clean)
	}
	for _, name := range results {
		write(name, "two")
	}
	write("new", "not tracked")
	if got := revision(filepath.Join(dir, "bench")); got != clean {
		t.Errorf("revision %q behind a run, want %q", got, clean)
	}
	write("code.go", "two")
	if got, want := revision(dir), clean+"+changes"; got != want {
		t.Errorf("revision %q of a changed tree, want %q", got, want)
	}
}
