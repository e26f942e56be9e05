package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"colod/internal/termsafe"
)

// completePairs makes the shell complete the names of pairs wherever a
// command takes one.
func (c *cli) completePairs(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		c.completePairs(sub)
	}
	if strings.Contains(cmd.Use, "PAIR") && cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return c.pairNames(cmd.Context(), begun), cobra.ShellCompDirectiveNoFileComp
		}
	}
}

// pairNames are the pairs of the daemon whose names begin so, with their
// state; none when it does not answer soon.
func (c *cli) pairNames(ctx context.Context, begun string) []cobra.Completion {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := c.client().Status(ctx)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, p := range st.Pairs {
		if strings.HasPrefix(p.Pair, begun) && termsafe.Line(p.Pair) == p.Pair {
			names = append(names, cobra.CompletionWithDesc(p.Pair, termsafe.Line(p.State)))
		}
	}
	return names
}
