// Package sim is a deterministic simulation of protected guests: two or three nodes with the real pair machines, the
// real comparison, the real input log and the real data path, and models of all that surrounds them: arbiter, QEMU with
// COLO, guests with TCP, UDP and ICMP servers, clients, the switch, the connections between nodes, clocks.
//
// One seed is one story. Everything that happens follows from it: what clients ask for, how guests differ, which faults
// come when. After every step the invariants of docs/architecture.md are looked at:
//
//   - output alone leaves a node only while the arbiter's record names it as speaker and nobody as standby;
//   - what leaves a protected speaker has been said by the secondary's guest too, or is covered by a checkpoint;
//   - no acknowledgement of client bytes leaves while the secondary's node has not got them;
//   - each byte of a stream, its beginning and its end are decided once, whoever says them and however often;
//   - a datagram is not sent again by a node that was told of its release;
//   - guests get the bytes that clients sent, and no living connection is reset;
//   - once faults have stopped, the pair is protected again within bounded time and every client is served.
//
// The models of the surroundings promise no more than the real ones do: an arbiter's write may time out and be applied
// late or never, a connection delivers in order or breaks, the clients' network loses, repeats and reorders.
//
// A failing seed is run again with a story of what happened: go test ./internal/sim -run TestSeeds -seed N -v.
// Mutations are deliberate faults; TestMutations shows that the checks find each of them.
package sim
