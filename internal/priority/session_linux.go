package priority

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// SessionNiceness is that of a process's session. Linux gives each session an equal share of the processors, whatever the niceness
// of its threads, which counts among them alone (sched(7), "The autogroup feature"): a VM has a session of its own, so without
// this nothing comes before its virtual CPUs. More than this takes the processor from a guest for each frame; measured in the lab,
// two emulated guests on two processors: at 0 threads of colod waited up to 20 ms for a virtual CPU's turn to end, at -10 redis
// served 6 to 11 % fewer requests, at -4 as many (docs/decisions/0011-batch-main-loop.md).
const SessionNiceness = -4

const autogroup = "/proc/self/autogroup"

// raiseSession gives this process's session its precedence, if it leads one: the session of somebody's shell is left alone.
// A kernel that keeps no such groups needs none.
func raiseSession() error {
	if sid, err := unix.Getsid(0); err != nil || sid != os.Getpid() {
		return nil
	}
	if err := os.WriteFile(autogroup, []byte(strconv.Itoa(SessionNiceness)), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set priority of the session: %w", err)
	}
	return nil
}
