package colocompare

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"colod/compare"
	"colod/internal/chardev"
)

// TestNoFalseCheckpoints: our comparator asks for none, loses nothing and keeps the order, in every trace.
func TestNoFalseCheckpoints(t *testing.T) {
	for _, sp := range specs {
		t.Run(sp.name, func(t *testing.T) {
			dir := t.TempDir()
			end := func(i int) string { return "unix:" + filepath.Join(dir, socketNames[i]) + ",server" }
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			done := make(chan error, 1)
			go func() {
				_, err := chardev.Serve(ctx, chardev.Options{Primary: end(0), Secondary: end(1), Out: end(2), Notify: end(3), Hold: 20 * time.Second,
					Diverged: func(d compare.Divergence) { t.Errorf("diverged: %+v", d) }})
				done <- err
			}()
			p := &peer{pid: os.Getpid()}
			for i, n := range socketNames {
				for {
					c, err := net.Dial("unix", filepath.Join(dir, n))
					if err == nil {
						if p.fds[i], err = take(c); err != nil {
							t.Fatal(err)
						}
						break
					}
					if ctx.Err() != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Millisecond)
				}
			}
			f := newFeeder(p, sp.build(4096))
			for range 3 {
				if err := f.loop(ctx); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if o := f.out; o.asked+o.checkpoints+o.stalls+o.reordered+o.lost != 0 {
				t.Errorf("%+v", o)
			}
		})
	}
}
