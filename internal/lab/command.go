package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"colod/internal/lab/client"
	"colod/internal/lab/guest"
	"colod/internal/lab/image"
)

// Command returns "colod lab" with all its subcommands.
func Command() *cobra.Command {
	var name string
	root := &cobra.Command{
		Use:   "lab",
		Short: "Try colod on this machine: hosts, guests, clients and faults",
		Long: `The lab makes a client host, two nodes and a switch as network namespaces, runs one
colod daemon in each node and a real guest on the pair, and breaks things on demand.

It needs root and a Linux machine with QEMU; the guest's kernel and programs are downloaded
from Debian into a cache and not installed. Everything is removed by 'colod lab down'.`,
		Example: `  colod lab up
  colod lab exec client -- curl -s http://192.0.2.10/counter
  colod lab fault kill-vm
  colod lab status
  colod lab down`,
	}
	root.PersistentFlags().StringVar(&name, "name", DefaultName, "name of the lab; labs of different names do not touch each other")
	root.AddCommand(upCommand(&name), downCommand(&name), execCommand(&name), faultCommand(&name), statusCommand(&name),
		listCommand(), demoCommand(&name), tortureCommand(&name), client.Command(), guestCommand(), keepCommand())
	return root
}

func guestCommand() *cobra.Command {
	return &cobra.Command{
		Use: "guest", Short: "Run inside the lab's virtual machine", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return guest.Main() },
	}
}

// guestInfo is what a client has to know of the guest.
type guestInfo struct {
	IPv4     string          `json:"ipv4"`
	IPv6     string          `json:"ipv6"`
	Services []guest.Service `json:"services"`
	SSHKey   string          `json:"ssh_key"`
	Known    string          `json:"known_hosts"`
	CACert   string          `json:"ca_cert"`
}

// info is the answer of "lab up --json".
type info struct {
	Name    string    `json:"name"`
	Guest   guestInfo `json:"guest"`
	Nodes   []string  `json:"nodes"`
	Speaker string    `json:"speaker"`
	State   string    `json:"state"`
	Mode    string    `json:"mode,omitempty"`
	Accel   string    `json:"accel"`
	Shim    string    `json:"shim,omitempty"`
	Dir     string    `json:"dir"`
}

func (l *Lab) info(ctx context.Context) (info, error) {
	i := info{
		Name: l.Name,
		Guest: guestInfo{
			IPv4: image.GuestIPv4, IPv6: image.GuestIPv6, Services: guest.Services,
			SSHKey: l.state.SSHKey, Known: l.state.Known, CACert: l.state.CACert,
		},
		Nodes: l.Nodes(), Speaker: NodeA, State: "unprotected", Accel: l.state.Accel, Shim: l.state.Shim, Dir: l.dir,
	}
	if l.state.Native {
		i.Nodes = []string{NodeA}
		return i, nil
	}
	st, err := l.Status(ctx)
	if err != nil {
		return i, err
	}
	i.Speaker, i.State, i.Mode = st.Speaker, st.State, st.Mode
	return i, nil
}

func upCommand(name *string) *cobra.Command {
	opt := Options{}
	asJSON := false
	c := &cobra.Command{
		Use: "up", Short: "Make a lab and wait until its guest is protected", Args: cobra.NoArgs,
		Example: "  colod lab up\n  colod lab up --name two --smp 2 --memory 512M --json\n  colod lab up --native",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			start := time.Now()
			opt.Name = *name
			opt.Progress = stepPrinter(cmd.ErrOrStderr(), start)
			l, err := Up(ctx, opt)
			if err != nil {
				return err
			}
			i, err := l.info(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), i)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "lab %s: %s, speaker %s, guest %s and %s, %.1f s\n", l.Name, i.State, i.Speaker,
				i.Guest.IPv4, i.Guest.IPv6, time.Since(start).Seconds())
			fmt.Fprintf(cmd.OutOrStdout(), "try: colod lab exec client -- curl -s http://%s/counter\n", i.Guest.IPv4)
			return nil
		},
	}
	f := c.Flags()
	labFlags(c, &opt)
	f.BoolVar(&opt.Native, "native", false, "one unprotected guest, without colod, for comparison")
	f.BoolVar(&asJSON, "json", false, "print the result as JSON")
	return c
}

// labFlags are the flags that say what lab to make.
func labFlags(c *cobra.Command, opt *Options) {
	f := c.Flags()
	f.StringVar(&opt.Mode, "mode", "lockstep", "mode of protection: lockstep, epoch or adaptive")
	f.DurationVar(&opt.Interval, "interval", 0, "of checkpoints in the modes epoch and adaptive; 0: colod's default")
	f.DurationVar(&opt.LatencyBound, "latency-bound", 0, "of output in the modes epoch and adaptive; 0: none")
	f.IntVar(&opt.SMP, "smp", 1, "processors of the guest")
	f.StringVar(&opt.Memory, "memory", "256M", "memory of the guest")
	f.StringVar(&opt.Disk, "disk", "", "size of a replicated disk with an ext4 file system, on which redis keeps its data; empty for none")
	f.Lookup("disk").NoOptDefVal = "64M"
	f.StringVar(&opt.Accel, "accel", "auto", "kvm, tcg, or auto: KVM where it works")
	f.StringVar(&opt.LogLevel, "log", "info", "what the daemons log: debug, info, warn or error")
	f.StringVar(&opt.Encryption, "encryption", "plain", "of the state stream between the nodes: tls or plain")
	f.IntVar(&opt.Nodes, "nodes", 2, "2, or 3: node c is a spare")
	f.BoolVar(&opt.Registered, "registered", false, "leave node c out of the pair's list: it is found in the registry")
	f.IntVar(&opt.Paths, "paths", 1, "wires between the nodes: 1, or 2 with one more for heartbeats")
	f.StringVar(&opt.Arbiter, "arbiter", "file", "where the record is: file (a directory) or etcd (real members)")
	f.IntVar(&opt.Members, "members", 1, "members of etcd: 1 or 3")
	f.DurationVar(&opt.Timeout, "heartbeat-timeout", defaultTimeout, "silence after which a node is taken for lost")
	f.BoolVar(&opt.NoRestart, "no-restart", false, "leave a daemon that ended; else it is started again as systemd does")
}

// stepPrinter prints each step with the time since start.
func stepPrinter(w io.Writer, start time.Time) func(string) {
	return func(s string) { fmt.Fprintf(w, "%6.1f s  %s\n", time.Since(start).Seconds(), s) }
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func downCommand(name *string) *cobra.Command {
	all := false
	c := &cobra.Command{
		Use: "down", Short: "End the lab and remove everything it made", Args: cobra.NoArgs,
		Example: "  colod lab down\n  colod lab down --all",
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := []string{*name}
			if all {
				names = Names()
			}
			var errs []error
			for _, n := range names {
				if err := Down(cmd.Context(), n); err != nil {
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "end every lab on this machine")
	return c
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the labs on this machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, n := range Names() {
				fmt.Fprintln(cmd.OutOrStdout(), n)
			}
			return nil
		},
	}
}

func execCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:     "exec client|a|b -- COMMAND...",
		Short:   "Run a program on one of the lab's hosts",
		Example: "  colod lab exec client -- ping -c 3 192.0.2.10\n  colod lab exec b -- ip addr",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := Open(*name)
			if err != nil {
				return err
			}
			if err := checkHost(args[0], l.Hosts()); err != nil {
				return err
			}
			path, err := exec.LookPath("ip")
			if err != nil {
				return fmt.Errorf("run in %s: %w (package iproute2)", args[0], err)
			}
			return syscall.Exec(path, append([]string{"ip", "netns", "exec", l.ns(args[0])}, args[1:]...), os.Environ())
		},
	}
}

func faultCommand(name *string) *cobra.Command {
	f := Fault{}
	c := &cobra.Command{
		Use:   "fault KIND",
		Short: "Break something, or mend it",
		Long: `Break something in the lab, or mend it. Without --node the fault hits the speaker's node
(thaw-vm, thaw-colod and heal: every node).

  kill-vm        SIGKILL the node's QEMU
  kill-node      the whole node dies at once: wires silent, every process gone
  kill-colod     SIGKILL the node's colod; its guest goes on
  restart-colod  end the node's colod in order and start it again
  freeze-vm      SIGSTOP the node's QEMU; thaw-vm: SIGCONT
  mute-vm        take the guest's device down: its VM runs on, and nothing of it is heard; unmute-vm: up
  freeze-colod   SIGSTOP the node's colod; thaw-colod: SIGCONT
  partition      cut the nodes from each other; --from a --to b: this direction only
  isolate        cut all wires of the node: to its peers, the clients, the arbiter
  cut-path       cut path --path N between the nodes, all without it
  cut-lan        cut the node's wire to the clients
  cut-arbiter    cut wires to the arbiter: all nodes', --node's or --member's
  blip           cut path --path N, or all, and mend it after --for
  stop-arbiter   kill the members of etcd, or --member; start-arbiter: start them
  heal           mend all wires, thaw and start what was killed (with --node: on that node)`,
		Example: `  colod lab fault kill-vm
  colod lab fault partition --from a --to b
  colod lab fault blip --path 1 --for 2s
  colod lab fault stop-arbiter --member m2
  colod lab fault heal`,
		Args:      cobra.ExactArgs(1),
		ValidArgs: FaultKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := Open(*name)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			f.Kind = args[0]
			said, err := l.Break(ctx, f)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), said)
			return nil
		},
	}
	c.Flags().StringVar(&f.Node, "node", "", "the node to hit: a, b or c")
	c.Flags().StringVar(&f.From, "from", "", "partition: the node whose frames are lost")
	c.Flags().StringVar(&f.To, "to", "", "partition: the node that they do not reach")
	c.Flags().IntVar(&f.Path, "path", AllPaths, "cut-path, blip: the path, counted from 0; -1 for all")
	c.Flags().StringVar(&f.Member, "member", "", "stop-arbiter, start-arbiter, cut-arbiter: the member, m1 to m3")
	c.Flags().DurationVar(&f.For, "for", time.Second, "blip: how long")
	return c
}

func statusCommand(name *string) *cobra.Command {
	asJSON := false
	c := &cobra.Command{
		Use: "status", Short: "Show the lab's state", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := Open(*name)
			if err != nil {
				return err
			}
			st, err := l.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), st)
			}
			printStatus(cmd.OutOrStdout(), st)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the state as JSON")
	return c
}

// Names lists the labs on this machine.
func Names() []string {
	entries, _ := os.ReadDir(baseDir)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}
