package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
)

func (c *cli) statusCommand() *cobra.Command {
	var watch, all bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status [PAIR]",
		Short: "Show where this node's pairs stand, and why",
		Example: `  colod status
  colod status guest1 --json
  colod status --watch
  colod status --all`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				if watch || len(args) > 0 {
					return usageError(errors.New("--all shows all pairs once: leave --watch and the pair's name out"))
				}
				cl, err := c.fetchCluster(cmd.Context())
				if err != nil {
					return err
				}
				if c.json {
					c.printJSON(cl)
					return nil
				}
				printCluster(c.out, cl)
				return nil
			}
			if watch {
				return c.watchStatus(cmd.Context(), args, every)
			}
			st, err := c.fetchStatus(cmd.Context(), args)
			if err != nil {
				return err
			}
			return c.showStatus(st)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again, until interrupted")
	cmd.Flags().BoolVar(&all, "all", false, "show all pairs of the cluster, as their nodes see them")
	cmd.Flags().DurationVar(&every, "interval", time.Second, "time between two looks with --watch")
	return cmd
}

func (c *cli) fetchStatus(ctx context.Context, args []string) (*coordinator.NodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	st, err := c.client().Status(ctx)
	if err != nil {
		return nil, reached(err)
	}
	if len(args) == 1 {
		st.Pairs = slices.DeleteFunc(st.Pairs, func(p coordinator.PairStatus) bool { return p.Pair != args[0] })
		if len(st.Pairs) == 0 {
			return nil, fmt.Errorf("node %s has no pair %q", st.Node, args[0])
		}
	}
	return st, nil
}

func (c *cli) showStatus(st *coordinator.NodeStatus) error {
	if c.json {
		c.printJSON(st)
		return nil
	}
	printStatus(c.out, st)
	return nil
}

// watchStatus repeats the status; with JSON one object a line.
func (c *cli) watchStatus(ctx context.Context, args []string, every time.Duration) error {
	if every < 10*time.Millisecond {
		return usageError(errors.New("--interval must be at least 10ms"))
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		st, err := c.fetchStatus(ctx, args)
		switch {
		case ctx.Err() != nil:
			return nil // interrupted: that is how it ends
		case err != nil:
			return err
		case c.json:
			if err := json.NewEncoder(c.out).Encode(st); err != nil {
				return err
			}
		default:
			// In one write, so that nobody sees a half of it.
			var b bytes.Buffer
			if c.terminal() {
				b.WriteString("\x1b[H\x1b[2J")
			}
			printStatus(&b, st)
			if !c.terminal() {
				b.WriteByte('\n')
			}
			if _, err := c.out.Write(b.Bytes()); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
