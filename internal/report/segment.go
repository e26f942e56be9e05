package report

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// A segment is a file: the line segmentMagic, then records. A record is the length of its body and the CRC-32C of
// length and body, four bytes each in network order, and the body, a JSON object. Records are only ever appended; what
// follows the last whole record of a segment is a write that was torn by a crash.
const (
	segmentMagic = "colod reports 1\n"
	recordHead   = 8
	// maxRecord bounds the body of one record, in bytes: two sides of MaxContext bytes before and behind, as
	// hexadecimal digits, and the rest.
	maxRecord = 16*MaxContext + 16<<10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendRecord(b, body []byte) []byte {
	var head [recordHead]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(body)))
	sum := crc32.Update(crc32.Checksum(head[:4], castagnoli), castagnoli, body)
	binary.BigEndian.PutUint32(head[4:], sum)
	return append(append(b, head[:]...), body...)
}

// errTorn says that what follows is no whole record.
var errTorn = errors.New("torn record")

// scanSegment calls fn with each whole record of the file and returns the length up to the last one's end. torn
// says that something follows. An error is one of reading, or fn's.
func scanSegment(f io.Reader, fn func(body []byte) error) (good int64, torn bool, err error) {
	r := bufio.NewReaderSize(f, 1<<16)
	magic := make([]byte, len(segmentMagic))
	n, err := io.ReadFull(r, magic)
	if err != nil || string(magic) != segmentMagic {
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, n > 0, nil
		}
		return 0, false, err
	}
	good = int64(len(segmentMagic))
	var body []byte
	for {
		body, err = readRecord(r, body)
		switch {
		case errors.Is(err, io.EOF):
			return good, false, nil
		case errors.Is(err, errTorn):
			return good, true, nil
		case err != nil:
			return good, false, err
		}
		if err := fn(body); err != nil {
			return good, false, err
		}
		good += int64(recordHead + len(body))
	}
}

// readRecord reads one record into the memory of body.
func readRecord(r io.Reader, body []byte) ([]byte, error) {
	var head [recordHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return body, errTorn
		}
		return body, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxRecord {
		return body, errTorn
	}
	if cap(body) < int(n) {
		body = make([]byte, n)
	}
	body = body[:n]
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return body, errTorn
		}
		return body, err
	}
	if crc32.Update(crc32.Checksum(head[:4], castagnoli), castagnoli, body) != binary.BigEndian.Uint32(head[4:]) {
		return body, errTorn
	}
	return body, nil
}

// repairSegment cuts off what a crash has torn and returns the length of the rest and the number of bytes cut.
func repairSegment(path string, fn func(body []byte) error) (size, cut int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	good, torn, err := scanSegment(f, fn)
	if err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", path, err)
	}
	if !torn {
		return good, 0, nil
	}
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if err := f.Truncate(good); err != nil {
		return 0, 0, fmt.Errorf("cut the torn end of %s: %w", path, err)
	}
	return good, st.Size() - good, f.Sync()
}
