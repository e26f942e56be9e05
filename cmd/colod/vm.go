package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
	"colod/coordinator/pair"
)

// askFor asks the daemon for an operation on the named pair, or the only one,
// and shows where the pair stands afterwards.
func (c *cli) askFor(ctx context.Context, args []string, op pair.Op, req coordinator.OpRequest, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	name, err := c.onePair(ctx, args)
	if err != nil {
		return err
	}
	st, err := c.client().Do(ctx, name, op, req)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s %s: no outcome within %s; it goes on, see colod status", op, name, timeout)
	}
	if err != nil {
		return reached(fmt.Errorf("%s %s: %w", op, name, err))
	}
	return c.showOutcome(st)
}

func (c *cli) showOutcome(st *coordinator.PairStatus) error {
	if c.json {
		c.printJSON(st)
		return nil
	}
	_, err := fmt.Fprintf(c.out, "%s: %s, speaker %s, generation %d: %s\n", st.Pair, st.State, orNone(st.Speaker), st.Generation, st.Reason)
	return err
}

// confirm asks for the word on the terminal, unless yes is given.
func (c *cli) confirm(in io.Reader, warning, word string, yes bool) error {
	if yes {
		return nil
	}
	if c.json {
		return usageError(errors.New("with --json, nothing is asked: add --yes if you are sure"))
	}
	fmt.Fprintf(c.err, "%s\nType %s to go on: ", warning, word)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(line) != word {
		return errors.New("nothing was done")
	}
	return nil
}

func (c *cli) vmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "Shut down, reboot, stop, continue, move, release or delete a guest",
		Long: `Operations on a guest. All are told from failures: none of them, and none of the
same made inside the guest or at QEMU's own monitor, starts a failover.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	shutdown := c.stopGuestCommand("shutdown", pair.OpStop, "Shut a guest down",
		"Shutdown asks the guest to shut itself down, ends it if it does not within its grace, and\nrecords that this was on purpose. It is the same as colod stop PAIR.",
		"  colod vm shutdown guest1\n  colod vm shutdown guest1 --grace 2m\n  colod vm shutdown guest1 --now")
	reboot := c.plainOp("reboot", pair.OpReboot, "Reset a guest", "Reboot resets the guest as its reset button does. It stays protected.", "  colod vm reboot guest1")
	stop := c.plainOp("stop", pair.OpPause, "Let a guest stand still",
		"Stop lets the guest stand still, as QMP's stop does. It stays where it is and is not taken for\nhung; colod vm cont lets it go on.", "  colod vm stop guest1")
	cont := c.plainOp("cont", pair.OpCont, "Let a guest that stands still go on", "Cont lets the guest go on, protected.", "  colod vm cont guest1")
	cmd.AddCommand(shutdown, reboot, c.vmStartCommand(), stop, cont, c.vmDeleteCommand(), c.releaseCommand(), c.migrateCommand())
	return cmd
}

// plainOp is a command that asks for an operation without parameters.
func (c *cli) plainOp(name string, op pair.Op, short, long, example string) *cobra.Command {
	cmd := c.opCommand(op, short, long, example)
	cmd.Use = name + " [PAIR]"
	return cmd
}

// stopGuestCommand is a command that ends a guest with a grace.
func (c *cli) stopGuestCommand(name string, op pair.Op, short, long, example string) *cobra.Command {
	var timeout, grace time.Duration
	var now bool
	cmd := &cobra.Command{
		Use: name + " [PAIR]", Short: short, Long: long, Example: example, Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var req coordinator.OpRequest
			if cmd.Flags().Changed("grace") {
				req.Grace = grace.String()
			}
			if now {
				req.Grace = "0s"
			}
			return c.askFor(cmd.Context(), args, op, req, timeout)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for the outcome")
	cmd.Flags().DurationVar(&grace, "grace", 0, "how long the guest may take to shut itself down (default: vm.grace)")
	cmd.Flags().BoolVar(&now, "now", false, "end the guest at once")
	return cmd
}

func (c *cli) vmStartCommand() *cobra.Command {
	var timeout time.Duration
	var create, force bool
	cmd := &cobra.Command{
		Use:   "start [PAIR]",
		Short: "Start a guest that was ended",
		Long: `Start launches the guest on this node and waits until it runs. A guest that was deleted is
made anew with --create only. One that was released on another node may still run there: it is
started here with --force only, for which its VM must have ended.`,
		Example: "  colod vm start guest1\n  colod vm start guest1 --create",
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.askFor(cmd.Context(), args, pair.OpStart, coordinator.OpRequest{On: create, Force: force}, timeout)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for the outcome")
	cmd.Flags().BoolVar(&create, "create", false, "also a guest that was deleted, anew")
	cmd.Flags().BoolVar(&force, "force", false, "also a guest that was released on another node, if its VM has ended")
	return cmd
}

func (c *cli) vmDeleteCommand() *cobra.Command {
	var timeout, grace time.Duration
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete PAIR",
		Short: "End a guest for good",
		Long: `Delete shuts the guest down, records that it is gone for good, and forgets what colod keeps of
it on both nodes: sockets, logs, entries of the registry. Disks of the guest are not touched.
The pair stays in the configuration until it is taken out there; colod vm start --create makes
the guest anew.`,
		Example: "  colod vm delete guest1\n  colod vm delete guest1 --yes --json",
		Args:    rangeArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.confirm(cmd.InOrStdin(), "The guest "+args[0]+" is ended for good.", args[0], yes); err != nil {
				return err
			}
			var req coordinator.OpRequest
			if cmd.Flags().Changed("grace") {
				req.Grace = grace.String()
			}
			return c.askFor(cmd.Context(), args, pair.OpDelete, req, timeout)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for the outcome")
	cmd.Flags().DurationVar(&grace, "grace", 0, "how long the guest may take to shut itself down (default: vm.grace)")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
