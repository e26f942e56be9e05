package coordinator

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"colod/coordinator/config"
)

// fingerprint is a digest of what the guest sees of its machine. The two
// nodes compare it before a VM is launched for a copy that would not fit.
// Paths may differ between nodes, so files count by their size only, and
// further QEMU arguments not at all.
func fingerprint(p *config.Pair) string {
	h := sha256.New()
	io.WriteString(h, "colod guest 1\x00")
	for _, v := range []any{
		p.Name, p.Network.HardwareAddr(), p.Network.MTU, p.VM.Machine, p.VM.CPU, p.VM.SMP, uint64(p.VM.Memory),
		p.VM.Accel, p.VM.Append, fileSize(p.VM.Kernel), fileSize(p.VM.Initrd),
	} {
		fmt.Fprintf(h, "%v\x00", v)
	}
	if len(p.Disks) > 0 {
		io.WriteString(h, "disks\x00"+diskLayout(p, "").Fingerprint())
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// fileSize is 0 for a file that is not used, -1 for one that cannot be read;
// the launch of the VM then says why.
func fileSize(path string) int64 {
	if path == "" {
		return 0
	}
	st, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return st.Size()
}
