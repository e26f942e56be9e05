package coordinator

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// killedBySignal reports whether the kernel is ending, or has ended, the
// process because of a signal. The field exit_code of /proc/PID/stat (proc(5)) is set
// first of all when a process ends, long before its memory is given back, and
// its low seven bits are the signal.
func killedBySignal(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	code, ok := exitCode(b)
	return ok && code&0x7f != 0
}

// exitCode is field 52, counted from 1, of a stat line. The second field is
// the name in parentheses, which may hold spaces and parentheses itself.
func exitCode(stat []byte) (int, bool) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, false
	}
	fields := bytes.Fields(stat[i+1:])
	const n = 52 - 3 // the first field behind the name is the third
	if len(fields) <= n {
		return 0, false
	}
	v, err := strconv.Atoi(string(fields[n]))
	return v, err == nil
}
