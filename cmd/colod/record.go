package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func (c *cli) recordCommand() *cobra.Command {
	var path string
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "record [PAIR] -o FILE",
		Short: "Record what both copies of a guest say, to be replayed",
		Long: `Record writes what the comparison of a protected pair is told and what it answers: the frames of the
primary, what the secondary says of its own, the clients' frames, and the bytes that were asked for where
the two differ. It has to be asked of the node that speaks. colod replay runs it again.

The file holds the guest's traffic: keep it as secret as that.`,
		Example: `  colod record guest1 -o guest1.rec --for 60s`,
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if path == "" {
				return usageError(errors.New("name a file with -o"))
			}
			if length <= 0 || length > time.Hour {
				return usageError(errors.New("--for must be more than 0 and at most 1h"))
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), length+time.Minute)
			defer cancel()
			name, err := c.onePair(ctx, args)
			if err != nil {
				return err
			}
			out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
			if err != nil {
				return fmt.Errorf("record: %w", err)
			}
			n, err := c.client().Record(ctx, name, length, out)
			if err := errors.Join(err, out.Close()); err != nil {
				if n == 0 {
					os.Remove(path)
				}
				return reached(fmt.Errorf("record: %w", err))
			}
			if c.json {
				c.printJSON(map[string]any{"pair": name, "file": path, "bytes": n})
				return nil
			}
			_, err = fmt.Fprintf(c.out, "%s: %s written to %s\n", name, size(uint64(n)), path)
			return err
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().StringVarP(&path, "output", "o", "", "file to write, readable by its owner only")
	cmd.Flags().DurationVar(&length, "for", time.Minute, "how long to record")
	return cmd
}
