package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
	"colod/internal/termsafe"
)

func (c *cli) fetchCluster(ctx context.Context) (*coordinator.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cl, err := c.client().Cluster(ctx)
	if err != nil {
		return nil, reached(err)
	}
	return cl, nil
}

func (c *cli) nodesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "Show the nodes, what they can run, and the paths to them",
		Long: `Nodes shows what each node says of itself: with the arbiter etcd all nodes that ever registered
there, else those connected with this one. AGE is how long ago the node said it.`,
		Example: "  colod nodes\n  colod nodes --json\n  colod nodes forget old-host",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.fetchCluster(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				c.printJSON(cl)
				return nil
			}
			printNodes(c.out, cl)
			return nil
		},
	}
	c.socketFlag(cmd)
	forget := &cobra.Command{
		Use:     "forget NODE",
		Short:   "Remove a node that is gone for good from the registry",
		Example: "  colod nodes forget old-host",
		Args:    rangeArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			cl, err := c.client().ForgetNode(ctx, args[0])
			if err != nil {
				return reached(err)
			}
			if c.json {
				c.printJSON(cl)
				return nil
			}
			fmt.Fprintf(c.out, "%s: forgotten\n", args[0])
			return nil
		},
	}
	c.socketFlag(forget)
	cmd.AddCommand(forget)
	return cmd
}

func printNodes(w io.Writer, cl *coordinator.Cluster) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tLINK\tADDRESS\tDOMAIN\tQEMU\tACCEL\tCPUS\tMEMORY free/total\tVMS\tPAIRS\tAGE")
	for _, n := range cl.Nodes {
		link := "down"
		switch {
		case n.Name == cl.Node:
			link = "here"
		case n.Up:
			link = "up"
		case !n.Linked:
			link = "-"
		}
		pairs := strings.Join(n.Pairs, ",")
		if n.Spare {
			pairs = strings.TrimPrefix(pairs+",(spare)", ",")
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s/%s\t%d\t%s\t%s\n", safe(n.Name), link, safe(n.Address), safe(n.Domain), safe(n.QEMU),
			safe(strings.Join(n.Accel, ",")), n.CPUs, size(n.MemFree), size(n.MemTotal), n.Running, safe(pairs), age(n.Updated))
	}
	tw.Flush()
	for _, n := range cl.Nodes {
		if n.Maintenance != "" {
			fmt.Fprintf(w, "\n%s: %s\n", safe(n.Name), safe(n.Maintenance))
		}
		for _, p := range n.Paths {
			state := "up"
			if !p.Up {
				state = "DOWN"
			}
			fmt.Fprintf(w, "\n%s path %d: %s, %s -> %s, round trip %.2f/%.2f ms (p50/p99), %d of %d lost", safe(n.Name), p.Path, state, p.Local, p.Addr,
				p.RTTP50US/1000, p.RTTP99US/1000, p.Lost, p.Sent)
		}
		if len(n.Paths) > 0 {
			fmt.Fprintln(w)
		}
	}
	if cl.Problem != "" {
		fmt.Fprintf(w, "\nThe registry cannot be reached; this is what the connected nodes say: %s\n", safe(cl.Problem))
	}
}

// printCluster shows all pairs, each with what its nodes see.
func printCluster(w io.Writer, cl *coordinator.Cluster) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PAIR\tSPEAKER\tSTANDBY\tGEN\tPROTECTED\tNODES")
	for _, p := range cl.Pairs {
		protected := "no"
		var nodes []string
		for _, v := range p.Views {
			if v.Protected && v.Role == "speaker" {
				protected = "yes"
			}
			s := v.Node + " " + v.State
			if time.Since(v.Updated) > staleView {
				s += " (" + age(v.Updated) + " ago)"
			}
			nodes = append(nodes, s)
		}
		speaker, gen := safe(p.Record.Speaker), fmt.Sprint(p.Record.Generation)
		if p.Record.Ended {
			speaker = "ended"
		}
		if p.Broken != "" {
			speaker, gen = "?", "?"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", safe(p.Name), speaker, safe(p.Record.Standby), gen, protected, safe(strings.Join(nodes, ", ")))
	}
	tw.Flush()
	for _, p := range cl.Pairs {
		if p.Broken != "" {
			fmt.Fprintf(w, "\n%s: the record cannot be read: %s\n", safe(p.Name), safe(p.Broken))
		}
		for _, v := range p.Views {
			if v.Role == "speaker" {
				fmt.Fprintf(w, "\n%s, node %s: %s\n", safe(p.Name), safe(v.Node), safe(v.Reason))
			}
		}
	}
	if cl.Problem != "" {
		fmt.Fprintf(w, "\nThe registry cannot be reached; this is what the connected nodes say: %s\n", safe(cl.Problem))
	}
}

// safe is what another node says, fit for a terminal; "none" if it says nothing.
func safe(s string) string { return termsafe.Line(orNone(s)) }

// staleView is the age from which on what a node says is shown with it: three
// times that between two writings.
const staleView = 30 * time.Second
