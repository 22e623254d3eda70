// The page: who is signed in, which model is shown, and the look at the server every two seconds that all of it lives on.

import { Refused, read, token } from "./api.js";
import { card, fetchCard } from "./card.js";
import { History, charts } from "./charts.js";
import { ask, field, h, put, say } from "./dom.js";
import { head, list, table } from "./models.js";
import { runForm } from "./run.js";

const BETWEEN = 2000; // milliseconds between two looks
const main = document.getElementById("main");
const nav = document.getElementById("models");
const history = new History();
let overview = null;
let view = null; // what is shown: { refresh }, told of each look
let structure = ""; // of what is shown, without its numbers
let timer;

// ---- looking at the server

async function look() {
  clearTimeout(timer);
  let wait = BETWEEN;
  try {
    overview = await read("console/overview");
    history.add(overview);
    show();
    view?.refresh();
  } catch (error) {
    if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
      locked(error);
      return; // until somebody signs in
    }
    if (!(error instanceof Refused)) throw error;
    health(error.message, "unavailable");
    if (overview === null) put(main, h("section", { class: "panel" }, h("h1", {}, "No answer"), h("p", {}, error.message)));
    wait = Math.max(wait, (error.retryAfter ?? 2) * 1000);
  }
  if (!document.hidden) timer = setTimeout(look, wait);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden && !locked.now) look(); });

function health(text, kind) {
  const place = document.getElementById("health");
  place.className = `health state ${kind}`;
  say(place, text);
}

function show() {
  locked.now = false;
  const { server, client, models } = overview;
  health(server.draining ? "going away" : server.ready ? "ready" : "no model is ready", server.draining ? "unloading" : server.ready ? "ready" : "unavailable");
  say(document.getElementById("who"), client === null ? "" : client);
  document.getElementById("sign").hidden = client === null && token.get() === null;
  say(document.getElementById("sign"), "Sign out");
  const now = JSON.stringify(models.map(({ versions, ...rest }) => [rest, versions.map(({ version, state, reason }) => [version, state, reason])]));
  if (now !== structure) {
    structure = now;
    put(nav, list(models, chosen().model));
    view?.rebuild();
  }
  if (view === null) route(false);
}

// ---- pages

function chosen() {
  const [model, version] = location.hash.replace(/^#\/?/, "").split("/").map((each) => {
    try { return decodeURIComponent(each); } catch { return each; }
  });
  return { model: model || undefined, version: version || undefined };
}

function route(isMove = true) {
  if (overview === null || locked.now) return;
  const { model, version } = chosen();
  put(nav, list(overview.models, model));
  view = model === undefined ? everything() : one(model, version);
  document.title = `${model ?? "All models"} – maas-rt console`;
  if (isMove) {
    (main.querySelector("h1") ?? main).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

window.addEventListener("hashchange", () => route());

function everything() {
  const title = h("h1", { tabindex: "-1" }, "All models");
  const live = charts(history);
  const place = h("div", {});
  let models;
  const rebuild = () => { models = table(overview.models, history); put(place, models.element); };
  rebuild();
  put(main, title, live.element, place);
  return { rebuild, refresh: () => { live.draw(); models.draw(); } };
}

function one(name, version) {
  const model = () => overview.models.find((each) => each.name === name);
  if (model() === undefined) {
    put(main, h("section", { class: "panel" }, h("h1", { tabindex: "-1" }, name), h("p", {}, "There is no such model, or none that this token may see.")));
    return { rebuild: () => { if (model() !== undefined) route(false); }, refresh: () => {} };
  }
  const shown = () => {
    const { versions, labels } = model();
    const ready = versions.filter((each) => each.state === "READY").map((each) => each.version);
    return version ?? (ready.includes(labels.production) ? labels.production : ready.at(-1)) ?? versions.at(-1)?.version;
  };
  const top = h("div", {});
  const details = h("div", { class: "columns" });
  const live = charts(history, name, version);
  let loaded = "";
  const rebuild = async () => {
    if (model() === undefined) { route(false); return; }
    put(top, head(model(), shown(), look));
    const number = shown();
    const found = model().versions.find((each) => each.version === number);
    // The form keeps what was typed into it as long as the version is there.
    const key = JSON.stringify([number, found?.state === "READY", model().may]);
    if (key === loaded) return;
    loaded = key;
    if (found?.state !== "READY") { put(details); return; }
    try {
      const its = await fetchCard(name, number);
      if (key !== loaded) return;
      put(details, model().may.includes("infer") && runForm(its), card(its, model().may.includes("admin")));
    } catch (error) {
      if (key === loaded) { loaded = ""; put(details, h("p", { class: "panel error" }, error.message)); }
    }
  };
  rebuild();
  const which = h("p", { class: "muted scope" }, version === undefined ? "All versions of the model" : `Version ${version}`);
  put(main, top, which, live.element, details);
  return { rebuild, refresh: () => live.draw() };
}

// ---- signing in and out

function locked(error) {
  locked.now = true;
  overview = null;
  view = null;
  structure = "";
  put(nav);
  health("", "none");
  say(document.getElementById("who"), "");
  document.getElementById("sign").hidden = true;
  const given = token.get() !== null;
  token.forget();
  const input = h("input", { type: "password", name: "token", required: true, autocomplete: "off", spellcheck: "false" });
  const why = given || error.status === 403 ? h("p", { class: "error", role: "alert" }, error.message) : null;
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); token.set(input.value.trim()); locked.now = false; look(); } },
    field("Token", input, "kept in this tab until it is closed, and sent to this server alone"),
    h("p", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Sign in")));
  put(main, h("section", { class: "panel sign-in" }, h("h1", { tabindex: "-1" }, "Sign in"), why,
    h("p", {}, "This server asks for a token. To see models it must grant ", h("code", {}, "read"), "; to run them ", h("code", {}, "infer"), "; to load, unload and label them ", h("code", {}, "admin"), "."), form));
  document.title = "Sign in – maas-rt console";
  input.focus();
}

document.getElementById("sign").addEventListener("click", async () => {
  if (!(await ask("Sign out?", h("p", {}, "The token is forgotten in this tab."), "Sign out"))) return;
  token.forget();
  clearTimeout(timer);
  history.looks = [];
  look();
});

// ---- light and dark

const THEMES = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
const theme = document.getElementById("theme");

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  say(theme, THEMES[name]);
  try { localStorage.setItem("maas-rt theme", name); } catch { /* it holds for this page */ }
}

theme.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});

let kept = null;
try { kept = localStorage.getItem("maas-rt theme"); } catch { /* none */ }
setTheme(kept in THEMES ? kept : "auto");
look();
