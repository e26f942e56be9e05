package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
	"colod/coordinator/config"
	"colod/internal/termsafe"
)

func (c *cli) eventsCommand() *cobra.Command {
	var since string
	var follow, routine bool
	cmd := &cobra.Command{
		Use:   "events [PAIR]",
		Short: "Show what happened to this node's pairs, and why",
		Long: `Events shows every change of a pair's state on this node, with its reason,
oldest first. The history is kept on disk, over restarts, until newer events
need the room. With --json each line is an object.`,
		Example: `  colod events
  colod events guest1 --since 7d
  colod events --follow --json
  colod events --since 2026-01-31T12:00:00Z`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := eventQuery(since, time.Now())
			if err != nil {
				return usageError(err)
			}
			q.NoFollow, q.Routine = !follow, routine
			if len(args) == 1 {
				q.Pair = args[0]
			}
			ctx := cmd.Context()
			err = c.client().Select(ctx, q, func(e coordinator.Event) error {
				if c.json {
					return json.NewEncoder(c.out).Encode(e)
				}
				_, err := fmt.Fprintln(c.out, eventLine(e))
				return err
			})
			if ctx.Err() != nil {
				return nil // interrupted: that is how it ends
			}
			return reached(err)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().StringVar(&since, "since", "1d", "how far back: a duration such as 90m or 7d, a time, or all")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on showing events as they happen, until interrupted")
	cmd.Flags().BoolVar(&routine, "checkpoints", false, "with --follow: begins and ends of checkpoints too")
	return cmd
}

// eventQuery reads --since.
func eventQuery(since string, now time.Time) (q coordinator.EventQuery, err error) {
	if since == "all" {
		q.All = true
		return q, nil
	}
	text, days := since, 1
	if n := len(since) - 1; n > 0 && since[n] == 'd' {
		text, days = since[:n]+"h", 24
	}
	if d, derr := config.ParseDuration(text); derr == nil && d >= 0 && d.D() < 100*365*24*time.Hour/time.Duration(days) {
		q.Since = now.Add(-d.D() * time.Duration(days))
		return q, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if q.Since, err = time.ParseInLocation(layout, since, time.Local); err == nil {
			return q, nil
		}
	}
	return q, fmt.Errorf("--since %q is neither a duration such as 90m or 7d, nor a time such as 2026-01-31 or 2026-01-31T12:00:00Z, nor all", since)
}

// eventLine is an event as a person reads it.
func eventLine(e coordinator.Event) string {
	return fmt.Sprintf("%s  %s  %s -> %s (%s, generation %d): %s", e.Time.Local().Format("2006-01-02 15:04:05.000"), termsafe.Line(e.Pair),
		termsafe.Line(e.From), termsafe.Line(e.State), termsafe.Line(e.Role), e.Generation, termsafe.Line(e.Reason))
}
