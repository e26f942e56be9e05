// A line chart of the last minutes, drawn as SVG. Values are shown when the
// pointer is over it.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 300; // points, one a second
const HEIGHT = 100;

function svg(name, attributes) {
  const e = document.createElementNS(NS, name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
}

function element(name, className, text) {
  const e = document.createElement(name);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// nice is the next number of 1, 2, 5 times a power of ten.
function nice(v) {
  if (!(v > 0)) return 1;
  const p = 10 ** Math.floor(Math.log10(v));
  for (const f of [1, 2, 5, 10]) if (v <= f * p * 1.000001) return f * p;
  return v;
}

export class Chart {
  // lines are [{name, value(point)}], show writes a value with its unit.
  constructor(title, lines, show) {
    this.lines = lines;
    this.show = show;
    this.points = [];
    this.at = null; // index under the pointer
    this.root = element("figure", "chart");
    this.root.setAttribute("role", "img");
    this.root.setAttribute("aria-label", title);
    const head = element("h3", "", title);
    this.now = element("output");
    head.append(this.now);
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" });
    for (const y of [0.5, HEIGHT / 2, HEIGHT - 0.5]) this.svg.append(svg("line", { x1: 0, x2: WIDTH, y1: y, y2: y, class: "grid" }));
    this.area = svg("path", { class: "area" });
    this.svg.append(this.area);
    this.paths = lines.map((_, i) => svg("path", { class: `line${i}` }));
    this.svg.append(...this.paths);
    this.cursor = svg("line", { y1: 0, y2: HEIGHT, x1: -1, x2: -1, class: "cursor" });
    this.svg.append(this.cursor);
    const foot = element("div", "foot");
    this.max = element("span");
    this.keys = element("span");
    if (lines.length > 1) lines.forEach((l, i) => this.keys.append(element("span", `key${i}`, l.name), " "));
    this.span = element("span");
    foot.append(this.max, this.keys, this.span);
    this.root.append(head, this.svg, foot);
    this.svg.addEventListener("pointermove", (e) => {
      const box = this.svg.getBoundingClientRect();
      const x = ((e.clientX - box.left) / box.width) * WIDTH;
      this.at = this.points.length - 1 - Math.round(WIDTH - 1 - x);
      this.label();
    });
    this.svg.addEventListener("pointerleave", () => { this.at = null; this.label(); });
  }

  // draw shows the last points of a pair.
  draw(points) {
    this.points = points.slice(-WIDTH);
    const n = this.points.length;
    const values = this.lines.map((l) => this.points.map((p) => l.value(p)));
    const top = nice(Math.max(0, ...values.flat().filter((v) => v !== null)));
    const x = (i) => WIDTH - n + i + 0.5;
    const y = (v) => (HEIGHT - 1 - (v / top) * (HEIGHT - 4)).toFixed(2);
    values.forEach((line, k) => {
      let d = "";
      let pen = "M";
      line.forEach((v, i) => {
        if (v === null) { pen = "M"; return; } // nothing was measured: a gap
        d += `${pen}${x(i)} ${y(v)}`;
        // A single value between two gaps is a short dash.
        if (pen === "M" && (i + 1 === n || line[i + 1] === null)) d += "h1";
        pen = "L";
      });
      this.paths[k].setAttribute("d", d);
    });
    const whole = n > 1 && values[0].every((v) => v !== null);
    this.area.setAttribute("d", whole ? `M${x(0)} ${HEIGHT}L${values[0].map((v, i) => `${x(i)} ${y(v)}`).join("L")}L${x(n - 1)} ${HEIGHT}Z` : "");
    this.max.textContent = `top ${this.show(top)}`;
    this.span.textContent = n > 0 ? `${n} s` : "no data yet";
    this.label();
  }

  label() {
    const inside = this.at !== null && this.at >= 0 && this.at < this.points.length;
    const p = inside ? this.points[this.at] : this.points[this.points.length - 1];
    const xc = inside ? WIDTH - this.points.length + this.at + 0.5 : -1;
    this.cursor.setAttribute("x1", xc);
    this.cursor.setAttribute("x2", xc);
    if (!p) { this.now.textContent = "-"; return; }
    const text = this.lines.map((l) => { const v = l.value(p); return v === null ? "-" : this.show(v); }).join(" / ");
    this.now.textContent = inside ? `${new Date(p.time).toLocaleTimeString()}  ${text}` : text;
  }
}
