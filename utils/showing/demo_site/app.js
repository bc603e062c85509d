// Connects the parts of the page: model, files, camera and messages.

import {Camera} from "./camera.js";
import {card} from "./cards.js";
import {Classifier} from "./classifier.js";

const find = (id) => document.getElementById(id);
const camera = new Camera(find("live"));

function report(error) {
  const line = document.createElement("p");
  line.textContent = error.message;
  find("problems").append(line);
}

async function loadPage() {
  const answer = await fetch("page.json", {cache: "no-cache"});
  if (!answer.ok) {
    throw new Error("page.json is missing next to this page: write the page again with " +
      "python -m utils.demo_page.");
  }
  return answer.json();
}

function describe(page) {
  document.title = `${page.name}: what is on the picture?`;
  find("name").textContent = page.name;
  const facts = [
    `${page.image_size} × ${page.image_size} pixels`, `${page.num_classes} classes`,
    `${(page.bytes / 1e6).toFixed(1)} MB`, page.kind,
  ];
  find("facts").replaceChildren(...facts.map((fact) => {
    const chip = document.createElement("span");
    chip.textContent = fact;
    return chip;
  }));
  find("footer").textContent = `The square is the part of the picture that the network sees, ` +
    `${(100 * page.crop_share).toFixed(1)} % of the shorter side. ${page.runtime} runs the network.`;
}

async function load() {
  const page = await loadPage();
  describe(page);
  showSamples(page.pictures);
  try {
    return await Classifier.load(page);
  } catch (error) {
    throw new Error(`The model cannot be loaded (${error.message}): use a current browser, and ` +
      "serve this folder whole over http.");
  }
}

const loading = load();

async function bitmapOf(file) {
  try {
    // Phones store pictures sideways with a note (EXIF) how to turn them. The training reads the
    // stored numbers of a pixel, whatever colour profile stands beside them.
    return await createImageBitmap(
      file, {imageOrientation: "from-image", colorSpaceConversion: "none"});
  } catch {
    throw new Error(`${file.name} is not a picture that this browser can read: choose a JPEG, ` +
      "PNG or WebP file.");
  }
}

async function classify(file) {
  const classifier = await loading;
  const bitmap = await bitmapOf(file);
  try {
    const {width, height} = bitmap;
    const result = await classifier.classify(bitmap, width, height);
    find("results").prepend(card(URL.createObjectURL(file), file.name, width, height, result));
  } finally {
    bitmap.close();
  }
}

async function classifyAll(files) {
  find("problems").replaceChildren();
  for (const file of files) {
    try {
      await classify(file);
    } catch (error) {
      report(error);
    }
  }
}

function showSamples(pictures) {
  find("samples").hidden = pictures.length === 0;
  for (const {file, name} of pictures) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sample";
    button.title = name;
    const image = document.createElement("img");
    image.src = file;
    image.alt = name;
    button.append(image);
    button.addEventListener("click", async () => {
      const answer = await fetch(file);
      classifyAll([new File([await answer.blob()], name)]);
    });
    find("samples").querySelector(".strip").append(button);
  }
}

function listenForFiles() {
  const input = find("files");
  find("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", async () => {
    await classifyAll([...input.files]);
    input.value = ""; // the same file can be chosen again
  });
  const zone = document.documentElement;
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    find("drop").classList.add("over");
  });
  zone.addEventListener("dragleave", () => find("drop").classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    find("drop").classList.remove("over");
    const files = [...event.dataTransfer.files];
    classifyAll(files);
    if (!files.length) report(new Error("What was dropped is not a file: drop a picture file."));
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) classifyAll(files);
  });
}

function listenForCamera() {
  find("camera").addEventListener("click", async () => {
    find("problems").replaceChildren();
    try {
      await camera.run(await loading);
    } catch (error) {
      report(error);
    }
  });
  find("keep").addEventListener("click", async () => classifyAll([await camera.picture()]));
  find("stop").addEventListener("click", () => camera.stop());
}

listenForFiles();
listenForCamera();
try {
  await loading;
  find("status").hidden = true;
} catch (error) {
  find("status").textContent = error.message;
  find("choose").disabled = find("camera").disabled = true;
}
