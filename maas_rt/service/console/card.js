// A version's card: what it takes and gives, what its file is and where it comes from; and where the time of a run goes.

import { change, path, read } from "./api.js";
import { amount, duration, h, put, size, tell, typed } from "./dom.js";

const where = (model, version) => `console/models/${path(model)}/versions/${path(version)}`;

export const fetchCard = (model, version) => read(where(model, version));

export function card(found, mayProfile) {
  return h("section", { class: "panel card" }, h("h2", {}, "About this version"),
    facts([
      ...found.inputs.map((each) => ["Input", [h("b", {}, each.name), " ", h("code", {}, typed(each))]]),
      ...found.outputs.map((each) => ["Output", [h("b", {}, each.name), " ", h("code", {}, typed(each))]]),
      ...(found.states ?? []).map((each) => ["State", [h("b", {}, each.name), " ", h("code", {}, `${each.dtype} [${each.shape.join(", ")}]`)]]),
      ...Object.entries(found.symbols ?? {}).map(([name, each]) => ["Dimension", `${name} is ${range(each)}`]),
      found.draws && ["Random", "runs draw random numbers: a request may give a seed"],
      ...(found.steps ? stepsOf(found.steps) : fileOf(found)),
    ]),
    mayProfile && !found.steps && profile(found));
}

function stepsOf(steps) {
  return steps.map(({ name, model, version, takes }) => ["Step", [h("b", {}, name), ` ${model}, version ${version}: `,
    h("code", {}, Object.entries(takes).map(([input, source]) => `${input} = ${source}`).join(", "))]]);
}

function fileOf(found) {
  return [
    ["Size", sizes(found.file)],
    ["Accuracy", accuracy(found)],
    ["Compression", compression(found.recipe)],
    ["CPU code", (found.targets ?? []).join(", ") || "none in the file"],
    found.tuning && ["Tuned", `for ${found.tuning.cpu}, ${found.tuning.threads} threads`],
    ["Source", source(found.source)],
    ["Made by", Object.entries(found.producer ?? {}).map(([tool, version]) => `${tool} ${version}`).join(", ") || "not told"],
    ["Hash", [h("code", { class: "hash" }, found.file.hash), h("small", { class: "muted" }, " SHA-256 of the file's table, which has those of all sections")]],
  ];
}

function facts(rows) {
  return h("dl", {}, rows.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function range({ min, max, multiple }) {
  const text = max === null || max === undefined || max < 0 ? `${min} or more` : `${min} to ${max}`;
  return multiple > 1 ? `${text}, a multiple of ${multiple}` : text;
}

function sizes(file) {
  if (file.bytes === null) return "the file is no longer where it was loaded from";
  const parts = file.sections.filter((each) => each.bytes >= 1024).map((each) => `${each.kind}${each.target ? ` ${each.target}` : ""} ${size(each.bytes)}`);
  return [size(file.bytes), parts.length > 0 && h("small", { class: "muted" }, ` ${parts.join(", ")}`)];
}

function accuracy(found) {
  const told = Object.entries(found.metrics ?? {}).map(([name, value]) => `${name} ${typeof value === "number" ? amount(value) : JSON.stringify(value)}`);
  const verified = found.verified ?? {};
  const against = verified.reference ? ` against ${verified.reference}` : "";
  const error = typeof verified.max_relative_error === "number" ? `, largest relative error ${verified.max_relative_error.toPrecision(2)}` : "";
  return [...told, verified.status ? `verification ${verified.status}${against}${error}` : "not verified"].join("; ");
}

function compression(recipe) {
  const quantize = recipe?.quantize;
  if (!quantize) return recipe ? JSON.stringify(recipe) : "none";
  return `${quantize.kind}${quantize.activation_bits ? `, activations of ${quantize.activation_bits} bits` : ""}${quantize.calibration_inputs ? `, calibrated on ${quantize.calibration_inputs} inputs` : ""}`;
}

function source(found) {
  if (!found) return "not told";
  const { framework, framework_version: version, kind, ...rest } = found;
  const more = Object.entries(rest).filter(([, value]) => ["string", "number"].includes(typeof value)).map(([name, value]) => `${name} ${value}`);
  return [[framework, version, kind].filter(Boolean).join(" "), ...more].filter(Boolean).join(", ") || "not told";
}

function profile(found) {
  const place = h("div", {});
  const button = h("button", { type: "button", onclick: async () => {
    button.disabled = true;
    try {
      put(place, steps(await change(`${where(found.name, found.version)}/profile`)));
    } catch (error) {
      tell(error.message, true);
    }
    button.disabled = false;
  } }, "Profile a run");
  return h("div", { class: "profile" }, h("h3", {}, "Where the time goes"),
    h("p", { class: "muted" }, "Runs the version a few times on drawn inputs of its smallest shapes, beside the requests."), button, place);
}

function steps({ inputs, total_ns: all, steps: found }) {
  const most = Math.max(1, ...found.map((each) => each.ns));
  const shapes = Object.entries(inputs).map(([name, shape]) => `${name} [${shape.join(", ")}]`).join(", ");
  return [
    h("p", {}, `${found.length} steps in ${duration(all)}, on ${shapes || "no input"}`),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Steps of the run" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Step", "Kernel", "Time", "GFLOP/s"].map((text, i) => h("th", { scope: "col", class: i > 1 ? "number" : null }, text)))),
      h("tbody", {}, found.slice(0, 200).map((each) => h("tr", {},
        h("td", {}, each.name, each.times > 1 && ` (${each.times} times)`), h("td", {}, h("code", {}, each.kernel)),
        h("td", { class: "number" }, h("progress", { max: most, value: each.ns, "aria-hidden": "true" }), " ", duration(each.ns)),
        h("td", { class: "number" }, each.flops ? amount(each.flops / Math.max(1, each.ns)) : "")))))),
  ];
}
