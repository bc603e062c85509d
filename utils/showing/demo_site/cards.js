// Shows pictures with the square that the network sees, and classes as bars.

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function row({name, probability}) {
  const made = element("div", "class");
  const bar = element("div", "bar");
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-label", name);
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "1");
  bar.append(element("span"));
  made.append(element("span", "label"), element("span", "percent"), bar);
  fill(made, {name, probability});
  return made;
}

function fill(made, {name, probability}) {
  made.querySelector(".label").textContent = name;
  made.querySelector(".percent").textContent = percent(probability);
  const bar = made.querySelector(".bar");
  bar.setAttribute("aria-label", name);
  bar.setAttribute("aria-valuenow", probability);
  bar.setAttribute("aria-valuetext", percent(probability));
  bar.firstChild.style.width = `${100 * probability}%`;
}

/** Shows classes in an element; bars that are there already move to their new length. */
export function showClasses(place, classes) {
  classes.forEach((one, i) => {
    if (place.children[i]) fill(place.children[i], one);
    else place.append(row(one));
  });
}

/** Puts the mark of the square where the network looks; all lengths are those of the picture. */
export function showSquare(frame, {left, top, side}, width, height) {
  frame.style.setProperty("--ratio", width / height);
  const {style} = frame.querySelector(".crop");
  style.left = `${(100 * left) / width}%`;
  style.top = `${(100 * top) / height}%`;
  style.width = `${(100 * side) / width}%`;
  style.height = `${(100 * side) / height}%`;
}

/** Says how long the network and the preparation of the picture took. */
export function showTimes(place, {networkMs, pictureMs}) {
  const number = (ms) => ms.toFixed(ms < 10 ? 1 : 0);
  place.textContent = `${number(networkMs)} ms network, ${number(pictureMs)} ms crop and resize`;
}

/** Returns the card of a classified picture. */
export function card(url, name, width, height, result) {
  const made = element("article", "card");
  const figure = element("figure");
  const frame = element("div", "frame");
  const image = element("img");
  image.src = url;
  image.alt = name;
  frame.append(image, element("div", "crop"));
  figure.append(frame, element("figcaption", "quiet", `${name}, ${width} × ${height}`));
  const answer = element("div", "answer");
  const classes = element("div", "classes");
  const times = element("p", "quiet times");
  answer.append(classes, times);
  made.append(figure, answer);
  showSquare(frame, result.square, width, height);
  showClasses(classes, result.classes);
  showTimes(times, result);
  return made;
}
