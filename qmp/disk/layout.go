package disk

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
)

// Kind says how a disk reaches the other node.
type Kind string

// The kinds of disks.
const (
	// Replicated: each node has an image of its own; the primary's writes go to both.
	Replicated Kind = "replicated"
	// Shared: both nodes see the same image, and the guest may only read it. A shared disk that the guest
	// writes cannot be kept right: the secondary's guest writes too, ahead or behind, and what the
	// primary wrote since the last checkpoint would have to be taken back at a takeover.
	Shared Kind = "shared"
)

// Formats of images.
const (
	Raw   = "raw"
	QCOW2 = "qcow2"
)

// MaxDisks bounds a layout: PCI slots of a pc machine, without those that it uses itself.
const MaxDisks = 16

// Disk is one disk of the guest on this node.
type Disk struct {
	Path   string // absolute path of an image file or of a block device
	Format string // Raw or QCOW2
	Size   int64  // virtual size in bytes, a multiple of 512; the same on both nodes
	Kind   Kind
	Device bool // Path is a block device; found out by [Layout.Check]
}

// Layout is all disks of a guest, in the order in which it sees them, with the place of this node's
// overlays and of the ledger.
type Layout struct {
	Disks []Disk
	Dir   string // directory that belongs to this pair alone; made if it is absent

	mu sync.Mutex // held while the ledger is changed
}

// Empty reports whether the guest has no disks.
func (l *Layout) Empty() bool { return l == nil || len(l.Disks) == 0 }

// Replicates reports whether any disk is replicated.
func (l *Layout) Replicates() bool { return len(l.replicated()) > 0 }

// replicated returns the indices of replicated disks.
func (l *Layout) replicated() (idx []int) {
	if l == nil {
		return nil
	}
	for i := range l.Disks {
		if l.Disks[i].Kind == Replicated {
			idx = append(idx, i)
		}
	}
	return idx
}

// Validate checks what can be known without looking at the host.
func (l *Layout) Validate() error {
	var errs []error
	seen := map[string]int{}
	if len(l.Disks) > MaxDisks {
		errs = append(errs, fmt.Errorf("%d disks: at most %d are possible", len(l.Disks), MaxDisks))
	}
	if l.Replicates() && !filepath.IsAbs(l.Dir) {
		errs = append(errs, fmt.Errorf("directory of the overlays %q: want an absolute path", l.Dir))
	}
	for i, d := range l.Disks {
		bad := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("disk %d (%s): %w", i, d.Path, fmt.Errorf(format, a...)))
		}
		if !filepath.IsAbs(d.Path) || strings.ContainsAny(d.Path, "\n\x00") {
			bad("want an absolute path")
		}
		if d.Format != Raw && d.Format != QCOW2 {
			bad("format %q: want %s or %s", d.Format, Raw, QCOW2)
		}
		if d.Size < 1<<20 || d.Size%512 != 0 {
			bad("size %d bytes: want a multiple of 512, at least 1 MiB", d.Size)
		}
		if d.Kind != Replicated && d.Kind != Shared {
			bad("kind %q: want %s or %s", d.Kind, Replicated, Shared)
		}
		if first, dup := seen[filepath.Clean(d.Path)]; dup {
			bad("it is also the path of disk %d", first)
		}
		seen[filepath.Clean(d.Path)] = i
	}
	return errors.Join(errs...)
}

// Fingerprint is what the two nodes must have alike, in one line.
func (l *Layout) Fingerprint() string {
	var b strings.Builder
	for i := range l.Disks {
		fmt.Fprintf(&b, "%s/%s/%d;", l.Disks[i].Kind, l.Disks[i].Format, l.Disks[i].Size)
	}
	return b.String()
}

// Names of nodes, jobs and exports; i is the disk's index. QEMU allows 31 characters for a node.
func nodeDisk(i int) string   { return fmt.Sprintf("colod-disk%d", i) }   // the quorum, what the guest's device is on
func nodeBase(i int) string   { return fmt.Sprintf("colod-base%d", i) }   // the image
func nodeTop(i int) string    { return fmt.Sprintf("colod-top%d", i) }    // the replication driver of a secondary
func nodeActive(i int) string { return fmt.Sprintf("colod-active%d", i) } // overlay of the secondary's guest
func nodeHidden(i int) string { return fmt.Sprintf("colod-hidden%d", i) } // overlay of what the primary overwrote
func nodeRemote(i int) string { return fmt.Sprintf("colod-remote%d", i) } // the other node's image, a child of the quorum
func nodeMirror(i int) string { return fmt.Sprintf("colod-mirror%d", i) } // the same as the copy's target
func nodeDelta(i int) string  { return fmt.Sprintf("colod-delta%d", i) }  // the same as the target of what changed
func nodeCopied(i int) string { return fmt.Sprintf("colod-copied%d", i) } // filter of the copy, above the quorum
func nodeSaved(i int) string  { return fmt.Sprintf("colod-saved%d", i) }  // filter of the copy of what changed, above the image
func jobCopy(i int) string    { return fmt.Sprintf("colod-copy%d", i) }
func jobDelta(i int) string   { return fmt.Sprintf("colod-changed%d", i) }
func exportName(i int) string { return fmt.Sprintf("disk%d", i) }
func deviceName(i int) string { return fmt.Sprintf("disk%d", i) }
