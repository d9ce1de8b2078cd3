// What everything on the page shares: elements made without HTML, numbers in words, colours of both themes.
"use strict";

/** An element; `parts` are texts and elements. Text is only ever put in as text. */
function make(tag, attributes = {}, ...parts) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...parts);
  return element;
}

function trimmed(value, digits) {
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits });
}

const words = {
  number: (v) => (Number.isInteger(v) ? v.toLocaleString("en") : trimmed(v, 4)),
  // What lies in the middle goes to the even digit, as in the terminal: 43.25 is 43.2.
  percent: (v) => `${(Math.abs((100 * v) % 1) === 0.25 ? 100 * v - Math.sign(v) * 0.05 : 100 * v).toFixed(1)} %`,
  seconds: (v) => (v >= 100 ? `${Math.round(v).toLocaleString("en")} s` : `${trimmed(v, 3)} s`),
  bytes(v) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let unit = 0;
    for (; v >= 999.5 && unit + 1 < units.length; unit += 1) v /= 1000;
    return `${trimmed(v, 3)} ${units[unit]}`;
  },
  count: (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`,
};

// Okabe and Ito's colours, which people with any colour vision can tell apart, made darker or lighter where they would be
// too faint on the page. Series differ by dashes and points as well.
const COLOURS = {
  light: ["#0072b2", "#d55e00", "#00855f", "#b5568a", "#9a6b00", "#2e94cf", "#444b55"],
  dark: ["#56b4e9", "#ff8f52", "#2cc99a", "#e79cc6", "#f0b73d", "#b4e0ff", "#858f9d"],
};
const POINTS = ["circle", "rect", "triangle", "rectRot", "star", "crossRot", "rectRounded"];
// One hue from the page's own shade on: the emptier, the nearer to it.
const RAMPS = {
  light: [[238, 242, 247], [158, 202, 225], [66, 146, 198], [8, 81, 156], [4, 30, 80]],
  dark: [[28, 34, 43], [20, 72, 120], [38, 128, 186], [122, 190, 232], [240, 248, 255]],
};

let theme = "light";
const ink = () => getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
const faint = () => getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
const colour = (i) => COLOURS[theme][i % COLOURS[theme].length];
const point = (i) => POINTS[i % POINTS.length];
/** After the colours are used up, lines are dotted. */
const dash = (i) => (i < COLOURS.light.length ? [] : [2, 3]);

/** The colour of `share`, 0 to 1. */
function ramp(share) {
  const stops = RAMPS[theme];
  const at = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  const mix = (i) => Math.round(stops[low][i] + (stops[low + 1][i] - stops[low][i]) * (at - low));
  return `rgb(${mix(0)}, ${mix(1)}, ${mix(2)})`;
}

/** A table whose first column heads its rows. */
function table(caption, heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const line = ([first, ...rest]) => {
    return make("tr", {}, make("th", { scope: "row" }, String(first)), ...rest.map((v) => make("td", {}, String(v))));
  };
  const body = make("tbody", {}, ...rows.map(line));
  const name = make("caption", { class: "hidden" }, caption);
  const whole = make("table", {}, name, make("thead", {}, head), body);
  return make("div", { class: "table", tabindex: "0", role: "region", "aria-label": caption }, whole);
}

/** Something behind a line that can be opened, made when it is. */
function folded(line, build) {
  const details = make("details", {}, make("summary", {}, line));
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(build());
  });
  return details;
}
