package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
)

// Command is the hidden "colod lab client": it reads a JSON array of Loads from
// its first line of input, runs them, and answers each further line:
//
//	report   the reports so far, as one line of JSON
//	mark     the same, and the longest pauses start anew
//	stop     end every client in order, wait, report and exit
//
// The end of the input means that the other side is gone: it exits at once.
func Command() *cobra.Command {
	return &cobra.Command{
		Use: "client", Short: "Run checking clients (used by the lab itself)", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Ctrl-C goes to the whole process group: the other side decides what it means.
			signal.Ignore(syscall.SIGINT)
			return serve(cmd.Context(), os.Stdin, os.Stdout)
		},
	}
}

func serve(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return fmt.Errorf("run clients: no description on standard input")
	}
	var loads []Load
	if err := json.Unmarshal(lines.Bytes(), &loads); err != nil {
		return fmt.Errorf("run clients: %w", err)
	}
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	stop, stopNow := context.WithCancel(ctx)
	defer stopNow()
	meters := make([]*meter, len(loads))
	var running sync.WaitGroup
	for i, l := range loads {
		if l.Name == "" {
			l.Name = string(l.Kind)
		}
		meters[i] = &meter{r: Report{Name: l.Name, Kind: l.Kind}, stop: stop}
		running.Go(func() { run(ctx, l, meters[i]) })
	}
	enc := json.NewEncoder(out)
	report := func(mark bool) error {
		all := make([]Report, len(meters))
		for i, m := range meters {
			all[i] = m.snapshot(mark)
		}
		return enc.Encode(all)
	}
	for lines.Scan() {
		var err error
		switch strings.TrimSpace(lines.Text()) {
		case "report":
			err = report(false)
		case "mark":
			err = report(true)
		case "stop":
			stopNow()
			running.Wait()
			return report(false)
		default:
			err = fmt.Errorf("run clients: unknown request %q", lines.Text())
		}
		if err != nil {
			return err
		}
	}
	return lines.Err()
}
