package etcd

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"colod/coordinator/arbiter"
)

func TestSwap(t *testing.T) {
	c := newCluster(t, 1)
	a, b := c.open(t), c.open(t)
	ctx := within(t, longEnough)
	if r, err := a.Get(ctx, "p"); err != nil || r.Exists() {
		t.Fatalf("record before the first swap: %v, %v", r, err)
	}
	r1 := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	holds(t, b, r1)

	// Another one comes too late, whether it has seen the record or not.
	for _, x := range []*Arbiter{b, c.open(t)} {
		got, err := x.Swap(ctx, arbiter.Record{}, record("p", 1, "b", ""))
		if !errors.Is(err, arbiter.ErrLost) || got != r1 {
			t.Fatalf("second creation: %v, %v", got, err)
		}
	}
	r2 := must(t, a, r1, record("p", 2, "a", "b"))
	r3 := must(t, b, r2, record("p", 3, "b", ""))
	got, err := a.Swap(ctx, r2, record("p", 3, "a", "")) // its memory of the key is old
	if !errors.Is(err, arbiter.ErrLost) || got != r3 {
		t.Fatalf("swap of a record that is no more: %v, %v", got, err)
	}
	// The whole record counts, not only its generation.
	other := r3
	other.Reason = "something else"
	if got, err := a.Swap(ctx, other, record("p", 4, "a", "")); !errors.Is(err, arbiter.ErrLost) || got != r3 {
		t.Fatalf("swap of a record that never was: %v, %v", got, err)
	}
	ended := record("p", 4, "b", "")
	ended.Ended = true
	must(t, b, r3, ended)
	holds(t, a, ended)

	// Pairs and prefixes are apart.
	must(t, a, arbiter.Record{}, record("q", 1, "b", ""))
	x := c.open(t, func(cfg *Config) { cfg.Prefix = "/other" })
	if r, err := x.Get(ctx, "p"); err != nil || r.Exists() {
		t.Errorf("another prefix: %v, %v", r, err)
	}
	holds(t, a, ended)
}

func TestSwapRefusesWhatNoCallerMeans(t *testing.T) {
	c := newCluster(t, 1)
	a := c.open(t)
	for name, tc := range map[string]struct{ prev, next arbiter.Record }{
		"generation left out":  {arbiter.Record{}, record("p", 2, "a", "")},
		"same generation":      {record("p", 1, "a", ""), record("p", 1, "b", "")},
		"no speaker":           {arbiter.Record{}, record("p", 1, "", "")},
		"speaker is standby":   {arbiter.Record{}, record("p", 1, "a", "a")},
		"two pairs":            {record("p", 1, "a", ""), record("q", 2, "a", "")},
		"name with a slash":    {arbiter.Record{}, record("p/q", 1, "a", "")},
		"no name":              {arbiter.Record{}, record("", 1, "a", "")},
		"more than a record":   {arbiter.Record{}, arbiter.Record{Pair: "p", Generation: 1, Speaker: "a", Reason: strings.Repeat("x", maxRecord)}},
		"ended with a standby": {arbiter.Record{}, arbiter.Record{Pair: "p", Generation: 1, Speaker: "a", Standby: "b", Ended: true}},
	} {
		_, err := a.Swap(within(t, longEnough), tc.prev, tc.next)
		if err == nil || errors.Is(err, arbiter.ErrLost) || errors.Is(err, arbiter.ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := a.Get(within(t, longEnough), "p"); err != nil || r.Exists() {
		t.Errorf("something was written: %v, %v", r, err)
	}
	if _, err := a.Get(within(t, longEnough), "../x"); err == nil {
		t.Error("a name that leaves the prefix was read")
	}
}

// put writes raw values behind the arbiter's back.
func (c *cluster) put(t *testing.T, a *Arbiter, key, value string) {
	t.Helper()
	if _, err := a.endpoints[0].kv.Put(within(t, longEnough), key, value); err != nil {
		t.Fatal(err)
	}
}

func TestForeignValuesAreNeverOverwritten(t *testing.T) {
	c := newCluster(t, 1)
	a := c.open(t)
	good, err := encodeRecord(record("p", 1, "a", ""), "writer")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ value, want string }{
		"not JSON":      {"hello", "not a record"},
		"empty":         {"", "not a record"},
		"newer format":  {strings.Replace(string(good), recordFormat, "colod-record-2", 1), "newer colod"},
		"cut short":     {string(good[:len(good)-5]), "not a record"},
		"unknown field": {strings.Replace(string(good), `"writer"`, `"x":1,"writer"`, 1), "unknown field"},
		"another pair":  {strings.Replace(string(good), `"pair":"p"`, `"pair":"q"`, 1), `of pair "q"`},
		"no writer":     {strings.Replace(string(good), `"writer":"writer"`, `"writer":""`, 1), "which swap"},
		"two":           {string(good) + string(good), "not a record"},
		"huge":          {string(good) + strings.Repeat(" ", maxRecord), "larger"},
	} {
		c.put(t, a, a.recordKey("p"), tc.value)
		var corrupt *CorruptError
		_, err := a.Get(within(t, longEnough), "p")
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "/colod/pairs/p/record") {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		_, err = a.Swap(within(t, longEnough), arbiter.Record{}, record("p", 1, "a", ""))
		if !errors.As(err, &corrupt) || errors.Is(err, arbiter.ErrUnknown) {
			t.Errorf("%s: swap: %v", name, err)
		}
		res, err := a.endpoints[0].kv.Get(within(t, longEnough), a.recordKey("p"))
		if err != nil || string(res.Kvs[0].Value) != tc.value {
			t.Errorf("%s: the value was changed", name)
		}
	}
}

func TestRecordThatWentBack(t *testing.T) {
	c := newCluster(t, 1)
	a := c.open(t)
	r1 := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	old := func() string {
		res, err := a.endpoints[0].kv.Get(within(t, longEnough), a.recordKey("p"))
		if err != nil {
			t.Fatal(err)
		}
		return string(res.Kvs[0].Value)
	}()
	r2 := must(t, a, r1, record("p", 2, "a", "b"))
	check := func(what string) {
		t.Helper()
		var back *WentBackError
		if _, err := a.Get(within(t, longEnough), "p"); !errors.As(err, &back) || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s: read: %v", what, err)
		}
		_, err := a.Swap(within(t, longEnough), r2, record("p", 3, "a", ""))
		if !errors.As(err, &back) || errors.Is(err, arbiter.ErrUnknown) || errors.Is(err, arbiter.ErrLost) {
			t.Errorf("%s: swap: %v", what, err)
		}
	}
	c.put(t, a, a.recordKey("p"), old)
	check("older record")
	if _, err := a.endpoints[0].kv.Delete(within(t, longEnough), a.recordKey("p")); err != nil {
		t.Fatal(err)
	}
	check("no record")

	// A colod that starts later has seen nothing else and takes it as it is.
	c.put(t, a, a.recordKey("p"), old)
	holds(t, c.open(t), r1)
}

// TestSameRecordWrittenAgain: only the record counts for a swap, and not when or by which hand it was written.
func TestSameRecordWrittenAgain(t *testing.T) {
	c := newCluster(t, 1)
	a := c.open(t)
	r1 := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	same, err := encodeRecord(r1, "hand")
	if err != nil {
		t.Fatal(err)
	}
	c.put(t, a, a.recordKey("p"), string(same))
	must(t, a, r1, record("p", 2, "a", "b"))
}

func TestUnansweredSwapIsDecidedByTheNextMember(t *testing.T) {
	c := newCluster(t, 3)
	a := c.open(t)
	r1 := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	// The swap reaches a member, but its answer never comes back.
	drop := &deaf{}
	a = c.open(t, func(cfg *Config) { cfg.Dial = drop.dialer(cfg.Dial) })
	holds(t, a, r1)
	for i := range uint64(10) {
		drop.on(c.Endpoints()[a.preferred.Load()])
		r := must(t, a, r1, record("p", 2+i, "a", ""))
		r1 = r
		drop.off()
	}
	holds(t, c.open(t), r1)
}

func TestUnansweredSwapIsUnknown(t *testing.T) {
	c := newCluster(t, 1)
	drop := &deaf{}
	a := c.open(t, func(cfg *Config) { cfg.Dial = drop.dialer(cfg.Dial) })
	r1 := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	drop.on(c.Endpoints()[0])
	r2 := record("p", 2, "a", "b")
	began := time.Now()
	_, err := a.Swap(within(t, 2*time.Second), r1, r2)
	t.Logf("after %v: %v", time.Since(began), err)
	var e *Error
	if !errors.Is(err, arbiter.ErrUnknown) || !errors.As(err, &e) || !e.Unknown {
		t.Fatalf("swap without answer: %v", err)
	}
	if !strings.Contains(err.Error(), c.Endpoints()[0]) || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("the error names neither endpoint nor cause: %v", err)
	}
	drop.off()
	// It had been carried out.
	holds(t, a, r2)
	// And who asks for the same again learns that the record is no longer what it takes it for.
	if got, err := a.Swap(within(t, longEnough), r1, r2); !errors.Is(err, arbiter.ErrLost) || got != r2 {
		t.Errorf("the same swap again: %v, %v", got, err)
	}
}

func TestFrozenMember(t *testing.T) {
	c := newCluster(t, 1)
	a := c.open(t)
	r1 := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	if err := c.Pause(0); err != nil {
		t.Fatal(err)
	}
	r2 := record("p", 2, "a", "b")
	_, err := a.Swap(within(t, 4*time.Second), r1, r2)
	if !errors.Is(err, arbiter.ErrUnknown) {
		t.Fatalf("swap at a frozen member: %v", err)
	}
	if _, err := a.Get(within(t, 2*time.Second), "p"); err == nil || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("read at a frozen member: %v", err)
	}
	if err := c.Continue(0); err != nil {
		t.Fatal(err)
	}
	// Whatever waited there is carried out or not; then the record tells, and the same swap decides if it was not.
	got, err := a.Get(within(t, longEnough), "p")
	if err != nil {
		t.Fatal(err)
	}
	switch got {
	case r2:
	case r1:
		if cur, err := a.Swap(within(t, longEnough), r1, r2); cur != r2 {
			t.Fatalf("swap again: %v, %v", cur, err)
		}
	default:
		t.Fatalf("record is %v", got)
	}
	holds(t, c.open(t), r2)
}

func TestFrozenMembersOfThree(t *testing.T) {
	c := newCluster(t, 3)
	a := c.open(t)
	r := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	for i := range 3 {
		// The one that is asked first, and after it the others.
		if err := c.Pause(i); err != nil {
			t.Fatal(err)
		}
		a.preferred.Store(uint32(i))
		began := time.Now()
		r = must(t, a, r, record("p", r.Generation+1, "a", ""))
		t.Logf("member %d frozen: swap took %v", i, time.Since(began))
		if err := c.Continue(i); err != nil {
			t.Fatal(err)
		}
	}
	// Without a majority nothing is decided, and nothing is lost.
	for i := range 2 {
		if err := c.Pause(i); err != nil {
			t.Fatal(err)
		}
	}
	_, err := a.Swap(within(t, 2*time.Second), r, record("p", r.Generation+1, "a", "b"))
	if !errors.Is(err, arbiter.ErrUnknown) {
		t.Errorf("swap with one of three: %v", err)
	}
	for i := range 2 {
		if err := c.Continue(i); err != nil {
			t.Fatal(err)
		}
	}
	got, err := a.Get(within(t, longEnough), "p")
	if err != nil || got.Generation < r.Generation || got.Generation > r.Generation+1 {
		t.Errorf("record afterwards: %v, %v", got, err)
	}
}

func TestAwayAndBack(t *testing.T) {
	c := newCluster(t, 1)
	a := c.open(t)
	r := must(t, a, arbiter.Record{}, record("p", 1, "a", ""))
	for i := range 3 {
		if err := c.Stop(0); err != nil {
			t.Fatal(err)
		}
		_, err := a.Get(within(t, 3*time.Second), "p")
		if err == nil || !strings.Contains(err.Error(), c.Endpoints()[0]) || !strings.Contains(err.Error(), "start etcd") {
			t.Errorf("read without etcd: %v", err)
		}
		_, err = a.Swap(within(t, time.Second), r, record("p", r.Generation+1, "b", ""))
		if err == nil || errors.Is(err, arbiter.ErrLost) {
			t.Errorf("swap without etcd: %v", err)
		}
		if errors.Is(err, arbiter.ErrUnknown) {
			t.Errorf("a swap that nothing listened to is called unknown: %v", err)
		}
		// While it is away, too, an arbiter can be opened.
		late := c.open(t)
		if err := c.Restart(0); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := c.WaitHealthy(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		holds(t, a, r)
		t.Logf("round %d: back %v after its start", i, time.Since(began))
		holds(t, late, r)
		r = must(t, late, r, record("p", r.Generation+1, "a", ""))
		holds(t, a, r)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	c := newCluster(t, 1)
	a := c.open(t)
	if err := c.Pause(0); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.Get(context.Background(), "p")
		done <- err
	}()
	time.Sleep(50 * time.Millisecond)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("a read of a closed arbiter succeeded")
	}
	if _, err := a.Get(context.Background(), "p"); err == nil {
		t.Error("a read after Close succeeded")
	}
	if err := c.Continue(0); err != nil {
		t.Fatal(err)
	}
}

// history is every record of a pair that etcd ever held, in order.
func (c *cluster) history(t *testing.T, a *Arbiter, pair string, last uint64) []stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	var all []stored
	for res := range a.endpoints[a.preferred.Load()].client.Watch(ctx, a.recordKey(pair), clientv3.WithRev(1)) {
		for _, ev := range res.Events {
			st, why := decodeRecord(ev.Kv.Value, pair)
			if why != "" {
				t.Fatal(why)
			}
			all = append(all, st)
			if st.Record.Generation == last {
				return all
			}
		}
	}
	t.Fatal("the history has no end")
	return nil
}
