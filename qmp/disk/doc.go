// Package disk replicates the disks of a protected guest with what QEMU has for it (quorum, replication and NBD
// drivers), driven over QMP.
//
// On the speaker every replicated disk is a quorum of one image, so that a second child, the other
// node's image behind NBD, can be added while the guest runs. On the secondary's node the image (the
// base) takes the primary's writes as they come; two overlays keep the two guests apart: hidden holds
// what the primary has overwritten since the last checkpoint, active what the secondary's own guest
// has written. A checkpoint empties both. A takeover commits them into the base while the guest runs.
//
// The package is in three parts. Planning (layout.go, graph.go) is pure. The procedures (sync.go,
// secondary.go, leave.go, bitmap.go) send commands to one QEMU. What is kept on the host (image.go,
// overlay.go, ledger.go) is checked before a launch, so that an operator reads a cure and not a
// symptom. Stream (stream.go) carries the NBD connections between the nodes and is their fence.
//
// The invariant it keeps: a guest is never started from an image that is not the newest whole one as
// far as this node can know. An unfinished copy, an image that another node has left behind, and
// overlays that hold the truth are told apart by the ledger, and refused or repaired.
package disk
