// Package proxy is the data path of a pair: it takes what a guest sends before
// the network sees it, and decides, with package compare, when it may go.
//
// One goroutine a pair (its "thread") owns everything: it reads the guest's tap through a
// packet socket, gives frames to the pure comparison, sends what is released out
// of the uplink, and speaks with the data path of the other node over one
// connection. There is no hand-over between goroutines per frame. Frames keep their
// virtio-net header all the way, so a 64 KiB segment of the guest stays one
// frame and no checksum is computed.
//
// The invariant that this package keeps is output commit: a frame leaves the
// uplink only because the other side's output agrees with it, because a completed
// checkpoint covers it, or because the caller said, by GoSolo or Solo, that the
// arbiter's record lets this node speak alone. When in doubt it stays silent.
//
// It refuses to decide anything about roles: checkpoints, promotion and the loss
// of a peer are the coordinator's business, which calls the methods of Proxy.
package proxy
