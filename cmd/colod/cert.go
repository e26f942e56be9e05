package main

import (
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator/config"
	"colod/internal/certs"
)

func (c *cli) certCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Make the certificates by which nodes know each other",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var dir, name string
	var days int
	ca := &cobra.Command{
		Use:   "ca",
		Short: "Make the authority: ca.pem for every node, ca.key to be kept safe",
		Example: `  colod cert ca --dir /root/colod-ca
  colod cert ca --dir . --name "colod rack 7" --days 3650`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			a, err := certs.NewAuthority(name, validity(days))
			if err != nil {
				return err
			}
			cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
			if err := a.Save(cert, key); err != nil {
				return err
			}
			return c.made(cert, key, a.Cert.NotAfter)
		},
	}
	ca.Flags().StringVar(&dir, "dir", ".", "directory of the files")
	ca.Flags().StringVar(&name, "name", "colod authority", "name shown in the certificate")
	ca.Flags().IntVar(&days, "days", 3650, "validity in days")

	var nodeDir, caDir string
	var nodeDays int
	var addresses []net.IP
	node := &cobra.Command{
		Use:   "node NAME",
		Short: "Make a node's certificate and key: NAME.pem and NAME.key",
		Long: `Node makes the certificate by which other nodes know NAME.

With --address it is that of a member of etcd, which clients and other members know by
its addresses. Members should have an authority of their own: who has a certificate of
etcd's authority can write the records of who speaks.`,
		Example: `  colod cert node a --ca-dir /root/colod-ca --dir /etc/colod
  colod cert node member1 --address 198.51.100.11 --ca-dir /root/etcd-ca --dir /etc/etcd`,
		Args: rangeArgs(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if !config.ValidNodeName(args[0]) {
				return usageError(fmt.Errorf("%q is not a node name; use a DNS name such as a or host1.example.org", args[0]))
			}
			if caDir == "" {
				caDir = nodeDir
			}
			a, err := certs.LoadAuthority(filepath.Join(caDir, "ca.pem"), filepath.Join(caDir, "ca.key"))
			if err != nil {
				return fmt.Errorf("%w; colod cert ca makes one", err)
			}
			var n *certs.Node
			if len(addresses) > 0 {
				n, err = a.IssueMember(args[0], addresses, validity(nodeDays))
			} else {
				n, err = a.Issue(args[0], validity(nodeDays))
			}
			if err != nil {
				return err
			}
			cert, key := filepath.Join(nodeDir, args[0]+".pem"), filepath.Join(nodeDir, args[0]+".key")
			if err := n.Save(cert, key); err != nil {
				return err
			}
			return c.made(cert, key, time.Now().Add(validity(nodeDays)))
		},
	}
	node.Flags().StringVar(&nodeDir, "dir", ".", "directory of the new files")
	node.Flags().StringVar(&caDir, "ca-dir", "", "directory of ca.pem and ca.key (default: --dir)")
	node.Flags().IPSliceVar(&addresses, "address", nil, "address of a member of etcd; may be given several times")
	node.Flags().IntVar(&nodeDays, "days", 730, "validity in days, at most the authority's")
	cmd.AddCommand(ca, node, c.certClientCommand())
	return cmd
}

func validity(days int) time.Duration { return time.Duration(days) * 24 * time.Hour }

func (c *cli) made(cert, key string, until time.Time) error {
	if c.json {
		c.printJSON(map[string]any{"cert": cert, "key": key, "not_after": until.UTC().Format(time.RFC3339)})
		return nil
	}
	_, err := fmt.Fprintf(c.out, "made %s and %s, valid until %s\n", cert, key, until.UTC().Format(time.DateOnly))
	return err
}
