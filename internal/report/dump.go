package report

import "fmt"

// dumpWidth is how many bytes a line of a dump shows of each side.
const dumpWidth = 16

// dumpLine is one line of both sides, aligned.
type dumpLine struct {
	Offset             int // of its first byte from the first difference
	Primary, Secondary []dumpByte
	Skipped            int // lines left out in front of it
}

// dumpByte is one byte of a dump. There is none where the other side is longer.
type dumpByte struct {
	Value   byte
	There   bool
	Differs bool
}

// dump aligns both sides around the differences; lines far from any are left out, and no more than limit are there.
func dump(b *Bytes, limit int) []dumpLine {
	n := max(len(b.Primary), len(b.Secondary))
	if n == 0 {
		return nil
	}
	differs := make([]bool, n)
	for _, d := range b.Different {
		for i := max(d[0], 0); i < min(d[1], n); i++ {
			differs[i] = true
		}
	}
	// Lines are aligned so that the first difference keeps its place whatever lies before it.
	lines := (n + dumpWidth - 1) / dumpWidth
	wanted := make([]bool, lines)
	const around = 2
	for i := range n {
		if !differs[i] {
			continue
		}
		for l := max(0, i/dumpWidth-around); l <= min(lines-1, i/dumpWidth+around); l++ {
			wanted[l] = true
		}
	}
	var out []dumpLine
	skipped := 0
	for l := range lines {
		if !wanted[l] || len(out) >= limit {
			skipped++
			continue
		}
		line := dumpLine{Offset: l*dumpWidth - b.At, Skipped: skipped}
		skipped = 0
		for i := l * dumpWidth; i < (l+1)*dumpWidth; i++ {
			line.Primary = append(line.Primary, dumpAt(b.Primary, i, differs))
			line.Secondary = append(line.Secondary, dumpAt(b.Secondary, i, differs))
		}
		out = append(out, line)
	}
	if skipped > 0 {
		out = append(out, dumpLine{Skipped: skipped})
	}
	return out
}

func dumpAt(side []byte, i int, differs []bool) dumpByte {
	if i >= len(side) {
		return dumpByte{}
	}
	return dumpByte{Value: side[i], There: true, Differs: differs[i]}
}

// hex and text are the byte in a dump; whatever it is, the text is one printable ASCII character.
func (d dumpByte) hex() string {
	if !d.There {
		return "  "
	}
	return fmt.Sprintf("%02x", d.Value)
}

func (d dumpByte) text() byte {
	switch {
	case !d.There:
		return ' '
	case d.Value >= ' ' && d.Value < 0x7f:
		return d.Value
	}
	return '.'
}
