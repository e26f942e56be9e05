package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator/web"
	"colod/internal/certs"
)

// certClientCommand makes what a caller of the API over TLS shows.
func (c *cli) certClientCommand() *cobra.Command {
	var dir, caDir, role string
	var days int
	cmd := &cobra.Command{
		Use:   "client NAME",
		Short: "Make a certificate for calling the API over TLS: NAME.pem and NAME.key",
		Long: `Client makes the certificate of a person or program that calls the API at
api.listen. With the role read it may look at everything, with operate it may
also change things.`,
		Example: `  colod cert client prometheus --role read --ca-dir /root/colod-ca
  colod cert client alice --role operate --ca-dir /root/colod-ca --days 90`,
		Args: rangeArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := web.ParseRole(role)
			if err != nil {
				return usageError(err)
			}
			name := args[0]
			if name == "" || name != filepath.Base(name) || name[0] == '.' {
				return usageError(fmt.Errorf("%q cannot be a client's name: it becomes the files' name", name))
			}
			if caDir == "" {
				caDir = dir
			}
			a, err := certs.LoadAuthority(filepath.Join(caDir, "ca.pem"), filepath.Join(caDir, "ca.key"))
			if err != nil {
				return fmt.Errorf("%w; colod cert ca makes one", err)
			}
			n, err := a.IssueClient(name, web.RoleURI(r), validity(days))
			if err != nil {
				return err
			}
			cert, key := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
			if err := n.Save(cert, key); err != nil {
				return err
			}
			return c.made(cert, key, time.Now().Add(validity(days)))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "directory of the new files")
	cmd.Flags().StringVar(&caDir, "ca-dir", "", "directory of ca.pem and ca.key (default: --dir)")
	cmd.Flags().StringVar(&role, "role", "read", "what its holder may do: read or operate")
	cmd.Flags().IntVar(&days, "days", 365, "validity in days, at most the authority's")
	return cmd
}

func (c *cli) tokenCommand() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token for calling the API over TLS",
		Long: `Token prints a new token, which is shown this once, and the line that makes it
count: append that line to the file named by api.tokens. The file holds only a hash.
A token ends when its line is removed; colod need not be restarted.`,
		Example: `  colod token grafana
  colod token alice --role operate --json`,
		Args: rangeArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := web.ParseRole(role)
			if err != nil {
				return usageError(err)
			}
			token, line, err := web.NewToken(args[0], r)
			if err != nil {
				return usageError(err)
			}
			if c.json {
				c.printJSON(map[string]string{"token": token, "line": line})
				return nil
			}
			_, err = fmt.Fprintf(c.out, "token (shown only now): %s\nline for api.tokens:    %s\n", token, line)
			return err
		},
	}
	cmd.Flags().StringVar(&role, "role", "read", "what its holder may do: read or operate")
	return cmd
}
