package metrics

// Type of a metric, in Prometheus' words.
type Type string

// Types used here.
const (
	Counter   Type = "counter"
	Gauge     Type = "gauge"
	Histogram Type = "histogram"
)

// Family is one documented metric.
type Family struct {
	Name   string
	Type   Type
	Unit   string // "" for a plain number
	Labels []string
	Help   string
}

// Families are all of colod's own metrics, in the order of the documentation.
// They are a stable interface: alert rules and dashboards name them.
func Families() []Family { return append([]Family(nil), families...) }

var families = []Family{
	{"colod_build_info", Gauge, "", []string{"node", "version"}, "Always 1; the labels say which node and which version."},
	{"colod_start_time_seconds", Gauge, "seconds", nil, "When this colod started, in Unix time."},
	{"colod_certificate_expiry_time_seconds", Gauge, "seconds", nil, "When the node's certificate ends, in Unix time."},
	{"colod_events_lost_total", Counter, "", nil, "Events that could not be kept on disk."},

	{"colod_supervised_parts", Gauge, "", []string{"state"}, "Supervised parts of the node by their state: new, ok, suspect, failed."},
	{"colod_supervision_failures_total", Counter, "", []string{"part"}, "How often a supervised part was found to have failed, by its kind: arbiter, guest, heartbeats, loop, node, output, path, proxy, or vm, which is a hung virtual machine."},
	{"colod_supervision_actions_total", Counter, "", []string{"part"}, "Actions of the watchdog, by the kind of the part for which they were taken."},
	{"colod_supervision_actions_held_total", Counter, "", nil, "Times that an action of the watchdog was due and was held back, since there had been too many."},
	{"colod_heartbeat_restarts_total", Counter, "", nil, "How often the process that exchanges heartbeats had ended and was started again."},

	{"colod_peer_up", Gauge, "", []string{"peer"}, "1 while the other node answers."},
	{"colod_peer_rtt_seconds", Gauge, "seconds", []string{"peer"}, "Round trip of heartbeats to the other node."},
	{"colod_path_up", Gauge, "", []string{"peer", "path"}, "1 while heartbeats come over the path; path 0 is that of the nodes' addresses."},
	{"colod_path_rtt_seconds", Gauge, "seconds", []string{"peer", "path"}, "Median round trip of the last heartbeats over the path."},
	{"colod_path_heartbeats_lost_total", Counter, "", []string{"peer", "path"}, "Heartbeats over the path that were not answered."},

	{"colod_pair_state", Gauge, "", []string{"pair", "state"}, "1 for the state in which the pair is on this node, 0 for all others."},
	{"colod_pair_state_since_time_seconds", Gauge, "seconds", []string{"pair"}, "Since when the pair is in its state, in Unix time."},
	{"colod_pair_speaker", Gauge, "", []string{"pair"}, "1 if this node's guest is the one that clients hear."},
	{"colod_pair_protected", Gauge, "", []string{"pair"}, "1 while either side may be lost without loss of service."},
	{"colod_pair_paused", Gauge, "", []string{"pair"}, "1 while the guest is stopped by its operator."},
	{"colod_pair_maintenance", Gauge, "", []string{"pair"}, "1 while maintenance holds automatic actions."},
	{"colod_pair_vm_runs", Gauge, "", []string{"pair"}, "1 while a virtual machine of the pair runs on this node."},
	{"colod_pair_generation", Gauge, "", []string{"pair"}, "Generation of the arbiter's record; it grows at every change of roles."},

	{"colod_released_frames_total", Counter, "", []string{"pair", "why"}, "Frames of the guest that were let out: agreed (both sides said them), covered (by a checkpoint), alone (by the record's authority)."},
	{"colod_released_bytes_total", Counter, "bytes", []string{"pair"}, "Bytes of the guest that were let out."},
	{"colod_hold_seconds", Histogram, "seconds", []string{"pair"}, "How long frames on which both sides agreed waited for that."},
	{"colod_release_delay_seconds", Histogram, "seconds", []string{"pair"}, "How long released frames waited, whatever for: the delay that clients see."},
	{"colod_hold_budget_seconds", Gauge, "seconds", []string{"pair"}, "How long a frame may wait for agreement before a checkpoint is taken."},
	{"colod_held_frames", Gauge, "", []string{"pair"}, "Frames that wait now."},
	{"colod_mirrored_frames_total", Counter, "", []string{"pair"}, "Input frames passed on to, or received from, the other side."},
	{"colod_lost_frames_total", Counter, "", []string{"pair", "direction"}, "Frames of the guest (out) and of clients (in) that were lost before comparison; a checkpoint heals it."},
	{"colod_rewritten_connections", Gauge, "", []string{"pair"}, "Connections that lived through a takeover and still live."},
	{"colod_link_bytes_total", Counter, "bytes", []string{"pair", "direction"}, "Bytes over the net link between the nodes, before encryption."},

	{"colod_checkpoints_total", Counter, "", []string{"pair"}, "Checkpoints taken with this node as speaker."},
	{"colod_checkpoint_reasons_total", Counter, "", []string{"pair", "reason"}, "Reasons of checkpoints; one may have several."},
	{"colod_checkpoint_state_bytes_total", Counter, "bytes", []string{"pair"}, "State sent by checkpoints, without the first copy."},
	{"colod_checkpoint_stop_seconds", Histogram, "seconds", []string{"pair"}, "How long the guest stood still for a checkpoint."},
	{"colod_checkpoint_transfer_seconds", Histogram, "seconds", []string{"pair"}, "How long the state of a checkpoint took to the other side."},
	{"colod_checkpoint_phase_seconds", Histogram, "seconds", []string{"pair", "phase"}, "How long the phases of checkpoints took, which follow each other: buffer (output waited before the request), request (until the guest stood still), transfer (until the other side had all of the state), load (until the guest ran again), release (until the output was sent)."},
	{"colod_checkpoint_delay_seconds", Histogram, "seconds", []string{"pair"}, "The sum of a checkpoint's phases: how long the oldest output that it let out had waited, the longest delay that clients see."},
	{"colod_divergences_total", Counter, "", []string{"pair", "reason"}, "Differences between the two guests' output."},
	{"colod_divergence_reports_total", Counter, "", []string{"pair", "cause"}, "Divergences with a report, by the cause that the report names."},
	{"colod_tolerance_uses_total", Counter, "", []string{"pair", "rule"}, "Differences that a tolerance hid."},
	{"colod_tolerance_bytes_total", Counter, "bytes", []string{"pair", "rule"}, "Bytes that differed and that a tolerance hid; of datagrams that are not compared, all bytes."},
	{"colod_tolerance_divergences_total", Counter, "", []string{"pair", "rule"}, "Divergences in connections in which a tolerance had hidden something since the last checkpoint: it may hide too much."},
	{"colod_divergence_reports_left_out_total", Counter, "", []string{"pair", "why"}, "Divergences without a report: too many at once (rate, queue), or no room (disk)."},
}
