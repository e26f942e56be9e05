// Package drop is the command line of the drop-in comparator, for the program of its own and for the benchmark's.
package drop

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"syscall"

	"colod/compare"
	"colod/internal/chardev"
)

const usage = `chardev compares the frames of two guests in place of QEMU's colo-compare object.

Endpoints are unix:PATH or tcp:HOST:PORT; with ",server" behind they are listened on.

  chardev -primary tcp:127.0.0.1:9001 -secondary tcp:0.0.0.0:9004,server -out tcp:127.0.0.1:9005 -notify unix:/run/ntf,server

`

// Main runs the comparator until a signal comes or a peer hangs up, and returns the exit code.
func Main(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("chardev", flag.ContinueOnError)
	fs.SetOutput(stderr)
	var o chardev.Options
	fs.StringVar(&o.Primary, "primary", "", "endpoint on which the primary guest's frames come")
	fs.StringVar(&o.Secondary, "secondary", "", "endpoint on which the secondary guest's frames come")
	fs.StringVar(&o.Out, "out", "", "endpoint on which agreed frames go out")
	fs.StringVar(&o.Notify, "notify", "", "endpoint on which checkpoints are asked for and told of")
	fs.BoolVar(&o.Vnet, "vnet-hdr", false, "frames carry a virtio-net header (vnet_hdr_support)")
	fs.DurationVar(&o.Hold, "hold", 0, "how long a frame may wait for its twin (default 3s)")
	fs.IntVar(&o.Keep, "keep", 0, "released segments of the secondary to keep for repetitions (default 512)")
	verbose := fs.Bool("v", false, "write every divergence to standard error")
	profile := fs.String("cpuprofile", "", "write a CPU profile to this file")
	fs.Usage = func() { fmt.Fprint(stderr, usage); fs.PrintDefaults() }
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if o.Primary == "" || o.Secondary == "" || o.Out == "" || fs.NArg() > 0 {
		fmt.Fprintln(stderr, "chardev: -primary, -secondary and -out are needed, and nothing else; see -h")
		return 2
	}
	if *verbose {
		o.Diverged = func(d compare.Divergence) {
			fmt.Fprintf(stderr, "chardev: the guests differ: %s in %s, %d bytes at %d: %s\n", d.Reason, d.Key, d.Len, d.Seq, d.Detail)
		}
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			defer f.Close()
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintf(stderr, "chardev: start the profile: %v\n", err)
			return 1
		}
		defer pprof.StopCPUProfile()
	}
	debug.SetGCPercent(400) // the path of a frame allocates nothing
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if _, err := chardev.Serve(ctx, o); err != nil {
		fmt.Fprintf(stderr, "chardev: %v\n", err)
		return 1
	}
	return 0
}
