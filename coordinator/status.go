package coordinator

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"colod/compare"
	"colod/coordinator/pair"
	"colod/internal/frame"
)

// The types here are the API's JSON. They are a stable interface: the lab,
// the demo and operators' scripts read them.

// NodeStatus is what a node says of itself and its pairs.
type NodeStatus struct {
	Node    string       `json:"node"`
	Version string       `json:"version"`
	Since   time.Time    `json:"since"` // start of this colod
	Pairs   []PairStatus `json:"pairs"`
	// Supervision are the parts of the node that are watched, by name.
	Supervision []SupervisedPart `json:"supervision"`
}

// PairStatus is where a node stands with one pair.
type PairStatus struct {
	Pair       string `json:"pair"`
	Node       string `json:"node"`
	State      string `json:"state"` // see docs/pair-states.md
	Role       string `json:"role"`  // none, speaker, secondary
	Speaker    string `json:"speaker"`
	Standby    string `json:"standby"`
	Generation uint64 `json:"generation"`
	Mode       string `json:"mode"`
	Peer       Peer   `json:"peer"`  // the other node of the session or the record, else the first of the list
	Peers      []Peer `json:"peers"` // all other nodes that have to do with the pair
	// Maintenance says why what happens by itself is held; nil = it is not.
	Maintenance *MaintenanceInfo `json:"maintenance,omitempty"`
	// Paused says that the guest stands still by its operator's wish.
	Paused bool `json:"paused,omitempty"`

	Checkpoints Checkpoints `json:"checkpoints"`
	Divergences Divergences `json:"divergences"`
	Released    Released    `json:"released"`
	HoldUS      Quantiles   `json:"hold_us"` // from the kernel's receipt to the release, microseconds

	VM     *VMStatus   `json:"vm,omitempty"`
	Disks  *DiskStatus `json:"disks,omitempty"` // of a guest with replicated ones in a session, or with a fault
	Path   PathInfo    `json:"path"`
	Reason string      `json:"reason"` // why it is in this state
	Since  time.Time   `json:"since"`  // of this state; a checkpoint does not count as a change
}

// MaintenanceInfo is a pair's maintenance mode.
type MaintenanceInfo struct {
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
}

// PeerPath is one path to another node, as the heartbeats see it.
type PeerPath struct {
	Path     int     `json:"path"` // 0 is that of the node's address
	Local    string  `json:"local"`
	Addr     string  `json:"addr"`
	Up       bool    `json:"up"`
	RTTP50US float64 `json:"rtt_p50_us"` // of the last 512, microseconds
	RTTP99US float64 `json:"rtt_p99_us"`
	Sent     uint64  `json:"sent"`
	Lost     uint64  `json:"lost"`
	HeardMS  float64 `json:"heard_ms"` // ago; below 0: never
	Error    string  `json:"error,omitempty"`
}

// Peer is another node as seen from here.
type Peer struct {
	Node    string  `json:"node"`
	Up      bool    `json:"up"`
	RTTUS   float64 `json:"rtt_us"` // of heartbeats, microseconds
	Version string  `json:"version,omitempty"`

	State string     `json:"state,omitempty"` // of the pair there, as it said last
	Ready bool       `json:"ready,omitempty"` // would run a secondary
	Paths []PeerPath `json:"paths,omitempty"`
}

// Checkpoints counts the checkpoints taken here as speaker, since colod started.
type Checkpoints struct {
	Count   uint64            `json:"count"`
	Reasons map[string]uint64 `json:"reasons"`  // a checkpoint may have several
	PauseMS Quantiles         `json:"pause_ms"` // from QEMU's STOP to RESUME, of the last 4096
	CostMS  float64           `json:"cost_ms"`  // moving average from the request to the release
	Bytes   uint64            `json:"bytes"`    // state sent, without the first copy
	// PhasesMS are buffer, request, transfer, load and release, which follow each other, and delay, their sum; since colod started.
	PhasesMS map[string]Quantiles `json:"phases_ms,omitempty"`
	Last     *CheckpointRecord    `json:"last,omitempty"`
}

// Divergences counts the differences between the two guests' output.
type Divergences struct {
	Count    uint64            `json:"count"`
	ByReason map[string]uint64 `json:"by_reason"`
	Last     *DivergenceInfo   `json:"last,omitempty"`
}

// DivergenceInfo is one divergence.
type DivergenceInfo struct {
	Reason      string `json:"reason"`
	Flow        string `json:"flow"`
	Epoch       uint32 `json:"epoch"`
	Exact       bool   `json:"exact"` // position and frame_offset are valid
	Position    uint64 `json:"position"`
	FrameOffset int    `json:"frame_offset"`
	Primary     string `json:"primary,omitempty"`   // bytes from the position on, hexadecimal
	Secondary   string `json:"secondary,omitempty"` // the same of the other side
	Detail      string `json:"detail,omitempty"`
}

// Released counts what was let out, since colod started.
type Released struct {
	Frames  uint64 `json:"frames"`
	Bytes   uint64 `json:"bytes"`
	Agreed  uint64 `json:"agreed"`  // frames, since both guests said them
	Covered uint64 `json:"covered"` // frames, by a checkpoint
	Alone   uint64 `json:"alone"`   // frames, by the record's authority
}

// Quantiles of a measured quantity.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max,omitempty"`
}

// VMStatus is the VM that runs here.
type VMStatus struct {
	PID  int    `json:"pid"`
	QEMU string `json:"qemu"`
}

// PathInfo is what the data path does.
type PathInfo struct {
	Role      string  `json:"role"` // idle, muted, solo, primary, secondary
	Mode      string  `json:"mode"` // pass, steal, steal-both, mute
	Held      int     `json:"held"` // frames held now
	BudgetMS  float64 `json:"budget_ms"`
	Mirrored  uint64  `json:"mirrored"`  // input frames
	Rewritten int     `json:"rewritten"` // connections that lived through a takeover
	LinkIn    uint64  `json:"link_in"`   // bytes
	LinkOut   uint64  `json:"link_out"`
}

// Event is one change of a pair's state on this node.
type Event struct {
	ID         uint64    `json:"id"` // grows, also over restarts of colod
	Time       time.Time `json:"time"`
	Pair       string    `json:"pair"`
	From       string    `json:"from"`
	State      string    `json:"state"`
	Role       string    `json:"role"`
	Generation uint64    `json:"generation"`
	Reason     string    `json:"reason"`
	Routine    bool      `json:"routine,omitempty"` // begin or end of a checkpoint; not kept
}

// role is the present role of this node; NoRole after the driver's end.
func (d *driver) role() (r pair.Role) {
	d.call(func() { r = d.m.Role() })
	return r
}

// status is the present status of the pair.
func (d *driver) status() (PairStatus, bool) {
	st := PairStatus{Pair: d.cfg.Name, Node: d.node, Mode: d.modeNow(), Peers: []Peer{}}
	ok := d.call(func() {
		st.State, st.Role, st.Reason = d.m.State().String(), d.m.Role().String(), d.m.Reason()
		rec := d.m.Record()
		st.Generation, st.Speaker, st.Standby = rec.Generation, rec.Speaker, rec.Standby
		if rec.Ended {
			st.Speaker = ""
		}
		partner := d.m.Partner()
		for i, name := range d.m.Peers() {
			p := Peer{Node: name, Up: d.m.PeerUp(name)}
			if said := d.m.PeerStatus(name); said != nil {
				p.State, p.Ready = said.State.String(), said.Ready
			}
			st.Peers = append(st.Peers, p)
			if name == partner || i == 0 && partner == "" {
				st.Peer = p
			}
		}
		if st.Peer.Node == "" {
			st.Peer.Node = partner
		}
		st.Paused = d.m.Paused()
		st.Since = d.since
	})
	if !ok {
		return st, false
	}
	if m := d.held.Load(); m != nil {
		st.Maintenance = &MaintenanceInfo{Why: m.Why, Since: m.Since}
	}
	if h := d.vm.Load(); h != nil {
		st.VM = &VMStatus{PID: h.PID(), QEMU: h.Version().String()}
	}
	st.Disks, st.Reason = d.disks.status(d.sessNow.Load()), d.disks.why(st.Reason)
	d.stats.fill(&st)
	p := d.data.Stats()
	st.Released = Released{Frames: p.ReleasedFrames, Bytes: p.ReleasedBytes, Agreed: p.Agreed, Covered: p.Covered, Alone: p.Alone}
	st.HoldUS = Quantiles{P50: us(p.HoldP50), P99: us(p.HoldP99)}
	st.Path = PathInfo{
		Role: p.Role, Mode: p.Mode, Held: p.Held, BudgetMS: ms(p.Budget), Mirrored: p.Mirrored,
		Rewritten: p.Rewritten, LinkIn: p.LinkIn, LinkOut: p.LinkOut,
	}
	return st, true
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

func describeDivergence(v *compare.Divergence) *DivergenceInfo {
	return &DivergenceInfo{
		Reason: v.Reason.String(), Flow: flowName(&v.Key), Epoch: v.Epoch, Exact: v.Exact,
		Position: v.Position, FrameOffset: v.FrameOffset,
		Primary: hex.EncodeToString(v.Primary), Secondary: hex.EncodeToString(v.Secondary), Detail: v.Detail,
	}
}

// flowName is a flow as a person reads it, from the guest's side.
func flowName(k *frame.FlowKey) string {
	if *k == (frame.FlowKey{}) {
		return ""
	}
	guest, peer := netip.AddrFrom16(k.Guest).Unmap(), netip.AddrFrom16(k.Peer).Unmap()
	name := fmt.Sprint(k.Kind)
	if k.GuestPort|k.PeerPort != 0 {
		return fmt.Sprintf("%s %s -> %s", name, netip.AddrPortFrom(guest, k.GuestPort), netip.AddrPortFrom(peer, k.PeerPort))
	}
	return fmt.Sprintf("%s %s -> %s", name, guest, peer)
}
