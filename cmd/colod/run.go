package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"colod/coordinator"
	"colod/coordinator/config"
)

func (c *cli) runCommand() *cobra.Command {
	var path string
	var withGuests bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon of this node",
		Long: `Run starts, adopts and protects the guests of the configuration. It ends on
SIGTERM or SIGINT; guests then keep running and stay reachable, unprotected,
unless --with-guests is given. Logs go to standard error.`,
		Example: `  colod run
  colod run --config ./colod.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(path)
			if err != nil {
				return configError(err)
			}
			log, err := newLogger(cfg.Log, c.err)
			if err != nil {
				return configError(err)
			}
			if err := coordinator.RaisePriority(); err != nil {
				log.Info().Err(err).Msg("colod has less precedence than it asks for; give it CAP_SYS_NICE, or LimitNICE=-15 in its service, for shorter delays on a busy host")
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			n, err := coordinator.NewNode(coordinator.Options{
				Config: cfg, Version: buildVersion(), Log: log, WithGuests: withGuests, Notify: coordinator.SystemdNotify,
				Heartbeats: []string{self, heartbeatProcess},
			})
			if err != nil {
				return err
			}
			return n.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultConfig, "configuration file")
	cmd.Flags().BoolVar(&withGuests, "with-guests", false, "end the guests that speak here too when the daemon is stopped")
	return cmd
}

// newLogger makes the daemon's logger.
func newLogger(l config.Log, w io.Writer) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(l.Level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("log level: %w", err)
	}
	format := l.Format
	if format == "auto" {
		format = "json"
		if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
			format = "console"
		}
	}
	zerolog.TimeFieldFormat = time.RFC3339Nano
	if format == "console" {
		f, ok := w.(*os.File)
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000000", NoColor: !ok || !isatty.IsTerminal(f.Fd())}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
}
