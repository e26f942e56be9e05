package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"colod/coordinator/config"
	"colod/internal/lab"
)

// Exit codes, part of the interface.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked for did not work
	exitUsage  = 2 // wrong command line or configuration
	// exitConfig is that of colod run with a wrong configuration (EX_CONFIG, sysexits.h): starting it again does not help.
	// It must not be 2, with which Go ends a program that systemd's watchdog has aborted.
	exitConfig      = 78
	exitUnreachable = 3 // the daemon does not answer
)

// cli is what all commands share.
type cli struct {
	json   bool   // --json: one JSON object (or a stream of them) on standard output
	socket string // --socket: path of the daemon's control socket
	out    io.Writer
	err    io.Writer
}

// codedError carries the exit code with an error.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

func usageError(err error) error       { return &codedError{exitUsage, err} }
func configError(err error) error      { return &codedError{exitConfig, err} }
func unreachableError(err error) error { return &codedError{exitUnreachable, err} }

// silentError ends a command with a code after it has said everything itself.
type silentError struct{ code int }

func (e *silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, out, errOut io.Writer) int {
	c := &cli{out: out, err: errOut}
	root := c.rootCommand()
	root.SetArgs(args)
	own := args // up to the command that "lab exec" is to run
	if i := slices.Index(args, "--"); i >= 0 {
		own = args[:i]
	}
	c.json = slices.Contains(own, "--json") // known also when the command line cannot be read
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	return c.report(err)
}

// report shows err and turns it into the exit code.
func (c *cli) report(err error) int {
	if err == nil {
		return exitOK
	}
	var silent *silentError
	if errors.As(err, &silent) {
		return silent.code
	}
	code := exitFailed
	var coded *codedError
	if errors.As(err, &coded) {
		code = coded.code
	}
	var problems config.Problems
	isConfig := errors.As(err, &problems)
	if isConfig {
		code = exitUsage
	}
	if c.json {
		body := map[string]any{"message": err.Error(), "code": code}
		if isConfig {
			body["problems"] = problems
		}
		c.printJSON(map[string]any{"error": body})
		return code
	}
	if isConfig {
		fmt.Fprintln(c.err, err)
	} else {
		fmt.Fprintf(c.err, "colod: %v\n", err)
	}
	return code
}

// printJSON writes v as one indented JSON document.
func (c *cli) printJSON(v any) {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // a closed standard output leaves nobody to tell
}

func (c *cli) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "colod",
		Short: "Keep a virtual machine in service when its host dies",
		Long: `colod runs a guest as two QEMU virtual machines in lock-step on two hosts.
When either is lost, the other carries on, and no client connection breaks.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 the daemon
does not answer.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.PersistentFlags().BoolVar(&c.json, "json", false, "print JSON, errors too")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
	})
	root.AddCommand(
		c.runCommand(), c.statusCommand(), c.topCommand(), c.eventsCommand(), c.protectCommand(), c.checkpointCommand(), c.failoverCommand(),
		c.stopCommand(), c.startCommand(), c.adoptCommand(), c.doctorCommand(), c.configCommand(), c.certCommand(), c.tokenCommand(), c.versionCommand(), c.heartbeatCommand(),
		c.switchoverCommand(), c.migrateCommand(), c.maintenanceCommand(), c.vmCommand(), c.nodesCommand(), c.auditCommand(),
		c.reportCommand(), c.recordCommand(), c.replayCommand(), lab.Command(),
	)
	c.completePairs(root)
	return root
}

// noArgs, exactArgs and rangeArgs are cobra's checks with the exit code of
// wrong usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(fmt.Errorf("unknown argument %q; see %s --help", args[0], cmd.CommandPath()))
	}
	return nil
}

func rangeArgs(lo, hi int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < lo || len(args) > hi {
			want := fmt.Sprintf("%d", lo)
			if hi != lo {
				want = fmt.Sprintf("%d to %d", lo, hi)
			}
			return usageError(fmt.Errorf("%d arguments given, %s wanted: %s", len(args), want, cmd.UseLine()))
		}
		return nil
	}
}
