// A form that runs a model: on JSON, on text, or on a picture that is made to fit its input.

import { call, path } from "./api.js";
import { choice, duration, field, h, put } from "./dom.js";
import { outputs } from "./outputs.js";
import { pictureForm, pictureLayout } from "./picture.js";

const LONGEST_EXAMPLE = 4096; // elements that are written into the form

/** The form for a version, by its card. */
export function runForm(card) {
  const ways = [
    card.inputs.length === 1 && pictureLayout(card.inputs[0]) && ["picture", "Picture", () => pictureForm(card.inputs[0])],
    card.inputs.length > 0 && card.inputs.every((each) => each.datatype === "BYTES") && ["text", "Text", () => textForm(card.inputs)],
    ["json", "JSON", () => jsonForm(card.inputs)],
  ].filter(Boolean);
  const place = h("div", {});
  const answer = h("div", { class: "answer" });
  const note = h("p", { class: "note", role: "status" });
  const button = h("button", { type: "submit", class: "primary" }, "Run");
  let way;
  const choose = (name) => { way = ways.find(([each]) => each === name)[2](); put(place, way.element); };
  choose(ways[0][0]);
  const send = async (event) => {
    event.preventDefault();
    button.disabled = true;
    note.className = "note";
    note.textContent = "Running …";
    try {
      const began = performance.now();
      const { found, text, headers } = await call("POST", `v2/models/${path(card.name)}/versions/${path(card.version)}/infer`, await way.request());
      const taken = (performance.now() - began) * 1e6;
      note.textContent = `Answered in ${duration(taken)} by version ${found.model_version}, request ${headers.get("X-Request-Id")}.`;
      put(answer, outputs(found, text));
    } catch (error) {
      note.className = "note error";
      note.textContent = error.message;
      put(answer);
    }
    button.disabled = false;
  };
  return h("section", { class: "panel run" }, h("h2", {}, "Run it"),
    h("form", { onsubmit: send },
      ways.length > 1 && choice("Input as", "way", ways.map(([name, title]) => [name, title]), ways[0][0], choose),
      place, h("p", { class: "actions" }, button, note)),
    answer);
}

/** Open dimensions as 1. */
export const closed = (tensor) => tensor.shape.map((each) => (each < 0 ? 1 : each));

function jsonForm(inputs) {
  const area = h("textarea", { rows: 10, spellcheck: "false", autocomplete: "off", class: "code" });
  const example = (of) => { area.value = JSON.stringify({ inputs: inputs.map((each) => exampleOf(each, of)) }, null, 1).replace(/\[\s+([^[\]{}]*?)\s+\]/g, (_, inner) => `[${inner.replace(/\s+/g, " ")}]`); };
  example(() => 0);
  return {
    element: h("div", {}, field("Request", area, "as POST …/infer takes it"),
      h("p", { class: "actions" },
        h("button", { type: "button", class: "quiet", onclick: () => example(() => 0) }, "Zeros"),
        h("button", { type: "button", class: "quiet", onclick: () => example((each) => (/^(FP|BF)/.test(each) ? Number((Math.random() * 2 - 1).toFixed(3)) : Math.round(Math.random()))) }, "Random numbers"))),
    request: async () => {
      try {
        JSON.parse(area.value);
      } catch (error) {
        throw new Error(`The request is no JSON: ${error.message}`);
      }
      return { body: area.value };
    },
  };
}

function exampleOf(tensor, of) {
  const shape = closed(tensor);
  const length = shape.reduce((product, each) => product * each, 1);
  const one = () => (tensor.datatype === "BYTES" ? "text" : tensor.datatype === "BOOL" ? of(tensor.datatype) === 1 : of(tensor.datatype));
  // What nobody types is left for the reader to paste.
  return { name: tensor.name, datatype: tensor.datatype, shape, data: length > LONGEST_EXAMPLE ? [] : Array.from({ length }, one) };
}

function textForm(inputs) {
  const areas = inputs.map((each) => h("textarea", { rows: 4, value: "" }));
  const open = inputs.some((each) => each.shape.some((extent) => extent < 0) || each.shape.reduce((product, extent) => product * extent, 1) !== 1);
  const lines = h("input", { type: "checkbox", checked: open });
  return {
    element: h("div", {}, inputs.map((each, i) => field(each.name, areas[i])), open && h("label", { class: "check" }, lines, " each line is an element of its own")),
    request: async () => ({ body: { inputs: inputs.map((each, i) => {
      const data = open && lines.checked ? areas[i].value.split("\n") : [areas[i].value];
      return { name: each.name, datatype: "BYTES", shape: fitted(each.shape, data.length), data };
    }) } }),
  };
}

/** The shape with so many elements in its first open dimension. */
function fitted(shape, length) {
  const at = shape.findIndex((each) => each < 0);
  return shape.map((each, i) => (i === at ? length : each < 0 ? 1 : each));
}
