package relay

import (
	"fmt"
	"io"
	"testing"
	"time"
)

// BenchmarkState is the way of a checkpoint's state from one QEMU to the other: two unix sockets, two relays and a TCP
// connection, encrypted or not, and without TLS by splice or by copying.
func BenchmarkState(b *testing.B) {
	for _, way := range []struct {
		name            string
		encrypt, copies bool
	}{{"tls", true, false}, {"splice", false, false}, {"copy", false, true}} {
		for _, chunk := range []int{4 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", way.name, chunk>>10), func(b *testing.B) {
				x := newChainOpt(b, way.encrypt, way.copies)
				for _, c := range []interface{ SetDeadline(time.Time) error }{x.prim, x.sec} {
					if err := c.SetDeadline(time.Time{}); err != nil {
						b.Fatal(err)
					}
				}
				out, in := make([]byte, chunk), make([]byte, chunk)
				failed := make(chan error, 1)
				b.SetBytes(int64(chunk))
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					go func() {
						_, err := x.prim.Write(out)
						failed <- err
					}()
					if _, err := io.ReadFull(x.sec, in); err != nil {
						b.Fatal(err)
					}
					if err := <-failed; err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
