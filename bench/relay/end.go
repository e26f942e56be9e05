package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"colod/bench/rig"
	"colod/internal/netconn"
	"colod/qmp/relay"
)

// The nodes' names in the certificates.
const (
	nodeA = "a"
	nodeB = "b"
)

// endMain is one side's relay in a process of its own, so that its CPU time is its own: the primary's connects to the secondary's.
// It says "ready" on standard output when QEMU's stand-in may connect, and ends with the stream or a signal.
func endMain(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("relay-end", flag.ContinueOnError)
	fs.SetOutput(stderr)
	var e end
	fs.StringVar(&e.sock, "sock", "", "unix socket between QEMU and this relay")
	fs.StringVar(&e.dial, "dial", "", "primary: address of the secondary's relay")
	fs.StringVar(&e.listen, "listen", "", "secondary: address to listen on")
	fs.StringVar(&e.certs, "certs", "", "directory of the nodes' certificates; empty = plain")
	fs.BoolVar(&e.copy, "copy", false, "copy although the kernel could splice")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := e.run(ctx, os.Stdout); err != nil {
		fmt.Fprintf(stderr, "relay-end: %v\n", err)
		return 1
	}
	return 0
}

type end struct {
	sock, dial, listen, certs string
	copy                      bool
}

func (e *end) run(ctx context.Context, out io.Writer) error {
	r, err := e.make(ctx, out)
	if err != nil {
		return err
	}
	select {
	case <-r.Done():
	case <-ctx.Done():
		r.Cut()
	}
	if err := r.Err(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, relay.ErrCut) {
		return err
	}
	return nil
}

func (e *end) make(ctx context.Context, out io.Writer) (*relay.Relay, error) {
	opt := relay.Options{Copy: e.copy}
	if e.dial != "" {
		r, err := relay.NewPrimary(e.sock, e.connect, opt)
		if err == nil {
			fmt.Fprintln(out, "ready")
		}
		return r, err
	}
	l, err := net.Listen("tcp", e.listen)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(30 * time.Second)); err != nil { // a benchmark that was killed
		return nil, err
	}
	fmt.Fprintln(out, "ready")
	c, err := l.Accept()
	if err != nil {
		return nil, err
	}
	if e.certs != "" {
		id, err := rig.Identity(e.certs, nodeB)
		if err != nil {
			return nil, err
		}
		t := tls.Server(netconn.Gather(c), id.Server([]string{nodeA}))
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		c = t
	}
	return relay.NewSecondary(ctx, c, e.sock, opt)
}

func (e *end) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.dial)
	if err != nil || e.certs == "" {
		return c, err
	}
	id, err := rig.Identity(e.certs, nodeA)
	if err != nil {
		return nil, err
	}
	t := tls.Client(netconn.Gather(c), id.Client(nodeB))
	return t, t.HandshakeContext(ctx)
}
