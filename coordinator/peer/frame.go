package peer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxFrame bounds one frame of a ctl connection, without its length.
const MaxFrame = 64 << 10

// ErrFrame is the cause of every refusal of a frame.
var ErrFrame = errors.New("bad frame")

// frame is one message on a ctl connection: four bytes of length, big
// endian, and a JSON object. Exactly one of its parts is there.
type frame struct {
	Hello *hello `json:"hello,omitempty"`
	Beat  *beat  `json:"beat,omitempty"`
	Pair  *note  `json:"pair,omitempty"`
}

// hello is the first frame in each direction.
type hello struct {
	Node    string `json:"node"`    // must be the name in the certificate
	Boot    uint64 `json:"boot"`    // run of colod
	Version string `json:"version"` // of the software, for people
}

// beat is a heartbeat. Times are the sender's own, in nanoseconds.
type beat struct {
	Seq  uint64 `json:"seq"`
	Time int64  `json:"time"`
	Echo int64  `json:"echo,omitempty"` // time in the last beat received
	Held int64  `json:"held,omitempty"` // how long ago that was, by the sender's clock
}

// note is a message of a pair's machine.
type note struct {
	Name string          `json:"name"` // the pair
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
}

const maxName = 64

// appendFrame adds f to b.
func appendFrame(b []byte, f *frame) ([]byte, error) {
	body, err := json.Marshal(f)
	if err != nil {
		return b, fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > MaxFrame {
		return b, fmt.Errorf("encode frame: %d bytes, at most %d allowed", len(body), MaxFrame)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...), nil
}

// readFrame reads the next frame. buf is scratch space that the frame does
// not refer to afterwards.
func readFrame(r io.Reader, buf []byte) (*frame, []byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, buf, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > MaxFrame {
		return nil, buf, fmt.Errorf("%w: length %d, 1 to %d allowed", ErrFrame, n, MaxFrame)
	}
	if cap(buf) < int(n) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, buf, fmt.Errorf("read frame of %d bytes: %w", n, err)
	}
	f, err := decodeFrame(buf)
	return f, buf, err
}

// decodeFrame checks everything that can be checked without knowing the pairs.
func decodeFrame(b []byte) (*frame, error) {
	f := new(frame)
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows the object", ErrFrame)
	}
	parts := 0
	if f.Hello != nil {
		parts++
		if f.Hello.Node == "" || len(f.Hello.Node) > 253 || len(f.Hello.Version) > maxName {
			return nil, fmt.Errorf("%w: hello with a node name of %d and a version of %d bytes", ErrFrame, len(f.Hello.Node), len(f.Hello.Version))
		}
	}
	if f.Beat != nil {
		parts++
	}
	if f.Pair != nil {
		parts++
		if f.Pair.Name == "" || len(f.Pair.Name) > maxName || f.Pair.Kind == "" || len(f.Pair.Kind) > maxName || len(f.Pair.Body) == 0 {
			return nil, fmt.Errorf("%w: message without name, kind or body, or too long ones", ErrFrame)
		}
		f.Pair.Body = bytes.Clone(f.Pair.Body)
	}
	if parts != 1 {
		return nil, fmt.Errorf("%w: %d parts, not one", ErrFrame, parts)
	}
	return f, nil
}
