// The page's behaviour. Gradio runs this as a function of (element, trigger, props, server, ...).
const $ = (id) => element.querySelector(`#sc-${id}`);
const root = element.querySelector(".sc");
const page = { choices: [], limits: {}, shown: null, layers: {}, view: "classes", asked: 0 };
// shown: what was asked (a file or a sample) and its answer; layers: by view, "classes" is a canvas.
const text = (tag, words) => Object.assign(document.createElement(tag), { textContent: words });
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const classesOf = () => page.choices[page.shown ? page.shown.choice : $("choice").value].classes;

function say(words) {
  const box = $("message");
  clearTimeout(say.timer);
  box.textContent = words;
  box.hidden = !words;
  if (words) say.timer = setTimeout(() => say(""), 9000);
}

// One question at a time counts: an answer that a later question has overtaken is dropped.
async function ask(what, question) {
  const number = ++page.asked;
  root.classList.add("waiting");
  say("");
  let answer;
  try {
    answer = await server[what](question);
  } catch {
    answer = { error: "The server gave no answer. Is it still running, and the file not too large?" };
  }
  if (number !== page.asked) return null;
  root.classList.remove("waiting");
  if (answer.error) say(answer.error);
  return answer.error ? null : answer;
}

const picture = (address) => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = failed;
  image.src = address;
});

async function segment(source) {
  const choice = Number($("choice").value);
  const answer = await ask("segment", { choice, ...source.question });
  if (!answer) return;
  const indices = await picture(answer.classes);
  const canvas = Object.assign(document.createElement("canvas"), { width: indices.width, height: indices.height });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(indices, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  const classes = new Uint8Array(canvas.width * canvas.height);
  for (let i = 0; i < classes.length; i++) classes[i] = pixels[4 * i];
  page.shown = { choice, source, classes, width: canvas.width, height: canvas.height, areas: answer.areas, chosen: null };
  page.layers = { classes: canvas };
  paint(null);
  $("image").src = answer.picture;
  await $("image").decode();
  root.dataset.state = "ready";
  listAreas();
  const link = $("download");
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(await (await fetch(answer.mask)).blob());
  link.download = `${source.stem}_mask.png`;
  link.setAttribute("aria-disabled", "false");
  const { name, runtime } = page.choices[choice];
  page.shown.facts = `${answer.seconds.toFixed(2)} s by ${runtime} on ${name}, ${answer.size.join(" by ")} pixels`;
  $("facts").textContent = page.shown.facts;
  $("samples").querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-pressed", i === source.question.sample));
  show("classes");
}

// The classes' colours over the picture; of one class alone where it is pointed at in the list.
function paint(only) {
  const { classes, width, height } = page.shown;
  const pen = page.layers.classes.getContext("2d");
  const drawn = pen.createImageData(width, height);
  const words = new Uint32Array(drawn.data.buffer);
  const table = new Uint32Array(256);
  classesOf().forEach(({ color: [r, g, b] }, i) => {
    table[i] = ((only === null || only === i ? 255 : 40) << 24) | (b << 16) | (g << 8) | r;
  });
  for (let i = 0; i < words.length; i++) words[i] = table[classes[i]];
  pen.putImageData(drawn, 0, 0);
  if (page.view === "classes") draw();
}

function draw() {
  const layer = page.layers[page.view];
  const canvas = $("layer");
  const source = layer.image === undefined ? layer : layer.image;
  const pen = canvas.getContext("2d");
  if (source) {
    canvas.width = source.width;
    canvas.height = source.height;
    pen.drawImage(source, 0, 0);
  } else pen.clearRect(0, 0, canvas.width, canvas.height);
}

async function show(view) {
  if (view !== "classes" && !page.layers[view] && !(await explain(page.shown.chosen ?? page.shown.areas[0].class))) view = "classes";
  page.view = view;
  element.querySelector(`input[value=${view}]`).checked = true;
  const scale = $("scale"), layer = page.layers[view];
  scale.hidden = view === "classes";
  if (view !== "classes") {
    const [low, high] = layer.ends.map((end) => end.toFixed(view === "cam" ? 0 : 3));
    scale.replaceChildren();
    if (layer.image && low !== high) scale.append(low, Object.assign(text("b", ""), { className: view === "cam" ? "turbo" : "viridis" }), high, text("span", layer.note));
    else scale.append(layer.note);
  }
  draw();
}

async function explain(index) {
  const { shown } = page;
  const answer = await ask("explain", { choice: shown.choice, ...shown.source.question, class: index });
  if (!answer || shown !== page.shown) return false;
  for (const [view, layer] of Object.entries(answer.layers)) {
    page.layers[view] = { ...layer, image: layer.picture && (await picture(layer.picture)) };
  }
  shown.chosen = index;
  $("facts").textContent = `${shown.facts}; Grad-CAM and gates ${answer.seconds.toFixed(2)} s`;
  listAreas();
  return true;
}

async function choose(index) {
  if (await explain(index)) show("cam");
}

// Before the first picture: the classes that the model knows.
function listAreas() {
  const { areas, chosen } = page.shown ?? { areas: classesOf().map((_, index) => ({ class: index })) };
  const focused = element.querySelector(".areas :focus")?.dataset.class;
  $("areas").replaceChildren(...areas.map(({ class: index, share }) => {
    const { name, color } = classesOf()[index];
    const button = text("button", "");
    button.type = "button";
    button.dataset.class = index;
    button.style.setProperty("--color", `rgb(${color})`);
    button.style.setProperty("--share", `${100 * share}%`);
    button.setAttribute("aria-pressed", index === chosen);
    const swatch = text("i", "");
    swatch.style.background = `rgb(${color})`;
    button.append(swatch, text("span", name), text("em", page.shown ? percent(share) : ""), text("u", ""));
    button.disabled = !page.shown;
    button.onclick = () => choose(index);
    button.onpointerenter = () => paint(index);
    button.onpointerleave = () => paint(null);
    const item = text("li", "");
    item.append(button);
    return item;
  }));
  if (focused) element.querySelector(`.areas [data-class="${focused}"]`)?.focus();
}

// The picture is letter-boxed in its frame; places are in its own pixels.
function frame() {
  const { width, height } = $("picture").getBoundingClientRect();
  const factor = Math.min(width / page.shown.width, height / page.shown.height);
  return { factor, left: (width - factor * page.shown.width) / 2, top: (height - factor * page.shown.height) / 2, width };
}
function placeOf(event) {
  const box = $("picture").getBoundingClientRect(), { factor, left, top } = frame();
  return { x: Math.floor((event.clientX - box.left - left) / factor), y: Math.floor((event.clientY - box.top - top) / factor) };
}
const inside = ({ x, y }) => x >= 0 && y >= 0 && x < page.shown.width && y < page.shown.height;
const classAt = ({ x, y }) => page.shown.classes[y * page.shown.width + x];

function read(place, cross) {
  const tip = $("tip"), known = place && inside(place);
  tip.hidden = !known;
  $("cross").hidden = !known || !cross;
  if (!known) return;
  const index = classAt(place), { name, color } = classesOf()[index];
  const area = page.shown.areas.find((one) => one.class === index);
  const swatch = text("i", "");
  swatch.style.background = `rgb(${color})`;
  tip.replaceChildren(swatch, text("strong", name), text("span", percent(area.share)));
  const { factor, left, top, width } = frame();
  const at = { left: left + (place.x + 0.5) * factor, top: top + (place.y + 0.5) * factor };
  for (const mark of [tip, $("cross")]) Object.assign(mark.style, { left: `${at.left}px`, top: `${at.top}px` });
  tip.classList.toggle("left", at.left > width - 190);
}

$("picture").onpointermove = (event) => page.shown && read(placeOf(event));
$("picture").onpointerleave = () => page.shown && read(null);
$("picture").onclick = (event) => {
  if (page.shown && inside(placeOf(event))) choose(classAt(placeOf(event)));
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
  read(shown.cursor, true);
};
$("picture").onblur = () => page.shown && read(null);

async function open(file) {
  if (!file) return;
  const most = page.limits.bytes;
  if (file.size > most) return say(`${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MB; at most ${most >> 20} are taken.`);
  const address = await new Promise((done) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => done(null);
    reader.readAsDataURL(file);
  });
  if (address === null) return say(`${file.name} can't be read.`);
  segment({ question: { image: address.slice(address.indexOf(",") + 1) }, stem: file.name.replace(/\.[^.]*$/, "") || "image" });
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
document.addEventListener("keydown", (event) => event.key === "Escape" && say(""));
$("opacity").oninput = () => { $("layer").style.opacity = $("opacity").value / 100; };
$("views").onchange = (event) => {
  if (page.shown) show(event.target.value);
  else element.querySelector("input[value=classes]").checked = true;
};
$("choice").onchange = () => {
  $("about").textContent = page.choices[$("choice").value].about;
  if (page.shown) segment(page.shown.source);
  else listAreas();
};
$("theme").onclick = () => document.body.classList.toggle("dark");

(async () => {
  const start = await ask("start", null);
  if (!start) return;
  Object.assign(page, start);
  page.choices.forEach(({ name, runtime }, i) => $("choice").append(new Option(`${name} by ${runtime}`, i)));
  $("models").hidden = page.choices.length < 2;
  $("about").textContent = page.choices[0].about;
  listAreas();
  $("limit").textContent = `At most ${page.limits.bytes >> 20} MB and ${page.limits.pixels / 1e6} million pixels; it stays between this page and its server.`;
  $("samples").replaceChildren(...page.samples.map((address, i) => {
    const button = text("button", "");
    button.type = "button";
    button.setAttribute("aria-label", `Sample ${i + 1}`);
    button.setAttribute("aria-pressed", "false");
    button.append(Object.assign(new Image(), { src: address, alt: "" }));
    button.onclick = () => segment({ question: { sample: i }, stem: `sample_${i + 1}` });
    return button;
  }));
  root.dataset.ready = "";
})();
