package checkpoint

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestLine: points on a line give that line.
func TestLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Float64Range(-100, 100).Draw(t, "a"), rapid.Float64Range(0.01, 100).Draw(t, "b")
		x := []float64{0, 0, 10, 100, 100}
		y := make([]float64, len(x))
		for i := range x {
			y[i] = a + b*x[i]
		}
		ga, gb, r2, ok := line(x, y)
		if !ok || math.Abs(ga-a) > 1e-6 || math.Abs(gb-b) > 1e-6 || math.Abs(r2-1) > 1e-6 {
			t.Fatalf("got %g + %g x, r² %g, want %g + %g x", ga, gb, r2, a, b)
		}
	})
	if _, _, _, ok := line([]float64{1, 1}, []float64{2, 3}); ok {
		t.Error("a line through one x")
	}
}
