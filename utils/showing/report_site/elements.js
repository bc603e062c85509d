"use strict";
// Small helpers of all sections. Texts of users become text nodes, never markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const NUM_CLASSES = DATA.labels.length;

/** Returns an element with attributes and children; functions among the attributes are listeners. */
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Returns an element of a drawing. */
function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}

function percent(share, digits = 2) {
  return share === null ? "–" : `${(100 * share).toFixed(digits)} %`;
}

function whole(number) {
  return number.toLocaleString("en-US");
}

/** Returns "1 picture" or "2 pictures". */
function counted(number, unit) {
  return `${whole(number)} ${unit}${number === 1 ? "" : "s"}`;
}

function nameOf(index) {
  return DATA.labels[index];
}

/** Adds a section with a title to the page, and a link to it. */
function section(id, title, ...children) {
  const heading = element("h2", {}, title);
  const made = element("section", {id, "aria-label": title}, heading, ...children);
  document.getElementById("main").append(made);
  document.getElementById("sections").append(element("a", {href: `#${id}`}, title));
  return made;
}

function paragraph(...children) {
  return element("p", {class: "quiet lead"}, ...children);
}

/** Returns buttons of which one is pressed; `choose` gets the value of the one that is clicked. */
function choices(label, values, choose) {
  const buttons = values.map(([value, text], place) =>
    element("button", {type: "button", "aria-pressed": String(place === 0), click: () => {
      buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === place)));
      choose(value);
    }}, text));
  return element("div", {class: "choices", role: "group", "aria-label": label}, ...buttons);
}
