package etcd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"colod/coordinator/arbiter"
)

// recordFormat stands in every record; a newer form gets another name, which this colod then refuses to touch.
const recordFormat = "colod-record-1"

// maxRecord bounds a record's value, in bytes.
const maxRecord = 16 << 10

// stored is a record as the key holds it, readable with etcdctl.
type stored struct {
	Format string         `json:"format"`
	Record arbiter.Record `json:"record"`
	Writer string         `json:"writer"` // token of the swap
}

func encodeRecord(r arbiter.Record, writer string) ([]byte, error) {
	data, err := json.Marshal(stored{Format: recordFormat, Record: r, Writer: writer})
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	if len(data) > maxRecord {
		return nil, fmt.Errorf("encode record: %d bytes, at most %d allowed", len(data), maxRecord)
	}
	return data, nil
}

// decodeRecord is the reverse; why is "" when data is a record of pair.
func decodeRecord(data []byte, pair string) (s stored, why string) {
	if len(data) > maxRecord {
		return s, fmt.Sprintf("it is larger than %d bytes", maxRecord)
	}
	var head struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return s, "it is not a record: " + err.Error()
	}
	if head.Format != recordFormat {
		return s, fmt.Sprintf("its format is %q, not %q: not a record, or of a newer colod", head.Format, recordFormat)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, "it is not a record: " + err.Error()
	}
	if _, err := dec.Token(); err != io.EOF {
		return s, "something follows the record"
	}
	if err := s.Record.Check(pair); err != nil {
		return s, err.Error()
	}
	if s.Writer == "" {
		return s, "it does not say which swap wrote it"
	}
	return s, ""
}

// checkSwap refuses a swap that no correct caller asks for.
func checkSwap(prev, next arbiter.Record) error {
	if err := checkName("pair", next.Pair); err != nil {
		return err
	}
	if err := next.Check(next.Pair); err != nil {
		return err
	}
	if next.Generation != prev.Generation+1 {
		return fmt.Errorf("generation %d does not follow %d", next.Generation, prev.Generation)
	}
	if prev.Exists() && prev.Pair != next.Pair {
		return fmt.Errorf("records of two pairs, %q and %q", prev.Pair, next.Pair)
	}
	return nil
}
