package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"colod/coordinator/config"
)

// defaultConfig is where the daemon looks for its configuration.
const defaultConfig = "/etc/colod/colod.yaml"

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration file, or print an example",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	check := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file and name everything that is wrong with it",
		Example: `  colod config check /etc/colod/colod.yaml
  colod config check colod.yaml --json`,
		Args: rangeArgs(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := defaultConfig
			if len(args) == 1 {
				path = args[0]
			}
			cfg, err := config.Load(path)
			if err != nil {
				return usageError(err)
			}
			if c.json {
				c.printJSON(map[string]any{"file": path, "ok": true, "node": cfg.Node, "pairs": len(cfg.Pairs)})
				return nil
			}
			fmt.Fprintf(c.out, "%s: correct (node %s, %d pair(s))\n", path, cfg.Node, len(cfg.Pairs))
			return nil
		},
	}
	example := &cobra.Command{
		Use:     "example",
		Short:   "Print a complete configuration file with every key explained",
		Example: `  colod config example > /etc/colod/colod.yaml`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(c.out, config.Example())
			return err
		},
	}
	schema := &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of the configuration file, for editors",
		Example: `  colod config schema > colod.schema.json`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := c.out.Write(config.Schema())
			return err
		},
	}
	cmd.AddCommand(check, example, schema)
	return cmd
}
