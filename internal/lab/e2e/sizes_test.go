package e2e

import (
	"fmt"
	"testing"
	"time"

	"colod/internal/lab"
)

// TestSizes: guests of several processors and of more memory survive the loss of the speaker's machine under checked
// load, both ways. It reports what protection costs each: divergences and checkpoints a second, what a
// checkpoint carries and how long it stops the guest.
func TestSizes(t *testing.T) {
	smps, memories := []int{4}, []string{"256M"}
	if long {
		smps, memories = []int{1, 2, 4}, []string{"256M", "1G", "4G"}
	}
	for _, memory := range memories {
		for _, smp := range smps {
			t.Run(fmt.Sprintf("smp=%d,memory=%s", smp, memory), func(t *testing.T) { size(t, smp, memory) })
		}
	}
}

func size(t *testing.T, smp int, memory string) {
	shared.down() // one pair at a time is enough for this machine
	l := up(t, fmt.Sprintf("s%d-%s", smp, memoryName(memory)), lab.Options{SMP: smp, Memory: memory})
	took := time.Duration(rounds(3, 15)) * time.Second
	var gaps, longests figures
	for round := range rounds(1, 2) {
		gap, longest := watched(t, l, load(), 2*time.Second, func(mark func()) {
			before, start := status(t, l), time.Now()
			time.Sleep(took)
			now := status(t, l)
			if now.Generation == before.Generation && round == 0 {
				costs(t, smp, memory, before, now, time.Since(start))
			}
			fault(t, l, lab.KillVM, now.Speaker)
			mark()
			after, d := awaitSpeaker(t, l, now)
			t.Logf("%s -> %s after %v: %s", now.Speaker, after.Speaker, d.Round(time.Millisecond), after.Reason)
		})
		gaps, longests = append(gaps, gap), append(longests, longest)
		start := time.Now()
		if err := l.AwaitState(t.Context(), "protected"); err != nil {
			t.Fatalf("%v\n%s", err, l.Logs(40))
		}
		t.Logf("clients heard nothing for %.0f ms; longest pause, the new twin's start included: %.0f ms; protected again %.1f s later",
			gap, longest, time.Since(start).Seconds())
	}
	record(t, map[string]any{"smp": smp, "memory": memory, "gap_ms": gaps, "longest_ms": longests})
	if t.Failed() {
		t.Logf("logs of the nodes:\n%s", l.Logs(60))
	}
}

// memoryName is a size in the name of a lab.
func memoryName(size string) string {
	n := size[:len(size)-1]
	return map[byte]string{'M': n + "m", 'G': n + "g"}[size[len(size)-1]]
}

// costs reports what protection did in a time.
func costs(t *testing.T, smp int, memory string, before, now *lab.Status, took time.Duration) {
	s := took.Seconds()
	n := float64(now.Checkpoints.Count - before.Checkpoints.Count)
	bytes := float64(now.Checkpoints.Bytes - before.Checkpoints.Bytes)
	diverged := float64(now.Divergences.Count - before.Divergences.Count)
	why := map[string]uint64{}
	for k, v := range now.Divergences.ByReason {
		if d := v - before.Divergences.ByReason[k]; d > 0 {
			why[k] = d
		}
	}
	each := bytes / max(n, 1) / (1 << 20)
	t.Logf("smp %d, memory %s: %.2f divergences/s %v, %.2f checkpoints/s of %.2f MiB, stop p50 %.1f p99 %.1f max %.1f ms; load average %s; %s",
		smp, memory, diverged/s, why, n/s, each, now.Checkpoints.PauseMS.P50, now.Checkpoints.PauseMS.P99, now.Checkpoints.PauseMS.Max, loadAverage(), now.Reason)
	record(t, map[string]any{
		"smp": smp, "memory": memory, "seconds": s, "divergences": diverged, "by_reason": why, "checkpoints": n, "checkpoint_mib": each,
		"stop_p50_ms": now.Checkpoints.PauseMS.P50, "stop_p99_ms": now.Checkpoints.PauseMS.P99, "stop_max_ms": now.Checkpoints.PauseMS.Max,
	})
}
