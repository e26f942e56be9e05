// Command bench measures colod on this machine, its peers beside it in the same run, and writes the results and a
// report. It needs root.
//
//	go run ./bench/cmd/bench                      everything
//	go run ./bench/cmd/bench --quick              everything, too short for claims
//	go run ./bench/cmd/bench --only colo-compare  one benchmark
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"colod/bench/colocompare"
	"colod/bench/datapath"
	"colod/bench/drop"
	"colod/bench/link"
	"colod/bench/load"
	"colod/bench/report"
)

// options of the command line.
type options struct {
	quick   bool
	rounds  int
	each    time.Duration
	cases   string
	profile string
	tcp     string
	log     func(string, ...any)
}

// benchmarks by name, in the order in which they run.
var benchmarks = []struct {
	name, about string
	run         func(context.Context, options) ([]*report.Result, error)
}{
	{"colo-compare", "comparator beside QEMU's colo-compare", runColoCompare},
	{"data-path", "data path beside plain kernel forwarding", runDataPath},
	{"link", "bytes on the link between the nodes", runLink},
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] { // the parts of a benchmark that run in processes of their own
		case "chardev":
			os.Exit(drop.Main(os.Args[2:], os.Stderr))
		case "load":
			os.Exit(load.Main(os.Args[2:], os.Stderr))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := fs.String("only", "", "run these benchmarks, separated by commas")
	out := fs.String("out", "bench/results", "directory for the results")
	rep := fs.String("report", "bench/REPORT.md", "the report of all results; empty for none")
	list := fs.Bool("list", false, "list the benchmarks")
	fs.BoolVar(&o.quick, "quick", false, "a short run: to see that it works; writes to a temporary directory unless -out is given")
	fs.IntVar(&o.rounds, "rounds", 0, "rounds (default 7, quick 2)")
	fs.DurationVar(&o.each, "each", 0, "time of one measurement (default 2s, quick 300ms)")
	fs.StringVar(&o.cases, "case", "", "run one case of a benchmark")
	fs.StringVar(&o.tcp, "congestion", "", "TCP congestion control in data-path (default cubic)")
	fs.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of colod's part to this file")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if *list {
		for _, b := range benchmarks {
			fmt.Printf("%-14s %s\n", b.name, b.about)
		}
		return 0
	}
	var names []string
	if *only != "" {
		names = strings.Split(*only, ",")
	}
	for _, n := range names {
		if !slices.ContainsFunc(benchmarks, func(b struct {
			name, about string
			run         func(context.Context, options) ([]*report.Result, error)
		}) bool {
			return b.name == n
		}) {
			fmt.Fprintf(os.Stderr, "bench: no benchmark %q; -list shows them\n", n)
			return 2
		}
	}
	if o.quick {
		set := map[string]bool{}
		fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
		if !set["out"] {
			*out = filepath.Join(os.TempDir(), "colod-bench-quick")
		}
		if !set["report"] {
			*rep = filepath.Join(*out, "REPORT.md")
		}
	}
	def(&o.rounds, 7, 2, o.quick)
	def(&o.each, 2*time.Second, 300*time.Millisecond, o.quick)
	began := time.Now()
	o.log = func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	for _, b := range benchmarks {
		if len(names) > 0 && !slices.Contains(names, b.name) {
			continue
		}
		m, start := report.ThisMachine(), time.Now()
		results, err := b.run(ctx, o)
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", b.name, err)
			return 1
		}
		m.LoadTo = report.Load()
		for _, r := range results {
			r.Schema, r.Start, r.Seconds, r.Quick, r.Machine = report.Schema, start.UTC(), time.Since(start).Seconds(), o.quick, m
			if err := r.Write(*out); err != nil {
				fmt.Fprintf(os.Stderr, "bench: %v\n", err)
				return 1
			}
			for _, g := range r.Goals {
				verdict := "reached"
				if !g.Reached {
					verdict = "MISSED"
				}
				o.log("%s: %s: wanted %g, got %.3g %s: %s", r.Name, g.Text, g.Want, g.Got, g.Unit, verdict)
			}
		}
	}
	if *rep != "" {
		if err := writeReport(*rep, *out); err != nil {
			fmt.Fprintf(os.Stderr, "bench: write the report: %v\n", err)
			return 1
		}
		o.log("the report is %s, the results are in %s", *rep, *out)
	}
	return 0
}

func def[T int | time.Duration](v *T, full, quick T, isQuick bool) {
	switch {
	case *v > 0:
	case isQuick:
		*v = quick
	default:
		*v = full
	}
}

func writeReport(file, dir string) error {
	results, err := report.Read(dir)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := report.Markdown(f, results); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func runColoCompare(ctx context.Context, o options) ([]*report.Result, error) {
	frames := 16384
	r, err := colocompare.Run(ctx, colocompare.Options{Rounds: o.rounds, Each: o.each, Frames: frames, Only: o.cases, Profile: o.profile, Log: o.log})
	return []*report.Result{r}, err
}

func runDataPath(ctx context.Context, o options) ([]*report.Result, error) {
	r, err := datapath.Run(ctx, datapath.Options{Rounds: o.rounds, Each: o.each, Only: o.cases, Profile: o.profile, Congestion: o.tcp, Log: o.log})
	return []*report.Result{r}, err
}

func runLink(ctx context.Context, o options) ([]*report.Result, error) {
	r, err := link.Run(ctx, link.Options{Rounds: min(o.rounds, 3), Each: o.each, Only: o.cases, Log: o.log})
	return []*report.Result{r}, err
}
