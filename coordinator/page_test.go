//go:build web

package coordinator

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/compare"
	"colod/coordinator/web"
	"colod/internal/browser"
	"colod/internal/frame"
	"colod/internal/loghist"
	"colod/proxy"
)

// Chromium as Debian installs it.
const chromium = "/usr/bin/chromium"

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
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()

	b, err := browser.Start(chromium, 1280, 900)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	page := "https://" + address + "/"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v; the page complains of %q; log:\n%s", err, b.Problems(), a.log)
		}
	}
	await := func(expression string) { t.Helper(); must(b.Await(ctx, expression)) }
	run := func(expression string) { t.Helper(); must(b.Eval(expression, nil)) }
	picture := func(name string) {
		t.Helper()
		if dir := os.Getenv("COLOD_PICTURES"); dir != "" {
			must(b.Picture(filepath.Join(dir, name+".png"), true))
		}
	}
	signIn := func(token string) {
		t.Helper()
		await("!document.getElementById('login').hidden")
		run(fmt.Sprintf("document.getElementById('token').value = %q; document.querySelector('#login-form button').click()", token))
		await("document.getElementById('live').textContent === 'live'")
	}
	must(b.Go(page))
	await("document.readyState === 'complete' && document.getElementById('live').textContent === 'not signed in'")
	picture("login")

	// To look is not to operate.
	signIn(readToken)
	await("document.getElementById('who').textContent === 'viewer, may read'")
	await("document.getElementById('pair-state').textContent === 'protected'")
	await("document.getElementById('actions').hidden")
	await("document.querySelectorAll('#events tbody tr').length > 0")

	// Values change.
	var first string
	must(b.Eval("document.getElementById('facts').textContent", &first))
	await(fmt.Sprintf("document.getElementById('facts').textContent !== %q", first))
	await("document.querySelector('.chart .line0').getAttribute('d').length > 20")

	// Divergences and their reports.
	for id := uint32(1); id <= 12; id++ {
		diverge(a.plat.dataPath(), id)
	}
	await("document.querySelectorAll('#divergences .bar').length > 1")
	await("document.querySelectorAll('#reports tbody tr').length > 0")
	p.awaitState("a", "protected", "speaker")

	// Out, and in again with the other role.
	run("document.getElementById('leave').click()")
	signIn(opToken)
	await("!document.getElementById('actions').hidden")
	run("[...document.querySelectorAll('#actions button')].find(b => b.textContent === 'Checkpoint').click()")
	await("document.getElementById('confirm').open")
	picture("confirm")
	run("document.getElementById('confirm-yes').click()")
	await("document.getElementById('action-outcome').textContent.startsWith('Checkpoint: done')")

	if os.Getenv("COLOD_PICTURES") != "" {
		for id := uint32(13); id <= 40; id++ {
			diverge(a.plat.dataPath(), id)
			time.Sleep(500 * time.Millisecond)
		}
		picture("light")
		must(b.Dark(true))
		picture("dark")
		must(b.Resize(420, 900))
		picture("narrow")
		must(b.Resize(1280, 900))
		must(b.Dark(false))
	}

	// A failover, with a reason that is not to become markup or more.
	p.vm("a").die("<img src=x onerror=alert(1)>\x1b[31m\u202e<script>alert(2)</script>")
	await("[...document.querySelectorAll('#roles .node')].some(n => n.textContent.startsWith('b') && n.textContent.includes('speaker'))")
	await("document.getElementById('events').textContent.includes('<img src=x')")
	p.protected("b", "a")
	await("document.getElementById('pair-state').textContent === 'protected'")
	picture("failover")
	var markup bool
	must(b.Eval("document.querySelectorAll('main img, main script, table img').length > 0 || document.body.textContent.includes('\\u202e')", &markup))
	if markup {
		t.Error("a reason became markup, or turns the text around")
	}

	// Everything in order.
	if problems := b.Problems(); len(problems) > 0 {
		t.Errorf("the page complains: %q", problems)
	}
	for _, r := range b.Requests() {
		if !strings.HasPrefix(r, page) {
			t.Errorf("the page asked for %s", r)
		}
	}
	if len(b.Requests()) < 10 {
		t.Errorf("requests: %q", b.Requests())
	}

	// The node goes away, and the page says so.
	a.stop(t)
	await("document.getElementById('live').textContent === 'not answering'")
}
