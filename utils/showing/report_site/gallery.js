"use strict";
// Pictures with what the model says of them.

const FIRST_CARDS = 18;

/** Returns the numbers of the shown pictures of a cell, the most confident first. */
function picturesOf(label, predicted) {
  return Object.keys(DATA.thumbnails)
    .filter((number) => DATA.pictures[number].label === label && DATA.pictures[number].top[0][0] === predicted)
    .sort((a, b) => DATA.pictures[b].top[0][1] - DATA.pictures[a].top[0][1]);
}

function bar(kind, name, probability) {
  const made = element("div", {class: `bar ${kind}`}, element("span", {title: name}, name), element("b", {}, percent(probability, 1)));
  made.style.setProperty("--share", `${100 * probability}%`);
  return made;
}

/** Returns a card: the picture, its class, the class it was taken for, and where it is. */
function pictureCard(number) {
  const picture = DATA.pictures[number], [predicted, probability] = picture.top[0];
  const isRight = predicted === picture.label;
  const encoded = DATA.thumbnails[number];
  const image = encoded === undefined
    ? element("span", {class: "missing"}, "not shown")
    : element("img", {src: `data:image/webp;base64,${encoded}`, alt: "", decoding: "async"});
  const second = picture.top[1];
  const bars = isRight
    ? [bar("right", nameOf(predicted), probability), second ? bar("other", nameOf(second[0]), second[1]) : null]
    : [bar("wrong", nameOf(predicted), probability), bar("right", nameOf(picture.label), picture.label_probability)];
  const best = picture.top.map(([index, share]) => `${nameOf(index)} ${percent(share, 1)}`).join("\n");
  return element("figure", {class: "picture", "data-number": number},
    element("div", {class: "frame", title: best}, image),
    element("figcaption", {}, element("p", {class: "true"}, element("span", {class: "quiet"}, "label "), nameOf(picture.label)),
      ...bars, element("p", {class: "place", title: `${picture.file}, record ${picture.record}`},
        picture.picture ? `${picture.picture} · ` : "", `${picture.file} #${picture.record}`)));
}

/** Returns a button that shows hidden elements. */
function moreButton(hidden, unit) {
  const button = element("button", {type: "button", class: "more", click: () => {
    hidden.forEach((node) => { node.hidden = false; });
    button.remove();
  }}, `Show ${counted(hidden.length, `more ${unit}`)}`);
  return button;
}

function gallery(numbers) {
  const cards = numbers.map(pictureCard);
  const later = cards.slice(FIRST_CARDS);
  later.forEach((card) => { card.hidden = true; });
  return [element("div", {class: "gallery"}, ...cards), later.length ? moreButton(later, "picture") : null];
}

function addMistakes() {
  const wrong = DATA.headline.images - DATA.headline.right;
  section("mistakes", "Confident mistakes",
    wrong === 0 ? paragraph("No picture is wrong.") : paragraph(
      `${counted(DATA.mistakes.length, "picture")} of ${whole(wrong)} wrong ones, first those whose label the model ` +
      "contradicts most. Look at the first ones: if the model is right, the label is wrong."),
    ...gallery(DATA.mistakes));
}

function addUnsure() {
  section("unsure", "Unsure",
    paragraph(`The ${counted(DATA.unsure.length, "picture")} whose two most probable classes are closest, right or wrong.`),
    ...gallery(DATA.unsure));
}
