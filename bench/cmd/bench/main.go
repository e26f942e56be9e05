// Command bench measures colod on this machine, its peers beside it in the same run, and writes the results and a
// report. It needs root.
//
//	go run ./bench/cmd/bench                      everything
//	go run ./bench/cmd/bench -quick               everything, too short for claims
//	go run ./bench/cmd/bench -only colo-compare   one benchmark
//	go run ./bench/cmd/bench -render              the report of the results that there are
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

	"colod/bench/report"
	"colod/bench/rig"
)

func main() {
	if len(os.Args) > 1 {
		for _, b := range benchmarks {
			if part := b.Parts[os.Args[1]]; part != nil {
				os.Exit(part(os.Args[2:], os.Stderr))
			}
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	var o rig.Options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := fs.String("only", "", "run these benchmarks, separated by commas")
	out := fs.String("out", "bench/results", "directory for the results")
	rep := fs.String("report", "bench/REPORT.md", "the report of all results, with plots/ and an .html beside it; empty for none")
	list := fs.Bool("list", false, "list the benchmarks and their cases")
	render := fs.Bool("render", false, "measure nothing: write the report of the results that there are")
	fs.BoolVar(&o.Quick, "quick", false, "a short run: to see that it works; writes to a temporary directory unless -out is given")
	fs.IntVar(&o.Rounds, "rounds", 0, "rounds (default: each benchmark's own)")
	fs.DurationVar(&o.Each, "each", 0, "time of one measurement (default: each benchmark's own)")
	fs.StringVar(&o.Case, "case", "", "run one case of the benchmark that -only names")
	fs.StringVar(&o.Congestion, "congestion", "", "TCP congestion control in data-path (default cubic)")
	fs.StringVar(&o.Profile, "cpuprofile", "", "write a CPU profile of colod's part to this file")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if *list {
		for _, b := range benchmarks {
			fmt.Printf("%-14s %s", b.Name, b.What)
			if b.Peer != "" {
				fmt.Printf(", beside %s", b.Peer)
			}
			if b.Cases != nil {
				fmt.Printf("\n%-14s cases: %s", "", strings.Join(b.Cases(), ", "))
			}
			fmt.Println()
		}
		return 0
	}
	todo, err := pick(*only, o.Case)
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return 2
	}
	if o.Quick {
		set := map[string]bool{}
		fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
		if !set["out"] {
			*out = filepath.Join(os.TempDir(), "colod-bench-quick")
		}
		if !set["report"] {
			*rep = filepath.Join(*out, "REPORT.md")
		}
	}
	began := time.Now()
	o.Log = func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	var failed []error
	for _, b := range todo {
		if *render || ctx.Err() != nil {
			break
		}
		// One that fails does not take the others' figures away.
		if err := measure(ctx, b, o, *out); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", b.Name, err))
			o.Log("%v", failed[len(failed)-1])
		}
	}
	if *rep != "" && ctx.Err() == nil {
		if err := writeReport(*rep, *out); err != nil {
			failed = append(failed, fmt.Errorf("write the report: %w", err))
		} else {
			o.Log("the report is %s, the results are in %s", *rep, *out)
		}
	}
	if err := errors.Join(append(failed, ctx.Err())...); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

// pick is the benchmarks to run: those named, or all.
func pick(only, onecase string) ([]rig.Benchmark, error) {
	todo := benchmarks
	if only != "" {
		todo = nil
		for _, n := range strings.Split(only, ",") {
			i := slices.IndexFunc(benchmarks, func(b rig.Benchmark) bool { return b.Name == n })
			if i < 0 {
				return nil, fmt.Errorf("no benchmark %q; -list shows them", n)
			}
			todo = append(todo, benchmarks[i])
		}
	}
	if onecase == "" {
		return todo, nil
	}
	var with []rig.Benchmark
	for _, b := range todo {
		if b.Cases != nil && slices.Contains(b.Cases(), onecase) {
			with = append(with, b)
		}
	}
	if len(with) == 0 {
		return nil, fmt.Errorf("no case %q; -list shows them", onecase)
	}
	return with, nil
}

// measure runs one benchmark and writes its results to dir.
func measure(ctx context.Context, b rig.Benchmark, o rig.Options, dir string) error {
	m, start := report.ThisMachine(), time.Now()
	results, err := b.Run(ctx, o)
	if err != nil {
		return err
	}
	m.LoadTo = report.Load()
	for _, r := range results {
		r.Schema, r.Start, r.Seconds, r.Quick, r.Machine = report.Schema, start.UTC(), time.Since(start).Seconds(), o.Quick, m
		if err := r.Write(dir); err != nil {
			return err
		}
		for _, g := range r.Goals {
			verdict := "reached"
			if !g.Reached {
				verdict = "MISSED"
			}
			o.Log("%s: %s: wanted %g, got %.3g %s: %s", r.Name, g.Text, g.Want, g.Got, g.Unit, verdict)
		}
	}
	return nil
}

func writeReport(file, dir string) error {
	results, err := report.Read(dir)
	if err != nil {
		return err
	}
	return report.WriteAll(file, results)
}
