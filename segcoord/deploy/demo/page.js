// Script of the page. Gradio runs it as a function of (element, trigger, props, server, ...).
const $ = (id) => element.querySelector(`#sc-${id}`);
const root = element.querySelector(".sc");
const page = { choices: [], limits: {}, shown: null, layers: {}, view: "classes", requests: 0 };
// shown: the request (file or sample) and its response; layers: by view, "classes" is a canvas.
const create = (tag, content) => Object.assign(document.createElement(tag), { textContent: content });
const percent = (fraction) => `${(100 * fraction).toFixed(fraction < 0.0995 ? 1 : 0)} %`;
const classesOf = () => page.choices[page.shown ? page.shown.choice : $("choice").value].classes;

function showMessage(message) {
  const box = $("message");
  clearTimeout(showMessage.timer);
  box.textContent = message;
  box.hidden = !message;
  if (message) showMessage.timer = setTimeout(() => showMessage(""), 9000);
}

// Only the latest request counts: a response that arrives after a newer request is dropped.
async function call(name, request) {
  const id = ++page.requests;
  root.classList.add("waiting");
  showMessage("");
  let response;
  try {
    response = await server[name](request);
  } catch {
    response = { error: "No response from the server. Check that it is running and the file is within the limits." };
  }
  if (id !== page.requests) return null;
  root.classList.remove("waiting");
  if (response.error) showMessage(response.error);
  return response.error ? null : response;
}

const loadImage = (url) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => resolve(image);
  image.onerror = reject;
  image.src = url;
});

async function segment(source) {
  const choice = Number($("choice").value);
  const response = await call("segment", { choice, ...source.request });
  if (!response) return;
  const indices = await loadImage(response.classes);
  const canvas = Object.assign(document.createElement("canvas"), { width: indices.width, height: indices.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(indices, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const classes = new Uint8Array(canvas.width * canvas.height);
  for (let i = 0; i < classes.length; i++) classes[i] = pixels[4 * i];
  page.shown = { choice, source, classes, width: canvas.width, height: canvas.height, areas: response.areas, chosen: null };
  page.layers = { classes: canvas };
  paint(null);
  $("image").src = response.image;
  await $("image").decode();
  root.dataset.state = "ready";
  listAreas();
  const link = $("download");
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(await (await fetch(response.mask)).blob());
  link.download = `${source.stem}_mask.png`;
  link.setAttribute("aria-disabled", "false");
  const { name, runtime } = page.choices[choice];
  page.shown.facts = `${name}, ${runtime}: ${response.size.join(" x ")} pixels in ${response.seconds.toFixed(2)} s`;
  $("facts").textContent = page.shown.facts;
  $("samples").querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-pressed", i === source.request.sample));
  show("classes");
}

// Paints the class colors; `only` is the class under the pointer in the list, the others fade.
function paint(only) {
  const { classes, width, height } = page.shown;
  const context = page.layers.classes.getContext("2d");
  const overlay = context.createImageData(width, height);
  const pixels = new Uint32Array(overlay.data.buffer);
  const table = new Uint32Array(256);
  classesOf().forEach(({ color: [r, g, b] }, i) => {
    table[i] = ((only === null || only === i ? 255 : 40) << 24) | (b << 16) | (g << 8) | r;
  });
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[classes[i]];
  context.putImageData(overlay, 0, 0);
  if (page.view === "classes") draw();
}

function draw() {
  const layer = page.layers[page.view];
  const canvas = $("layer");
  const source = layer.image === undefined ? layer : layer.image;
  const context = canvas.getContext("2d");
  if (source) {
    canvas.width = source.width;
    canvas.height = source.height;
    context.drawImage(source, 0, 0);
  } else context.clearRect(0, 0, canvas.width, canvas.height);
}

async function show(view) {
  if (view !== "classes" && !page.layers[view] && !(await explain(page.shown.chosen ?? page.shown.areas[0].class))) view = "classes";
  page.view = view;
  element.querySelector(`input[value=${view}]`).checked = true;
  const scale = $("scale"), layer = page.layers[view];
  scale.hidden = view === "classes";
  if (view !== "classes") {
    const [low, high] = layer.range.map((value) => value.toFixed(view === "cam" ? 0 : 3));
    scale.replaceChildren();
    if (layer.image && low !== high) scale.append(low, Object.assign(create("b", ""), { className: view === "cam" ? "turbo" : "viridis" }), high, create("span", layer.caption));
    else scale.append(layer.caption);
  }
  draw();
}

async function explain(index) {
  const { shown } = page;
  const response = await call("explain", { choice: shown.choice, ...shown.source.request, class: index });
  if (!response || shown !== page.shown) return false;
  for (const [view, layer] of Object.entries(response.layers)) {
    page.layers[view] = { ...layer, image: layer.image && (await loadImage(layer.image)) };
  }
  shown.chosen = index;
  $("facts").textContent = `${shown.facts}; Grad-CAM and gates in ${response.seconds.toFixed(2)} s`;
  listAreas();
  return true;
}

async function choose(index) {
  if (await explain(index)) show("cam");
}

// Before the first image: all classes of the model.
function listAreas() {
  const { areas, chosen } = page.shown ?? { areas: classesOf().map((_, index) => ({ class: index })) };
  const focused = element.querySelector(".areas :focus")?.dataset.class;
  $("areas").replaceChildren(...areas.map(({ class: index, fraction }) => {
    const { name, color } = classesOf()[index];
    const button = create("button", "");
    button.type = "button";
    button.dataset.class = index;
    button.style.setProperty("--color", `rgb(${color})`);
    button.style.setProperty("--fraction", `${100 * fraction}%`);
    button.setAttribute("aria-pressed", index === chosen);
    const swatch = create("i", "");
    swatch.style.background = `rgb(${color})`;
    button.append(swatch, create("span", name), create("em", page.shown ? percent(fraction) : ""), create("u", ""));
    button.disabled = !page.shown;
    button.onclick = () => choose(index);
    button.onpointerenter = () => paint(index);
    button.onpointerleave = () => paint(null);
    const item = create("li", "");
    item.append(button);
    return item;
  }));
  if (focused) element.querySelector(`.areas [data-class="${focused}"]`)?.focus();
}

// The image is letterboxed in its frame; positions are in image pixels.
function frame() {
  const { width, height } = $("picture").getBoundingClientRect();
  const factor = Math.min(width / page.shown.width, height / page.shown.height);
  return { factor, left: (width - factor * page.shown.width) / 2, top: (height - factor * page.shown.height) / 2, width };
}
function pixelAt(event) {
  const box = $("picture").getBoundingClientRect(), { factor, left, top } = frame();
  return { x: Math.floor((event.clientX - box.left - left) / factor), y: Math.floor((event.clientY - box.top - top) / factor) };
}
const inside = ({ x, y }) => x >= 0 && y >= 0 && x < page.shown.width && y < page.shown.height;
const classAt = ({ x, y }) => page.shown.classes[y * page.shown.width + x];

function readClass(pixel, cross) {
  const tip = $("tip"), visible = pixel && inside(pixel);
  tip.hidden = !visible;
  $("cross").hidden = !visible || !cross;
  if (!visible) return;
  const index = classAt(pixel), { name, color } = classesOf()[index];
  const area = page.shown.areas.find((item) => item.class === index);
  const swatch = create("i", "");
  swatch.style.background = `rgb(${color})`;
  tip.replaceChildren(swatch, create("strong", name), create("span", percent(area.fraction)));
  const { factor, left, top, width } = frame();
  const position = { left: left + (pixel.x + 0.5) * factor, top: top + (pixel.y + 0.5) * factor };
  for (const mark of [tip, $("cross")]) Object.assign(mark.style, { left: `${position.left}px`, top: `${position.top}px` });
  tip.classList.toggle("left", position.left > width - 190);
}

$("picture").onpointermove = (event) => page.shown && readClass(pixelAt(event));
$("picture").onpointerleave = () => page.shown && readClass(null);
$("picture").onclick = (event) => {
  if (page.shown && inside(pixelAt(event))) choose(classAt(pixelAt(event)));
};
$("picture").onkeydown = (event) => {
  const { shown } = page, steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!shown) return;
  shown.cursor ??= { x: shown.width >> 1, y: shown.height >> 1 };
  if (steps[event.key]) {
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(shown.width / 50));
    shown.cursor.x = Math.min(Math.max(shown.cursor.x + step * steps[event.key][0], 0), shown.width - 1);
    shown.cursor.y = Math.min(Math.max(shown.cursor.y + step * steps[event.key][1], 0), shown.height - 1);
  } else if (event.key === "Enter") choose(classAt(shown.cursor));
  else return;
  event.preventDefault();
  readClass(shown.cursor, true);
};
$("picture").onblur = () => page.shown && readClass(null);

async function open(file) {
  if (!file) return;
  const limit = page.limits.bytes;
  if (file.size > limit) return showMessage(`${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MB; the limit is ${limit >> 20} MB.`);
  const url = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => resolve(null);
    reader.readAsDataURL(file);
  });
  if (url === null) return showMessage(`${file.name} can't be read.`);
  segment({ request: { image: url.slice(url.indexOf(",") + 1) }, stem: file.name.replace(/\.[^.]*$/, "") || "image" });
}

element.querySelectorAll("[data-open]").forEach((button) => { button.onclick = () => $("file").click(); });
$("file").onchange = () => { open($("file").files[0]); $("file").value = ""; };
document.addEventListener("paste", (event) => open(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => { event.preventDefault(); $("stage").classList.add("over"); });
document.addEventListener("dragleave", (event) => event.relatedTarget || $("stage").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  open(event.dataTransfer.files[0]);
});
document.addEventListener("keydown", (event) => event.key === "Escape" && showMessage(""));
$("opacity").oninput = () => { $("layer").style.opacity = $("opacity").value / 100; };
$("views").onchange = (event) => {
  if (page.shown) show(event.target.value);
  else element.querySelector("input[value=classes]").checked = true;
};
$("choice").onchange = () => {
  $("description").textContent = page.choices[$("choice").value].description;
  if (page.shown) segment(page.shown.source);
  else listAreas();
};
$("theme").onclick = () => document.body.classList.toggle("dark");

(async () => {
  const response = await call("start", null);
  if (!response) return;
  Object.assign(page, response);
  page.choices.forEach(({ name, runtime }, i) => $("choice").append(new Option(`${name} (${runtime})`, i)));
  $("models").hidden = page.choices.length < 2;
  $("description").textContent = page.choices[0].description;
  listAreas();
  $("limit").textContent = `Up to ${page.limits.bytes >> 20} MB and ${page.limits.pixels / 1e6} million pixels; only this server receives it.`;
  $("samples").replaceChildren(...page.samples.map((url, i) => {
    const button = create("button", "");
    button.type = "button";
    button.setAttribute("aria-label", `Sample ${i + 1}`);
    button.setAttribute("aria-pressed", "false");
    button.append(Object.assign(new Image(), { src: url, alt: "" }));
    button.onclick = () => segment({ request: { sample: i }, stem: `sample_${i + 1}` });
    return button;
  }));
  root.dataset.ready = "";
})();
