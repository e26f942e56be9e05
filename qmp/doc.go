// Package qmp drives one QEMU virtual machine: it launches or adopts the process, speaks to its
// monitor (QEMU Machine Protocol), and carries out the COLO procedures: prepare a secondary, start
// protection, trigger checkpoints, take over. Package relay below it carries the state stream.
//
// It knows nothing of pairs, peers or who may speak: it does what it is told to one VM and reports
// what that VM did, in order. It never decides a takeover, and it never starts one by itself.
//
// The invariant it keeps: no call waits for QEMU longer than its context allows, and a command whose
// reply did not come in time is reported as "state unknown" ([ErrNoReply]), never as done or undone.
package qmp
