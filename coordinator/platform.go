package coordinator

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"time"

	"github.com/rs/zerolog"

	"colod/coordinator/config"
	"colod/proxy"
	"colod/qmp"
	"colod/qmp/relay"
)

// Platform makes the parts of the world that a pair's driver works with:
// the guest's way through the kernel, the data path, the VM and the state
// relay. The host's real ones are made by Host; tests have their own.
type Platform interface {
	// OpenPath makes or adopts the devices between guest and bridge.
	OpenPath(p *config.Pair) (Path, error)
	// OpenDataPath starts the data path on a path.
	OpenDataPath(p *config.Pair, path Path, log zerolog.Logger, events func(proxy.Event)) (DataPath, error)
	// Link makes a connection of class net of raw, of which only the
	// preamble was sent. It owns raw from then on. On the server side check
	// decides on the greeting received.
	Link(ctx context.Context, raw net.Conn, conf *tls.Config, server bool, hello proxy.Hello, check func(proxy.Hello) error) (NetLink, error)
	// LaunchVM launches a VM in dir; AdoptVM takes over the one that runs
	// there, qmp.ErrNoVM if there is none; EndStale ends one that cannot be
	// adopted.
	LaunchVM(ctx context.Context, p *config.Pair, dir string, incoming bool) (VM, error)
	AdoptVM(ctx context.Context, dir string) (VM, error)
	EndStale(ctx context.Context, dir string) error
	// Facts are what the host can run with the QEMU binary.
	Facts(ctx context.Context, binary string) HostFacts
	// PrimaryRelay and SecondaryRelay carry the state; see package relay.
	PrimaryRelay(sock string, dial func(context.Context) (net.Conn, error), opt relay.Options) (Relay, error)
	SecondaryRelay(ctx context.Context, conn net.Conn, sock string, opt relay.Options) (Relay, error)
}

// Path is the guest's way through the kernel; *netfilter.Path, but for the
// type of the mode.
type Path interface {
	proxy.Path
	// Detach leaves everything as it is; Remove takes it all out.
	Detach() error
	Remove() error
}

// NetLink is a secured connection of class net, to be given to a DataPath.
type NetLink interface {
	// PeerName is the node in the peer's certificate.
	PeerName() string
	Close() error
}

// DataPath is *proxy.Proxy, but for the type of the link.
type DataPath interface {
	Solo(context.Context) error
	Mute(context.Context) error
	StartPrimary(ctx context.Context, link NetLink, s proxy.Session) error
	StartSecondary(ctx context.Context, link NetLink, s proxy.Session) error
	BeginCheckpoint(ctx context.Context, n uint64) error
	Stopped(n uint64, at time.Time)
	EndCheckpoint(ctx context.Context, n uint64, resume time.Time) error
	SecondaryStopped(at time.Time)
	SecondaryResumed(at time.Time)
	GoSolo(context.Context) error
	Promote(context.Context) error
	SetCheckpointCost(time.Duration)
	SetBuffered(bool)
	Announce()
	Stats() proxy.Stats
	Waits() (frames uint64, sum time.Duration)
	WarmUp() time.Duration
	Close() error
}

// VM is *qmp.VM, but for the type of the events.
type VM interface {
	PID() int
	Version() qmp.Version
	// Events are the VM's events from now on, until stop is called or the
	// monitor ends.
	Events() (events <-chan qmp.Event, stop func())
	Died() <-chan struct{}
	DeathReport() string
	PrepareSecondary(ctx context.Context, sock string) error
	StartColo(ctx context.Context, sock string) (time.Time, error)
	TriggerCheckpoint(context.Context) error
	LostHeartbeat(context.Context) (time.Time, error)
	ForgetColo(context.Context) error
	QueryStatus(context.Context) (qmp.Status, error)
	SystemPowerdown(context.Context) error
	SystemReset(context.Context) error
	Stop(context.Context) error
	Cont(context.Context) error
	TapFD(tap string) (*os.File, error)
	Kill(context.Context) error
	Remove() error
	Close() error
}

// Relay is *relay.Relay.
type Relay interface {
	Cut()
	Done() <-chan struct{}
	Err() error
	Stats() relay.Stats
}

var _ Relay = (*relay.Relay)(nil)
