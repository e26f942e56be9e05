package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
	"colod/coordinator/pair"
)

// defaultSocket is the API socket of a default configuration.
const defaultSocket = "/run/colod/api.sock"

// socketFlag adds --socket to a command that speaks with the daemon.
func (c *cli) socketFlag(cmd *cobra.Command) {
	def := os.Getenv("COLOD_SOCKET")
	if def == "" {
		def = defaultSocket
	}
	cmd.Flags().StringVar(&c.socket, "socket", def, "the daemon's API socket (environment: COLOD_SOCKET)")
}

func (c *cli) client() *coordinator.Client { return coordinator.NewClient(c.socket) }

// reached gives an error of the client its exit code.
func reached(err error) error {
	if errors.Is(err, coordinator.ErrUnreachable) {
		return unreachableError(err)
	}
	return err
}

// onePair is the pair that a command is about: the named one, or the only one.
func (c *cli) onePair(ctx context.Context, args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	st, err := c.client().Status(ctx)
	if err != nil {
		return "", reached(err)
	}
	if len(st.Pairs) != 1 {
		return "", usageError(fmt.Errorf("node %s has %d pairs; name one", st.Node, len(st.Pairs)))
	}
	return st.Pairs[0].Pair, nil
}

// opCommand is a command that asks the daemon for an operation on a pair.
func (c *cli) opCommand(op pair.Op, short, long, example string) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     string(op) + " [PAIR]",
		Short:   short,
		Long:    long,
		Example: example,
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(cmd.Context(), args, op, -1, timeout)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for the outcome")
	return cmd
}

func (c *cli) ask(ctx context.Context, args []string, op pair.Op, grace, timeout time.Duration) error {
	var req coordinator.OpRequest
	if grace >= 0 {
		req.Grace = grace.String()
	}
	return c.askFor(ctx, args, op, req, timeout)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (c *cli) protectCommand() *cobra.Command {
	return c.opCommand(pair.OpProtect, "Protect a guest now",
		"Protect copies the guest to the other node and waits until both run in lock-step.",
		"  colod protect\n  colod protect guest1 --timeout 10m")
}

func (c *cli) checkpointCommand() *cobra.Command {
	return c.opCommand(pair.OpCheckpoint, "Make the secondary a copy of the primary now",
		"Checkpoint waits until the secondary has the primary's state.",
		"  colod checkpoint guest1 --json")
}

// forceWarning is what is shown before a forced failover.
const forceWarning = `FORCED: the guest is to speak on this node without the arbiter having agreed.

If the guest still runs on another node, two copies will speak from now on: clients see
connections break and answers that contradict each other, and what either copy writes is
lost when one of them is ended. Make sure first that every other node that could run it is
off, or cannot reach any client. If another node has won meanwhile, the guest here is ended
as soon as the arbiter is back.`

func (c *cli) failoverCommand() *cobra.Command {
	var force, yes bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "failover [PAIR]",
		Short: "Make the other node the speaker",
		Long: `Failover ends the guest on the speaker and lets the secondary take over, as if the
speaker's VM had died. Connections go on. Afterwards the pair protects itself again. It is
refused, and nothing is done, if the secondary's node does not say that it can take over.
For a planned change of roles colod switchover is better.

With --force, on the node that is to speak: the guest speaks here although the arbiter
cannot be reached. This can make two speakers. It is asked for confirmation, and written
into the audit log.`,
		Example: "  colod failover guest1\n  colod failover guest1 --force\n  colod failover guest1 --force --yes --json",
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !force {
				return c.askFor(cmd.Context(), args, pair.OpFailover, coordinator.OpRequest{}, timeout)
			}
			name, err := c.onePair(cmd.Context(), args)
			if err != nil {
				return err
			}
			if err := c.confirm(cmd.InOrStdin(), forceWarning, name, yes); err != nil {
				return err
			}
			return c.askFor(cmd.Context(), []string{name}, pair.OpForce, coordinator.OpRequest{}, timeout)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for the outcome")
	cmd.Flags().BoolVar(&force, "force", false, "speak here without the arbiter")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --force: do not ask")
	return cmd
}

func (c *cli) startCommand() *cobra.Command {
	return c.opCommand(pair.OpStart, "Start a guest that was ended",
		"Start launches the guest on this node and waits until it runs.",
		"  colod start guest1")
}

func (c *cli) stopCommand() *cobra.Command {
	var timeout, grace time.Duration
	var withGuests, now bool
	cmd := &cobra.Command{
		Use:   "stop [PAIR]",
		Short: "End a guest, or the daemon",
		Long: `Stop PAIR asks the guest to shut down, ends it if it does not within its grace,
and records that this was on purpose: no node takes over.

Without PAIR it stops the daemon of this node. Its guests keep running, unprotected,
unless --with-guests is given: it ends those that speak here. A guest that speaks
on another node goes on there in either case.`,
		Example: `  colod stop guest1
  colod stop guest1 --now
  colod stop --with-guests`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				if now || cmd.Flags().Changed("grace") {
					return usageError(errors.New("--now and --grace are for a guest; name the pair"))
				}
				if err := c.client().Stop(cmd.Context(), withGuests); err != nil {
					return reached(err)
				}
				if c.json {
					c.printJSON(map[string]any{"stopping": true})
				}
				return nil
			}
			if withGuests {
				return usageError(errors.New("--with-guests is for the daemon; leave the pair's name out"))
			}
			g := time.Duration(-1)
			if cmd.Flags().Changed("grace") {
				g = grace
			}
			if now {
				g = 0
			}
			return c.ask(cmd.Context(), args, pair.OpStop, g, timeout)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for the outcome")
	cmd.Flags().DurationVar(&grace, "grace", 0, "how long the guest may take to shut itself down (default: vm.grace)")
	cmd.Flags().BoolVar(&now, "now", false, "end the guest at once")
	cmd.Flags().BoolVar(&withGuests, "with-guests", false, "end the guests that speak here too when the daemon is stopped")
	return cmd
}
