// Outputs as a person looks at them: the highest of a vector, a picture, a table, or the answer's text.

import { amount, choice, h, put } from "./dom.js";

const TOP = 10;
const ROWS = 50;
const COLUMNS = 32;
const LEAST_SIDE = 8; // of a picture
const TEXT = 20000; // characters of an answer that are shown

/** One block for each output of an answer. */
export function outputs(answer, text) {
  return [...answer.outputs.map((each, i) => output(each, i)),
    h("details", {}, h("summary", {}, "The answer as JSON"), h("pre", { tabindex: "0" }, text.length > TEXT ? `${text.slice(0, TEXT)} …` : text))];
}

function output(found, index) {
  const data = found.data.flat(Infinity);
  const views = [
    isVector(found, data) && ["top", "Highest", () => top(data)],
    pictureOf(found, data) && ["picture", "Picture", () => picture(pictureOf(found, data), data)],
    ["table", "Table", () => table(found, data)],
  ].filter(Boolean);
  const place = h("div", {});
  const show = (name) => put(place, views.find(([each]) => each === name)[2]());
  const first = views.find(([name]) => name === "picture") ?? views[0];
  show(first[0]);
  return h("section", { class: "output" },
    h("h3", {}, found.name, " ", h("code", {}, `${found.datatype} [${found.shape.join(", ")}]`)),
    views.length > 1 && choice("Shown as", `view ${index}`, views.map(([name, title]) => [name, title]), first[0], show), place);
}

const value = Number; // of "NaN", "Infinity" and integers beyond 2^53, too, which are strings
const number = (each) => (typeof each !== "number" || Number.isInteger(each) ? String(each) : String(Number(each.toPrecision(6))));

function isVector({ datatype, shape }, data) {
  return datatype !== "BYTES" && datatype !== "BOOL" && data.length > 1 && shape.at(-1) === data.length;
}

function top(data) {
  const order = data.map((each, i) => [value(each), i]).filter(([each]) => !Number.isNaN(each)).sort((a, b) => b[0] - a[0]).slice(0, TOP);
  const finite = order.map(([each]) => each).filter(Number.isFinite);
  const most = Math.max(...finite, 0);
  const least = Math.min(...finite, 0);
  return h("table", { class: "ranking" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Class"), h("th", { scope: "col", class: "number" }, "Value"), h("th", {}, h("span", { class: "sr" }, "Share")))),
    h("tbody", {}, order.map(([each, i]) => h("tr", {}, h("th", { scope: "row" }, String(i)), h("td", { class: "number" }, amountOf(data[i])),
      h("td", { class: "bar" }, h("progress", { max: most - least || 1, value: Math.max(0, each - least) || 0, "aria-hidden": "true" }))))),
    data.length > TOP && h("caption", {}, `the ${TOP} highest of ${data.length}`));
}

const amountOf = (each) => (typeof each === "number" && !Number.isInteger(each) && Math.abs(each) >= 1e-4 && Math.abs(each) < 1e6 ? each.toFixed(4) : number(each));

/** Channels, height, width and layout, if it may be one. */
function pictureOf({ datatype, shape }, data) {
  const inner = shape.length === 4 && shape[0] === 1 ? shape.slice(1) : shape.length <= 3 ? shape : [];
  if (datatype === "BYTES" || datatype === "BOOL") return null;
  const many = (each) => each === 1 || each === 3;
  const layouts = inner.length === 3 && many(inner[0]) ? { c: inner[0], y: inner[1], x: inner[2], first: true }
    : inner.length === 3 && many(inner[2]) ? { c: inner[2], y: inner[0], x: inner[1], first: false }
      : inner.length === 2 ? { c: 1, y: inner[0], x: inner[1], first: true } : null;
  return layouts && layouts.x >= LEAST_SIDE && layouts.y >= LEAST_SIDE && data.length <= 1 << 22 ? layouts : null;
}

/** From the lowest to the highest value, as dark to light. */
function picture({ c, y, x, first }, data) {
  const numbers = data.map(value);
  let low = Infinity, high = -Infinity;
  for (const each of numbers) if (Number.isFinite(each)) { low = Math.min(low, each); high = Math.max(high, each); }
  const canvas = h("canvas", { width: x, height: y, class: "picture", role: "img", "aria-label": `a picture of ${x} by ${y}` });
  const pixels = new ImageData(x, y);
  const scale = 255 / (high - low || 1);
  for (let at = 0; at < x * y; at++) {
    for (let i = 0; i < 3; i++) {
      const channel = c === 1 ? 0 : i;
      pixels.data[4 * at + i] = (numbers[first ? channel * x * y + at : at * c + channel] - low) * scale;
    }
    pixels.data[4 * at + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return h("figure", {}, canvas, h("figcaption", { class: "muted" }, `${amountOf(low)} is black, ${amountOf(high)} white`));
}

function table({ datatype, shape }, data) {
  if (!data.length) return h("p", { class: "muted" }, "no elements");
  const columns = shape.length > 1 ? shape.at(-1) || 1 : 1;
  const rows = data.length / columns;
  const shown = Math.min(rows, ROWS);
  const wide = Math.min(columns, COLUMNS);
  const place = (row) => {
    const index = [];
    for (let axis = shape.length - (shape.length > 1 ? 2 : 1), rest = row; axis >= 0; axis--) { index.unshift(rest % shape[axis]); rest = Math.floor(rest / shape[axis]); }
    return `[${index.join(", ")}]`;
  };
  const text = (each) => (datatype === "BYTES" ? String(each) : number(each));
  const cut = [shown < rows && `${shown} of ${amount(rows)} rows`, wide < columns && `${wide} of ${amount(columns)} columns`].filter(Boolean).join(", ");
  return [h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values" }, h("table", { class: "cells" },
    h("tbody", {}, Array.from({ length: shown }, (_, row) => h("tr", {}, h("th", { scope: "row" }, place(row)),
      data.slice(row * columns, row * columns + wide).map((each) => h("td", { class: datatype === "BYTES" ? null : "number" }, text(each)))))))),
  cut && h("p", { class: "muted" }, `shown: ${cut}`)];
}
