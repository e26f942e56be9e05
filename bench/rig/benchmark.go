package rig

import (
	"context"
	"io"
	"time"

	"colod/bench/report"
)

// Benchmark is one of those that bench/cmd/bench runs. A package has one as a variable and is registered by a line in
// bench/cmd/bench/benchmarks.go.
type Benchmark struct {
	Name string // of the -only flag and, if it makes one result, of the result's file
	What string // what is measured, a few words
	Peer string // beside what; "" where there is nothing to stand beside
	// Cases are the names that Options.Case takes; nil where there is one case.
	Cases func() []string
	// Run measures and fills the results' Name, Title, Rounds, How, Limits, Cases, Curves and Goals. The caller adds machine and
	// time and writes them. It leaves nothing behind, however it ends.
	Run func(context.Context, Options) ([]*report.Result, error)
	// Parts are programs that the benchmark runs in processes of their own: os.Executable with the part's name as the first
	// argument. They get the arguments behind it and return the exit code.
	Parts map[string]func(args []string, stderr io.Writer) int
}

// Options of a run, as the command line has them.
type Options struct {
	Quick      bool          // show that it works, in 20 s or less; no figure is quoted
	Rounds     int           // 0 = the benchmark's own: see Or
	Each       time.Duration // of one measurement; 0 = the benchmark's own
	Case       string        // one case only; "" = all
	Profile    string        // file for a CPU profile of colod's part; "" = none
	Congestion string        // TCP congestion control of client and guests; "" = cubic
	Log        func(format string, args ...any)
}

// RoundsOr is the number of rounds: what was asked for, else the benchmark's own for a full or a quick run.
func (o Options) RoundsOr(full, quick int) int { return or(o.Rounds, full, quick, o.Quick) }

// EachOr is the time of one measurement, likewise.
func (o Options) EachOr(full, quick time.Duration) time.Duration {
	return or(o.Each, full, quick, o.Quick)
}

// Wants reports whether a case is to be run.
func (o Options) Wants(name string) bool { return o.Case == "" || o.Case == name }

func or[T int | time.Duration](asked, full, quick T, isQuick bool) T {
	switch {
	case asked > 0:
		return asked
	case isQuick:
		return quick
	}
	return full
}
