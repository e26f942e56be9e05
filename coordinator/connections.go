package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"colod/coordinator/statefile"
	"colod/proxy"
	"colod/qmp"
)

// connections keeps, in the VM's directory, the connections that lived through a takeover and have to be rewritten for as
// long as they live: a colod that is started again goes on with them.
type connections struct {
	dir string
	log zerolog.Logger

	mu   sync.Mutex
	next *[]byte // to be written; nil: nothing is
	busy bool    // a goroutine writes
	work sync.WaitGroup
}

// fileConnections is the file's name. Its first line is the identity of the VM that it belongs to.
const fileConnections = "connections"

// save takes the saved table, nil for none. It does not block.
func (c *connections) save(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = &b
	if !c.busy {
		c.busy = true
		c.work.Go(c.write)
	}
}

func (c *connections) write() {
	for {
		c.mu.Lock()
		b := c.next
		c.next = nil
		c.busy = b != nil
		c.mu.Unlock()
		if b == nil {
			return
		}
		if err := c.put(*b); err != nil {
			c.log.Warn().Err(err).Msg("connections that lived through the takeover end if colod ends before they do")
		}
	}
}

func (c *connections) put(b []byte) error {
	path := filepath.Join(c.dir, fileConnections)
	if b == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget connections: %w", err)
		}
		return nil
	}
	id, err := qmp.Identity(c.dir)
	if err == nil {
		err = statefile.Replace(path, append([]byte(id+"\n"), b...))
	}
	if err != nil {
		return fmt.Errorf("save connections: %w", err)
	}
	return nil
}

// load returns what was saved for the VM that runs now, nil if there is nothing.
func (c *connections) load() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, fileConnections))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load connections: %w", err)
	}
	saved, table, ok := strings.Cut(string(b), "\n")
	id, err := qmp.Identity(c.dir)
	if !ok || errors.Is(err, qmp.ErrNoVM) || err == nil && id != saved {
		return nil, c.put(nil) // of an earlier VM
	}
	if err != nil {
		return nil, fmt.Errorf("load connections: %w", err)
	}
	return []byte(table), nil
}

// Close is the data path's; what it had to be kept is on disk then.
func (d hostDataPath) Close() error {
	err := d.Proxy.Close()
	d.conns.work.Wait()
	return err
}

// Solo is the data path's, which goes on with the connections that an earlier process has left.
func (d hostDataPath) Solo(ctx context.Context) error {
	saved, err := d.conns.load()
	if err == nil && saved != nil {
		err = d.RestoreFront(ctx, saved)
	}
	switch {
	case errors.Is(err, proxy.ErrRole): // it has them
	case err != nil:
		d.conns.log.Warn().Err(err).Msg("connections that lived through a takeover are lost")
	case saved != nil:
		d.conns.log.Info().Msg("connections that lived through a takeover go on")
	}
	return d.Proxy.Solo(ctx)
}
