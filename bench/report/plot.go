package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Plot is a picture.
type Plot struct {
	Name  string // file name without directory
	Title string
	SVG   []byte
}

// colours of the series, which differ for those who see no red or green as well (P. Okabe, K. Ito).
var colours = []color.Color{
	color.RGBA{0, 114, 178, 255}, color.RGBA{213, 94, 0, 255}, color.RGBA{0, 158, 115, 255}, color.RGBA{204, 121, 167, 255},
	color.RGBA{230, 159, 0, 255}, color.RGBA{86, 180, 233, 255}, color.RGBA{0, 0, 0, 255},
}

const (
	plotWidth  = 16 * vg.Centimeter
	plotHeight = 9 * vg.Centimeter
)

// Plots are the pictures of a result: one a curve, and one of the ratios of all cases.
func (r *Result) Plots() ([]Plot, error) {
	var out []Plot
	for i := range r.Curves {
		p, err := r.Curves[i].plot(r.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	p, err := r.ratios()
	if err != nil {
		return nil, err
	}
	if p.SVG != nil {
		out = append(out, p)
	}
	return out, nil
}

// Sans serif, which every system has in some form; the same metrics as Arial.
func init() { plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"} }

func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.Padding = vg.Points(6)
	p.Legend.Top, p.Legend.Left = true, true // from the left: other fonts are wider
	p.Legend.XOffs, p.Legend.Padding = vg.Points(4), vg.Points(3)
	p.Legend.ThumbnailWidth = vg.Points(16)
	p.BackgroundColor = color.White
	return p
}

func (c *Curve) plot(of string) (Plot, error) {
	name := of + "-" + c.Name + ".svg"
	p := newPlot(c.Title)
	p.X.Label.Text, p.Y.Label.Text = c.X.Label, c.Y.Label
	p.Add(plotter.NewGrid())
	drawn := 0
	for i, s := range c.Series {
		var line plotter.XYs
		var spread plotter.YErrors
		for _, q := range s.Points {
			if c.X.Log && q.X <= 0 || c.Y.Log && (q.Y <= 0 || q.Min <= 0) {
				continue
			}
			line = append(line, plotter.XY{X: q.X, Y: q.Y})
			spread = append(spread, struct{ Low, High float64 }{q.Y - q.Min, q.Max - q.Y})
		}
		if len(line) == 0 {
			continue
		}
		drawn += len(line)
		col := colours[i%len(colours)]
		l, err := plotter.NewLine(line)
		if err != nil {
			return Plot{}, fmt.Errorf("plot %s: %w", name, err)
		}
		l.Color, l.Width = col, vg.Points(1.5)
		p.Add(l)
		label := s.Name
		if s.Slope != nil {
			label += fmt.Sprintf(" (slope %.2f)", *s.Slope)
		}
		if len(line) > 60 { // a distribution
			p.Legend.Add(label, l)
			continue
		}
		dots, err := plotter.NewScatter(line)
		if err != nil {
			return Plot{}, fmt.Errorf("plot %s: %w", name, err)
		}
		dots.Color, dots.Radius, dots.Shape = col, vg.Points(2.5), draw.CircleGlyph{}
		bars, err := plotter.NewYErrorBars(struct {
			plotter.XYs
			plotter.YErrors
		}{line, spread})
		if err != nil {
			return Plot{}, fmt.Errorf("plot %s: %w", name, err)
		}
		bars.Color = col
		p.Add(dots, bars)
		p.Legend.Add(label, l, dots)
	}
	if drawn == 0 {
		return Plot{}, fmt.Errorf("plot %s: no point can be drawn", name)
	}
	logarithmic(&p.X, c.X.Log)
	logarithmic(&p.Y, c.Y.Log)
	if !c.Y.Log {
		p.Y.Min = min(p.Y.Min, 0)
	}
	// Room for the legend above the lines.
	if room := 0.02 + 0.085*float64(len(c.Series)); c.Y.Log {
		p.Y.Max *= math.Pow(p.Y.Max/p.Y.Min, room)
	} else {
		p.Y.Max += (p.Y.Max - p.Y.Min) * room
	}
	svg, err := render(p, plotHeight+vg.Length(max(0, len(c.Series)-2))*0.5*vg.Centimeter)
	return Plot{name, c.Title, svg}, err
}

// logarithmic makes an axis one, with room at both ends: an axis of one value has none.
func logarithmic(a *plot.Axis, on bool) {
	if a.Min == a.Max {
		a.Min, a.Max = a.Min-0.5*math.Abs(a.Min)-0.01, a.Max+0.5*math.Abs(a.Max)+0.01
		if on {
			a.Min = a.Max / 10
		}
	}
	if on {
		a.Scale = plot.LogScale{}
		a.Tick.Marker = plot.TickerFunc(logTicks)
	}
}

// logTicks are powers of ten, and in a short range twice and five times them as well.
func logTicks(lo, hi float64) []plot.Tick {
	var out []plot.Tick
	short := hi/lo < 200
	for e := math.Floor(math.Log10(lo)); e <= math.Ceil(math.Log10(hi)); e++ {
		for m := 1.0; m < 10; m++ {
			v := m * math.Pow(10, e)
			if v < lo || v > hi {
				continue
			}
			t := plot.Tick{Value: v}
			if m == 1 || short && (m == 2 || m == 5) {
				t.Label = number(v)
			}
			out = append(out, t)
		}
	}
	return out
}

// ratios draws, for the figure that most of the result's cases have a ratio of, that ratio in each case and system.
func (r *Result) ratios() (Plot, error) {
	count := map[string]int{}
	var figures []Figure
	for _, c := range r.Cases {
		seen := map[string]bool{}
		for _, s := range c.Systems {
			for _, f := range s.Values {
				if f.Ratio > 0 && f.Better != "" && !seen[f.Name] {
					seen[f.Name] = true
					if count[f.Name]++; count[f.Name] == 1 {
						figures = append(figures, f)
					}
				}
			}
		}
	}
	if len(figures) == 0 {
		return Plot{}, nil
	}
	best := slices.MaxFunc(figures, func(a, b Figure) int { return count[a.Name] - count[b.Name] })
	type bar struct {
		label  string
		system string
		f      Figure
	}
	var bars []bar
	var systems []string
	for _, c := range r.Cases {
		name, _, _ := strings.Cut(c.Name, ":")
		for _, s := range c.Systems {
			for _, f := range s.Values {
				if f.Name == best.Name && f.Ratio > 0 {
					bars = append(bars, bar{name, s.Name, f})
					if !slices.Contains(systems, s.Name) {
						systems = append(systems, s.Name)
					}
				}
			}
		}
	}
	if len(bars) < 2 {
		return Plot{}, nil
	}
	title := fmt.Sprintf("%s: ratio to %s (%s is better)", best.Name, best.RatioTo, best.Better)
	p := newPlot(title)
	p.X.Label.Text = "times " + best.RatioTo
	var labels []string
	for k, system := range systems {
		var dots plotter.XYs
		var spread plotter.XErrors
		for i := range bars {
			b := bars[len(bars)-1-i] // the first at the top
			if k == 0 {
				label := b.label
				if len(systems) > 1 {
					label += ", " + b.system
				}
				labels = append(labels, label)
			}
			if b.system == system {
				dots = append(dots, plotter.XY{X: b.f.Ratio, Y: float64(i)})
				spread = append(spread, struct{ Low, High float64 }{b.f.Ratio - b.f.RatioMin, b.f.RatioMax - b.f.Ratio})
			}
		}
		s, err := plotter.NewScatter(dots)
		if err != nil {
			return Plot{}, fmt.Errorf("plot ratios of %s: %w", r.Name, err)
		}
		s.Color, s.Radius, s.Shape = colours[k%len(colours)], vg.Points(3.5), draw.CircleGlyph{}
		e, err := plotter.NewXErrorBars(struct {
			plotter.XYs
			plotter.XErrors
		}{dots, spread})
		if err != nil {
			return Plot{}, fmt.Errorf("plot ratios of %s: %w", r.Name, err)
		}
		e.Color = s.Color
		p.Add(s, e)
	}
	p.X.Min, p.X.Max = min(p.X.Min, 1), max(p.X.Max, 1)
	one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: -0.5}, {X: 1, Y: float64(len(bars)) - 0.5}})
	if err != nil {
		return Plot{}, fmt.Errorf("plot ratios of %s: %w", r.Name, err)
	}
	one.Dashes, one.Color = []vg.Length{vg.Points(4), vg.Points(3)}, color.Gray{100}
	p.Add(plotter.NewGrid(), one)
	p.NominalY(labels...)
	if p.X.Min > 0 && p.X.Max/p.X.Min > 20 {
		logarithmic(&p.X, true)
	} else {
		p.X.Min = min(p.X.Min, 0)
	}
	svg, err := render(p, 2.6*vg.Centimeter+vg.Length(len(bars))*0.55*vg.Centimeter)
	return Plot{r.Name + "-ratios.svg", title, svg}, err
}

// render draws the picture. Text stays text in the reader's own fonts, so the file needs nothing else.
func render(p *plot.Plot, height vg.Length) ([]byte, error) {
	c := vgsvg.New(plotWidth, height)
	p.Draw(draw.Crop(draw.New(c), 0, -0.6*vg.Centimeter, 0, -0.2*vg.Centimeter))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("write a plot: %w", err)
	}
	return bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif")), nil
}
