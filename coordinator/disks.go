package coordinator

import (
	"path/filepath"

	"colod/coordinator/config"
	"colod/qmp/disk"
)

// diskLayout is the disks of a pair on this node; stateDir is where their overlays and ledger are.
func diskLayout(p *config.Pair, stateDir string) *disk.Layout {
	l := &disk.Layout{Dir: filepath.Join(stateDir, "disks", p.Name)}
	for _, d := range p.Disks {
		l.Disks = append(l.Disks, disk.Disk{Path: d.Path, Format: d.Format, Size: int64(d.Size), Kind: disk.Kind(d.Kind)})
	}
	return l
}
