package coordinator

import (
	"fmt"
	"time"
)

// hangLook is how often a VM is looked at.
const hangLook = 200 * time.Millisecond

// Silence of a VM after which it hangs. A process that was stopped by a signal
// does nothing for sure. Any other one is given twice as long: when the other
// node's VM was stopped, this one may wait for it inside of QEMU, and that node
// is to find it first.
const (
	hangStopped = 2 * time.Second
	hangAfter   = 4 * time.Second
)

// vitals are what one look at a VM shows.
type vitals struct {
	Answered bool   // its monitor has answered since the last look
	CPU      uint64 // time on a processor of all its threads, ns; any unit will do, as only changes count
	Stopped  bool   // the process is stopped, by a signal or a debugger
	Runnable bool   // one of its threads has, or waits for, a processor
	Waits    bool   // it may be waiting for the other node's VM, in a checkpoint
}

// hangJudge decides from looks whether a VM hangs: its monitor is silent, its
// process uses no processor, and it does not merely wait for the other node.
// All of it has to be so for the whole time; it is not enough that one of them
// is. The judge is pure. Time counts only as far as this process was awake.
type hangJudge struct {
	began  bool
	looked time.Duration
	cpu    uint64

	silent  time.Duration // without an answer
	still   time.Duration // and without the use of a processor, or a wait for the other node
	stopped time.Duration
}

// look takes what a look has shown. hung says that the VM hangs; reason also
// tells of a silence that may become one.
func (j *hangJudge) look(now time.Duration, v vitals) (reason string, hung bool) {
	step := min(max(now-j.looked, 0), 2*hangLook)
	j.looked = now
	if !j.began || v.Answered {
		j.began, j.cpu = true, v.CPU
		j.silent, j.still, j.stopped = 0, 0, 0
		return "", false
	}
	count := func(d *time.Duration, on bool) {
		if on {
			*d += step
		} else {
			*d = 0
		}
	}
	count(&j.silent, true)
	count(&j.stopped, v.Stopped)
	count(&j.still, v.CPU == j.cpu && !v.Runnable && !v.Waits)
	j.cpu = v.CPU
	switch {
	case j.stopped >= hangStopped:
		return fmt.Sprintf("its process is stopped since %s, and its monitor is silent", round(j.stopped)), true
	case j.still >= hangAfter:
		return fmt.Sprintf("its monitor is silent and its process has used no processor for %s", round(j.still)), true
	case j.silent >= time.Second && v.Waits:
		return fmt.Sprintf("its monitor is silent for %s; it waits for the other node", round(j.silent)), false
	case j.silent >= time.Second:
		return fmt.Sprintf("its monitor is silent for %s", round(j.silent)), false
	}
	return "", false
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

// Limits of deafJudge.
const (
	deafCheckpoints = 5
	deafTime        = 3 * time.Second

	// deafBoot is how long after its start a guest counts as booting. It says a few
	// frames then, at times that follow from how fast it gets there: the copy may be
	// behind with each of them, and every checkpoint for that puts it off again.
	deafBoot = time.Minute
)

// outputs are what one look at a protected speaker's data path shows. Numbers
// count from an arbitrary start.
type outputs struct {
	Session  string // what they are of; another one begins anew
	Boots    uint64 // starts and resets of the guest here
	Silences uint64 // checkpoints since the secondary's guest did not say what the primary's said
	Heard    uint64 // frames that the secondary's guest said
	Said     uint64 // frames of the primary's guest that were let out
}

// deafJudge decides whether the secondary's guest has gone dumb: several
// checkpoints in a row were taken since it did not say what the primary's said,
// and after none of them it said anything at all, while the primary's went on.
// While the guest boots nothing is decided. It is pure.
type deafJudge struct {
	last   outputs
	row    uint64
	since  time.Duration // of the first silence of the row
	said   uint64        // then
	booted time.Duration // until then the guest counts as booting
}

func (j *deafJudge) look(now time.Duration, o outputs) (reason string, deaf bool) {
	last := j.last
	j.last = o
	if o.Boots != last.Boots {
		j.booted = now + deafBoot
	}
	if now < j.booted || o.Session == "" || o.Session != last.Session || o.Heard != last.Heard || o.Silences < last.Silences {
		j.row = 0
		return "", false
	}
	if n := o.Silences - last.Silences; n > 0 {
		if j.row == 0 {
			j.since, j.said = now, last.Said
		}
		j.row += n
	}
	if j.row == 0 {
		return "", false
	}
	reason = fmt.Sprintf("it has said nothing since %d checkpoints that its silence caused, in %s", j.row, round(now-j.since))
	return reason, j.row >= deafCheckpoints && now-j.since >= deafTime && o.Said > j.said
}
