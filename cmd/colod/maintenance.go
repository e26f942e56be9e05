package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
	"colod/coordinator/pair"
)

func (c *cli) maintenanceCommand() *cobra.Command {
	var timeout time.Duration
	var reason string
	cmd := &cobra.Command{
		Use:   "maintenance on|off [PAIR]",
		Short: "Hold what happens by itself, or no longer",
		Long: `In maintenance nothing is started by itself: no takeover by a secondary, no restart of a guest,
no protection of a solo one. A speaker that loses its secondary still goes on alone. Operators'
wishes are carried out. It holds until it is switched off, also over a restart of colod.

Without PAIR it is switched for all pairs of this node; it holds on all nodes of a pair.`,
		Example: "  colod maintenance on --reason \"new switch in rack 3\"\n  colod maintenance on guest1\n  colod maintenance off",
		Args:    rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "on" && args[0] != "off" {
				return usageError(fmt.Errorf("%q is neither on nor off", args[0]))
			}
			on := args[0] == "on"
			if len(args) == 2 {
				return c.askFor(cmd.Context(), args[1:], pair.OpMaintenance, coordinator.OpRequest{On: on, Why: reason}, timeout)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			st, err := c.client().Maintenance(ctx, on, reason)
			if err != nil {
				return reached(fmt.Errorf("maintenance %s: %w", args[0], err))
			}
			if c.json {
				c.printJSON(st)
				return nil
			}
			for _, p := range st.Pairs {
				fmt.Fprintf(c.out, "%s: maintenance %s; %s: %s\n", p.Pair, args[0], p.State, p.Reason)
			}
			return nil
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "a sentence for the status (default: who asked)")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the outcome")
	return cmd
}
