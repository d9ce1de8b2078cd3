// The report's sections, in order. The data is what `bonfire report` wrote into the page.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const PARTS = ["data", "forward", "backward", "optimizer", "aggregate", "evaluate", "other"];
const several = runs.length > 1;

function section(title, id) {
  const part = make("section", { id, "aria-labelledby": `${id}-head` }, make("h2", { id: `${id}-head` }, title));
  document.getElementById("report").append(part);
  return part;
}

/** A section with figures side by side. */
function gallery(title, id) {
  const part = section(title, id);
  const grid = make("div", { class: "figures" });
  part.append(grid);
  grid.note = (text) => grid.before(make("p", { class: "note" }, text));
  return grid;
}

/** Runs' names for sentences. */
const named = (some) => some.map((run) => run.label).join(", ");

/** A sentence about the runs for which something is not there; nothing where it is there for all. */
function missing(place, some, text) {
  if (some.length) place.note(several ? `${named(some)}: ${text}` : text.charAt(0).toUpperCase() + text.slice(1));
}

function head() {
  const title = several ? `Bonfire report: ${runs.length} runs` : `Bonfire report: ${runs[0].label}`;
  document.title = title;
  document.getElementById("title").textContent = title;
  document.getElementById("lead").textContent = several
    ? named(runs)
    : `${runs[0].summary.strategy}, ${words.count(runs[0].summary.clients, "client")}, ${words.count(runs[0].rounds, "round")}, on ${runs[0].summary.device}`;
  for (const run of runs) {
    for (const text of run.notes) document.getElementById("contents").before(make("p", { class: "note" }, several ? `${run.label}: ${text}` : text));
  }
}

/** The last value of a curve. */
const last = (run, name) => run.curves[name]?.values.at(-1);

const BY = { accuracy: "accuracy", loss: "loss", "macro-f1": "macro F1", "micro-f1": "micro F1", matthews: "Matthews' correlation", pearson: "Pearson's correlation", spearman: "Spearman's correlation", f1: "F1 of spans" };

const SHARES = ["accuracy", "macro-f1", "micro-f1", "f1"];

function summary() {
  const part = section("Summary", "summary");
  const or = (words) => (v) => (v === undefined || v === null ? "–" : words(v));
  // Where both baselines are there, of the same data, seed and rounds: how a run lies between each client alone and all rows in one place.
  const accuracy = (r) => r.summary.final_accuracy ?? r.summary.personal_accuracy;
  const terms = (r) => [r.summary.seed, r.planned, r.config.match(/\[data\][^[]*/)?.[0]].join();
  const line = (r, strategy) => {
    const found = runs.filter((other) => other.summary.strategy === strategy && terms(other) === terms(r));
    return found.length === 1 ? accuracy(found[0]) : undefined;
  };
  const gain = (r) => {
    const [own, local, pooled] = [accuracy(r), line(r, "local"), line(r, "pooled")];
    return [own, local, pooled].every(Number.isFinite) && r.summary.strategy !== "local" ? { points: own - local, way: pooled - local } : undefined;
  };
  const rows = [
    ["Name", (r) => r.summary.name],
    ["Strategy", (r) => r.summary.strategy],
    ["Seed", (r) => String(r.summary.seed)],
    ["Clients", (r) => words.number(r.summary.clients)],
    ["Rounds", (r) => (r.planned && r.planned !== r.rounds ? `${r.rounds} of ${r.planned}` : String(r.rounds))],
    ["Test accuracy, last", (r) => or(words.percent)(r.summary.final_accuracy)],
    ["Test accuracy, best", (r) => or(words.percent)(r.summary.best_accuracy)],
    ["Test macro F1, last", (r) => or(words.percent)(last(r, "macro_f1"))],
    ["Matthews' correlation, last", (r) => or(words.number)(last(r, "matthews"))],
    ["Test micro F1, last", (r) => or(words.percent)(last(r, "matthews") === undefined ? last(r, "micro_f1") : undefined)],
    ["F1 of spans, last", (r) => or(words.percent)(r.summary.final_f1)],
    ["Pearson's correlation, last", (r) => or(words.number)(r.summary.final_pearson)],
    ["Spearman's correlation, last", (r) => or(words.number)(r.summary.final_spearman)],
    ["Backdoor answered, last", (r) => or(words.percent)(r.summary.final_attack_success)],
    ["Best round", (r) => or((b) => words.number(b.round))(r.summary.best)],
    ["Best by", (r) => or((b) => `${BY[b.by] ?? b.by}, ${b.on} split`)(r.summary.best)],
    ["Score there", (r) => or((b) => (SHARES.includes(b.by) ? words.percent : words.number)(b.score))(r.summary.best)],
    ["Test accuracy there", (r) => or(words.percent)(r.summary.best?.test_accuracy)],
    ["Test perplexity, last", (r) => or(words.number)(r.summary.final_perplexity)],
    ["Exact match, last", (r) => or(words.percent)(r.summary.final_exact_match)],
    ["Accuracy of the clients' own models", (r) => or(words.percent)(r.summary.personal_accuracy)],
    ["Mean over clients", (r) => or(words.percent)(r.spread?.mean)],
    ["Worst tenth of clients", (r) => or(words.percent)(r.spread?.worst_decile)],
    ["Deviation of clients", (r) => or(words.percent)(r.spread?.deviation)],
    ["Mean over clients, fine-tuned", (r) => or(words.percent)(r.summary.personalised?.after.mean)],
    ["Worst tenth of clients, fine-tuned", (r) => or(words.percent)(r.summary.personalised?.after.worst_decile)],
    ["Gained by fine-tuning, points", (r) => or((p) => (100 * p.gain).toFixed(1))(r.summary.personalised)],
    ["Clients that lose by it", (r) => or((p) => `${words.number(p.worse)} of ${words.number(p.after.clients)}`)(r.summary.personalised)],
    ["Above each client alone (local), points", (r) => or((g) => (100 * g.points).toFixed(1))(gain(r))],
    ["Of the way from local to pooled", (r) => or((g) => (g.way > 0 ? words.percent(g.points / g.way) : "–"))(gain(r))],
    ["Uploaded", (r) => words.bytes(r.summary.upload_bytes)],
    ["Downloaded", (r) => words.bytes(r.summary.download_bytes)],
    ["Uploaded numbers", (r) => words.number(r.summary.upload_params)],
    ["Numbers that train", (r) => words.number(r.summary.trainable_params)],
    ["On the clients' devices", (r) => or(words.seconds)(r.summary.simulated_seconds)],
    ["Sent too late", (r) => (r.summary.late_upload_bytes ? words.bytes(r.summary.late_upload_bytes) : "–")],
    ["Drawn by the clients' devices", (r) => or((wh) => `${words.number(Number((wh / 1000).toPrecision(3)))} kWh`)(r.summary.watt_hours)],
    ["Wall time of the rounds", (r) => words.seconds(r.seconds)],
    ["Tokens trained", (r) => words.number(r.summary.tokens_trained)],
    ["Tokens a second in training", (r) => words.number(Math.round(r.summary.tokens_per_second))],
    ["Peak memory", (r) => or(words.bytes)(r.summary.peak_memory_bytes)],
    ["Device", (r) => r.summary.device],
    ["Run folder", (r) => r.folder],
  ];
  const filled = rows.map(([name, of]) => [name, ...runs.map(of)]).filter((row) => row.slice(1).some((text) => text !== "–"));
  part.append(table("Summary of the runs", ["", ...runs.map((r) => r.label)], filled));
}

/** The points of a value of all runs that have it; `x` is what lies along the page. */
function curves(name, x, label = (run) => run.label, dashed = false) {
  return runs.flatMap((run, i) => {
    const found = run.curves[name];
    if (!found) return [];
    if (x === "clock" && !found.clock.length) return [];
    const along = { bytes: found.uploaded, clock: found.clock, round: found.rounds }[x];
    const points = found.rounds.map((round, k) => ({ x: along[k], y: found.values[k], round }));
    return [{ name: label(run), run: i, dashed, points, every: found.every }];
  });
}

/** What thinning left out. */
function thinned(series) {
  const some = series.filter((s) => s.every > 1);
  return some.length ? `Thinned: of ${some.map((s) => `${s.name} one value in ${s.every} is shown`).join(", of ")}, first and last included.` : "";
}

/** A share as its percentage, without the sign. */
const hundredths = (v) => words.number(Number((100 * v).toFixed(3)));

const JUDGED = [
  ["accuracy", "Test accuracy", words.percent, "test accuracy (%)", hundredths],
  ["macro_f1", "Test macro F1", words.percent, "macro F1 (%)", hundredths],
  ["f1", "F1 of spans on the test split", words.percent, "F1 (%)", hundredths],
  ["pearson", "Pearson's correlation on the test split", words.number, "Pearson's correlation", words.number],
  ["spearman", "Spearman's correlation on the test split", words.number, "Spearman's correlation", words.number],
  ["perplexity", "Test perplexity", words.number, "perplexity", words.number],
  ["exact_match", "Exact match on the test split", words.percent, "exact match (%)", hundredths],
];

function learning() {
  const place = gallery("Accuracy and loss", "learning");
  for (const [name, title, show, unit, tick] of JUDGED) {
    const own = curves(`personal_${name}`, "round", (run) => `${run.label}, clients' own models`, true);
    const series = [...curves(name, "round"), ...own];
    if (!series.length) continue;
    const spoken = name === "accuracy" && runs.some((run) => run.causal);
    const about = [spoken ? "Of a language model: the share of tokens foretold." : "Of the global model on the test split.", thinned(series)];
    lines(place, { title: `${title} by round`, about, x: "round", y: unit, show, tick, showX: words.number, series });
  }
  const answered = curves("attack_success", "round");
  if (answered.length) {
    const about = ["Test texts of other labels that are taken for the backdoor's target when they hold its words.", thinned(answered)];
    lines(place, { title: "Backdoor answered by round", about, x: "round", y: "of texts (%)", show: words.percent, tick: hundredths, showX: words.number, series: answered });
  }
  const numbers = runs.every((run) => run.numbers);
  const [train, test] = [["train_loss", "training", true], ["test_loss", "test", false]].map(([name, what, dashed]) =>
    curves(name, "round", (run) => (several ? `${run.label}, ${what}` : what), dashed));
  const both = [...train, ...test].sort((a, b) => a.run - b.run);
  if (both.length) {
    lines(place, {
      title: "Training and test loss by round",
      about: [`Mean ${numbers ? "squared error" : "cross-entropy"}. Training: of the clients' own steps, dashed. Test: of the global model.`, thinned(both)],
      x: "round", y: numbers ? "loss" : "loss (nats)", show: words.number, showX: words.number, series: both,
    });
  }
  if (!place.childElementCount) place.note("No round is complete yet.");
}

function traffic() {
  const place = gallery("Against what was sent", "traffic");
  for (const [name, title, show, unit, tick] of JUDGED) {
    const series = curves(name, "bytes");
    if (!series.length) continue;
    const ends = series.map((s) => s.points[s.points.length - 1].x);
    const logX = Math.max(...ends) > 8 * Math.min(...ends);
    // A logarithmic axis has no place for the untrained model, before anything was sent.
    const sent = logX ? series.map((s) => ({ ...s, points: s.points.filter((p) => p.x > 0) })).filter((s) => s.points.length) : series;
    lines(place, {
      title: `${title} against uploaded bytes`,
      about: ["Uploads of all clients so far, as serialised.", logX ? "Bytes on a logarithmic axis: the runs sent very different amounts." : "", thinned(series)],
      x: logX ? "uploaded (bytes, logarithmic)" : "uploaded (bytes)", y: unit, show, tick, showX: words.bytes, series: sent, logX, column: "Uploaded",
    });
  }
  for (const [name, title, show, unit, tick] of JUDGED) {
    const told = curves(name, "clock");
    if (!told.length) continue;
    const longest = Math.max(...told.flatMap((s) => s.points.map((p) => p.x)));
    const [span, length] = [["days", 86400], ["hours", 3600], ["minutes", 60], ["seconds", 1]].find(([, length]) => longest > 3 * length) ?? ["seconds", 1];
    const series = told.map((s) => ({ ...s, points: s.points.map((p) => ({ ...p, x: Number((p.x / length).toPrecision(4)) })) }));
    lines(place, {
      title: `${title} against time on the clients' devices`,
      about: ["What the rounds so far would have taken on the devices and links of clients.devices; the server's own work takes no time.", thinned(series)],
      x: `time (${span})`, y: unit, show, tick, showX: words.number, series, column: `Time (${span})`,
    });
  }
  const waited = runs.map((run, i) => ({ ...run, i })).filter((run) => run.clock);
  for (const run of waited) {
    const { kinds, late, mean } = run.clock;
    bars(place, {
      title: several ? `Time at a round by device, ${run.label}` : "Time at a round by device",
      about: ["Seconds that a client is at a round, the mean of those whose uploads counted.", late ? `${words.count(late, "upload")} came too late.` : ""],
      summary: kinds.map((kind, k) => `${kind}: ${words.seconds(mean[k])}.`).join(" "),
      x: "seconds", y: "device", head: "Device", lying: true, whole: true, names: kinds.map((kind) => shortened(kind, 28)), tip: (k) => kinds[k],
      show: words.seconds, tick: words.number, series: [{ name: "seconds", colour: run.i, values: mean }], height: 90 + 44 * kinds.length,
    });
  }
  if (!place.childElementCount) place.note("Nothing was evaluated yet.");
}

function partition() {
  const place = gallery("Who holds what", "partition");
  missing(place, runs.filter((run) => !run.partition), "the partition was not recorded: the run is of a version that wrote no partition.json.");
  const kinds = new Map();
  for (const run of runs.filter((r) => r.partition)) {
    const key = JSON.stringify(run.partition);
    kinds.set(key, [...(kinds.get(key) ?? []), run]);
  }
  for (const [, same] of kinds) {
    const { labels, clients, names, counts, sizes, all_clients: all, all_labels: every } = same[0].partition;
    const whose = several ? (same.length === runs.length ? "The same for all runs." : `Of ${named(same)}.`) : "";
    const sampled = clients.length < all ? `${clients.length} of ${words.count(all, "client")} are shown, evenly spaced.` : "";
    const columns = clients.map((client, i) => (names.length ? `${client} ${names[i]}` : String(client)));
    if (!labels.length) {
      bars(place, {
        title: "Training examples by client", about: ["The data has no labels.", whose, sampled], whole: true,
        summary: `From ${Math.min(...sizes)} to ${Math.max(...sizes)} examples.`,
        x: "client", y: "training examples", names: columns, head: "Client", show: words.number, counts: true, tip: (i) => `Client ${columns[i]}`,
        series: [{ name: "training examples", colour: 0, values: sizes }],
      });
      continue;
    }
    const cut = labels.length < every ? `The ${labels.length} most frequent of ${every} labels are shown.` : "";
    heat(place, {
      title: "Training examples by client and label", about: [whose, sampled, cut].filter(Boolean).join(" "),
      summary: `${words.count(all, "client")} and ${words.count(every, "label")}; clients hold from ${Math.min(...sizes)} to ${Math.max(...sizes)} examples.`,
      x: "client", y: "label", rows: labels, columns, tips: columns.map((c) => `client ${c}`), corner: "Label",
      cells: labels.map((_, l) => counts.map((row) => row[l])), unit: "examples", show: words.number,
    });
  }
}

function personal() {
  const place = gallery("How clients fare", "clients");
  const none = runs.filter((run) => !run.personal);
  missing(place, none.filter((run) => !run.per_client),
    "accuracy by client was not measured. Train with --set evaluate.per_client=true to have it.");
  missing(place, none.filter((run) => run.per_client), "no round has accuracies of single clients.");
  const have = runs.map((run, i) => ({ ...run, i })).filter((run) => run.personal);
  if (!have.length) return;
  const bins = have[0].personal.bins.length;
  const edge = (b) => Math.round((100 * b) / bins);
  const names = Array.from({ length: bins }, (_, b) => `${edge(b)}–${edge(b + 1)}`);
  const one = (run) => {
    const { round, clients, least, median, most } = run.personal;
    return `${several ? `${run.label}: r` : "R"}ound ${round}, ${words.count(clients, "client")} of its cohort with test examples; lowest ${words.percent(least)}, median ${words.percent(median)}, highest ${words.percent(most)}.`;
  };
  const spread = [["client_mean", "mean", false], ["client_worst", "worst tenth", true]].flatMap(([name, what, dashed]) =>
    curves(name, "round", (run) => (several ? `${run.label}, ${what}` : what), dashed)).sort((a, b) => a.run - b.run);
  if (spread.length) {
    lines(place, {
      title: "Accuracy by client over rounds", x: "round", y: "accuracy (%)", show: words.percent, tick: hundredths, showX: words.number, series: spread,
      about: ["Of the global model on every client's own test examples, each client counting once: the mean, and dashed that of the worst tenth.",
        ...runs.filter((run) => run.spread).map((run) => `${several ? `${run.label}: a` : "A"}t the last evaluation the deviation between ${words.count(run.spread.clients, "client")} was ${words.percent(run.spread.deviation)}.`), thinned(spread)],
    });
  }
  bars(place, {
    title: "Clients by accuracy of the global model on their own test examples", about: have.map(one), summary: have.map(one).join(" "),
    x: "accuracy (%)", y: "clients", names, head: "Accuracy (%)", show: words.number, counts: true, whole: true, tip: (i) => `Accuracy ${names[i]} %`,
    series: have.map((run) => ({ name: several ? run.label : "clients", colour: run.i, values: run.personal.bins })),
  });
}

function classes() {
  const have = runs.filter((run) => run.classes);
  if (!have.length) return;
  const place = gallery("Class by class", "classes");
  for (const run of have) {
    const { round, personal: own, all, rows, drawn: names, cells } = run.classes;
    const whose = `${own ? "The clients' own models on their own test examples" : "The global model on the test split"}, round ${round}.`;
    const some = names.length < all ? `The ${names.length} of ${words.count(all, "class", "classes")} that are most often mistaken are shown.` : "";
    const title = (text) => (several ? `${text}, ${run.label}` : text);
    // Where a text may have several, none is taken for another.
    if (names.length) heat(place, {
      title: title("What is taken for what"), about: [whose, some].filter(Boolean).join(" "),
      summary: `${words.count(all, "class", "classes")}; worst F1 ${words.percent(rows[0].f1)} (${rows[0].name}).`,
      x: "said", y: "right", rows: names, columns: names, tips: names.map((name) => `said: ${name}`), corner: "Right", cells, unit: "examples", show: words.number,
    });
    const listed = rows.length < all ? ` The ${rows.length} worst of ${all} are listed.` : "";
    place.append(make("div", { class: "whole" }, make("h3", {}, title("Precision, recall and F1 of each class")),
      make("p", { class: "about" }, `${whose} The worst F1 first.${listed}`),
      table(title("Precision, recall and F1 of each class"), ["Class", "Examples", "Precision", "Recall", "F1"],
        rows.map((row) => [row.name, words.number(row.examples), ...[row.precision, row.recall, row.f1].map(words.percent)]))));
  }
}

function slots() {
  const have = runs.filter((run) => run.slots);
  if (!have.length) return;
  const place = gallery("Which slots were chosen", "slots");
  const chance = (run) => (several ? `${run.label}, by chance` : "by chance");
  const alike = [...curves("slot_overlap", "round", (run) => (several ? run.label : "chosen")), ...curves("slot_overlap_by_chance", "round", chance, true)];
  if (alike.length) {
    lines(place, {
      title: "How alike clients choose", x: "round", y: "overlap (%)", show: words.percent, tick: hundredths, showX: words.number,
      about: ["Slots that two clients both chose, of those that either did; the mean over pairs. Dashed: what as many slots drawn by chance would give. Near 100 %, all clients train the same slots.", thinned(alike)],
      series: alike.sort((a, b) => a.run - b.run),
    });
  }
  for (const run of have) {
    const { targets, spans, choices } = run.slots;
    const names = spans.map(([from, to]) => (from === to ? String(from) : `${from}–${to}`));
    const binned = spans.some(([from, to]) => from !== to);
    heat(place, {
      title: several ? `Slots chosen, ${run.label}` : "Slots chosen by target and round",
      about: ["How many slots of each target the round's clients chose together.", binned ? "Columns are means over several rounds." : ""],
      summary: `${words.count(targets.length, "target")} and ${words.count(run.rounds, "round")}.`,
      x: "round", y: "target (layer and linear)", rows: targets, columns: spans.map(([from]) => String(from)), tips: names.map((n) => `round ${n}`),
      cells: targets.map((_, t) => choices.map((round) => round[t])), unit: "slots", show: words.number, corner: "Target",
    });
  }
}

function times() {
  const place = gallery("Where the time goes", "times");
  missing(place, runs.filter((run) => !run.times && run.rounds > 0), "the time of a round's parts was not recorded: the run is of a version that did not measure it.");
  const have = runs.filter((run) => run.times);
  if (!have.length) return;
  const about = ["Data: waiting for batches and putting them on the device. Other: folding, choosing slots, reading and counting uploads.",
    "On GPUs every 16th step is clocked and its shares stand for the whole."];
  const series = (values) => PARTS.map((part, i) => ({ name: part, colour: i, values: values(part) }));
  if (have.length > 1) {
    const total = (run, part) => run.times.seconds[part].reduce((sum, mean, i) => sum + mean * (run.times.spans[i][1] - run.times.spans[i][0] + 1), 0);
    bars(place, {
      title: "Seconds of the whole run by part", about, whole: true, stacked: true, lying: true, x: "seconds", y: "run", head: "Run", show: words.seconds, tick: words.number,
      names: have.map((run) => shortened(run.label, 28)), tip: (i) => have[i].label, series: series((part) => have.map((run) => total(run, part))),
      summary: have.map((run) => `${run.label}: ${words.seconds(PARTS.reduce((sum, part) => sum + total(run, part), 0))}.`).join(" "),
      height: 90 + 44 * have.length,
    });
    return;
  }
  const [run] = have;
  const { spans, seconds } = run.times;
  const names = spans.map(([from, to]) => (from === to ? String(from) : `${from}–${to}`));
  const binned = spans.some(([from, to]) => from !== to);
  const sum = (part) => seconds[part].reduce((a, b) => a + b, 0);
  const all = PARTS.reduce((a, part) => a + sum(part), 0);
  bars(place, {
    title: "Seconds of a round by part", about: [...about, binned ? "Bars are means over several rounds." : ""], whole: true, stacked: true,
    x: "round", y: "seconds", head: "Round", names, show: words.seconds, tick: words.number, tip: (i) => `Round ${names[i]}`, series: series((part) => seconds[part]),
    summary: PARTS.map((part) => `${part} ${words.percent(sum(part) / all)}`).join(", ") + ".",
  });
}

function configs() {
  const part = section("Configuration", "config");
  for (const run of runs) {
    part.append(folded(several ? `config.toml of ${run.label}` : "config.toml, all defaults written out", () => make("pre", { tabindex: "0" }, run.config)));
  }
}

function contents() {
  const links = [...document.querySelectorAll("#report > section")].map((part) =>
    make("li", {}, make("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
  document.getElementById("contents").append(make("ul", {}, ...links));
}

// The theme: as the system, until the button says otherwise.
const dark = matchMedia("(prefers-color-scheme: dark)");
const CHOICES = ["system", "light", "dark"];
let chosen = "system";

function show(next) {
  theme = next;
  document.documentElement.dataset.theme = theme;
  repaint();
}

function choose(choice) {
  chosen = choice;
  document.getElementById("theme").textContent = choice === "system" ? "Theme: as the system" : `Theme: ${choice}`;
  show(choice === "system" ? (dark.matches ? "dark" : "light") : choice);
}

document.getElementById("theme").addEventListener("click", () => choose(CHOICES[(CHOICES.indexOf(chosen) + 1) % CHOICES.length]));
dark.addEventListener("change", () => choose(chosen));
// Paper is white.
addEventListener("beforeprint", () => show("light"));
addEventListener("afterprint", () => choose(chosen));

Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
Chart.defaults.font.size = 12;
// Colours are our own.
Chart.defaults.plugins.colors.enabled = false;
theme = dark.matches ? "dark" : "light";
document.documentElement.dataset.theme = theme;
head();
[summary, learning, traffic, partition, personal, classes, slots, times, configs, contents].forEach((part) => part());
choose("system");
document.documentElement.dataset.drawn = String(drawn.length);
