// Package chardev is a drop-in for QEMU's colo-compare object: it takes the frames of both guests from two stream
// sockets in QEMU's framing, releases the primary's to a third, and reports divergences on a fourth.
//
// It runs compare.Describer and compare.Engine in one process, on one thread with one poll loop. Framing (QEMU's
// net/filter-mirror and net/colo-compare): the frame's length, 4 bytes, big endian; where virtio-net headers are carried
// their length, 4 bytes, big endian; then the frame, which begins with that header. On the notify socket the text
// DO_CHECKPOINT goes out at a divergence, and the text COLO_CHECKPOINT says that one was done; both are framed by
// their length alone.
//
// In that chain nobody tells the comparator what clients have acknowledged, so a part of the secondary's released bytes is kept
// for a while (Options.Keep) and not until the acknowledgement. A primary that repeats what is not kept any more
// makes a divergence.
package chardev
