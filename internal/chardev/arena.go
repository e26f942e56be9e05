package chardev

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// arena gives out memory of huge pages where the kernel has some (transparent huge pages, madvise(2)): a few MiB that every
// frame goes through in turn cost a miss of the TLB for each of their pages of 4 KiB otherwise, twice as dear in a
// virtual machine.
type arena struct {
	maps [][]byte
	rest []byte
}

const hugePage = 2 << 20

// take is n bytes, on cache lines of their own.
func (a *arena) take(n int) []byte {
	const line = 64
	size := (n + line - 1) &^ (line - 1)
	if len(a.rest) < size {
		a.grow(size)
	}
	b := a.rest[:n:n]
	a.rest = a.rest[size:]
	return b
}

func (a *arena) grow(size int) {
	size = (size + hugePage - 1) &^ (hugePage - 1)
	m, err := unix.Mmap(-1, 0, size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		a.rest = make([]byte, size)
		return
	}
	a.maps = append(a.maps, m)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(m)))) & (hugePage - 1)
	a.rest = m[skip : skip+size]
	_ = unix.Madvise(a.rest, unix.MADV_HUGEPAGE) // a kernel without them has small pages
}

// close gives all back; nothing that was taken may be used any more.
func (a *arena) close() {
	for _, m := range a.maps {
		_ = unix.Munmap(m) // it is a mapping of ours
	}
	a.maps, a.rest = nil, nil
}
