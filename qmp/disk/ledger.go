package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Ledger is what this node knows of the worth of its images. It is one small file in the layout's directory;
// where there is none the images are taken as they are.
type Ledger struct {
	Format int `json:"format"` // 1
	// Base is the last session in which these images were made equal to the speaker's and followed its writes;
	// Boot is the host's boot in which that was: after another one, writes that were in memory only are missing.
	Base string `json:"base_session,omitempty"`
	Boot string `json:"base_boot,omitempty"`
	// Copying names the session whose copy into these images has begun and not ended.
	Copying string `json:"copying,omitempty"`
	From    string `json:"from,omitempty"` // node whose disk is or was copied
	// Promoted: the guest has taken over here, and its overlays may hold what the images lack.
	Promoted bool `json:"promoted,omitempty"`
	// Committing: the overlays of a dead VM are being written into the images.
	Committing bool `json:"committing,omitempty"`
	// Behind names the node that runs the guest without these images.
	Behind string `json:"behind,omitempty"`
}

const ledgerFile = "ledger.json"

func (l *Layout) ledgerPath() string { return filepath.Join(l.Dir, ledgerFile) }

// Ledger reads the ledger.
func (l *Layout) Ledger() (Ledger, error) {
	g := Ledger{Format: 1}
	b, err := os.ReadFile(l.ledgerPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return g, nil
	case err != nil:
		return g, fmt.Errorf("read ledger of disks: %w", err)
	}
	if err := json.Unmarshal(b, &g); err != nil {
		return g, fmt.Errorf("read ledger of disks %s: %w", l.ledgerPath(), err)
	}
	if g.Format != 1 {
		return g, fmt.Errorf("read ledger of disks %s: format %d, this colod knows 1", l.ledgerPath(), g.Format)
	}
	return g, nil
}

// write replaces the ledger in one step. Without sync it is safe against the end of a process, not of the host.
func (l *Layout) write(g Ledger, sync bool) error {
	fail := func(err error) error { return fmt.Errorf("write ledger of disks: %w", err) }
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return fail(err)
	}
	b, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return fail(err)
	}
	tmp := l.ledgerPath() + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil && sync {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, l.ledgerPath())
	}
	if err == nil && sync {
		err = syncDir(l.Dir)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (l *Layout) update(sync bool, change func(*Ledger)) error {
	if !l.Replicates() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g, err := l.Ledger()
	if err != nil {
		return err
	}
	was := g
	change(&g)
	if g == was {
		return nil
	}
	return l.write(g, sync)
}

// Offer is what a node tells the speaker of its images before they are copied.
type Offer struct {
	// Base is a session since which these images have only been written by the speaker; "" if there is none.
	Base string `json:"base,omitempty"`
}

// Offer returns what the images here are worth as the target of a copy.
func (l *Layout) Offer() (Offer, error) {
	g, err := l.Ledger()
	if err != nil {
		return Offer{}, err
	}
	boot, err := bootID()
	if err != nil {
		return Offer{}, err
	}
	if g.Copying != "" || g.Promoted || g.Boot != boot {
		return Offer{}, nil
	}
	return Offer{Base: g.Base}, nil
}

// BeginCopy notes that the images here are about to be overwritten with another node's.
func (l *Layout) BeginCopy(session, from string) error {
	return l.update(true, func(g *Ledger) { g.Copying, g.From, g.Base, g.Promoted, g.Committing = session, from, "", false, false })
}

// EndCopy notes that the images here are equal to the speaker's and follow its writes.
func (l *Layout) EndCopy(session string) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	return l.update(false, func(g *Ledger) {
		if g.Copying == session {
			g.Copying, g.Base, g.Boot, g.Behind = "", session, boot, ""
		}
	})
}

// Promoting notes that the guest takes over here, before it does.
func (l *Layout) Promoting() error {
	return l.update(false, func(g *Ledger) { g.Promoted, g.Base, g.Copying, g.Behind = true, "", "", "" })
}

// Committed notes that what the overlays held is in the images, and removes them. Nothing is done unless the guest
// has taken over here.
func (l *Layout) Committed() error {
	g, err := l.Ledger()
	if err != nil || !g.Promoted {
		return err
	}
	if err := l.update(true, func(g *Ledger) { g.Promoted, g.Committing = false, false }); err != nil {
		return err
	}
	return l.RemoveOverlays()
}

// LeftBehind notes that the guest goes on at another node without these images.
func (l *Layout) LeftBehind(node string) error {
	return l.update(true, func(g *Ledger) { g.Behind = node })
}

// Usable says why a guest must not be started from the images here, as far as the ledger knows: [ErrUnfinished],
// [ErrStale]. Overlays are not looked at.
func (l *Layout) Usable() error {
	if !l.Replicates() {
		return nil
	}
	g, err := l.Ledger()
	switch {
	case err != nil:
		return err
	case g.Copying != "":
		return fmt.Errorf("start from the disks of this node: %w of those of node %s: start the guest there, or restore %s and remove %s",
			ErrUnfinished, g.From, l.paths(), l.ledgerPath())
	case g.Behind != "":
		return fmt.Errorf("start from the disks of this node: they are %w: the guest went on at node %s: start it there, or, to go back to the older disks, remove %s",
			ErrStale, g.Behind, l.ledgerPath())
	}
	return nil
}

// Recover makes the images here ready for a guest that starts anew from them, or says why they must not be
// used: as [Layout.Usable], and [ErrUncertain].
func (l *Layout) Recover(ctx context.Context) (repaired bool, err error) {
	if err := l.Usable(); err != nil || !l.Replicates() {
		return false, err
	}
	g, err := l.Ledger()
	if err != nil || !g.Promoted {
		return false, err
	}
	if repaired = g.Committing; !repaired {
		if repaired, err = l.Uncommitted(); err != nil {
			return false, err
		}
		boot, err := bootID()
		if err != nil {
			return false, err
		}
		if repaired && boot != g.Boot {
			// After a loss of power the marks may be older than the images: what they tell of may have been
			// committed, and overwritten by the guest since.
			return false, fmt.Errorf("start from the disks of this node: %w: the host went down right after the guest had taken over here: "+
				"if the takeover was long before, remove %s; else write the overlays in %s into the images first (qemu-img commit -d -b IMAGE OVERLAY), then remove it",
				ErrUncertain, l.ledgerPath(), l.Dir)
		}
	}
	if repaired {
		if err := l.update(true, func(g *Ledger) { g.Committing = true }); err != nil {
			return false, err
		}
		if err := l.commitDead(ctx); err != nil {
			return false, err
		}
	}
	return repaired, l.Committed()
}

func (l *Layout) paths() string {
	var p []string
	for _, i := range l.replicated() {
		p = append(p, l.Disks[i].Path)
	}
	return strings.Join(p, ", ")
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
