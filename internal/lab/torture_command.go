package lab

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"colod/internal/lab/witness"
)

// Witness watches what leaves the lab's nodes towards the clients.
func (l *Lab) Witness() (w *witness.Witness, err error) {
	ports := map[string]string{}
	for _, n := range l.Nodes() {
		ports[lanNet.port(n)] = n
	}
	err = inNetns(l.ns(sw), func() (err error) {
		w, err = witness.Open(ports, GuestMAC)
		return err
	})
	return w, err
}

func tortureCommand(name *string) *cobra.Command {
	opt := TortureOptions{}
	asJSON, show := false, 0
	c := &cobra.Command{
		Use: "torture", Short: "Break things at random under load, and judge what came of it", Args: cobra.NoArgs,
		Long: `Make random faults under random, checked load, and give a verdict: every byte that clients
got, every frame that left a node, the daemons' descriptors and memory, and the protection.
What is done follows from the seed; --from and --steps repeat a part of it. With the same seed
faults of the same kind come in the same order; when they hit is as exact as a machine is.

Exit code 0 only if nothing was lost, repeated or changed, no connection broke, no two nodes
said different bytes, nothing leaked and the guest is protected at the end.`,
		Example: `  colod lab torture --for 5m
  colod lab torture --seed 7 --for 1h --nodes 3 --paths 2 --arbiter etcd --members 3 --json
  colod lab torture --seed 7 --from 12 --steps 1`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if !cmd.Flags().Changed("seed") {
				opt.Seed = uint64(rand.Uint32())
			}
			if opt.Lab.Name = *name; !opt.Use && !cmd.Flags().Changed("name") {
				opt.Lab.Name = fmt.Sprintf("torture-%d", os.Getpid())
			}
			if show > 0 {
				t := terms{nodes: max(opt.Lab.Nodes, 2), paths: max(opt.Lab.Paths, 1), only: opt.Only,
					ops: map[string]bool{opFailover: true, opSwitchover: true, opCheckpoint: true, opPause: true, opMigrate: true}}
				if opt.Lab.Arbiter == "etcd" {
					t.members = opt.Lab.Members
				}
				for n := max(opt.From, 1); n < max(opt.From, 1)+show; n++ {
					s := step(opt.Seed, n, t)
					fmt.Fprintf(cmd.OutOrStdout(), "%4d  %s, %d transfers\n", n, s, len(s.Load))
				}
				return nil
			}
			opt.Out = cmd.OutOrStdout()
			if asJSON {
				opt.Out = cmd.ErrOrStderr()
			}
			if opt.Evidence == "" {
				opt.Evidence = filepath.Join(os.TempDir(), fmt.Sprintf("colod-torture-%d-%d", opt.Seed, os.Getpid()))
			}
			r, err := Torture(ctx, opt)
			if err != nil {
				return err
			}
			r.Print(opt.Out)
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			}
			if !r.OK {
				return errors.New("torture: " + strings.Join(r.Failures, "; "))
			}
			return nil
		},
	}
	f := c.Flags()
	f.Uint64Var(&opt.Seed, "seed", 0, "of the faults and the load (default: random, and printed)")
	f.DurationVar(&opt.For, "for", 5*time.Minute, "begin no step after this time")
	f.IntVar(&opt.Steps, "steps", 0, "at most so many steps; 0: no limit")
	f.IntVar(&opt.From, "from", 1, "number of the first step")
	f.StringSliceVar(&opt.Only, "only", nil, "kinds of steps to choose from")
	f.IntVar(&show, "show", 0, "print so many steps of the schedule and do nothing")
	f.BoolVar(&opt.KeepOn, "keep-going", false, "go on after a failure")
	f.BoolVar(&opt.Use, "use", false, "use the lab that is up under this name, and leave it")
	f.StringVar(&opt.Evidence, "evidence", "", "directory for the logs when something failed")
	labFlags(c, &opt.Lab)
	f.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return c
}

// Print shows the report to a person.
func (r *TortureReport) Print(w io.Writer) {
	var kinds []string
	for k, n := range r.Kinds {
		kinds = append(kinds, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(kinds)
	var gaps []float64
	for _, s := range r.Steps {
		gaps = append(gaps, s.GapMS)
	}
	slices.Sort(gaps)
	fmt.Fprintf(w, "\n  steps       %d in %.0f s: %s\n", len(r.Steps), r.Seconds, strings.Join(kinds, ", "))
	if len(gaps) > 0 {
		fmt.Fprintf(w, "  silence     median %.0f ms, max %.0f ms (arbiter's absence and cuts included)\n", gaps[len(gaps)/2], gaps[len(gaps)-1])
	}
	fmt.Fprintf(w, "  bytes       %d lost, %d repeated, %d corrupt of %s; %d connections broken\n", r.Lost, r.Repeated, r.Corrupt, bytesText(r.Bytes), r.Broken)
	fmt.Fprintf(w, "  speakers    %d conflicts in %v frames; %d bytes said again, %d of them by another node; %d turns for %d changes of roles\n",
		r.Witness.Conflicts, r.Witness.Frames, r.Witness.Compared, r.Witness.Across, r.Witness.Turns, r.Changes)
	for _, node := range slices.Sorted(maps.Keys(r.Usage)) {
		u := r.Usage[node]
		fmt.Fprintf(w, "  colod on %s  descriptors %d -> %d, threads %d -> %d, goroutines %d -> %d, %d -> %d KiB (%d processes)\n", node,
			u.FDs[0], u.FDs[1], u.Threads[0], u.Threads[1], u.Goroutines[0], u.Goroutines[1], u.MemoryKB[0], u.MemoryKB[1], u.Processes)
	}
	fmt.Fprintf(w, "  unprovoked  %d losses of protection\n", len(r.Unprovoked))
	fmt.Fprintf(w, "  protected   %v; load average %.1f\n", r.Protected, r.Load)
	for _, f := range r.Failures {
		fmt.Fprintln(w, "  FAILED      "+f)
	}
	if r.Evidence != "" {
		fmt.Fprintln(w, "  logs        "+r.Evidence)
	}
	fmt.Fprintf(w, "  seed        %d\n", r.Seed)
}
