// Elements, numbers as people read them, and messages. Text is always text: nothing here, or anywhere in the console, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (onclick: ...) and children; null and false among them are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Changes what a place holds, and leaves the focus where it was: on the element with the same data-key. */
export function put(place, ...children) {
  const key = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  place.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== false));
  if (key !== undefined) [...place.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus();
}

/** The text of a node, changed only if it is another one: a screen reader is not told the same again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function amount(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (value >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  return value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(value < 10 ? 2 : 3)));
}

/** A time of so many nanoseconds. */
export function duration(ns) {
  if (ns === null || ns === undefined || Number.isNaN(ns)) return "–";
  if (ns === 0) return "0 ms";
  for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) {
    if (ns >= size) return `${Number((ns / size).toPrecision(3))} ${unit}`;
  }
  return `${Math.round(ns)} ns`;
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  for (const [unit, many] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (bytes >= many) return `${(bytes / many).toPrecision(3)} ${unit}`;
  }
  return `${bytes} B`;
}

/** "float32 [batch, 3, 224, 224]". */
export function typed(tensor) {
  return `${tensor.datatype} [${tensor.dims.join(", ")}]`;
}

let hiding;
/** A short message, which a screen reader speaks. */
export function tell(text, isError = false) {
  const place = document.getElementById("status");
  place.hidden = false;
  place.classList.toggle("error", isError);
  say(place, text);
  clearTimeout(hiding);
  hiding = setTimeout(() => { place.hidden = true; place.textContent = ""; }, isError ? 12000 : 5000);
}

/** A dialog with a form; resolves to what `read` gives when it is sent, to null when it is left. */
export function ask(title, content, action, read = () => true, kind = "primary") {
  const dialog = document.getElementById("dialog");
  return new Promise((resolve) => {
    let answer = null;
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); answer = read(); dialog.close(); } },
      h("h2", { id: "dialog-title" }, title), content,
      h("p", { class: "actions" },
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "submit", class: kind }, action)));
    put(dialog, form);
    dialog.addEventListener("close", () => { dialog.replaceChildren(); resolve(answer); }, { once: true });
    dialog.showModal();
  });
}

let fields = 0;
/** A labelled control; a hint describes it and is no part of its name. */
export function field(label, control, hint) {
  control.id = `field-${fields++}`;
  if (hint) control.setAttribute("aria-describedby", `${control.id}-hint`);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, hint && h("small", { class: "muted", id: `${control.id}-hint` }, hint));
}

/** Buttons of which one is chosen. */
export function choice(legend, name, options, chosen, onchange) {
  return h("fieldset", { class: "choice" }, h("legend", {}, legend),
    options.map(([value, text]) => h("label", {},
      h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => onchange(value) }), h("span", {}, text))));
}
