// The address holds the steps of a query: `image=NAME` (of the gallery) or `upload=ID` (an image of yours), then `text=…`,
// then the image that the query went on from, and so on. The page shows what the address says, so that back, forward,
// reload and links work.
"use strict";

const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
};
const encodeName = (name) => name.toWellFormed().split("/").map(encodeURIComponent).join("/");
const MOST_UPLOADS = 20;
const SHOWN = 12;

let info = { starts: [], encoders: [], limits: {} };
let answers = new Map(); // by step, so that going back asks nothing
let asking = null;

// The steps in the address ---------------------------------------------------------------------------------------------

function readSteps() {
  const steps = [];
  for (const [key, value] of new URLSearchParams(location.search)) {
    if (key === "image" || key === "upload") steps.push({ [key]: value, text: "", where: "" });
    else if ((key === "text" || key === "where") && steps.length) steps.at(-1)[key] = value;
  }
  return steps;
}

function writeSteps(steps) {
  const values = new URLSearchParams();
  for (const step of steps)
    for (const key of ["image", "upload", "text", "where"]) if (step[key]) values.append(key, step[key]);
  return values.size ? `/?${values}` : "/";
}

function go(steps) {
  const address = writeSteps(steps);
  if (address !== location.pathname + location.search) history.pushState(null, "", address);
  return show();
}

// Images of yours stay in this browser: the address has their id ----------------------------------------------------

function openUploads(mode) {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("rtd-plugin", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("images", { keyPath: "id" });
    request.onerror = () => reject(request.error);
    request.onsuccess = () => resolve(request.result.transaction("images", mode).objectStore("images"));
  });
}

const settle = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const uploads = new Map();

async function keepUpload(file) {
  const id = `${Date.now()}`;
  uploads.set(id, file);
  try {
    const store = await openUploads("readwrite");
    const keys = await settle(store.getAllKeys());
    for (const key of keys.slice(0, Math.max(0, keys.length + 1 - MOST_UPLOADS))) store.delete(key);
    await settle(store.put({ id, file }));
  } catch (error) {
    console.warn("The image is kept until this page is left:", error);
  }
  return id;
}

async function findUpload(id) {
  if (!uploads.has(id)) {
    try {
      const kept = await settle((await openUploads("readonly")).get(id));
      if (kept) uploads.set(id, kept.file);
    } catch (error) {
      console.warn(error);
    }
  }
  return uploads.get(id) ?? null;
}

const addresses = new Map();

async function findPicture(step, size = "thumbnails") {
  if (step.image) return `/${size}/${encodeName(step.image)}`;
  const file = await findUpload(step.upload);
  if (!file) return null;
  if (!addresses.has(step.upload)) addresses.set(step.upload, URL.createObjectURL(file));
  return addresses.get(step.upload);
}

const nameStep = (step) => step.image ?? uploads.get(step.upload)?.name ?? "your image";

function makePicture(source, alt) {
  const image = make("img", { alt, loading: "lazy", decoding: "async" });
  image.onload = () => image.classList.toggle("tiny", image.naturalWidth < 100);
  image.src = source;
  return image;
}

// What the page shows --------------------------------------------------------------------------------------------------

function complain(sentence) {
  $("problem").textContent = sentence ?? "";
  $("problem").hidden = !sentence;
}

async function show() {
  const steps = readSteps();
  const current = steps.at(-1) ?? null;
  complain();
  $("text").value = current?.text ?? "";
  $("where").value = current?.where ?? "";
  $("filter").open ||= Boolean(current?.where);
  await showReference(current);
  await showTrail(steps);
  $("starts").hidden = steps.length > 0 || info.starts.length === 0;
  const asked = steps.findLast((step) => step.text) ?? null;
  document.title = asked ? `“${asked.text}” – rtd-plugin` : "rtd-plugin";
  await showResults(asked, steps);
}

async function showReference(step) {
  const source = step && (await findPicture(step));
  $("drop").classList.toggle("filled", Boolean(source));
  const label = $("file-label");
  if (source) {
    label.replaceChildren(makePicture(source, ""), make("span", { className: "hint", id: "file-hint", hidden: true }));
    $("file").setAttribute("aria-label", `Reference image: ${nameStep(step)}. Choose another`);
  } else {
    $("file").removeAttribute("aria-label");
    const hint = make("span", { id: "file-hint", textContent: " or drop or paste one here" });
    label.replaceChildren(make("span", {}, make("b", { textContent: "Choose an image" }), hint));
    if (step) complain("This address starts from an image that only its browser has: choose it again.");
  }
}

async function showTrail(steps) {
  const entries = await Promise.all(
    steps.slice(0, -1).map(async (step, index) => {
      const source = await findPicture(step);
      const link = make("a", { href: writeSteps(steps.slice(0, index + 1)) });
      if (source) link.append(makePicture(source, nameStep(step)));
      link.append(make("span", { textContent: step.text ? `“${step.text}”` : "" }));
      link.onclick = (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        go(steps.slice(0, index + 1));
      };
      return make("li", {}, link);
    }),
  );
  $("trail").replaceChildren(...entries);
}

async function ask(step) {
  const key = JSON.stringify(step);
  if (answers.has(key)) return answers.get(key);
  const form = new FormData();
  form.set("text", step.text);
  form.set("k", SHOWN);
  if (step.where) form.set("where", step.where);
  if (step.image) form.set("name", step.image);
  else {
    const file = await findUpload(step.upload);
    if (!file) return null;
    form.set("image", file);
  }
  asking?.abort();
  asking = new AbortController();
  const response = await fetch("/search", { method: "POST", body: form, signal: asking.signal });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  answers.set(key, answer);
  return answer;
}

async function showResults(step, steps) {
  const section = $("results");
  if (!step) {
    section.replaceChildren();
    $("status").textContent = steps.length ? "Say what should be different, and press Enter." : "";
    return;
  }
  section.setAttribute("aria-busy", "true");
  $("status").textContent = "Searching …";
  try {
    const answer = await ask(step);
    const columns = answer ? answer.results.map((result, index) => showColumn(answer.results, index, steps)) : [];
    section.replaceChildren(...columns);
    const found = answer?.results[0].images.length ?? 0;
    $("status").textContent = answer ? `The ${found} best images for “${step.text}”. Choose one to go on from it.` : "";
  } catch (error) {
    if (error.name === "AbortError") return;
    section.replaceChildren();
    $("status").textContent = "";
    complain(error instanceof TypeError ? "The service does not answer: is it still running?" : error.message);
  }
  section.setAttribute("aria-busy", "false");
}

function showColumn(results, index, steps) {
  const { name, images } = results[index];
  const tuned = info.encoders[index]?.tuned;
  const before = index ? results[0].images.map((each) => each.image) : null;
  const heading = make("h2", { textContent: tuned ? "After tuning" : "Before tuning" }, make("small", { textContent: name }));
  const cards = images.map((each, rank) => {
    const was = before?.indexOf(each.image);
    return makeCard(each, rank + 1, was === undefined ? null : was + 1, steps);
  });
  const list = make("ol", { className: "grid" }, ...cards);
  list.setAttribute("aria-label", `${heading.firstChild.textContent}, ${name}`);
  return make("div", { className: "column" }, heading, list);
}

function describeMove(rank, was) {
  if (was === null) return null;
  if (was === 0) return make("span", { className: "up", textContent: "new" });
  if (was === rank) return make("span", { className: "moved", textContent: "same" });
  const className = was > rank ? "up" : "down";
  return make("span", { className, textContent: `${was > rank ? "↑" : "↓"} was ${was}` });
}

function makeCard(match, rank, was, steps) {
  const button = make("button", { type: "button" }, makePicture(`/thumbnails/${encodeName(match.image)}`, ""));
  button.setAttribute("aria-label", `${rank}: ${match.image}. Go on from it`);
  button.onclick = () => goOn(match.image, steps);
  const score = make("div", { className: "score" }, make("span", {}, make("b", { textContent: rank }), ` · ${match.score.toFixed(3)}`));
  const move = describeMove(rank, was);
  if (move) score.append(move);
  const name = make("a", { className: "name", href: `/images/${encodeName(match.image)}`, target: "_blank", textContent: match.image });
  const columns = make("dl");
  for (const [key, value] of Object.entries(match.columns)) {
    if (value === null) continue;
    const isLink = /^https?:\/\//.test(value);
    const shown = isLink ? make("a", { href: value, rel: "noreferrer noopener", target: "_blank", textContent: "open" }) : `${value}`;
    columns.append(make("dt", { textContent: key }), make("dd", {}, shown));
  }
  const card = make("li", { className: "card" }, button, make("div", {}, score, name, columns.children.length ? columns : null));
  card.dataset.image = match.image;
  for (const type of ["pointerenter", "focusin"]) card.addEventListener(type, () => markTwins(match.image));
  for (const type of ["pointerleave", "focusout"]) card.addEventListener(type, () => markTwins(null));
  return card;
}

function markTwins(image) {
  for (const card of document.querySelectorAll("#results .card"))
    card.classList.toggle("twin", card.dataset.image === image);
}

async function goOn(image, steps) {
  await go([...steps.filter((step) => step.text), { image, text: "", where: steps.at(-1)?.where ?? "" }]);
  $("text").focus({ preventScroll: true });
  scrollTo({ top: 0, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function showInfo() {
  const { images, method } = info;
  $("about").textContent = `${images.toLocaleString("en")} images of ${info.gallery} · ${method}`;
  $("remarks").replaceChildren(...info.remarks.map((remark) => make("p", { className: "remark", textContent: `${remark}.` })));
  $("filter").hidden = !info.columns.length;
  $("where").title = `Columns: ${info.columns.join(", ")}`;
  const starts = info.starts.map(({ image, text }) => {
    const button = make("button", { type: "button" }, makePicture(`/thumbnails/${encodeName(image)}`, ""));
    button.setAttribute("aria-label", text ? `${image}, “${text}”` : image);
    button.onclick = () => (text ? go([{ image, text }]) : goOn(image, []));
    return make("li", { className: "card" }, button, make("div", { textContent: text ? `“${text}”` : image }));
  });
  $("starts").querySelector("ul").replaceChildren(...starts);
  $("file").accept = info.limits.formats.map((name) => `.${name.toLowerCase()}`).join(",") + ",.jpg,.tif,image/*";
  const example = info.starts.find(({ text }) => text);
  if (example) $("text").placeholder = example.text;
}

// What you do ----------------------------------------------------------------------------------------------------------

async function takeFile(file) {
  if (!file) return;
  if (file.size > info.limits.bytes) {
    complain(`${file.name} has more than ${info.limits.bytes / 1e6} MB: choose a smaller copy.`);
    return;
  }
  const text = $("text").value.trim();
  await go([{ upload: await keepUpload(file), text, where: $("where").value.trim() }]);
  if (!text) $("text").focus();
}

$("file").onchange = (event) => takeFile(event.target.files[0]).finally(() => (event.target.value = ""));
document.onpaste = (event) => {
  if (event.clipboardData.files.length) takeFile(event.clipboardData.files[0]);
};
document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
};
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  takeFile(event.dataTransfer.files[0]);
};
$("query").onsubmit = (event) => {
  event.preventDefault();
  const steps = readSteps();
  const text = $("text").value.trim();
  if (!steps.length) return complain("Choose an image first.");
  if (!text) return complain("Say what should be different.");
  go([...steps.slice(0, -1), { ...steps.at(-1), text, where: $("where").value.trim() }]);
};
addEventListener("popstate", show);

fetch("/info")
  .then((response) => response.json())
  .then((answer) => {
    info = answer;
    showInfo();
    return show();
  })
  .catch(() => complain("The service does not answer: is it still running?"));
