package coordinator

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"colod/coordinator/arbiter"
	"colod/coordinator/arbiter/etcd"
	"colod/coordinator/config"
)

// openArbiter opens the arbiter of the configuration. An etcd that is away is
// no error: guests that run here are adopted meanwhile, and who may speak is
// read as soon as it is back.
func openArbiter(ctx context.Context, cfg *config.Config) (arbiter.Arbiter, error) {
	if f := cfg.Arbiter.File; f != nil {
		return arbiter.OpenFile(f.Path)
	}
	if e := cfg.Arbiter.Etcd; e != nil {
		return etcd.Open(ctx, etcd.Config{
			Endpoints: e.Endpoints, Prefix: strings.TrimSuffix(e.Prefix, "/"), Timeout: e.Timeout.D(),
			TLS: etcd.TLS{CA: e.CA, Cert: e.Cert, Key: e.Key, ServerName: e.ServerName},
		})
	}
	return nil, errors.New("the configuration names no arbiter")
}

// arbiterLimit is how long one question to the arbiter may take.
func arbiterLimit(cfg *config.Config) time.Duration {
	if e := cfg.Arbiter.Etcd; e != nil {
		return e.Timeout.D()
	}
	return arbiterTimeout
}

// checkEvery is how often the members of etcd are looked after.
const checkEvery = 30 * time.Second

// checker is an arbiter with several members, some of which may fail unseen.
type checker interface {
	Check(ctx context.Context) error
}

// watchArbiter tells in the log which members are not well, and when they are
// again, until ctx ends. One of three that is away would otherwise be noticed
// only with the second.
func watchArbiter(ctx context.Context, arb arbiter.Arbiter, log zerolog.Logger) {
	c, ok := arb.(checker)
	if !ok {
		return
	}
	t := time.NewTicker(checkEvery)
	defer t.Stop()
	last := ""
	for {
		now := ""
		if err := c.Check(ctx); err != nil {
			now = err.Error()
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case now == last:
		case now == "":
			log.Info().Msg("all members of etcd are well")
		default:
			log.Warn().Str("problems", now).Msg("not all members of etcd are well; pairs are safe meanwhile, but nobody takes over unless a majority answers")
		}
		last = now
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
