"use strict";
// The confusion matrix: a grid of buttons, or one drawing where the classes are many.

const MOST_IN_GRID = 50; // classes
const FIRST_PAIRS = 10;
const DRAWING_PIXELS = 1000;
const CELLS = new Map(DATA.confusion.map(([label, predicted, images]) => [key(label, predicted), images]));

function key(label, predicted) {
  return label * NUM_CLASSES + predicted;
}

function imagesIn(label, predicted) {
  return CELLS.get(key(label, predicted)) ?? 0;
}

/** Returns the share of a class that was taken for another one or for itself. */
function shareOf(label, predicted) {
  const {images} = DATA.classes[label];
  return images ? imagesIn(label, predicted) / images : 0;
}

/** Returns how strongly a share is coloured, in percent: few mistakes must show as well. */
function strength(share) {
  return share ? Math.round(20 + 80 * share ** 0.6) : 0;
}

function cellTitle(label, predicted) {
  const what = label === predicted ? "right" : `taken for ${nameOf(predicted)}`;
  return `${nameOf(label)}: ${whole(imagesIn(label, predicted))} of ${whole(DATA.classes[label].images)} ${what}`;
}

/** Shows the pictures of a cell below the matrix. */
function showCell(label, predicted, scrolls = false) {
  document.querySelectorAll(".cell[aria-pressed=true]").forEach((cell) => cell.setAttribute("aria-pressed", "false"));
  document.querySelector(`.cell[data-cell="${label}-${predicted}"]`)?.setAttribute("aria-pressed", "true");
  const panel = document.getElementById("cell");
  panel.replaceChildren(...cellContent(label, predicted));
  panel.hidden = false;
  if (scrolls) panel.scrollIntoView({block: "nearest", behavior: "smooth"});
}

/** Shows both cells of two classes. */
function showPair(one, other) {
  showCell(one, other);
  const panel = document.getElementById("cell");
  panel.append(...cellContent(other, one));
  panel.scrollIntoView({block: "nearest", behavior: "smooth"});
}

function cellContent(label, predicted) {
  const total = imagesIn(label, predicted);
  const shown = picturesOf(label, predicted);
  const heading = label === predicted
    ? [element("b", {}, nameOf(label)), " found as such"]
    : [element("b", {}, nameOf(label)), " taken for ", element("b", {}, nameOf(predicted))];
  const rest = total > shown.length ? "; predictions.csv lists all" : "";
  return [
    element("h3", {}, ...heading),
    element("p", {class: "quiet"}, total === 0 ? "No picture is in this cell." :
      `${whole(shown.length)} of ${counted(total, "picture")} shown${rest}. ` +
      `That is ${percent(shareOf(label, predicted), 1)} of the class ${nameOf(label)}.`),
    element("div", {class: "gallery"}, ...shown.map(pictureCard)),
  ];
}

function grid() {
  const all = [...Array(NUM_CLASSES).keys()];
  const head = element("tr", {}, element("th", {class: "corner"}, element("span", {}, "true ↓ taken for →")),
    ...all.map((index) => element("th", {scope: "col", title: nameOf(index)}, element("span", {}, nameOf(index)))));
  const rows = all.map((label) => element("tr", {},
    element("th", {scope: "row", title: nameOf(label)}, nameOf(label)),
    ...all.map((predicted) => {
      const images = imagesIn(label, predicted);
      const cell = element("button", {
        type: "button", class: `cell ${label === predicted ? "right" : "wrong"}`, title: cellTitle(label, predicted),
        "aria-label": cellTitle(label, predicted), "aria-pressed": "false", "data-cell": `${label}-${predicted}`,
        click: () => showCell(label, predicted, true),
      }, NUM_CLASSES <= 25 && images ? whole(images) : "");
      const strong = strength(shareOf(label, predicted));
      cell.style.setProperty("--strength", `${strong}%`);
      if (strong > 55) cell.classList.add("strong");
      return element("td", {}, cell);
    })));
  const table = element("table", {id: "matrix", class: "matrix"}, element("thead", {}, head), element("tbody", {}, ...rows));
  table.style.setProperty("--classes", NUM_CLASSES);
  return element("div", {class: "scroll card"}, table);
}

/** Returns the matrix as one drawing; a click finds the nearest cell that is not empty. */
function drawing() {
  const canvas = element("canvas", {id: "matrix", width: DRAWING_PIXELS, height: DRAWING_PIXELS, role: "img",
    "aria-label": "Confusion matrix"});
  const pointed = element("p", {class: "quiet pointed"}, "Rows: true class. Columns: class it was taken for.");
  const side = DRAWING_PIXELS / NUM_CLASSES;
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect();
    const column = (event.clientX - box.left) / box.width * NUM_CLASSES - 0.5;
    const row = (event.clientY - box.top) / box.height * NUM_CLASSES - 0.5;
    let best = null, least = Math.max(1, NUM_CLASSES / 60);
    for (const [label, predicted] of DATA.confusion) {
      const distance = Math.hypot(label - row, predicted - column);
      if (distance < least) [best, least] = [[label, predicted], distance];
    }
    return best;
  };
  canvas.addEventListener("pointermove", (event) => {
    const found = nearest(event);
    pointed.textContent = found ? cellTitle(...found) : "Rows: true class. Columns: class it was taken for.";
    canvas.style.cursor = found ? "pointer" : "default";
  });
  canvas.addEventListener("click", (event) => {
    const found = nearest(event);
    if (found) showCell(...found, true);
  });
  const draw = () => {
    const [right, wrong] = ["right", "wrong"].map((name) => {
      const probe = document.body.appendChild(element("i", {class: `probe ${name}`}));
      const colour = getComputedStyle(probe).color;
      probe.remove();
      return colour;
    });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, DRAWING_PIXELS, DRAWING_PIXELS);
    // What is right comes last: the dots of mistakes are larger than their cells.
    const mistakesFirst = [...DATA.confusion].sort((a, b) => (a[0] === a[1]) - (b[0] === b[1]));
    for (const [label, predicted] of mistakesFirst) {
      const isRight = label === predicted, size = Math.max(side, isRight ? 2 : 3);
      context.fillStyle = isRight ? right : wrong;
      context.globalAlpha = strength(shareOf(label, predicted)) / 100;
      context.fillRect((predicted + 0.5) * side - size / 2, (label + 0.5) * side - size / 2, size, size);
    }
  };
  requestAnimationFrame(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return element("div", {class: "card drawing"}, canvas, pointed);
}

function pairList() {
  const most = DATA.pairs[0]?.[2] ?? 0;
  const rows = DATA.pairs.map(([one, other, images], place) => {
    const row = element("button", {type: "button", class: "pair", hidden: place >= FIRST_PAIRS,
      click: () => showPair(one, other)},
    element("span", {class: "both"}, nameOf(one), element("i", {}, "↔"), nameOf(other)),
    element("b", {}, whole(images)));
    row.style.setProperty("--share", `${100 * images / most}%`);
    return row;
  });
  const list = element("div", {class: "pairs card", id: "pairs"},
    element("h3", {}, "Most confused pairs"),
    rows.length ? null : element("p", {class: "quiet"}, "No picture was taken for another class."), ...rows);
  if (rows.length > FIRST_PAIRS) list.append(moreButton(rows.slice(FIRST_PAIRS), "pair"));
  return list;
}

function addMatrix() {
  const many = NUM_CLASSES > MOST_IN_GRID;
  const parts = many ? [pairList(), drawing()] : [grid(), pairList()];
  section("confusion", "Confusion",
    paragraph("Each row is a class, coloured by the share of its pictures. ",
      element("i", {class: "key key-right"}), "found, ", element("i", {class: "key key-wrong"}),
      "taken for another class. A click shows the pictures."),
    element("div", {class: many ? "beside" : "above"}, ...parts),
    element("div", {id: "cell", class: "card", hidden: true, role: "region", "aria-label": "Pictures of a cell", "aria-live": "polite"}));
}
