package disk

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"colod/qmp"
)

// Names of the events by which QEMU tells of disk errors (QEMU qapi/block-core.json).
const (
	EventIOError   = "BLOCK_IO_ERROR"
	EventQuorumBad = "QUORUM_REPORT_BAD"
	EventJobEnded  = "BLOCK_JOB_COMPLETED"
	EventJobError  = "BLOCK_JOB_ERROR"
)

// Where says which leg of a replicated disk failed.
type Where uint8

// The legs.
const (
	_      Where = iota
	Local        // the image on this node: the other node's is whole
	Remote       // the other node's image, or the way to it: the one here is whole
	Guest        // the error has reached the guest's device, and stopped the guest
)

func (w Where) String() string {
	switch w {
	case Local:
		return "the image here"
	case Remote:
		return "the image of the other node"
	case Guest:
		return "the guest's disk"
	}
	return fmt.Sprintf("Where(%d)", uint8(w))
}

// Fault is one disk error that QEMU has reported.
type Fault struct {
	Where Where
	Disk  int    // index; -1 if it is not known
	Write bool   // else read or flush
	Text  string // QEMU's words, such as "No space left on device"
}

func (f Fault) String() string {
	op := "read"
	if f.Write {
		op = "write"
	}
	name := "disk"
	if f.Disk >= 0 {
		name = fmt.Sprintf("disk %d", f.Disk)
	}
	text := f.Text
	if text == "" {
		text = "error"
	}
	return fmt.Sprintf("%s: %s of %s failed: %s", name, op, f.Where, text)
}

// FaultOf reads an event of QEMU's; ok is false if it tells of no fault.
func FaultOf(e qmp.Event) (f Fault, ok bool) {
	f.Disk = -1
	switch e.Name {
	case EventIOError:
		var d struct {
			Node      string `json:"node-name"`
			Device    string `json:"device"`
			Operation string `json:"operation"`
			Action    string `json:"action"`
			Reason    string `json:"reason"`
		}
		_ = json.Unmarshal(e.Data, &d) // what cannot be read stays unsaid
		f.Where, f.Write, f.Text = Guest, d.Operation == "write", d.Reason
		f.Disk = max(index(d.Node, "colod-disk"), index(d.Node, "colod-copied"))
		return f, d.Action == "stop"
	case EventQuorumBad:
		var d struct {
			Node  string `json:"node-name"`
			Type  string `json:"type"`
			Error string `json:"error"`
		}
		_ = json.Unmarshal(e.Data, &d)
		f.Write, f.Text = d.Type != "read", d.Error
		switch {
		case index(d.Node, "colod-remote") >= 0:
			f.Where, f.Disk = Remote, index(d.Node, "colod-remote")
		case index(d.Node, "colod-saved") >= 0:
			// What the write was to replace could not be copied there first.
			f.Where, f.Disk = Remote, index(d.Node, "colod-saved")
		case index(d.Node, "colod-base") >= 0:
			f.Where, f.Disk = Local, index(d.Node, "colod-base")
		case index(d.Node, "colod-top") >= 0:
			f.Where, f.Disk = Local, index(d.Node, "colod-top")
		default:
			f.Where = Local
		}
		return f, true
	case EventJobEnded:
		var d struct {
			Device string `json:"device"`
			Error  string `json:"error"`
		}
		_ = json.Unmarshal(e.Data, &d)
		f.Where, f.Write, f.Text, f.Disk = Remote, true, d.Error, index(d.Device, "colod-copy")
		return f, d.Error != "" && f.Disk >= 0
	}
	return f, false
}

// index returns the number behind prefix, -1 if name is not that.
func index(name, prefix string) int {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return -1
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n < 0 {
		return -1
	}
	return n
}
