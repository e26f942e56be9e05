package coordinator

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"colod/compare"
	"colod/coordinator/web"
	"colod/internal/browser"
	"colod/internal/frame"
	"colod/internal/loghist"
	"colod/proxy"
)

// busy is a data path with traffic: some thousand frames a second.
func busy(d *fakeData) {
	began := time.Now()
	delay, hold := new(loghist.Hist), new(loghist.Hist)
	was := began
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count = func(s *proxy.Stats) { // with d.mu held
		now := time.Now()
		sec := now.Sub(began).Seconds()
		for i := range int(now.Sub(was).Seconds() * 300) {
			w := time.Duration((180 + 60*math.Sin(sec/5) + float64(i%17)*4) * float64(time.Microsecond))
			hold.Add(w)
			if i%50 == 0 {
				w *= 40
			}
			delay.Add(w)
		}
		was = now
		frames := uint64(sec * (3000 + 800*math.Sin(sec/9)))
		s.ReleasedFrames, s.ReleasedBytes, s.Agreed, s.Covered = frames, frames*900, frames*97/100, frames*3/100
		s.LinkIn, s.LinkOut, s.Mirrored = uint64(sec*180e3), uint64(sec*420e3), frames/2
		s.Held, s.Budget, s.Mode = int(sec)%7, 5*time.Millisecond, "steal"
		dc, hc := *delay, *hold
		s.Delay, s.Hold = &dc, &hc
		s.HoldP50, s.HoldP99 = delay.Quantile(0.5), delay.Quantile(0.99)
	}
}

// diverge tells the driver of differences, as a data path does.
func diverge(d *fakeData, id uint32) {
	key := frame.FlowKey{Kind: frame.KindTCP, Guest: netip.MustParseAddr("192.0.2.10").As16(), Peer: netip.MustParseAddr("192.0.2.1").As16(), GuestPort: 80, PeerPort: 43210}
	reasons := []compare.Reason{compare.ReasonPayload, compare.ReasonPayload, compare.ReasonPayload, compare.ReasonLength, compare.ReasonSilenceSecondary}
	d.events(proxy.Diverged{Divergence: compare.Divergence{
		ID: id, Reason: reasons[int(id)%len(reasons)], Key: key, Exact: true, Position: uint64(id) * 137,
		Primary: []byte("Date: Sat, 21 Nov 2026 12:00:01 GMT"), Secondary: []byte("Date: Sat, 21 Nov 2026 12:00:02 GMT"), Detail: "<img src=x onerror=alert(1)>",
	}})
}

// TestPage drives the page in Chromium: sign in, live values, a failover as
// it happens, an operation, and hostile words; no error, no foreign host.
// With COLOD_PICTURES it leaves pictures in that directory.
func TestPage(t *testing.T) {
	p := newTestPair(t)
	readToken, readLine, err := web.NewToken("viewer", web.Read)
	if err != nil {
		t.Fatal(err)
	}
	opToken, opLine, err := web.NewToken("operator", web.Operate)
	if err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(p.dir, "tokens")
	if err := os.WriteFile(tokens, []byte(readLine+"\n"+opLine+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddr(t)
	p.extra = fmt.Sprintf("api: {listen: %q, tokens: %q}\n", address, tokens)
	a := p.start("a")
	p.extra = ""
	p.start("b")
	p.protected("a", "b")
	busy(a.plat.dataPath())
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	err = browser.Run(ctx, browser.Script{
		Name: "page.mjs", Log: func(s string) { t.Log(s) },
		Env: []string{"COLOD_URL=https://" + address + "/", "COLOD_READ=" + readToken, "COLOD_OPERATE=" + opToken},
		Answers: browser.Answers{
			"diverge": func(n string) (string, error) {
				last, err := strconv.ParseUint(n, 10, 32)
				for id := range uint32(last) {
					diverge(a.plat.dataPath(), id+1)
				}
				return "", err
			},
			"protected": func(string) (string, error) {
				p.awaitState("a", "protected", "speaker")
				return "", nil
			},
			"fail": func(reason string) (string, error) {
				p.vm("a").die(reason)
				return "", nil
			},
			"protected again": func(string) (string, error) {
				p.protected("b", "a")
				return "", nil
			},
			"stop": func(string) (string, error) {
				a.stop(t)
				return "", nil
			},
		},
	})
	if err != nil {
		t.Errorf("%v; log:\n%s", err, a.log)
	}
}
