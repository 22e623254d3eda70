// Models, their versions and labels, and what may be done to them.

import { change, path } from "./api.js";
import { rate } from "./charts.js";
import { amount, ask, duration, field, h, say, tell } from "./dom.js";

const STATES = { READY: "ready", LOADING: "loading", UNLOADING: "draining", UNAVAILABLE: "not served" };

export const address = (model, version) => `#/${path(model)}${version === undefined ? "" : `/${path(version)}`}`;

/** The state of a version: a dot and a word, for colour alone says nothing to some. */
export function state(version) {
  return h("span", { class: `state ${version.state.toLowerCase()}` }, STATES[version.state] ?? version.state);
}

/** The state of a model: ready if any version is. */
function whole(model) {
  return model.versions.find((each) => each.state === "READY") ?? model.versions[0];
}

/** The list at the side. */
export function list(models, chosen) {
  return [
    h("a", { class: "all", href: "#/", "data-key": "all", "aria-current": chosen === undefined ? "page" : null }, "All models"),
    h("ul", {}, models.map((model) => h("li", {},
      h("a", { href: address(model.name), "data-key": `nav ${model.name}`, "aria-current": model.name === chosen ? "page" : null },
        h("span", { class: `dot ${whole(model).state.toLowerCase()}`, "aria-hidden": "true" }),
        h("span", { class: "name" }, model.name),
        h("span", { class: "sr" }, `, ${STATES[whole(model).state] ?? ""}`))))),
  ];
}

/** A table of all models with live numbers; also the function that keeps them so. */
export function table(models, history) {
  const live = [];
  const cell = (model, version, of, unit, wide) => {
    const node = h("td", { class: `number${wide ? " wide" : ""}` }, "–");
    live.push(() => say(node, unit(of(history.latest(model, version)))));
    return node;
  };
  const rows = models.flatMap((model) => model.versions.map((each, i) => h("tr", {},
    i === 0 && h("th", { scope: "rowgroup", rowspan: model.versions.length, class: "group" },
      h("a", { href: address(model.name), "data-key": `row ${model.name}` }, model.name)),
    h("td", {}, h("a", { href: address(model.name, each.version), "data-key": `row ${model.name} ${each.version}`, "aria-label": `version ${each.version} of ${model.name}` }, each.version),
      labels(model, each.version), each.state !== "READY" && h("span", { class: "narrow" }, state(each))),
    h("td", { class: "wide" }, state(each), each.reason && h("span", { class: "reason" }, each.reason)),
    cell(model.name, each.version, rate, amount),
    cell(model.name, each.version, (point) => history.quantile(point, 0.5), duration, true),
    cell(model.name, each.version, (point) => history.quantile(point, 0.99), duration))));
  const draw = () => live.forEach((each) => each());
  draw();
  const heads = [["Model"], ["Version"], ["State", "wide"], ["req/s", "number"], ["p50", "number wide"], ["p99", "number"]];
  const element = h("section", { class: "panel" }, h("h2", { id: "models-title" }, "Models"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "models-title" }, h("table", {},
      h("thead", {}, h("tr", {}, heads.map(([text, kind]) => h("th", { scope: "col", class: kind ?? null }, text)))), h("tbody", { class: "models" }, rows))));
  return { element, draw };
}

function labels(model, version) {
  return Object.entries(model.labels).filter(([, on]) => on === version).map(([label]) => h("span", { class: "label" }, label));
}

/** The head of a model's page: its versions, its labels, and buttons for those who may. */
export function head(model, version, refresh) {
  const may = model.may.includes("admin");
  const ready = model.versions.some((each) => each.state === "READY");
  const shown = model.versions.find((each) => each.version === version);
  return h("section", { class: "head" },
    h("div", { class: "title" },
      h("h1", { tabindex: "-1" }, model.name), shown && state(shown),
      may && h("div", { class: "actions" },
        h("button", { type: "button", "data-key": "load", onclick: () => load(model, ready, refresh) }, ready ? "Reload" : "Load"),
        ready && h("button", { type: "button", class: "danger", "data-key": "unload", onclick: () => unload(model, refresh) }, "Unload"))),
    shown?.reason && h("p", { class: "reason" }, shown.reason),
    h("nav", { class: "versions", "aria-label": "Versions" }, model.versions.map((each) => h("a", {
      href: address(model.name, each.version), "data-key": `version ${each.version}`, "aria-current": each.version === version ? "page" : null,
    }, `Version ${each.version}`, labels(model, each.version), each.state !== "READY" && state(each)))),
    (may || Object.keys(model.labels).length > 0) && h("div", { class: "labels" },
      h("h2", {}, "Labels"),
      Object.keys(model.labels).length === 0 && h("p", { class: "muted" }, "none: a request that names no version gets the highest that is ready"),
      h("ul", {}, Object.entries(model.labels).map(([label, on]) => h("li", {},
        h("span", { class: "label" }, label), ` version ${on} `,
        may && h("button", { type: "button", class: "quiet", "data-key": `move ${label}`, onclick: () => setLabel(model, label, refresh) }, "Move", h("span", { class: "sr" }, ` label ${label}`)),
        may && h("button", { type: "button", class: "quiet", "data-key": `back ${label}`, onclick: () => rollBack(model, label, on, refresh) }, "Roll back", h("span", { class: "sr" }, ` label ${label}`))))),
      may && ready && h("button", { type: "button", class: "quiet", "data-key": "label", onclick: () => setLabel(model, null, refresh) }, "Set a label")));
}

const below = (model, ...rest) => `v2/repository/models/${path(model.name, ...rest)}`;

/** Makes a change, tells how it ended, and looks at the server again. */
async function make(where, body, done, refresh) {
  try {
    await change(where, body);
    tell(done);
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

async function load(model, again, refresh) {
  tell(`Loading ${model.name} …`);
  await make(below(model, "load"), {}, `${model.name} is loaded${again ? " again" : ""}.`, refresh);
}

async function unload(model, refresh) {
  const sure = await ask(`Unload ${model.name}?`, h("p", {}, "Requests that have begun are answered; later ones are refused until it is loaded again."), "Unload", undefined, "danger");
  if (sure) await make(below(model, "unload"), {}, `${model.name} is unloaded.`, refresh);
}

async function setLabel(model, label, refresh) {
  const name = h("input", { name: "label", required: true, maxlength: 63, pattern: "[A-Za-z][A-Za-z0-9_.\\-]*", autocomplete: "off", value: label ?? (model.labels.production ? "" : "production"), readonly: label !== null });
  const versions = model.versions.filter((each) => each.state === "READY").map((each) => each.version);
  const version = h("select", { name: "version" }, versions.map((each) => h("option", { value: each, selected: each === (model.labels[label] ?? versions.at(-1)) }, `version ${each}`)));
  const content = [field("Label", name, "begins with a letter; “production” is what requests mean that name no version"), field("On", version),
    h("p", { class: "muted" }, "It stays there until the server ends.")];
  const found = await ask(label === null ? `Set a label of ${model.name}` : `Move label ${label}`, content, "Set", () => [name.value, version.value]);
  if (found) await make(below(model, "labels", found[0]), { version: found[1] }, `Label ${found[0]} is on version ${found[1]}.`, refresh);
}

async function rollBack(model, label, on, refresh) {
  const sure = await ask(`Roll back label ${label}?`, h("p", {}, `It is on version ${on} and goes back to the version that it was on before.`), "Roll back");
  if (sure) await make(below(model, "labels", label, "rollback"), {}, `Label ${label} is rolled back.`, refresh);
}
