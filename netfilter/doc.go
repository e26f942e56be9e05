// Package netfilter puts a guest's network traffic into colod's hands, and gives it back, with links and tc filters of
// the Linux kernel. It carries no frame itself.
//
//	clients -- bridge -- [<uplink>br = veth = <uplink>] -- tc -- [tap] -- guest
//
// A path has two hooks. The guest's hook is the ingress of the tap: frames from the guest. The clients' hook is the
// ingress of the uplink: frames to the guest. A hook is open (every frame is redirected to the other device) or closed
// (every frame is dropped, after packet sockets on the device have seen it). The [Mode] says which is which:
//
//	mode       guest's hook  clients' hook
//	Pass       open          open
//	Steal      closed        open
//	StealBoth  closed        closed
//	Mute       closed        closed
//
// The one invariant: a frame of the guest never gets past a closed hook, whoever dies. The filters are the kernel's and
// outlive the process; there is no address and no IPv6 on the devices, so that the host does not speak on them either;
// devices are up only while filters are on them.
//
// # Why no frame passes twice, and none escapes
//
// On each hook a drop has priority 1 and a redirect priority 2, and the first rule that matches decides. A frame meets
// the list of rules as it stands at one instant (the kernel changes it by one pointer, under RCU).
//
//   - Closing adds the drop, then removes the redirect behind it. The list goes {redirect}, {drop, redirect}, {drop}: the
//     adding is the instant of the change; before it frames pass once, after it none passes.
//   - Opening adds the redirect behind the drop, then removes the drop. The list goes {drop}, {drop, redirect},
//     {redirect}: the removing is the instant of the change.
//   - No list is ever empty, so that no frame reaches the host's own network stack, which would do nothing with it, but
//     would count as a loss that nobody sees.
//   - A process that dies between two of these steps leaves a hook as it was before or after the instant. Open sees a
//     rule too many and closes both hooks.
//
// In a change of both hooks, closing goes before opening, and the guest's hook is closed first and opened last. So the
// guest never speaks in a mode that is neither the old nor the new one. By transition:
//
//   - Pass to Steal: one instant on the guest's hook. What was seen by a packet socket before it has left by itself and
//     must not be sent again; what came after it waits for the caller. Socket frames carry the kernel's time, but the
//     instant lies somewhere within the call, and a frame which another processor handles at that time can still meet
//     the old list. Which frames have left is known exactly by a packet socket on the uplink, which sees them as
//     outgoing (package afpacket, Seam).
//   - Steal to Pass: the same instant backwards. The caller stops sending first; frames seen before the first one that
//     the uplink's socket sees as outgoing are its to send. A caller that sends on meanwhile sends a few frames twice.
//   - Pass or Steal to StealBoth or Mute: the guest's output closes, then its input. Meanwhile the guest hears and is
//     not heard, as in Steal.
//   - Mute or StealBoth to Steal or Pass: input opens, then output.
//   - StealBoth to Mute and back: nothing changes in the kernel; what differs is whether somebody carries the frames.
//
// # What is undone, and how it is known
//
// Every device that is made or adopted is marked by its alias (`ip link` shows "colod:OWNER"), and each change is
// written to a journal before it is made. The journal is locked while a process works on the path. Remove, and after a
// process was killed Clean, undo what stands in it. Filters need no entries: they go with the device, or with its
// clsact qdisc, which has one.
//
// # Kernel features
//
// tc's clsact qdisc, and for "every frame" the first that the kernel has of: a classic BPF program (cls_bpf), cls_u32
// without keys, cls_matchall; with act_mirred for the redirect, and, except with cls_bpf, act_gact for the drop. A
// redirect whose target was deleted drops. [Probe] tries all of it without touching anything.
package netfilter
