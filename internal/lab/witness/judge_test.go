package witness

import (
	"encoding/binary"
	"testing"
	"time"

	"colod/internal/frame"
)

// tcp makes a frame of the guest's, 192.0.2.10:80 to 192.0.2.1:1000.
func tcp(flags byte, seq, ack uint32, payload string) []byte {
	b := make([]byte, frame.VnetLen+14+20+20)
	e := b[frame.VnetLen:]
	binary.BigEndian.PutUint16(e[12:], frame.EtherIPv4)
	ip := e[14:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(40+len(payload)))
	ip[8], ip[9] = 64, frame.ProtoTCP
	copy(ip[12:], []byte{192, 0, 2, 10, 192, 0, 2, 1})
	t := ip[20:]
	binary.BigEndian.PutUint16(t, 80)
	binary.BigEndian.PutUint16(t[2:], 1000)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = 5<<4, flags
	return append(b, payload...)
}

type said struct {
	node  string
	frame []byte
}

func judged(all ...said) Report {
	j := NewJudge()
	for i, s := range all {
		j.Frame(s.node, time.Unix(int64(i), 0), s.frame)
	}
	return j.Report()
}

func TestJudge(t *testing.T) {
	const ack = frame.ACK
	const near = 1<<32 - 10 // the numbers wrap
	syn := said{"a", tcp(frame.SYN|ack, near-1, 500, "")}
	for _, c := range []struct {
		name      string
		said      []said
		conflicts uint64
		turns     uint64
		across    uint64
	}{
		{"one speaker", []said{syn, {"a", tcp(ack, near, 501, "0123456789")}, {"a", tcp(ack, 0, 501, "abc")}}, 0, 1, 0},
		{"the same bytes again", []said{syn, {"a", tcp(ack, near, 501, "0123456789abc")}, {"b", tcp(ack, 0, 501, "abcdef")}}, 0, 2, 3},
		{"other bytes at one position", []said{syn, {"a", tcp(ack, near, 501, "0123456789abc")}, {"b", tcp(ack, 0, 501, "abX")}}, 1, 2, 3},
		{"other bytes of one node", []said{syn, {"a", tcp(ack, near, 501, "0123")}, {"a", tcp(ack, near+2, 501, "x")}}, 1, 1, 0},
		{"a gap filled later", []said{syn, {"a", tcp(ack, near+4, 501, "4567")}, {"b", tcp(ack, near, 501, "01234567")}}, 0, 2, 4},
		{"a connection begun twice", []said{syn, {"b", tcp(frame.SYN|ack, 77, 500, "")}}, 1, 2, 0},
		{"the SYN repeated", []said{syn, {"b", tcp(frame.SYN|ack, near-1, 500, "")}}, 0, 2, 0},
		{"the port used again", []said{syn, {"a", tcp(ack, near, 501, "0123")}, {"a", tcp(frame.SYN|ack, 77, 900, "")}, {"a", tcp(ack, 78, 901, "x")}}, 0, 1, 0},
		{"ends at two positions", []said{syn, {"a", tcp(ack|frame.FIN, near, 501, "01")}, {"b", tcp(ack|frame.FIN, near, 501, "012")}}, 1, 2, 2},
		{"data behind the end", []said{syn, {"a", tcp(ack|frame.FIN, near, 501, "01")}, {"b", tcp(ack, near+2, 501, "2")}}, 1, 2, 0},
		{"an acknowledgement behind the end", []said{syn, {"a", tcp(ack|frame.FIN, near, 501, "01")}, {"a", tcp(ack, near+3, 502, "")}}, 0, 1, 0},
		{"turns", []said{syn, {"b", tcp(ack, near, 501, "0")}, {"a", tcp(ack, near, 501, "0")}}, 0, 3, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := judged(c.said...)
			if r.Conflicts != c.conflicts || r.Turns != c.turns || r.Across != c.across || uint64(len(r.Listed)) != c.conflicts {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestJudgeForgetsWhatIsFarBehind(t *testing.T) {
	j := NewJudge()
	now := time.Unix(0, 0)
	piece := string(make([]byte, 32<<10))
	j.Frame("a", now, tcp(frame.SYN|frame.ACK, 0, 500, ""))
	for pos := uint32(1); pos < 4*reachBehind; pos += uint32(len(piece)) {
		j.Frame("a", now, tcp(frame.ACK, pos, 501, piece))
	}
	for _, f := range j.flows {
		if len(f.pages) > 2*reachBehind/pageSize+1 {
			t.Errorf("%d pages kept", len(f.pages))
		}
	}
	j.Frame("b", now, tcp(frame.ACK, 1, 501, "x"))
	if r := j.Report(); r.Unchecked != 1 || r.Conflicts != 0 {
		t.Errorf("%+v", r)
	}
}
