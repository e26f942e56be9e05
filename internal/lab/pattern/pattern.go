// Package pattern defines the bytes that the lab's guest and clients exchange,
// so that each end can tell at every position which byte belongs there.
package pattern

import (
	"encoding/binary"
	"sync"
)

// period is the length of the table that static content repeats: a prime, so
// that content moved by any round number of bytes is seen.
const period = 1048573

var table = sync.OnceValue(func() []byte {
	t := make([]byte, period)
	Fill(t, 0x7374617469630000, 0)
	return t
})

// Static returns static content from an offset on: a part of a shared table, of
// at least one byte, that must not be changed.
func Static(off int64) []byte { return table()[off%period:] }

// Fill writes the bytes at positions off and following of the stream with the
// given number. Every 8 bytes are a mix of stream and position, so no stretch of 16
// bytes occurs at two positions or in two streams in practice.
func Fill(b []byte, stream uint64, off uint64) {
	i := 0
	for ; i < len(b) && (off+uint64(i))&7 != 0; i++ {
		b[i] = At(stream, off+uint64(i))
	}
	for ; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], word(stream, (off+uint64(i))>>3))
	}
	for ; i < len(b); i++ {
		b[i] = At(stream, off+uint64(i))
	}
}

// At is the byte at one position of a stream.
func At(stream, off uint64) byte {
	return byte(word(stream, off>>3) >> (8 * (off & 7)))
}

// word is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
func word(stream, n uint64) uint64 {
	z := (stream+1)*0x9e3779b97f4a7c15 + n*0xd1342543de82ef95
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
