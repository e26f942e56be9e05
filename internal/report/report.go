package report

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"colod/compare"
	"colod/internal/frame"
)

// Version is the version of the schema of Report; it grows when a field changes its meaning or goes. Fields may
// be added within a version.
const Version = 1

// Report is one divergence. Its JSON form is documented in docs/report-schema.json.
type Report struct {
	Version    int       `json:"version"`
	Number     uint64    `json:"number"` // grows by one with each report of a pair on a node
	Time       time.Time `json:"time"`   // when the divergence was found
	Node       string    `json:"node"`
	Pair       string    `json:"pair"`
	Generation uint64    `json:"generation"`
	Epoch      uint32    `json:"epoch"` // checkpoints completed in this protection before it
	Reason     string    `json:"reason"`
	Detail     string    `json:"detail,omitempty"`
	Cause      Cause     `json:"cause"`
	Flow       Flow      `json:"flow"`
	Position   Position  `json:"position"`
	Bytes      *Bytes    `json:"bytes,omitempty"`
	Timing     Timing    `json:"timing"`
	// Checkpoint is the one that healed the divergence; absent when none had completed when the report was written.
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
	// Rule is the tolerance that had hidden a difference in the same connection since the last checkpoint.
	Rule string `json:"rule,omitempty"`
	// LeftOut counts the divergences between the report before and this one of which there is no report, by the
	// reason for that: rate, queue, disk.
	LeftOut map[string]uint64 `json:"left_out,omitempty"`
}

// Cause says in words what differs.
type Cause struct {
	Kind  string `json:"kind"`  // one of Kinds
	Title string `json:"title"` // a short phrase
	// Field names what differs within the protocol, such as a header's or a JSON member's name. It comes from the payload.
	Field  string `json:"field,omitempty"`
	Advice string `json:"advice"`
	// Sure says that the bytes prove it; else it is the likeliest explanation.
	Sure bool `json:"sure"`
}

// Flow names a connection, from the guest's side.
type Flow struct {
	Kind      string `json:"kind"` // tcp, udp, icmp, nd, arp, group, fragment, ip, other; empty when no flow is concerned
	Guest     string `json:"guest,omitempty"`
	GuestPort uint16 `json:"guest_port,omitempty"`
	Peer      string `json:"peer,omitempty"`
	PeerPort  uint16 `json:"peer_port,omitempty"`
	Ether     uint16 `json:"ether,omitempty"`
	Protocol  uint8  `json:"protocol,omitempty"` // of IP
	VLAN      uint32 `json:"vlan,omitempty"`     // 4096 + the inner tag's number, and the same of the outer one times 65536
	Service   string `json:"service,omitempty"`  // name of the well-known port
	// Outgoing says that the guest is the client of the connection.
	Outgoing bool   `json:"outgoing,omitempty"`
	Text     string `json:"text,omitempty"`
}

// Position says where the first difference is.
type Position struct {
	// Exact says that Stream and Frame are valid: the secondary's bytes were there in time.
	Exact bool `json:"exact"`
	// Absolute says that Stream counts from the first byte of the connection; else it counts from the first byte that
	// was compared since the last checkpoint.
	Absolute bool   `json:"absolute"`
	Stream   uint64 `json:"stream"`
	Frame    int    `json:"frame"`  // offset in the primary's Ethernet frame
	Seq      uint32 `json:"seq"`    // sequence number at which the differing range begins
	Length   uint32 `json:"length"` // of that range
	Offset   int    `json:"offset"` // of the first difference within the range
}

// Bytes are both sides' bytes around the first difference.
type Bytes struct {
	Payload   string   `json:"payload"` // full, redact or none
	At        int      `json:"at"`      // offset of the first difference
	Primary   hexBytes `json:"primary,omitempty"`
	Secondary hexBytes `json:"secondary,omitempty"`
	// Different are the ranges [from, to) that differ; computed before anything was redacted. The last one goes on
	// to the end when there were too many.
	Different [][2]int `json:"different,omitempty"`
}

// Timing says when the two sides spoke, each by its own host's clock.
type Timing struct {
	Primary   *time.Time `json:"primary,omitempty"`
	Secondary *time.Time `json:"secondary,omitempty"`
	HeldUS    int64      `json:"held_us"` // how long the primary's frame had waited
}

// Checkpoint is what healed a divergence, and what it cost.
type Checkpoint struct {
	Number   uint64   `json:"number"`
	StopMS   float64  `json:"stop_ms"`   // the guest stood still
	CostMS   float64  `json:"cost_ms"`   // from the request to the release of what it covers
	Bytes    uint64   `json:"bytes"`     // state sent
	DelayMS  float64  `json:"delay_ms"`  // from the divergence to the request
	Reasons  []string `json:"reasons"`   // all that asked for it
	SharedBy int      `json:"shared_by"` // divergences that it healed; the cost is shared by them
}

// hexBytes are written as hexadecimal digits.
type hexBytes []byte

// MarshalText implements encoding.TextMarshaler.
func (h hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *hexBytes) UnmarshalText(b []byte) error {
	out, err := hex.DecodeString(string(b))
	*h = out
	return err
}

// Bounds of what goes into a report.
const (
	maxText   = 512 // of a detail, in bytes
	maxField  = 64  // of a cause's field
	maxRanges = 64  // of Bytes.Different
	// MaxContext bounds the bytes of each side before and behind the first difference.
	MaxContext = 4096
)

// fromDivergence makes the report of v without cause, checkpoint and bytes that the payload mode forbids.
func fromDivergence(v *compare.Divergence) *Report {
	r := &Report{Version: Version, Epoch: v.Epoch, Reason: v.Reason.String(), Detail: Clean(v.Detail, maxText), Rule: v.Rule}
	r.Flow = flowOf(&v.Key)
	r.Position = Position{Exact: v.Exact, Absolute: v.Absolute, Stream: v.Position, Frame: v.FrameOffset, Seq: uint32(v.Seq), Length: v.Len,
		Offset: v.Offset}
	r.Timing = Timing{Primary: kernelTime(v.PrimaryTime), Secondary: kernelTime(v.SecondaryTime), HeldUS: v.Waited / 1000}
	if v.Exact {
		r.Bytes = &Bytes{Payload: "full", At: v.Around, Primary: v.PrimaryAround, Secondary: v.SecondaryAround}
		r.Bytes.Different = differences(r.Bytes.Primary, r.Bytes.Secondary)
	}
	return r
}

func kernelTime(ns int64) *time.Time {
	if ns == 0 {
		return nil
	}
	t := time.Unix(0, ns).UTC()
	return &t
}

// flowOf describes a flow; the zero key is no flow.
func flowOf(k *frame.FlowKey) Flow {
	if *k == (frame.FlowKey{}) {
		return Flow{}
	}
	f := Flow{Kind: k.Kind.String(), Ether: k.Ether, Protocol: k.Proto, VLAN: k.VLAN, Text: k.String()}
	if k.Kind == frame.KindOther {
		f.Guest, f.Peer = fmt.Sprintf("%x", k.Guest[:6]), fmt.Sprintf("%x", k.Peer[:6])
		return f
	}
	f.Guest, f.Peer = netip.AddrFrom16(k.Guest).Unmap().String(), netip.AddrFrom16(k.Peer).Unmap().String()
	f.GuestPort, f.PeerPort = k.GuestPort, k.PeerPort
	if k.Kind != frame.KindTCP && k.Kind != frame.KindUDP {
		return f
	}
	g, p := service(f.Kind, k.GuestPort), service(f.Kind, k.PeerPort)
	f.Outgoing = k.GuestPort >= ephemeral && k.PeerPort < ephemeral || g == "" && p != ""
	f.Service = g
	if f.Outgoing {
		f.Service = p
	}
	return f
}

// ephemeral is the lowest port that Linux gives to clients (net.ipv4.ip_local_port_range).
const ephemeral = 32768

// differences are the ranges in which a and b differ; where one is longer, its rest does.
func differences(a, b []byte) [][2]int {
	var out [][2]int
	n := max(len(a), len(b))
	for i := range n {
		if i < len(a) && i < len(b) && a[i] == b[i] {
			continue
		}
		if k := len(out); k > 0 && out[k-1][1] == i {
			out[k-1][1]++
			continue
		}
		if len(out) == maxRanges {
			out[maxRanges-1][1] = n
			break
		}
		out = append(out, [2]int{i, i + 1})
	}
	return out
}

// Clean makes s harmless in a terminal and in any text format: what is not printable, not ASCII, or more than n bytes
// is escaped or cut.
func Clean(s string, n int) string {
	out := make([]byte, 0, min(len(s), n))
	for i := range len(s) {
		if len(out) >= n {
			return string(out) + "..."
		}
		if c := s[i]; c >= ' ' && c < 0x7f {
			out = append(out, c)
		} else {
			out = append(out, fmt.Sprintf(`\x%02x`, c)...)
		}
	}
	return string(out)
}

// Of is the report of a divergence that no collector has seen, such as one of a replay: without checkpoint and number.
func Of(v *compare.Divergence, at time.Time) *Report {
	r := fromDivergence(v)
	r.Time = at.UTC()
	r.Cause = Classify(r.evidence())
	return r
}
