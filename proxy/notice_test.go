package proxy

import (
	"slices"
	"testing"

	"colod/compare"
)

// BenchmarkNotification is the price of "log, then output, then notify": the same frames with the other node being told
// what was released, its taking note of it included, and without. The difference is the price of the notification;
// its bytes on the link are reported beside it.
func BenchmarkNotification(b *testing.B) {
	for _, c := range []struct {
		name string
		told bool
	}{{"told", true}, {"untold", false}} {
		for _, n := range []int{64, 1448, 60000} {
			b.Run(c.name+map[int]string{64: "/64B", 1448: "/1448B", 60000: "/60000B"}[n], func(b *testing.B) {
				d := newDuplex(b, n)
				var bytes, frames int
				d.toB = func() error {
					if !c.told {
						d.a.link.plain = d.a.link.plain[:0]
						return nil
					}
					bytes += len(d.a.link.plain)
					d.b.link.in, d.b.link.inOff = d.a.link.plain, 0
					for {
						m, err := d.b.link.next()
						if m == nil || err != nil {
							d.a.link.plain = d.a.link.plain[:0]
							return err
						}
						if err := d.b.message(m); err != nil {
							return err
						}
					}
				}
				d.untold = !c.told
				b.ReportAllocs()
				for b.Loop() {
					if err := d.step(); err != nil {
						b.Fatal(err)
					}
					frames++
				}
				b.ReportMetric(float64(bytes)/float64(frames), "link-B/frame")
			})
		}
	}
}

// dropNotices takes the watermarks out of what the engine says.
func dropNotices(e *compare.Tapped) {
	out := e.Out()
	out.Messages = slices.DeleteFunc(out.Messages, func(m compare.Message) bool { return m.Kind == compare.MessageWatermark })
}
