package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
	"colod/coordinator/pair"
)

func (c *cli) migrateCommand() *cobra.Command {
	var timeout time.Duration
	var to, role string
	cmd := &cobra.Command{
		Use:   "migrate [PAIR] --to NODE",
		Short: "Move a guest, or its secondary, to another node",
		Long: `Migrate gives NODE a role, without a lost byte and without a restart of the guest.

If NODE runs the secondary, it becomes the speaker (as with colod switchover). If it runs
neither copy, the present secondary is let go and NODE runs it instead; with --role speaker
the roles change after that. A fault on the way leaves the guest running, alone or protected
as before.`,
		Example: "  colod migrate guest1 --to c\n  colod migrate guest1 --to c --role speaker --timeout 10m",
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usageError(errors.New("--to NODE is missing"))
			}
			if role != "" && role != "speaker" && role != "secondary" {
				return usageError(fmt.Errorf("--role %q is neither speaker nor secondary", role))
			}
			return c.askFor(cmd.Context(), args, pair.OpMigrate, coordinator.OpRequest{Target: to, Role: role}, timeout)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the node that is to get the role")
	cmd.Flags().StringVar(&role, "role", "", "speaker or secondary (default: speaker if it is the secondary, else secondary)")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait for the outcome")
	return cmd
}

func (c *cli) switchoverCommand() *cobra.Command {
	return c.opCommand(pair.OpSwitchover, "Change the roles of the two nodes, as planned",
		`Switchover makes the secondary's node the speaker. Other than with failover, the speaker's guest
ends only after the other one has taken over: a checkpoint is made, the guest stands still, and the
roles change. If the other node cannot take over, the guest goes on where it was.`,
		"  colod switchover guest1\n  colod switchover guest1 --json")
}
