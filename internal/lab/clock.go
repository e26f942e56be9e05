package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// tscParameter tells an emulated guest the frequency of its time stamp counter,
// as a kernel parameter; "" if it is not known.
//
// QEMU without KVM hands the host's counter to the guest, whose kernel measures
// it at boot against a timer. On a loaded host the guest's processor stands still
// meanwhile, the result is wrong by any factor, and the guest's clock runs that
// much too fast or slow for good: its timers then end connections on their own.
func tscParameter(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "cpu MHz":
			// In a virtual machine this is the counter's frequency.
			mhz, err := strconv.ParseFloat(value, 64)
			if err != nil || mhz < 100 {
				return ""
			}
			if !strings.Contains(cpuinfo, " hypervisor") || strings.Contains(cpuinfo, " aperfmperf") {
				return "" // the present frequency of the processor, which changes
			}
			return fmt.Sprintf(" tsc_early_khz=%.0f", mhz*1000)
		}
	}
	return ""
}

// hostTSC is tscParameter for this host.
func hostTSC() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	return tscParameter(string(data))
}
