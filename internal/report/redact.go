package report

import "fmt"

// Payload says what of the guests' payload may be written.
type Payload string

// What of the payload is written.
const (
	// PayloadFull: the bytes as they are.
	PayloadFull Payload = "full"
	// PayloadRedact: the shape of the bytes: letters become a or A, digits 0, what is not ASCII a question mark;
	// punctuation and line ends stay.
	PayloadRedact Payload = "redact"
	// PayloadNone: nothing but which offsets differ.
	PayloadNone Payload = "none"
)

// apply takes out of r what must not be written. The cause was found before.
func (p Payload) apply(r *Report) {
	switch p {
	case PayloadFull:
		return
	case PayloadNone:
		r.Cause.Field = ""
	}
	if r.Bytes == nil {
		return
	}
	r.Bytes.Payload = string(p)
	if p == PayloadNone {
		r.Bytes.Primary, r.Bytes.Secondary = nil, nil
		return
	}
	redact(r.Bytes.Primary)
	redact(r.Bytes.Secondary)
}

func redact(b []byte) {
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			b[i] = '0'
		case c >= 'a' && c <= 'z':
			b[i] = 'a'
		case c >= 'A' && c <= 'Z':
			b[i] = 'A'
		case c >= 0x7f || c < ' ' && c != '\r' && c != '\n' && c != '\t':
			b[i] = '?'
		}
	}
}

// valid says what is wrong with p, nil when nothing is.
func (p Payload) valid() error {
	switch p {
	case PayloadFull, PayloadRedact, PayloadNone:
		return nil
	}
	return fmt.Errorf("payload %q is not known: use full, redact or none", p)
}
