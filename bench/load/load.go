package load

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// congestion is the congestion control of all sockets; set once at the start.
var congestion string

// control sets it. The sysctl of a network namespace takes only what the host allows to everyone, the socket's option what
// root may.
func control(network, _ string, c syscall.RawConn) error {
	if congestion == "" || !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
	}); e != nil {
		return e
	}
	if err != nil {
		return fmt.Errorf("set congestion control %s: %w", congestion, err)
	}
	return nil
}

// listen is net.Listen with it.
func listen(ip string, port int) (net.Listener, error) {
	lc := net.ListenConfig{Control: control}
	return lc.Listen(context.Background(), "tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
}

// Main is the command line of the processes that the benchmark starts in its namespaces.
func Main(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	fs.SetOutput(stderr)
	serve := fs.Bool("serve", false, "run the servers")
	ip := fs.String("ip", "", "address of the servers")
	name := fs.String("kind", "", "load to put on them")
	each := fs.Duration("time", time.Second, "how long")
	var guest Guest
	fs.IntVar(&guest.Rate, "rate", 100, "requests a second of http-open")
	fs.StringVar(&guest.Key, "key", "", "private key for scp")
	fs.StringVar(&guest.Known, "known", "", "known_hosts for scp")
	fs.StringVar(&congestion, "congestion", "", "TCP congestion control; empty for the kernel's default")
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
	out, err := Run(k, *ip, *each, guest)
	if err != nil {
		return fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return fail(err)
	}
	return 0
}
