// Package report is the form of the benchmarks' results: JSON for machines, Markdown with plots and one HTML file for readers.
package report

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Schema is the version of the JSON files. It grows with each change that a reader has to know of.
const Schema = 2

// Result is one benchmark's file.
type Result struct {
	Schema  int       `json:"schema"`
	Name    string    `json:"name"`
	Title   string    `json:"title"`
	Start   time.Time `json:"start"`
	Seconds float64   `json:"seconds"`
	Quick   bool      `json:"quick"` // too short for claims
	Rounds  int       `json:"rounds"`
	Machine Machine   `json:"machine"`
	// How says what was measured, how and against what; Limits what the figures do not say. One paragraph each.
	How    []string `json:"how"`
	Limits []string `json:"limits"`
	Cases  []Case   `json:"cases"`
	Goals  []Goal   `json:"goals"`
	// Curves show how something grows, or a distribution; each becomes a plot.
	Curves []Curve `json:"curves,omitempty"`
}

// Curve is one plot of lines over an axis of numbers.
type Curve struct {
	Name   string   `json:"name"` // lower case, no blanks: a part of the plot's file name
	Title  string   `json:"title"`
	X      Axis     `json:"x"`
	Y      Axis     `json:"y"`
	Series []Series `json:"series"`
}

// Axis of a curve. Values that are not above 0 cannot stand on a logarithmic one and are left out of the plot.
type Axis struct {
	Label string `json:"label"` // with the unit
	Log   bool   `json:"log,omitempty"`
}

// Series is a line of a curve.
type Series struct {
	Name   string  `json:"name"`
	Points []Point `json:"points"`
	// Slope is the exponent b of the least-squares fit y = a x^b, where one was made (Fit): 0 = y does not grow with x, 1 = in
	// proportion.
	Slope *float64 `json:"slope,omitempty"`
}

// Point of a series: the median of its rounds and their range; Min = Max = Y where there was one round.
type Point struct {
	X   float64 `json:"x"`
	Y   float64 `json:"y"`
	Min float64 `json:"min"`
	Max float64 `json:"max"`
}

// Case is one load with the figures of each system under test.
type Case struct {
	Name    string   `json:"name"`
	Systems []System `json:"systems"`
}

// System is what was measured of one system in one case.
type System struct {
	Name   string   `json:"name"`
	Values []Figure `json:"values"`
}

// Figure is one measured quantity over all rounds.
type Figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Better string    `json:"better"` // "more", "less", or "" where neither is
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Rounds []float64 `json:"rounds"`
	// Spread is (max-min)/median, 0 for one round. P99 is the 99th percentile where there are at least manyRounds of them.
	Spread float64  `json:"spread"`
	P99    *float64 `json:"p99,omitempty"`
	// Ratio is the median over the rounds of this value to the reference system's of the same round; 0 for none.
	Ratio       float64   `json:"ratio,omitempty"`
	RatioMin    float64   `json:"ratio_min,omitempty"`
	RatioMax    float64   `json:"ratio_max,omitempty"`
	RatioTo     string    `json:"ratio_to,omitempty"`
	RatioRounds []float64 `json:"ratio_rounds,omitempty"`
}

// manyRounds is how many values a percentile of them needs to say something.
const manyRounds = 20

// Goal is a figure that is wanted, and whether it was reached.
type Goal struct {
	Text    string  `json:"text"`
	Want    float64 `json:"want"`
	Got     float64 `json:"got"`
	Unit    string  `json:"unit"`
	Most    bool    `json:"most"` // Want is the most that may be, not the least that must
	Reached bool    `json:"reached"`
}

// Machine is what the figures depend on.
type Machine struct {
	CPU      string  `json:"cpu"`
	CPUs     int     `json:"cpus"`
	Memory   int64   `json:"memory_bytes"`
	Virtual  bool    `json:"virtual"` // a virtual machine itself
	Kernel   string  `json:"kernel"`
	Go       string  `json:"go"`
	QEMU     string  `json:"qemu"`
	Revision string  `json:"revision"`
	LoadFrom float64 `json:"load_before"` // run queue, 1 minute
	LoadTo   float64 `json:"load_after"`
}

// ThisMachine describes the machine and the programs.
func ThisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), LoadFrom: Load()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(k) {
		case "model name":
			m.CPU = strings.TrimSpace(v)
		case "flags":
			m.Virtual = slices.Contains(strings.Fields(v), "hypervisor")
		}
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		m.Memory = int64(si.Totalram) * int64(si.Unit)
	}
	if out, err := exec.Command("qemu-system-x86_64", "--version").Output(); err == nil {
		m.QEMU, _, _ = strings.Cut(strings.TrimPrefix(string(out), "QEMU emulator version "), "\n")
	}
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			switch {
			case s.Key == "vcs.revision":
				m.Revision = s.Value[:min(12, len(s.Value))] + m.Revision
			case s.Key == "vcs.modified" && s.Value == "true":
				m.Revision += "+changes"
			}
		}
	}
	if m.Revision == "" {
		m.Revision = revision(".")
	}
	return m
}

// revision is that of the tree around dir, "" if there is none. What a run itself writes is no change.
func revision(dir string) string {
	out, err := exec.Command("git", "-C", dir, "describe", "--always").Output()
	if err != nil {
		return ""
	}
	r := strings.TrimSpace(string(out))
	out, err = exec.Command("git", "-C", dir, "status", "--porcelain", "--untracked-files=no", "--", ":(top)",
		":(top,exclude)bench/results", ":(top,exclude)bench/plots", ":(top,exclude)bench/REPORT.md").Output()
	if err != nil || len(out) > 0 {
		r += "+changes"
	}
	return r
}

// Load is the length of the run queue, averaged over a minute.
func Load() float64 {
	b, _ := os.ReadFile("/proc/loadavg")
	var f float64
	fmt.Sscan(string(b), &f)
	return f
}

// Median is 0 for no values.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// Sheet gathers the values of one case, round by round.
type Sheet struct {
	name    string
	systems []string
	figures []Figure
	values  map[[2]string][]float64 // by system and figure
}

// NewSheet makes one for the given systems; the first is the reference of all ratios.
func NewSheet(name string, systems ...string) *Sheet {
	return &Sheet{name: name, systems: systems, values: make(map[[2]string][]float64)}
}

// Add adds a value of this round.
func (s *Sheet) Add(system, figure, unit, better string, v float64) {
	if !slices.ContainsFunc(s.figures, func(f Figure) bool { return f.Name == figure }) {
		s.figures = append(s.figures, Figure{Name: figure, Unit: unit, Better: better})
	}
	k := [2]string{system, figure}
	s.values[k] = append(s.values[k], v)
}

// Case is the summary of all rounds.
func (s *Sheet) Case() Case {
	c := Case{Name: s.name}
	for i, name := range s.systems {
		sys := System{Name: name}
		for _, f := range s.figures {
			f.Rounds = s.values[[2]string{name, f.Name}]
			if len(f.Rounds) == 0 {
				continue
			}
			f.Median, f.Min, f.Max = Median(f.Rounds), slices.Min(f.Rounds), slices.Max(f.Rounds)
			if f.Median != 0 {
				f.Spread = (f.Max - f.Min) / f.Median
			}
			if len(f.Rounds) >= manyRounds {
				p := Percentile(f.Rounds, 99)
				f.P99 = &p
			}
			if ref := s.values[[2]string{s.systems[0], f.Name}]; i > 0 {
				for r := range min(len(ref), len(f.Rounds)) {
					if ref[r] != 0 {
						f.RatioRounds = append(f.RatioRounds, f.Rounds[r]/ref[r])
					}
				}
				if len(f.RatioRounds) > 0 {
					f.RatioTo = s.systems[0]
					f.Ratio, f.RatioMin, f.RatioMax = Median(f.RatioRounds), slices.Min(f.RatioRounds), slices.Max(f.RatioRounds)
				}
			}
			sys.Values = append(sys.Values, f)
		}
		c.Systems = append(c.Systems, sys)
	}
	return c
}

// Find is a figure of a system in a case.
func (r *Result) Find(casename, system, figure string) (Figure, bool) {
	for _, c := range r.Cases {
		if c.Name != casename {
			continue
		}
		for _, s := range c.Systems {
			for _, f := range s.Values {
				if s.Name == system && f.Name == figure {
					return f, true
				}
			}
		}
	}
	return Figure{}, false
}

// AtLeast and AtMost add a goal.
func (r *Result) AtLeast(text string, want, got float64, unit string) {
	r.Goals = append(r.Goals, Goal{text, want, got, unit, false, got >= want})
}

func (r *Result) AtMost(text string, want, got float64, unit string) {
	r.Goals = append(r.Goals, Goal{text, want, got, unit, true, got <= want})
}

// Write puts r into dir as NAME.json.
func (r *Result) Write(dir string) error {
	for _, c := range r.Cases {
		for _, s := range c.Systems {
			for i := range s.Values {
				f := &s.Values[i]
				for _, v := range slices.Concat(f.Rounds, f.RatioRounds) {
					if math.IsNaN(v) || math.IsInf(v, 0) { // JSON has no word for it
						return fmt.Errorf("write results of %s: %s of %s in %s is %v", r.Name, f.Name, s.Name, c.Name, v)
					}
				}
			}
		}
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("write results of %s: %w", r.Name, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write results of %s: %w", r.Name, err)
	}
	return os.WriteFile(filepath.Join(dir, r.Name+".json"), append(b, '\n'), 0o644)
}

// Read reads all results in dir, by name.
func Read(dir string) ([]*Result, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var out []*Result
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		r := &Result{}
		if err := json.Unmarshal(b, r); err != nil {
			return nil, fmt.Errorf("read results in %s: %w", f, err)
		}
		if r.Schema != Schema {
			return nil, fmt.Errorf("read results in %s: schema %d, this program knows %d: run the benchmark again", f, r.Schema, Schema)
		}
		out = append(out, r)
	}
	return out, nil
}
