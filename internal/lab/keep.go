package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// What deploy/systemd/colod.service says of a daemon that ends.
const (
	restartDelay    = 200 * time.Millisecond // RestartSec
	restartLimit    = 20                     // StartLimitBurst
	restartInterval = 60 * time.Second       // StartLimitIntervalSec
	daemonWatchdog  = 30 * time.Second       // WatchdogSec
	exitBadConfig   = 78                     // RestartPreventExitStatus
)

// keepCommand is the hidden "colod lab keep": it stands in for systemd on a
// lab's node. It runs the daemon, starts it again when it fails, ends one that
// gives no sign of life, restarts it in order on SIGHUP, and starts one that is
// not running on SIGUSR1.
func keepCommand() *cobra.Command {
	return &cobra.Command{
		Use: "keep CONFIG", Short: "Keep a node's daemon running (used by the lab itself)", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			return keep(cmd.Context(), program, args[0], cmd.ErrOrStderr())
		},
	}
}

func keep(ctx context.Context, program, config string, log io.Writer) error {
	again, start := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	signal.Notify(start, syscall.SIGUSR1)
	defer signal.Stop(again)
	defer signal.Stop(start)
	say := func(format string, args ...any) {
		fmt.Fprintf(log, "%s KEEP %s\n", time.Now().UTC().Format("15:04:05.000000"), fmt.Sprintf(format, args...))
	}
	alive, notify, err := listenNotify(filepath.Join(filepath.Dir(config), "n.sock"))
	if err != nil {
		return err
	}
	defer alive.Close()
	var starts []time.Time
	for ctx.Err() == nil {
		starts = append(starts, time.Now())
		if n := len(starts); n > restartLimit && starts[n-1].Sub(starts[n-1-restartLimit]) < restartInterval {
			say("colod was started %d times within %s: given up, as systemd does", restartLimit, restartInterval)
			<-start // as systemctl reset-failed and start
			starts = nil
			continue
		}
		asked, err := keepOnce(ctx, program, config, notify, again, start, say)
		var exit *exec.ExitError
		switch {
		case ctx.Err() != nil:
			return nil
		case asked:
			say("colod ended as it was told to; starting it again")
			continue
		case err == nil:
			say("colod ended in order by itself: not started again")
			<-start
			continue
		case errors.As(err, &exit) && exit.ExitCode() == exitBadConfig:
			say("colod refuses its configuration: not started again")
			<-start
			continue
		}
		say("colod ended: %v; starting it again in %s", err, restartDelay)
		select {
		case <-time.After(restartDelay):
		case <-ctx.Done():
		}
	}
	return nil
}

// keepOnce runs the daemon until it ends. asked tells that SIGHUP was the reason.
func keepOnce(ctx context.Context, program, config string, notify *notifySocket, again, start <-chan os.Signal, say func(string, ...any)) (asked bool, err error) {
	cmd := exec.Command(program, "run", "--config", config)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify.path, fmt.Sprintf("WATCHDOG_USEC=%d", daemonWatchdog.Microseconds()))
	// A session of its own, as a service has: precedence is between sessions (internal/priority).
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	last, ready := time.Now(), false
	check := time.NewTicker(time.Second)
	defer check.Stop()
	for {
		select {
		case err := <-done:
			return asked, err
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM)
			return false, <-done
		case <-again:
			asked = true
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case <-start: // it runs
		case word := <-notify.words:
			// What an earlier daemon said does no harm: it is a sign of life too many.
			last, ready = time.Now(), ready || word == "READY=1"
		case <-check.C:
			if ready && time.Since(last) > daemonWatchdog {
				say("colod gave no sign of life for %s: ending it", daemonWatchdog)
				_ = cmd.Process.Signal(syscall.SIGABRT)
				_ = cmd.Process.Signal(syscall.SIGCONT)
				last = time.Now()
			}
		}
	}
}

// notifySocket gets what the daemon tells systemd (sd_notify(3)).
type notifySocket struct {
	path  string
	words chan string
}

func listenNotify(path string) (io.Closer, *notifySocket, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("keep colod running: %w", err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, nil, fmt.Errorf("keep colod running: %w", err)
	}
	n := &notifySocket{path: path, words: make(chan string, 16)}
	go func() {
		buf := make([]byte, 4096)
		for {
			k, err := c.Read(buf)
			if err != nil {
				return
			}
			for word := range strings.Lines(string(buf[:k])) {
				n.words <- strings.TrimSpace(word)
			}
		}
	}()
	return c, n, nil
}
