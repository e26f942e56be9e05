package coordinator

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// dupFD takes the descriptor out of f, which it closes: the receiver of the
// number owns it.
func dupFD(f *os.File) (int, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate descriptor of %s: %w", f.Name(), err)
	}
	return fd, nil
}
