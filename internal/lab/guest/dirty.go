package guest

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// dirty keeps text MiB of memory changing, as "colod.dirty=MIB" on the kernel's command line asks for: each pass writes a number to
// every page, having checked that the page holds that of the pass before. A page that is wrong, which a checkpoint would have
// missed, is told on the console, once.
func dirty(text string) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return // nothing is to change
	}
	const page = 4096
	mem, err := unix.Mmap(-1, 0, n<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		fmt.Printf("colod-guest: no memory to change: %v\n", err)
		return
	}
	for pass, wrong := uint64(0), false; ; pass++ {
		for i := 0; i < len(mem); i += page {
			if got := binary.NativeEndian.Uint64(mem[i:]); got != pass && !wrong {
				wrong = true
				fmt.Printf("%s: page %d holds %d in pass %d\n", DirtyWrong, i/page, got, pass)
			}
			binary.NativeEndian.PutUint64(mem[i:], pass+1)
		}
		if pass == 0 {
			fmt.Println(DirtyReady)
		}
		time.Sleep(dirtyPause)
	}
}

// What dirty says on the console.
const (
	DirtyReady = "colod-guest: memory changes"
	DirtyWrong = "colod-guest: memory is wrong"
)

// dirtyPause is how long the guest rests between two passes over its memory.
const dirtyPause = 20 * time.Millisecond
