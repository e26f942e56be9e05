package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"colod/internal/lab"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
)

// finish runs clients that end by themselves and checks their reports.
func finish(t *testing.T, l *lab.Lab, limit time.Duration, loads ...client.Load) []client.Report {
	t.Helper()
	reports, err := begin(t, l, nil, loads...).Await(limit, func(r client.Report) bool { return r.Done })
	if err != nil {
		t.Fatal(err)
	}
	sound(t, "at the end", reports)
	return reports
}

// TestRandomDiverges: an answer that the twin cannot give is found out, healed
// by a checkpoint, and arrives whole; the place of the difference is exact.
func TestRandomDiverges(t *testing.T) {
	l := protected(t)
	giveUpIfFailed(t, l)
	n := rounds(20, 200)
	before := status(t, l)
	done := make(chan struct{})
	places := make(chan int, 1)
	go func() {
		// Each payload divergence that is the newest one when we look.
		seen := map[uint64]bool{}
		for {
			select {
			case <-done:
				places <- len(seen)
				return
			case <-time.After(20 * time.Millisecond):
			}
			st, err := l.Status(t.Context())
			if err != nil || st.Divergences.Last == nil || st.Divergences.Last.Reason != "payload" || !st.Divergences.Last.Exact {
				continue
			}
			last := st.Divergences.Last
			if len(last.Primary) < 2 || len(last.Secondary) < 2 || last.Primary[:2] == last.Secondary[:2] {
				t.Errorf("the bytes at the position do not differ: %+v", last)
			}
			seen[last.Position] = true
		}
	}()
	finish(t, l, 10*time.Minute, client.Load{Kind: client.Random, Size: 4096, Count: n, Rate: 20},
		client.Load{Kind: client.Random, Name: "random6", Host: image.GuestIPv6, Size: 700, Count: n, Rate: 20})
	close(done)
	exact := <-places
	after := status(t, l)
	if after.Generation != before.Generation {
		t.Errorf("roles changed meanwhile: %s", after.Reason)
	}
	grew := func(reason string) uint64 {
		return after.Divergences.ByReason[reason] - before.Divergences.ByReason[reason]
	}
	t.Logf("%d answers: %d payload divergences, %d of them seen with their exact place, %d silences; checkpoints %v -> %v, pause p50 %.1f ms",
		2*n, grew("payload"), exact, grew("silence-secondary"), before.Checkpoints.Reasons, after.Checkpoints.Reasons, after.Checkpoints.PauseMS.P50)
	// One checkpoint can heal an answer on each of the two connections; on a busy
	// host the twin's answer may be so late that its silence is noticed first.
	if grew("payload")+grew("silence-secondary") < uint64(n) {
		t.Errorf("%d payload divergences and %d silences for %d answers that cannot agree", grew("payload"), grew("silence-secondary"), 2*n)
	}
	if grew("payload") == 0 || exact == 0 {
		t.Errorf("%d payload divergences, %d with an exact place: want some", grew("payload"), exact)
	}
}

// TestStaticAgrees: equal content is never taken for different.
func TestStaticAgrees(t *testing.T) {
	l := protected(t)
	giveUpIfFailed(t, l)
	n := rounds(400, 10_000)
	before := status(t, l)
	finish(t, l, 20*time.Minute,
		client.Load{Kind: client.Download, Name: "small", Size: 1000, Count: n},
		client.Load{Kind: client.Download, Name: "small6", Host: image.GuestIPv6, Size: 20_000, Count: n},
		client.Load{Kind: client.Download, Name: "large", Size: 1 << 20, Count: n / 100})
	after := status(t, l)
	if d := after.Divergences.ByReason["payload"] - before.Divergences.ByReason["payload"]; d != 0 {
		t.Errorf("%d payload divergences in static content", d)
	}
	t.Logf("%d requests: checkpoints %v -> %v, divergences %v -> %v", 2*n+n/100, before.Checkpoints.Reasons, after.Checkpoints.Reasons,
		before.Divergences.ByReason, after.Divergences.ByReason)
}

// TestFetchSurvives: a connection that the guest opened lives through a
// takeover as those that it accepted.
func TestFetchSurvives(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed, 77))
	for round := range rounds(1, 5) {
		t.Run(fmt.Sprint(round+1), func(t *testing.T) {
			l := protected(t)
			giveUpIfFailed(t, l)
			gap, longest := watched(t, l, []client.Load{
				{Kind: client.Fetch, Name: "fetch", Size: 512 << 10, Rate: 128 << 10},
				{Kind: client.Fetch, Name: "fetch6", Host: image.GuestIPv6, Own: lab.ClientIPv6, Size: 512 << 10, Rate: 128 << 10},
			}, 3*time.Second, func(mark func()) {
				time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
				before := status(t, l)
				fault(t, l, lab.KillVM, before.Speaker)
				mark()
				awaitSpeaker(t, l, before)
			})
			t.Logf("clients heard nothing for %.0f ms; longest pause: %.0f ms", gap, longest)
		})
	}
}

// awaitIperf waits until the guest's iperf3 is ready for a test: between two tests
// its server closes its port for a moment, and while it ends one it turns others
// away.
func awaitIperf(t *testing.T, l *lab.Lab) {
	t.Helper()
	// What lingers after its end (TIME_WAIT, a minute) is no connection any more.
	const ready = `n=$(netstat -tn | grep ':5201 ' | grep -vc TIME_WAIT); netstat -tln | grep -q ':5201 ' && [ "$n" = 0 ]`
	args := append(append([]string{"ssh"}, client.SSHArgs(l.SSHKey(), l.KnownHosts())...), "root@"+image.GuestIPv4,
		"for i in $(seq 300); do "+ready+" && exit 0; sleep 0.1; done; netstat -tan; exit 1")
	if out, err := l.Command(t.Context(), lab.Client, args...).CombinedOutput(); err != nil {
		t.Fatalf("wait for iperf3: %v: %s", err, out)
	}
}

// iperf runs one test.
func iperf(t *testing.T, l *lab.Lab, args []string) (stdout []byte, stderr string, err error) {
	t.Helper()
	var errs bytes.Buffer
	cmd := l.Command(t.Context(), lab.Client, args...)
	cmd.Stderr = &errs
	stdout, err = cmd.Output()
	return stdout, errs.String(), err
}

// TestIperf runs iperf3 both ways in lock-step.
func TestIperf(t *testing.T) {
	l := protected(t)
	giveUpIfFailed(t, l)
	seconds := rounds(3, 30)
	for _, way := range [][]string{{}, {"-R"}, {"-6"}, {"-6", "-R"}} {
		if !long && len(way) > 1 {
			continue
		}
		awaitIperf(t, l)
		before := status(t, l)
		host := image.GuestIPv4
		if len(way) > 0 && way[0] == "-6" {
			host = image.GuestIPv6
		}
		args := append([]string{"iperf3", "-c", host, "-t", fmt.Sprint(seconds), "-J"}, way...)
		out, errs, err := iperf(t, l, args)
		var result struct {
			End struct {
				Sent struct {
					Rate float64 `json:"bits_per_second"`
				} `json:"sum_sent"`
				Received struct {
					Rate float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
			Error string `json:"error"`
		}
		if jerr := json.Unmarshal(out, &result); err != nil || jerr != nil || result.Error != "" {
			t.Errorf("iperf3 %v: %v %v %s %s", way, err, jerr, result.Error, errs)
			continue
		}
		if result.End.Received.Rate < 1e6 {
			t.Errorf("iperf3 %v: %.0f bit/s: the connection stood still", way, result.End.Received.Rate)
		}
		after := status(t, l)
		t.Logf("iperf3 %v %d s: received %.0f Mbit/s, %d checkpoints %v, pause p50 %.1f p99 %.1f ms", way, seconds,
			result.End.Received.Rate/1e6, after.Checkpoints.Count-before.Checkpoints.Count, after.Checkpoints.Reasons,
			after.Checkpoints.PauseMS.P50, after.Checkpoints.PauseMS.P99)
		if after.Generation != before.Generation {
			t.Errorf("roles changed meanwhile: %s", after.Reason)
		}
	}
}
