package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
)

func (c *cli) adoptCommand() *cobra.Command {
	var req coordinator.AdoptRequest
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "adopt [PAIR]",
		Short: "Protect a VM that somebody else started",
		Long: `Adopt takes a running VM on this node as the speaker of a pair, without a restart of its guest:
colod compares it with the machine that the pair's configuration makes, puts itself between the
VM's tap and the bridge, and from then on protects the guest. Everything that does not fit is
named, with the place where it was read and the cure; then nothing is done.

The monitor is a QMP socket on which QEMU itself listens and which nobody else uses. libvirt's
own will not do: give the domain a second one (docs/adopt.md). Without --monitor it is that of the VM
that colod vm release let go on this node.

The pair's guest must not run yet: it is stopped, or vm.adopt keeps colod from launching one.`,
		Example: `  colod adopt guest1 --monitor /run/guest1.qmp --check
  colod adopt guest1 --monitor /run/guest1.qmp
  colod adopt guest1 --arguments`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			name, err := c.onePair(ctx, args)
			if err != nil {
				return err
			}
			for _, p := range []*string{&req.Monitor, &req.OOB, &req.Log} {
				if *p != "" {
					if *p, err = filepath.Abs(*p); err != nil {
						return err
					}
				}
			}
			a, err := c.client().Adopt(ctx, name, req)
			if err != nil {
				return reached(fmt.Errorf("adopt %s: %w", name, err))
			}
			return c.showAdoption(a, req)
		},
	}
	c.socketFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&req.Monitor, "monitor", "", "QMP socket of the VM")
	f.StringVar(&req.OOB, "emergency-monitor", "", "a second QMP socket, for when the first one hangs")
	f.StringVar(&req.Log, "log", "", "file with QEMU's messages")
	f.BoolVar(&req.Check, "check", false, "only say whether it fits")
	f.BoolVar(&req.Arguments, "arguments", false, "print QEMU's arguments for a VM that fits, and do nothing else")
	f.DurationVar(&timeout, "timeout", 3*time.Minute, "how long to wait for the outcome")
	return cmd
}

func (c *cli) showAdoption(a *coordinator.AdoptAnswer, req coordinator.AdoptRequest) error {
	misfit := &silentError{exitFailed}
	if c.json {
		c.printJSON(a)
		if !a.Fits && !req.Arguments {
			return misfit
		}
		return nil
	}
	if req.Arguments {
		for _, w := range a.Arguments {
			fmt.Fprintln(c.out, shellWord(w))
		}
		return nil
	}
	fmt.Fprintf(c.out, "process %d, QEMU %s, tap %s\n", a.PID, a.QEMU, orNone(a.Tap))
	if !a.Fits {
		for _, m := range a.Misfits {
			fmt.Fprintf(c.out, "does not fit: %s\n    read: %s\n    cure: %s\n", m.What, m.Read, m.Cure)
		}
		fmt.Fprintf(c.err, "colod: adopt %s: the VM does not fit in %d points; nothing was done\n", a.Pair, len(a.Misfits))
		return misfit
	}
	if !a.Adopted {
		fmt.Fprintln(c.out, "it fits")
		return nil
	}
	if a.Status == nil {
		return errors.New("the daemon does not say how the pair is")
	}
	return c.showOutcome(a.Status)
}

// shellWord quotes a word for a shell if it needs that.
func shellWord(w string) string {
	if w != "" && !strings.ContainsAny(w, " \t\n\"'`$&|;<>()*?[]{}\\#~!") {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

func (c *cli) releaseCommand() *cobra.Command {
	var req coordinator.ReleaseRequest
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "release [PAIR]",
		Aliases: []string{"unprotect"},
		Short:   "Stop protecting a guest, which runs on",
		Long: `Release gives the secondary up and lets the VM of the speaker go: it runs on, its tap is a port
of the bridge, and nothing of colod is in its way. Its connections go on. It is to be asked for on
the node that speaks. The pair is stopped then: no node starts the guest by itself, and colod adopt
takes the VM back.

Connections that lived through a takeover may have to be rewritten by colod for as long as they
live. With such ones nothing is done, unless --force says that they may end.`,
		Example: "  colod vm release guest1\n  colod vm release guest1 --force --json",
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			name, err := c.onePair(ctx, args)
			if err != nil {
				return err
			}
			st, err := c.client().Release(ctx, name, req)
			if err != nil {
				return reached(fmt.Errorf("release %s: %w", name, err))
			}
			return c.showOutcome(st)
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().BoolVar(&req.Force, "force", false, "let it go although connections end with that")
	cmd.Flags().DurationVar(&timeout, "timeout", 3*time.Minute, "how long to wait for the outcome")
	return cmd
}
