package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"colod/internal/termsafe"
)

func (c *cli) auditCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "audit [PAIR]",
		Short: "Show who asked for what, and what came of it",
		Long: `Audit shows the last entries of this node's audit log: operations asked for at its API, and
fencing. The log is audit.log in state_dir, one JSON object a line.`,
		Example: "  colod audit\n  colod audit guest1 --limit 20 --json",
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			all, err := c.client().Audit(ctx, limit, name)
			if err != nil {
				return reached(err)
			}
			if c.json {
				c.printJSON(all)
				return nil
			}
			tw := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(tw, "TIME\tWHO\tPAIR\tWHAT\tOUTCOME\tTOOK\tDETAILS")
			for _, e := range all {
				var details []string
				for _, k := range slices.Sorted(maps.Keys(e.Args)) {
					b, err := json.Marshal(e.Args[k])
					if err != nil {
						return err
					}
					details = append(details, k+"="+string(b))
				}
				if e.Error != "" {
					details = append(details, fmt.Sprintf("%q", e.Error))
				}
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Time.Local().Format("2006-01-02 15:04:05"), safe(e.Who.Name), safe(e.Pair), safe(e.What), safe(e.Outcome),
					(time.Duration(e.TookMS) * time.Millisecond).String(), termsafe.Line(strings.Join(details, " ")))
			}
			return tw.Flush()
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "how many entries to show")
	return cmd
}
