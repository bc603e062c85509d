"use strict";
// The table of classes: sorted by any column, filtered by name.

const COLUMNS = [
  {title: "class", value: (row) => row.index, text: (row) => nameOf(row.index), isName: true},
  {title: "images", value: (row) => row.images, text: (row) => whole(row.images)},
  {title: "precision", value: (row) => row.precision, text: (row) => percent(row.precision, 1), share: true},
  {title: "recall", value: (row) => row.recall, text: (row) => percent(row.recall, 1), share: true},
  {title: "F1", value: (row) => row.f1, text: (row) => percent(row.f1, 1), share: true},
  {title: "most confused with", value: (row) => row.confused, isName: true,
    text: (row) => row.confused ? `${nameOf(row.confused_with)} (${whole(row.confused)})` : "–"},
];
const FILTERED_FROM = 15; // classes

/** Returns rows in the order of a column; classes without a value come last. */
function sortedRows(rows, column, descending) {
  const sign = descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [left, right] = [column.value(a), column.value(b)];
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (left - right) || b.images - a.images || a.index - b.index;
  });
}

function classRow(row) {
  return element("tr", {}, ...COLUMNS.map((column) => {
    const cell = element("td", {class: column.isName ? "name" : "number"}, column.text(row));
    const value = column.value(row);
    if (column.share && value !== null) {
      cell.classList.add("share");
      cell.style.setProperty("--share", `${100 * value}%`);
    }
    if (column.title === "most confused with" && row.confused) {
      const [label, other] = [row.index, row.confused_with];
      cell.replaceChildren(element("button", {type: "button", class: "link", click: () => showCell(label, other, true)},
        column.text(row)));
    }
    return cell;
  }));
}

function addClasses() {
  const rows = DATA.classes.map((row, index) => ({...row, index}));
  const body = element("tbody"), heads = [];
  let sortedBy = COLUMNS[NUM_CLASSES >= FILTERED_FROM ? 4 : 0], descending = false, wanted = "";
  const fill = () => {
    const kept = rows.filter((row) => nameOf(row.index).toLowerCase().includes(wanted));
    body.replaceChildren(...sortedRows(kept, sortedBy, descending).map(classRow));
    heads.forEach((head, place) => head.setAttribute("aria-sort",
      COLUMNS[place] !== sortedBy ? "none" : descending ? "descending" : "ascending"));
  };
  for (const column of COLUMNS) {
    heads.push(element("th", {class: column.isName ? "name" : "number", scope: "col"},
      element("button", {type: "button", click: () => {
        // Names and shares begin with the first and the weakest, counts with the largest.
        descending = sortedBy === column ? !descending : !column.share && column !== COLUMNS[0];
        sortedBy = column;
        fill();
      }}, column.title)));
  }
  const table = element("table", {id: "class-table"}, element("thead", {}, element("tr", {}, ...heads)), body);
  const filter = NUM_CLASSES < FILTERED_FROM ? null : element("input", {
    type: "search", placeholder: "Find a class", "aria-label": "Find a class",
    input: (event) => { wanted = event.target.value.toLowerCase(); fill(); },
  });
  section("classes", "Classes",
    paragraph("Precision: of the pictures taken for a class, how many are of it. Recall: of the pictures of a class, " +
      "how many were found. F1 is the harmonic mean of both. A click on a title sorts."),
    filter, element("div", {class: "scroll tall card"}, table),
    NUM_CLASSES > 60 ? element("p", {class: "print-only quiet"}, "On paper: the first 60 rows; report.json has all.") : null);
  fill();
}
