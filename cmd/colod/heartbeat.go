package main

import (
	"github.com/spf13/cobra"

	"colod/coordinator/heartbeat"
)

// heartbeatProcess is the name of the command that colod run starts for itself.
const heartbeatProcess = "heartbeat-process"

// heartbeatCommand exchanges the heartbeats of the daemon that started it.
func (c *cli) heartbeatCommand() *cobra.Command {
	return &cobra.Command{
		Use:    heartbeatProcess,
		Short:  "Exchange the daemon's heartbeats (started by colod run)",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(*cobra.Command, []string) error { return heartbeat.ProcessMain() },
	}
}
