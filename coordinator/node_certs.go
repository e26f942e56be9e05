package coordinator

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// certificatesEvery is how often the files of the node's identity are looked
// at; SIGHUP makes it at once.
const certificatesEvery = 10 * time.Second

// soonExpired is how long before the end of the certificate it is told, and
// how often.
const (
	soonExpired = 30 * 24 * time.Hour
	tellExpiry  = 24 * time.Hour
)

// watchCertificates reads the node's identity again when its files have
// changed. Connections that exist go on; new ones are made and accepted with
// what the files hold.
func (n *Node) watchCertificates() {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	t := time.NewTicker(certificatesEvery)
	defer t.Stop()
	stamp := n.certificateStamp()
	var failed string
	var told time.Time
	for {
		if left := time.Until(n.id.Expires()); left < soonExpired && time.Since(told) > tellExpiry {
			told = time.Now()
			ev := n.log.Warn().Time("expires", n.id.Expires())
			if left < 0 {
				ev.Msg("this node's certificate has expired: no other node will connect; make a new one with colod cert node")
			} else {
				ev.Msg("this node's certificate expires soon; make a new one with colod cert node")
			}
		}
		asked := false
		select {
		case <-n.ctx.Done():
			return
		case <-hup:
			asked = true
		case <-t.C:
		}
		now := n.certificateStamp()
		if !asked && now == stamp && failed == "" {
			continue
		}
		stamp = now
		changed, err := n.id.Reload()
		switch {
		case err != nil && (asked || err.Error() != failed):
			failed = err.Error()
			n.log.Error().Err(err).Msg("the new certificates cannot be used; the old ones are")
		case err != nil:
		default:
			failed = ""
			if changed {
				told = time.Time{}
				n.log.Info().Time("expires", n.id.Expires()).Msg("new certificates are in use; connections go on")
			} else if asked {
				n.log.Info().Time("expires", n.id.Expires()).Msg("the certificates have not changed")
			}
		}
	}
}

// stamp tells the files' versions.
type stamp [3]struct {
	at   time.Time
	size int64
	ino  uint64
}

func (n *Node) certificateStamp() (s stamp) {
	for i, path := range []string{n.cfg.TLS.CA, n.cfg.TLS.Cert, n.cfg.TLS.Key} {
		if st, err := os.Stat(path); err == nil {
			s[i].at, s[i].size = st.ModTime(), st.Size()
			if sys, ok := st.Sys().(*syscall.Stat_t); ok {
				s[i].ino = sys.Ino
			}
		}
	}
	return s
}
