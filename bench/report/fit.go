package report

import (
	"math"
	"slices"
)

// Fit is the power law y = a x^b through the points, by least squares over the logarithms, and its r² (1 = the points
// lie on it). Points with x or y not above 0 are left out; ok is false where fewer than two different x are left.
func Fit(p []Point) (a, b, r2 float64, ok bool) {
	var n, sx, sy, sxx, sxy, syy float64
	for _, q := range p {
		if q.X <= 0 || q.Y <= 0 {
			continue
		}
		x, y := math.Log(q.X), math.Log(q.Y)
		n, sx, sy, sxx, sxy, syy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y, syy+y*y
	}
	vx, vy, cov := n*sxx-sx*sx, n*syy-sy*sy, n*sxy-sx*sy
	if n < 2 || vx <= 1e-9 {
		return 0, 0, 0, false
	}
	b = cov / vx
	r2 = 1
	if vy > 1e-12 {
		r2 = cov * cov / (vx * vy)
	}
	return math.Exp((sy - b*sx) / n), b, r2, true
}

// Grown is a series with its slope.
func Grown(name string, p []Point) Series {
	s := Series{Name: name, Points: p}
	if _, b, _, ok := Fit(p); ok {
		s.Slope = &b
	}
	return s
}

// PointOf is the point of the rounds' values at x.
func PointOf(x float64, rounds []float64) Point {
	if len(rounds) == 0 {
		return Point{X: x}
	}
	return Point{X: x, Y: Median(rounds), Min: slices.Min(rounds), Max: slices.Max(rounds)}
}

// Distribution is the share of the values (%) that are not above x, as a series of steps.
func Distribution(name string, values []float64) Series {
	s := Series{Name: name}
	v := slices.Sorted(slices.Values(values))
	for i, x := range v {
		for _, k := range []int{i, i + 1} {
			y := 100 * float64(k) / float64(len(v))
			s.Points = append(s.Points, Point{X: x, Y: y, Min: y, Max: y})
		}
	}
	return s
}

// Percentile is the value that p % of the values are not above: the nearest rank, 0 for no values.
func Percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return v[max(0, min(len(v)-1, int(math.Ceil(p/100*float64(len(v))))-1))]
}
