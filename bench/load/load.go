package load

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

// Main is the command line of the processes that the benchmark starts in its namespaces.
func Main(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	fs.SetOutput(stderr)
	serve := fs.Bool("serve", false, "run the servers")
	ip := fs.String("ip", "", "address of the servers")
	name := fs.String("kind", "", "load to put on them")
	each := fs.Duration("time", time.Second, "how long")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	fail := func(err error) int {
		fmt.Fprintf(stderr, "load: %v\n", err)
		return 1
	}
	if *serve {
		if err := Serve(*ip); err != nil {
			return fail(err)
		}
		return 0
	}
	k, ok := Find(*name)
	if !ok {
		return fail(fmt.Errorf("no load %q", *name))
	}
	out, err := Run(k, *ip, *each)
	if err != nil {
		return fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return fail(err)
	}
	return 0
}
