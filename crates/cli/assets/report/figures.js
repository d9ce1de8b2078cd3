// Charts with their captions, legends and tables.
"use strict";

const drawn = [];

/** A part of a chart's options that all charts share; colours are set by `repaint`. */
function axis(text, more = {}) {
  return { title: { display: true, text }, ...more };
}

function repaint() {
  for (const { chart, recolour } of drawn) {
    for (const scale of Object.values(chart.options.scales)) {
      scale.ticks.color = ink();
      scale.title.color = ink();
      scale.grid.color = faint();
    }
    recolour();
    chart.update("none");
  }
}

/** A small picture of how a series is drawn. */
function swatch(i, { fill = false, dashed = false } = {}) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", "26");
  svg.setAttribute("height", "12");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS(svg.namespaceURI, fill ? "rect" : "line");
  const places = fill ? { x: 6, y: 0, width: 14, height: 12 } : { x1: 1, y1: 6, x2: 25, y2: 6, "stroke-width": 3 };
  for (const [name, value] of Object.entries(places)) shape.setAttribute(name, value);
  if (!fill && (dashed || dash(i).length)) shape.setAttribute("stroke-dasharray", dashed ? "6 4" : "2 3");
  svg.append(shape);
  svg.paint = () => shape.setAttribute(fill ? "fill" : "stroke", colour(i));
  svg.paint();
  return svg;
}

/** Buttons that show and hide the series of a chart. */
function legend(chart, entries) {
  const button = ({ name, icon, sets }) => {
    const item = make("button", { type: "button", "aria-pressed": "true", title: "Show or hide" }, icon, name);
    item.addEventListener("click", () => {
      const show = item.getAttribute("aria-pressed") === "false";
      item.setAttribute("aria-pressed", String(show));
      sets.forEach((i) => chart.setDatasetVisibility(i, show));
      chart.update("none");
    });
    return make("li", {}, item);
  };
  return make("ul", { class: "legend", "aria-label": "Legend" }, ...entries.map(button));
}

/**
 * A figure: title, what is to be known about it, chart, legend, table.
 * `spec`: title, about, summary (what the chart says, for those who cannot see it), config, recolour (what a theme changes
 * besides the chart), height, least (its least width), entries (of the legend), after (elements below), heads and rows (of
 * the table), whole.
 */
function figure(place, spec) {
  const canvas = make("canvas", { role: "img", "aria-label": `${spec.title}. ${spec.summary ?? ""} The table below has the numbers.` });
  const box = make("div", { class: "chart" }, canvas);
  if (spec.height) box.style.height = `${spec.height}px`;
  if (spec.least) box.style.minWidth = `${spec.least}px`;
  const caption = make("figcaption", {}, make("h3", {}, spec.title));
  for (const text of [spec.about].flat().filter(Boolean)) caption.append(make("p", { class: "about" }, text));
  const scroll = make("div", { class: "scroll" }, box);
  const whole = make("figure", spec.whole ? { class: "whole" } : {}, caption, scroll);
  place.append(whole);
  const options = { responsive: true, maintainAspectRatio: false, animation: false, ...spec.config.options };
  options.plugins = { ...options.plugins, legend: { display: false } };
  for (const scale of Object.values(options.scales)) {
    scale.ticks = { ...scale.ticks };
    scale.grid = { ...scale.grid };
  }
  const chart = new Chart(canvas, { ...spec.config, options });
  const icons = spec.entries ?? [];
  if (icons.length) whole.append(legend(chart, icons));
  whole.append(...(spec.after ?? []));
  whole.append(folded("Show as a table", () => table(spec.title, spec.heads, spec.rows())));
  drawn.push({
    chart,
    recolour: () => {
      icons.forEach(({ icon }) => icon.paint());
      spec.recolour?.();
    },
  });
  return whole;
}

/** Whether a tick of a logarithmic axis gets its number: 1, 10, 100 … */
const isRound = (v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9;

/** Lines over rounds or bytes. `series`: name, run (its number), dashed, points [{x, y, round}]. */
function lines(place, { title, about, x, y, show, tick = show, showX, series, logX, column }) {
  const most = Math.max(...series.map((s) => s.points.length));
  const datasets = series.map((s) => ({
    label: s.name,
    data: s.points,
    // Functions are asked at every drawing, in whichever theme.
    borderColor: () => colour(s.run),
    backgroundColor: () => colour(s.run),
    borderWidth: 2,
    borderDash: s.dashed ? [6, 4] : dash(s.run),
    pointStyle: point(s.run),
    pointRadius: most > 60 ? 0 : 3,
    pointHitRadius: 8,
    tension: 0,
  }));
  const last = (s) => s.points[s.points.length - 1];
  figure(place, {
    title,
    about,
    summary: series.slice(0, 12).map((s) => `${s.name}: ${show(last(s).y)} in round ${last(s).round}.`).join(" "),
    config: {
      type: "line",
      data: { datasets },
      options: {
        interaction: { mode: "nearest", axis: "x", intersect: false },
        scales: {
          x: axis(x, { type: logX ? "logarithmic" : "linear", ticks: { callback: (v) => (logX && !isRound(v) ? null : showX(v)), precision: 0, maxRotation: 0, autoSkipPadding: 14 } }),
          y: axis(y, { ticks: { callback: (v) => tick(v) } }),
        },
        plugins: {
          tooltip: {
            callbacks: {
              title: (items) => (items.length ? `Round ${items[0].raw.round}` : ""),
              label: (item) => {
                const at = column ? ` after ${showX(item.raw.x)}` : "";
                return `${item.dataset.label}: ${show(item.raw.y)}${at}`;
              },
            },
          },
        },
      },
    },
    entries: series.map((s, i) => ({ name: s.name, icon: swatch(s.run, { dashed: s.dashed }), sets: [i] })),
    heads: column ? ["Run", "Round", column, y] : ["Round", ...series.map((s) => s.name)],
    rows: () => (column
      ? series.flatMap((s) => s.points.map((p) => [s.name, p.round, showX(p.x), show(p.y)]))
      : byRound(series, show)),
  });
}

/** A row a round with a column a series. */
function byRound(series, show) {
  const rounds = [...new Set(series.flatMap((s) => s.points.map((p) => p.round)))].sort((a, b) => a - b);
  const maps = series.map((s) => new Map(s.points.map((p) => [p.round, p.y])));
  return rounds.map((round) => [round, ...maps.map((m) => (m.has(round) ? show(m.get(round)) : "–"))]);
}

/** Bars. `series`: name, colour (its number), values; `stacked` or side by side; `lying`: along the page. */
function bars(place, { title, about, summary, x, y, names, series, stacked, lying, show, whole, head, tip, height, tick = show, counts = false }) {
  const datasets = series.map((s) => ({ label: s.name, data: s.values, backgroundColor: () => colour(s.colour), borderWidth: 0, maxBarThickness: 48, categoryPercentage: 0.9, barPercentage: 0.95 }));
  const number = axis(lying ? x : y, { stacked, beginAtZero: true, ticks: { callback: (v) => tick(v), ...(counts && { precision: 0 }), ...(lying && { maxRotation: 0, autoSkipPadding: 14 }) } });
  const name = axis(lying ? y : x, { stacked, type: "category", ticks: { autoSkipPadding: 6, maxRotation: 0 } });
  figure(place, {
    title, about, summary, whole, height,
    config: {
      type: "bar",
      data: { labels: names, datasets },
      options: {
        indexAxis: lying ? "y" : "x",
        interaction: { mode: "index", axis: lying ? "y" : "x", intersect: false },
        scales: lying ? { x: number, y: name } : { x: name, y: number },
        plugins: {
          tooltip: {
            callbacks: {
              title: (items) => (items.length ? (tip ?? ((i) => names[i]))(items[0].dataIndex) : ""),
              label: (item) => `${item.dataset.label}: ${show(item.raw)}`,
            },
          },
        },
      },
    },
    entries: series.length > 1 || stacked ? series.map((s, i) => ({ name: s.name, icon: swatch(s.colour, { fill: true }), sets: [i] })) : [],
    heads: [head, ...series.map((s) => s.name)],
    rows: () => names.map((n, i) => [tip ? tip(i) : n, ...series.map((s) => show(s.values[i]))]),
  });
}

const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** A heat map: `cells[row][column]`; rows and columns have names, `unit` says what is counted. */
function heat(place, { title, about, summary, x, y, rows, columns, cells, unit, show, corner, tips }) {
  const most = Math.max(...cells.flat(), 0);
  const tall = rows.length <= 32 ? 20 : rows.length <= 100 ? 13 : 7;
  // Few values lie near the largest; the root keeps the small ones apart, and the legend says so.
  const share = (v) => (most > 0 ? Math.sqrt(v / most) : 0);
  const data = cells.flatMap((row, r) => row.map((v, c) => ({ x: c, y: r, v })));
  const bar = make("i", { "aria-hidden": "true" });
  const key = make("div", { class: "ramp" }, make("span", {}, show(0)), bar, make("span", {}, `${show(most)} ${unit} (colours by square root)`));
  const gap = (pixels) => Math.max(0.5, pixels > 8 ? pixels - 1 : pixels);
  const inner = (chart) => chart.chartArea ?? { width: 100, height: 100 };
  figure(place, {
    title, about, summary,
    whole: true,
    height: rows.length * tall + 70,
    least: 170 + columns.length * 5,
    config: {
      type: "matrix",
      data: {
        datasets: [{
          label: title,
          data,
          backgroundColor: ({ raw }) => (raw ? ramp(share(raw.v)) : "transparent"),
          width: ({ chart }) => gap(inner(chart).width / columns.length),
          height: ({ chart }) => gap(inner(chart).height / rows.length),
        }],
      },
      options: {
        scales: {
          x: axis(x, { type: "linear", min: -0.5, max: columns.length - 0.5, offset: false, grid: { display: false },
            afterBuildTicks: (scale) => { scale.ticks = places(columns.length); },
            ticks: { callback: (v) => columns[v] ?? "", maxRotation: 0, autoSkipPadding: 8 } }),
          y: axis(y, { type: "linear", reverse: true, min: -0.5, max: rows.length - 0.5, grid: { display: false },
            afterBuildTicks: (scale) => { scale.ticks = places(rows.length); },
            ticks: { callback: (v) => shortened(rows[v] ?? "", 26), autoSkip: true, autoSkipPadding: 0, font: { size: Math.min(12, Math.max(9, tall - 2)) } } }),
        },
        plugins: {
          tooltip: {
            callbacks: {
              title: (items) => (items.length ? `${rows[items[0].raw.y]} · ${(tips ?? columns)[items[0].raw.x]}` : ""),
              label: (item) => `${show(item.raw.v)} ${unit}`,
            },
          },
        },
      },
    },
    recolour: () => {
      bar.style.background = `linear-gradient(to right, ${RAMPS[theme].map((_, i, all) => ramp(i / (all.length - 1))).join(", ")})`;
    },
    after: [key],
    heads: [corner, ...(tips ?? columns)],
    rows: () => rows.map((name, r) => [name, ...cells[r].map(show)]),
  });
}

const places = (count) => Array.from({ length: count }, (_, value) => ({ value }));
