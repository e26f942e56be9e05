package disk

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// obj is one JSON object of the block layer's.
type obj map[string]any

// Args are QEMU's arguments for the disks: of the primary, or, with incoming, of a secondary, whose
// overlays must be there (see [Layout.MakeOverlays]). What the guest sees is the same in both.
func (l *Layout) Args(incoming bool) []string {
	if l.Empty() {
		return nil
	}
	var a []string
	for i := range l.Disks {
		for _, g := range l.graph(i, incoming) {
			a = append(a, "-blockdev", text(g))
		}
		// The guest stops at an error, and its request is made again when it is continued: an error is for
		// the operator to mend, never for the guest to see.
		// use-disabled-flag=off: as for the network card, see package qmp.
		a = append(a, "-device", fmt.Sprintf("virtio-blk-pci,id=%s,drive=%s,werror=stop,rerror=stop,use-disabled-flag=off", deviceName(i), nodeDisk(i)))
	}
	return a
}

// graph is the block nodes of one disk, in the order in which they are made.
func (l *Layout) graph(i int, incoming bool) []obj {
	d := &l.Disks[i]
	if d.Kind == Shared {
		return []obj{{"driver": d.Format, "node-name": nodeDisk(i), "read-only": true, "file": d.file(true)}}
	}
	g := []obj{{"driver": d.Format, "node-name": nodeBase(i), "discard": "unmap", "file": d.file(false)}}
	child := nodeBase(i)
	if incoming {
		child = nodeTop(i)
		hidden := obj{"driver": QCOW2, "node-name": nodeHidden(i), "file": file(l.hidden(i)), "backing": nodeBase(i)}
		active := obj{"driver": QCOW2, "node-name": nodeActive(i), "file": file(l.active(i)), "backing": hidden}
		g = append(g, obj{"driver": "replication", "node-name": child, "mode": "secondary", "top-id": nodeDisk(i), "file": active})
	}
	// A quorum of one can be given a second child while the guest runs. Reads come from the first child.
	return append(g, obj{"driver": "quorum", "node-name": nodeDisk(i), "read-pattern": "fifo", "vote-threshold": 1, "children": []string{child}})
}

// file is the lowest node of an image. locking makes QEMU refuse an image that another process writes,
// also where it cannot use locks of open file descriptions and would otherwise go on without.
func (d *Disk) file(readOnly bool) obj {
	f := file(d.Path)
	if d.Device {
		f["driver"] = "host_device"
	}
	f["locking"] = "on"
	if readOnly {
		f["read-only"] = true
	} else {
		f["discard"] = "unmap"
	}
	return f
}

func file(path string) obj { return obj{"driver": "file", "filename": path} }

// remote is the other node's base, through the stream's socket.
func remote(node, sock string, i int) obj {
	return obj{
		"driver": "nbd", "node-name": node, "export": exportName(i), "discard": "unmap",
		"server": obj{"type": "unix", "path": sock},
	}
}

func text(o obj) string {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings, numbers and maps of them only
	}
	return string(b)
}

func (l *Layout) active(i int) string {
	return filepath.Join(l.Dir, fmt.Sprintf("disk%d-active.qcow2", i))
}
func (l *Layout) hidden(i int) string {
	return filepath.Join(l.Dir, fmt.Sprintf("disk%d-hidden.qcow2", i))
}

// Name is the block node that the guest's disk i is on.
func Name(i int) string { return nodeDisk(i) }
