package lab

import "testing"

func TestTSCParameter(t *testing.T) {
	for _, c := range []struct{ name, info, want string }{
		{"in a virtual machine", "processor\t: 0\ncpu MHz\t\t: 2900.002\nflags\t\t: fpu tsc hypervisor\n", " tsc_early_khz=2900002"},
		{"the present frequency", "cpu MHz\t\t: 800.000\nflags\t\t: fpu tsc aperfmperf\n", ""},
		{"in a virtual machine that tells the present one", "cpu MHz\t\t: 800.000\nflags\t\t: fpu tsc aperfmperf hypervisor\n", ""},
		{"another architecture", "processor\t: 0\nBogoMIPS\t: 243.75\n", ""},
		{"nonsense", "cpu MHz\t\t: x\nflags\t\t: hypervisor\n", ""},
	} {
		if got := tscParameter(c.info); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
