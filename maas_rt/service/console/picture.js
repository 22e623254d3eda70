// A picture as a model's input: drawn to a canvas at the input's size, its pixels scaled and laid out as the shape says.

import { choice, field, h } from "./dom.js";

const SIDE = 224; // where the model leaves it open
const MOST = 4096;
const PRESETS = {
  plain: ["0 to 1", "0", "1"],
  signed: ["−1 to 1", "0.5", "0.5"],
  imagenet: ["ImageNet", "0.485, 0.456, 0.406", "0.229, 0.224, 0.225"],
};

/** Where channels, height and width of a picture are in an input; null if it takes none. */
export function pictureLayout({ datatype, shape }) {
  if (!/^(FP|BF|U?INT)\d+$/.test(datatype) || (shape.length > 2 && shape[0] > 1)) return null;
  const inner = shape.length === 4 ? shape.slice(1) : shape;
  const many = (each) => each === 1 || each === 3;
  const side = (each) => each < 0 || each >= 4;
  if (shape.length >= 3 && shape.length <= 4) {
    const [a, b, c] = inner;
    if (many(a) && side(b) && side(c)) return { channels: a, height: b, width: c, first: true };
    if (many(c) && side(a) && side(b)) return { channels: c, height: a, width: b, first: false };
  }
  const root = Math.sqrt(shape.at(-1));
  if (shape.length === 2 && shape[0] <= 1 && root >= 8 && Number.isInteger(root)) return { channels: 1, height: root, width: root, first: true };
  return null;
}

export function pictureForm(input) {
  const layout = pictureLayout(input);
  const open = layout.height < 0 || layout.width < 0;
  const whole = /^U?INT/.test(input.datatype);
  const width = h("input", { type: "number", min: 1, max: MOST, value: layout.width < 0 ? SIDE : layout.width, readonly: layout.width >= 0 });
  const height = h("input", { type: "number", min: 1, max: MOST, value: layout.height < 0 ? SIDE : layout.height, readonly: layout.height >= 0 });
  const canvas = h("canvas", { class: "picture", role: "img", "aria-label": "no picture yet" });
  const mean = h("input", { value: "0", inputmode: "decimal" });
  const deviation = h("input", { value: "1", inputmode: "decimal" });
  const inverted = h("input", { type: "checkbox", onchange: () => draw() });
  let image = null;
  let fit = "cover";

  const draw = () => {
    [canvas.width, canvas.height] = [clamp(width.value), clamp(height.value)];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.filter = `${layout.channels === 1 ? "grayscale(1) " : ""}${inverted.checked ? "invert(1)" : ""}`.trim() || "none";
    context.imageSmoothingQuality = "high";
    if (!image) return;
    const [x, y] = [canvas.width / image.width, canvas.height / image.height];
    const scale = fit === "stretch" ? null : fit === "cover" ? Math.max(x, y) : Math.min(x, y);
    const [w, t] = scale === null ? [canvas.width, canvas.height] : [image.width * scale, image.height * scale];
    context.drawImage(image, (canvas.width - w) / 2, (canvas.height - t) / 2, w, t);
    canvas.setAttribute("aria-label", `the picture, ${canvas.width} by ${canvas.height}`);
  };
  const take = async (file) => {
    note.textContent = "";
    try {
      image = await createImageBitmap(file);
      draw();
    } catch {
      image = null;
      note.textContent = "This file is no picture that the browser reads.";
    }
  };
  const note = h("p", { class: "note error", role: "status" });
  const file = h("input", { type: "file", accept: "image/*", onchange: () => file.files[0] && take(file.files[0]) });
  const preset = ([name, [text, m, s]]) => [name, text, () => { mean.value = m; deviation.value = s; }];
  const presets = Object.entries(PRESETS).filter(([name]) => name !== "imagenet" || layout.channels === 3).map(preset);
  const element = h("div", { class: "picture-form", ondragover: (event) => event.preventDefault(),
    ondrop: (event) => { event.preventDefault(); if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]); } },
  h("div", { class: "stage" }, canvas),
  h("div", {},
    field("Picture", file, "or drop one here"), note,
    open && h("div", { class: "pair" }, field("Width", width), field("Height", height)),
    choice("Fit", "fit", [["cover", "Fill"], ["contain", "Whole"], ["stretch", "Stretch"]], fit, (value) => { fit = value; draw(); }),
    whole ? h("p", { class: "muted" }, "Pixels are given as 0 to 255.")
      : [choice("Values", "values", presets.map(([name, text]) => [name, text]), "plain", (value) => presets.find(([name]) => name === value)[2]()),
        h("div", { class: "pair" }, field("Mean", mean), field("Deviation", deviation))],
    h("label", { class: "check" }, inverted, " invert, for dark strokes on light")));
  width.addEventListener("change", draw);
  height.addEventListener("change", draw);
  draw();

  const request = async () => {
    if (!image) throw new Error("Choose a picture first.");
    draw();
    const values = tensorOf(canvas, layout, whole ? null : { mean: numbers(mean.value, layout.channels, "The mean"), deviation: numbers(deviation.value, layout.channels, "The deviation") });
    const shape = input.shape.map((each) => each);
    const size = [...(layout.first ? [layout.channels, canvas.height, canvas.width] : [canvas.height, canvas.width, layout.channels])];
    const full = input.shape.length === 4 ? [1, ...size] : input.shape.length === 3 ? size : [1, shape.at(-1)];
    const head = { name: input.name, datatype: input.datatype, shape: full };
    if (input.datatype !== "FP32") return { body: { inputs: [{ ...head, data: [...values] }] } };
    const json = new TextEncoder().encode(JSON.stringify({ inputs: [{ ...head, parameters: { binary_data_size: values.byteLength } }] }));
    return { body: new Blob([json, values]), headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(json.length) } };
  };
  return { element, request };
}

const clamp = (text) => Math.min(MOST, Math.max(1, Math.round(Number(text)) || 1));

function numbers(text, channels, what) {
  const found = text.split(",").map((each) => Number(each.trim()));
  if (found.some((each) => !Number.isFinite(each)) || ![1, channels].includes(found.length)) {
    throw new Error(`${what} must be one number, or ${channels} with commas between them.`);
  }
  return Array.from({ length: channels }, (_, i) => found[i] ?? found[0]);
}

/** The pixels of a canvas: 0 to 255, or (x / 255 - mean) / deviation. */
function tensorOf(canvas, { channels, first }, scale) {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const area = canvas.width * canvas.height;
  const found = new Float32Array(area * channels);
  for (let at = 0; at < area; at++) {
    const alpha = pixels[4 * at + 3] / 255; // what is clear is black
    for (let c = 0; c < channels; c++) {
      const pixel = pixels[4 * at + c] * alpha;
      found[first ? c * area + at : at * channels + c] = scale ? (pixel / 255 - scale.mean[c]) / scale.deviation[c] : Math.round(pixel);
    }
  }
  return found;
}
