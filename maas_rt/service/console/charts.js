// Live charts: the server's counters, asked again and again, as lines over the last minutes.

import { amount, duration, h, say, svg } from "./dom.js";

const KEPT = 150; // looks: five minutes, two seconds apart
const LEAST = 30; // looks that fill a chart: it begins with the last minute and widens to five
const WINDOW = 5; // looks that a point tells of
const WIDTH = 300;
const HEIGHT = 84;

/** The looks at the server so far. */
export class History {
  constructor() {
    this.looks = [];
    this.bounds = { seconds: [], sizes: [] };
  }

  /** Takes an overview. A server that began anew has nothing to do with what was before it. */
  add(overview) {
    const counts = new Map();
    for (const model of overview.models) {
      for (const each of model.versions) {
        if (each.counts) counts.set(key(model.name, each.version), { ...each.counts, waiting: each.waiting });
      }
    }
    const last = this.looks.at(-1);
    if (last && overview.time < last.time) this.looks = [];
    this.bounds = overview.bounds;
    this.looks.push({ time: overview.time, counts });
    if (this.looks.length > KEPT + WINDOW) this.looks.shift();
  }

  /** What happened between two looks to a model's version, to all versions of a model, or to all. */
  between(from, to, model, version) {
    const sum = { ns: to.time - from.time, requests: 0, errors: 0, inFlight: 0, waiting: 0, times: [], total: 0, queue: 0, queued: 0, compute: 0, computed: 0, batches: [], rows: 0 };
    for (const [name, now] of to.counts) {
      const [its, number] = JSON.parse(name);
      if ((model !== undefined && its !== model) || (version !== undefined && number !== version)) continue;
      const then = from.counts.get(name);
      const before = then && then.requests <= now.requests ? then : null;
      sum.inFlight += now.in_flight;
      sum.waiting += now.waiting;
      sum.requests += now.requests - (before?.requests ?? 0);
      sum.errors += total(Object.values(now.errors)) - total(Object.values(before?.errors ?? {}));
      add(sum.times, now.request.counts, before?.request.counts);
      add(sum.batches, now.batch.counts, before?.batch.counts);
      sum.rows += now.batch.sum - (before?.batch.sum ?? 0);
      sum.queue += now.queue.sum - (before?.queue.sum ?? 0);
      sum.queued += total(now.queue.counts) - total(before?.queue.counts ?? []);
      sum.compute += now.compute.sum - (before?.compute.sum ?? 0);
      sum.computed += total(now.compute.counts) - total(before?.compute.counts ?? []);
    }
    return sum;
  }

  /** Of each look, what happened in the time before it. The first ones have too little before them. */
  series(model, version) {
    const points = [];
    for (let at = 1; at < this.looks.length; at++) {
      points.push(this.between(this.looks[Math.max(0, at - WINDOW)], this.looks[at], model, version));
    }
    return points;
  }

  latest(model, version) {
    const to = this.looks.at(-1);
    return this.looks.length < 2 ? null : this.between(this.looks.at(-1 - Math.min(WINDOW, this.looks.length - 1)), to, model, version);
  }

  /** A quantile of a latest point, in nanoseconds; null if there was no request. */
  quantile(point, q) {
    const counts = point?.times ?? [];
    const all = total(counts);
    if (!all) return null;
    let below = 0;
    const bounds = this.bounds.seconds;
    for (let i = 0; i < counts.length; i++) {
      if (below + counts[i] >= q * all && counts[i]) {
        const low = i ? bounds[i - 1] : 0;
        const high = bounds[i] ?? low; // above all bounds: that is all one knows
        return 1e9 * (low + ((high - low) * (q * all - below)) / counts[i]);
      }
      below += counts[i];
    }
    return null;
  }
}

export const rate = (point) => (point && point.ns ? (point.requests / point.ns) * 1e9 : null);

const key = (model, version) => JSON.stringify([model, version]);
const total = (numbers) => numbers.reduce((sum, each) => sum + each, 0);

function add(sums, now, before) {
  now.forEach((each, i) => { sums[i] = (sums[i] ?? 0) + each - (before?.[i] ?? 0); });
}

/** Four panels, and a function that draws them anew. */
export function charts(history, model, version) {
  const panels = [
    panel("Latency", [
      ["p50", (point) => history.quantile(point, 0.5)],
      ["p99", (point) => history.quantile(point, 0.99)],
    ], duration),
    panel("Throughput", [["requests/s", rate], ["errors/s", (point) => (point.errors / point.ns) * 1e9]], amount),
    panel("Queue", [
      ["wait", (point) => (point.queued ? point.queue / point.queued : null)],
      ["run", (point) => (point.computed ? point.compute / point.computed : null)],
    ], duration, (point) => `${amount(point.inFlight)} in flight, ${amount(point.waiting)} waiting`),
    panel("Batch", [["rows per run", (point) => (total(point.batches) ? point.rows / total(point.batches) : null)]], amount,
      (point) => `${amount((total(point.batches) / point.ns) * 1e9)} runs/s`),
  ];
  const draw = () => {
    const points = history.series(model, version);
    panels.forEach((each) => each.draw(points));
  };
  draw();
  return { element: h("div", { class: "charts" }, panels.map((each) => each.element)), draw };
}

function panel(title, lines, unit, about) {
  const values = lines.map(([name], i) => {
    const value = h("b", {}, "–");
    return { value, element: h("span", { class: `value line${i}` }, h("i", { "aria-hidden": "true" }), value, ` ${name}`) };
  });
  const paths = lines.map((_, i) => svg("path", { class: `line line${i}` }));
  const top = h("span", { class: "scale" });
  const note = h("p", { class: "note muted" }, "no requests yet");
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
    [0.25, 0.5, 0.75].map((part) => svg("path", { class: "grid", d: `M0 ${part * HEIGHT}H${WIDTH}` })), svg("path", { class: "base", d: `M0 ${HEIGHT - 0.5}H${WIDTH}` }), paths);
  const element = h("section", { class: "panel chart" },
    h("h2", {}, title), h("p", { class: "values" }, values.map((each) => each.element)), h("div", { class: "plot" }, top, picture), note);
  const draw = (points) => {
    const found = lines.map(([, of]) => points.map(of));
    const highest = Math.max(0, ...found.flat().filter((each) => each !== null && Number.isFinite(each)));
    const scale = nice(highest);
    found.forEach((values_, i) => paths[i].setAttribute("d", trace(values_, scale)));
    values.forEach((each, i) => say(each.value, unit(found[i].at(-1) ?? null)));
    say(top, highest ? unit(scale) : "");
    const last = points.at(-1);
    say(note, last && about ? about(last) : last && last.requests ? "of the last 10 seconds" : "no requests just now");
    picture.setAttribute("aria-label", `${title} over the last minutes: ` +
      lines.map(([name], i) => `${name} now ${unit(found[i].at(-1) ?? null)}`).join(", ") + `, at most ${unit(highest)}`);
  };
  return { element, draw };
}

/** A path, with a gap where there is no value. The newest is at the right edge. */
function trace(values, scale) {
  let d = "", pen = false;
  values.forEach((value, i) => {
    if (value === null || !Number.isFinite(value)) { pen = false; return; }
    const x = WIDTH - ((values.length - 1 - i) / Math.min(KEPT, Math.max(LEAST, values.length - 1))) * WIDTH;
    const y = HEIGHT - 1 - (scale ? value / scale : 0) * (HEIGHT - 6);
    const alone = !pen && (i + 1 >= values.length || values[i + 1] === null);
    d += `${pen ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${alone ? "h1.5" : ""}`;
    pen = true;
  });
  return d;
}

/** The next round number: 1, 2 or 5 times a power of ten. */
function nice(value) {
  if (!value) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value * 0.999);
}
