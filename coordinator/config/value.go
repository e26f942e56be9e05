package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time written as in "250ms", "10s" or "1m30s".
// A bare number is refused: its unit would be a guess.
type Duration time.Duration

// ParseDuration reads a duration of the configuration.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(strings.TrimSpace(s))
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; write a number with its unit, for example 250ms, 10s or 1m30s", s)
	}
	return Duration(d), nil
}

// D is the value as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes the value as it stands in the file.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Size is an amount of memory in bytes, written as in "256M" or "4G"
// (binary units: K, M, G, T, also KiB, MiB, GiB, TiB).
type Size uint64

var sizeUnits = []struct {
	suffix string
	bytes  uint64
}{
	{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40},
}

// ParseSize reads a size of the configuration.
func ParseSize(s string) (Size, error) {
	bad := fmt.Errorf("%q is not a size; write a whole number with its unit, for example 256M or 4G", s)
	t := strings.ToUpper(strings.TrimSpace(s))
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(t, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64)
		if err != nil || n > (1<<63)/u.bytes {
			return 0, bad
		}
		return Size(n * u.bytes), nil
	}
	return 0, bad
}

// Bytes is the value in bytes.
func (s Size) Bytes() uint64 { return uint64(s) }

func (s Size) String() string {
	for i := 7; i >= 4; i-- {
		if u := sizeUnits[i]; uint64(s) >= u.bytes && uint64(s)%u.bytes == 0 {
			return strconv.FormatUint(uint64(s)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatUint(uint64(s), 10)
}

// MarshalText writes the value as it stands in the file.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
