"use strict";
// Line charts and the reliability diagram, as SVG.

const CHART = {width: 520, height: 250, left: 58, right: 14, top: 14, bottom: 38};

/** Returns about `count` round numbers between two numbers. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) {
    found.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return found;
}

function short(value) {
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1).replace("e-", "e−");
  if (Math.abs(value) >= 10000) return `${+(value / 1000).toPrecision(3)}k`;
  return String(+value.toPrecision(4));
}

function duration(seconds) {
  if (seconds < 100) return `${+seconds.toPrecision(3)} s`;
  if (seconds < 6000) return `${+(seconds / 60).toPrecision(3)} min`;
  return `${+(seconds / 3600).toPrecision(3)} h`;
}

/** Maps a range of numbers onto a range of pixels. */
function scale([low, high], [first, last]) {
  const span = high - low || 1;
  return (value) => first + (value - low) / span * (last - first);
}

/** Returns the least range that holds all values, a little wider; `least` is its least width. */
function rangeOf(values, least) {
  const low = Math.min(...values), high = Math.max(...values);
  const space = Math.max((high - low) * 0.06, (least - (high - low)) / 2, Math.abs(high) * 1e-6);
  return [low >= 0 ? Math.max(0, low - space) : low - space, high + space];
}

/**
 * Returns a chart of lines over a common x.
 *
 * lines: [{name, points: [[x, y], ...], dots}]; x, y: {title, format}.
 */
function lineChart(title, lines, x, y) {
  const {width, height, left, right, top, bottom} = CHART;
  const points = lines.flatMap((line) => line.points);
  const xs = points.map(([value]) => value), ys = points.map(([, value]) => value);
  const xRange = [Math.min(0, ...xs), Math.max(...xs)];
  const yRange = y.most === undefined ? rangeOf(ys, 0) : [rangeOf(ys, 0.02)[0], Math.min(y.most, rangeOf(ys, 0.02)[1])];
  const toX = scale(xRange, [left, width - right]), toY = scale(yRange, [height - bottom, top]);
  const chart = drawn("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title});
  for (const tick of ticks(...yRange, 4)) {
    chart.append(drawn("line", {class: "grid", x1: left, x2: width - right, y1: toY(tick), y2: toY(tick)}),
      drawn("text", {class: "tick end", x: left - 8, y: toY(tick) + 4}, y.format(tick)));
  }
  for (const tick of ticks(...xRange, 5)) {
    chart.append(drawn("text", {class: "tick middle", x: toX(tick), y: height - bottom + 18}, x.format(tick)));
  }
  chart.append(drawn("text", {class: "axis end", x: width - right, y: height - 4}, x.title));
  lines.forEach((line, place) => {
    const path = line.points.map(([a, b]) => `${toX(a).toFixed(1)},${toY(b).toFixed(1)}`).join(" ");
    chart.append(drawn("polyline", {class: `line line-${place}`, points: path}));
    if (line.dots || line.points.length === 1) {
      chart.append(...line.points.map(([a, b]) =>
        drawn("circle", {class: `dot dot-${place}`, cx: toX(a), cy: toY(b), r: 3.5})));
    }
  });
  const cursor = drawn("line", {class: "cursor", y1: top, y2: height - bottom, visibility: "hidden"});
  chart.append(cursor);
  const values = element("figcaption", {});
  const show = (at) => values.replaceChildren(...legend(lines, at, x, y));
  show(null);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const pointed = (event.clientX - box.left) / box.width * width;
    const nearest = xs.reduce((best, value) =>
      Math.abs(toX(value) - pointed) < Math.abs(toX(best) - pointed) ? value : best);
    cursor.setAttribute("x1", toX(nearest));
    cursor.setAttribute("x2", toX(nearest));
    cursor.setAttribute("visibility", "visible");
    show(nearest);
  });
  chart.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    show(null);
  });
  return element("figure", {class: "chart"}, element("h3", {}, title), chart, values);
}

/** Returns the names of lines with their values at an x, or else their last ones. */
function legend(lines, at, x, y) {
  const entries = lines.map((line, place) => {
    const point = at === null ? line.points.at(-1) : line.points.reduce((best, candidate) =>
      Math.abs(candidate[0] - at) < Math.abs(best[0] - at) ? candidate : best);
    return element("span", {}, element("i", {class: `key key-${place}`}), `${line.name} `,
      element("b", {}, y.format(point[1], true)));
  });
  const place = at === null ? "last" : `at ${x.format(at)}${x.unit ?? ""}`;
  return [...entries, element("span", {class: "quiet"}, place)];
}

/** Returns the reliability diagram: accuracy over confidence, and how many pictures are where. */
function reliabilityDiagram(bins) {
  const size = 380, left = 46, bottom = 44, top = 12, right = 12;
  const toX = scale([0, 1], [left, size - right]), toY = scale([0, 1], [size - bottom, top]);
  const chart = drawn("svg", {viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "Reliability diagram"});
  for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    const text = `${Math.round(100 * tick)} %`;
    chart.append(drawn("line", {class: "grid", x1: left, x2: size - right, y1: toY(tick), y2: toY(tick)}),
      drawn("text", {class: "tick end", x: left - 8, y: toY(tick) + 4}, text),
      drawn("text", {class: "tick middle", x: toX(tick), y: size - bottom + 17}, text));
  }
  const most = Math.max(...bins.map((bin) => bin.images));
  for (const bin of bins.filter(({images}) => images)) {
    const x = toX(bin.low) + 2, width = toX(bin.high) - toX(bin.low) - 4, middle = toX(bin.confidence);
    const said = `${counted(bin.images, "picture")} at ${percent(bin.low, 0)} to ${percent(bin.high, 0)}: ` +
      `mean confidence ${percent(bin.confidence, 1)}, right ${percent(bin.accuracy, 1)}`;
    chart.append(drawn("g", {class: "bin"}, drawn("title", {}, said),
      drawn("rect", {class: "amount", x, width, y: toY(0.16 * bin.images / most), height: toY(0) - toY(0.16 * bin.images / most)}),
      drawn("line", {class: "whisker", x1: middle, x2: middle, y1: toY(bin.interval[0]), y2: toY(bin.interval[1])}),
      drawn("circle", {class: "dot dot-0", cx: middle, cy: toY(bin.accuracy), r: 3 + 5 * Math.sqrt(bin.images / most)})));
  }
  chart.append(drawn("line", {class: "ideal", x1: toX(0), y1: toY(0), x2: toX(1), y2: toY(1)}),
    drawn("text", {class: "axis end", x: size - right, y: size - 6}, "confidence of the model"),
    drawn("text", {class: "axis", x: left + 6, y: top + 10}, "share that is right"));
  return element("figure", {class: "chart square"}, chart);
}
