"use strict";
// The headline, calibration, curves and exports; puts the sections in order.

function tile(value, name, note) {
  return element("div", {class: "tile"}, element("b", {}, value), element("span", {}, name),
    note ? element("small", {}, note) : null);
}

function between([low, high]) {
  return `${(100 * low).toFixed(2)} to ${percent(high)}`;
}

/** Returns the accuracy as a large number above its interval. */
function accuracyFigure({accuracy, interval: [low, high], images, right}) {
  const figure = element("div", {class: "accuracy"},
    element("b", {id: "accuracy"}, percent(accuracy)),
    element("span", {}, `of ${counted(images, "picture")} are right (${whole(right)})`),
    element("div", {class: "interval", "aria-hidden": "true"}, element("i"), element("u")),
    element("small", {id: "interval"}, `95 % interval: ${between([low, high])}`));
  for (const [name, share] of Object.entries({low, high, accuracy})) {
    figure.style.setProperty(`--${name}`, `${100 * share}%`);
  }
  return figure;
}

function addHeadline() {
  const {headline, model, data, calibration} = DATA;
  const step = model.step === null ? "" : `, step ${whole(model.step)}`;
  document.title = `${model.name} on ${data.name}: ${percent(headline.accuracy)}`;
  document.getElementById("eyebrow").textContent = `Report of ${DATA.made_at.slice(0, 10)}`;
  document.getElementById("title").replaceChildren(model.name, element("span", {}, ` on ${data.name}`));
  document.getElementById("headline").append(accuracyFigure(headline), element("div", {class: "tiles"},
    headline.top_k_accuracy === null ? null :
      tile(percent(headline.top_k_accuracy), `top-${headline.top_k}`, between(headline.top_k_interval)),
    tile(whole(headline.images - headline.right), "mistakes", `of ${counted(headline.images, "picture")}`),
    tile(whole(NUM_CLASSES), "classes", `${percent(1 / NUM_CLASSES, NUM_CLASSES > 50 ? 2 : 1)} by chance`),
    tile(percent(calibration.expected_error, 1), "calibration error", `mean confidence ${percent(calibration.mean_confidence, 1)}`)));
  const skipped = data.skipped_images ? `, ${counted(data.skipped_images, "bad one")} left out` : "";
  const facts = [`${model.kind} ${model.path}${step}`, `${data.split} pictures of ${data.path}${skipped}`];
  document.getElementById("facts").textContent = facts.join(" · ");
  document.getElementById("footer").textContent =
    `Made by ${DATA.made_by} at ${DATA.made_at.replace("T", " ").replace("+00:00", " UTC")}. ` +
    `${counted(Object.keys(DATA.thumbnails).length, "picture")} of ${whole(headline.images)} are inside this file; ` +
    "predictions.csv next to it lists all, report.json has the figures.";
}

function addCalibration() {
  const {bins, expected_error: error, label_smoothing: smoothing, target, mean_confidence: mean} = DATA.calibration;
  const side = mean > DATA.headline.accuracy ? "more" : "less";
  const smoothed = smoothing === 0 ? "It was trained without label smoothing." :
    smoothing === null ?
      "A network that was trained with label smoothing shows 80 to 94 % for classes it is sure of: that is what it learned, not doubt." :
      `It was trained with label smoothing ${smoothing}, which asks for ${percent(target, 0)} of the right class: ` +
      "80 to 94 % is what it shows for a class it is sure of, not doubt.";
  section("calibration", "Calibration", element("div", {class: "split"},
    element("div", {class: "card"}, reliabilityDiagram(bins)),
    element("div", {},
      element("p", {}, "Of the pictures to which the model gives 70 %, are 70 % right? Dots on the dashed line say yes; above it the " +
        "model is better than it says, below it worse. Bars at the bottom: how many pictures there are."),
      element("p", {}, "Expected calibration error: ", element("b", {id: "calibration-error"}, percent(error)),
        `. The mean confidence is ${percent(mean, 1)}, ${side} than the ${percent(DATA.headline.accuracy, 1)} that are right.`),
      element("p", {}, smoothed))));
}

const SERIES = [
  ["Learning rate", {learning_rate: "learning rate"}, (value) => short(value)],
  ["Speed", {images_per_second: "images a second"}, (value) => short(value)],
];

function addCurves() {
  const {series, evaluations} = DATA.curves;
  const place = element("div", {class: "charts"});
  const fill = (byTime) => {
    const x = byTime ? {title: "time of training", format: duration} : {title: "step", format: short, unit: " steps"};
    const at = (step, seconds) => byTime ? seconds : step;
    const charts = [];
    const line = (name, points, dots = false) => ({name, dots, points: points.filter(([a, b]) => a !== null && b !== null && b !== undefined)});
    const add = (title, lines, y) => {
      const full = lines.filter((one) => one.points.length);
      if (full.length) charts.push(lineChart(title, full, x, y));
    };
    const ofEvaluations = (name, field) => line(name, evaluations.map((one) => [at(one.step, one.seconds), one[field]]), true);
    const ofTraining = (name, tag) => line(name, (series[tag] ?? []).map(([step, seconds, value]) => [at(step, seconds), value]));
    const shares = [ofEvaluations("top-1", "top_1")];
    if (DATA.headline.top_k_accuracy !== null) shares.push(ofEvaluations("top-5", "top_5"));
    add("Accuracy of the evaluations", shares, {format: (value, exact) => percent(value, exact ? 2 : +(100 * value).toFixed(2) % 1 ? 1 : 0), most: 1});
    add("Loss", [ofTraining("training", series.cross_entropy ? "cross_entropy" : "loss"), ofEvaluations("evaluation", "cross_entropy")],
      {format: (value) => short(value)});
    for (const [title, tags, format] of SERIES) {
      add(title, Object.entries(tags).map(([tag, name]) => ofTraining(name, tag)), {format});
    }
    place.replaceChildren(...charts);
  };
  section("training", "Training",
    element("div", {class: "with-choices"}, paragraph("Training and evaluation; the loss is the cross-entropy with label smoothing."),
      choices("Over", [[false, "by step"], [true, "by time"]], fill)), place);
  fill(false);
}

function addExports() {
  const {folder, header, rows} = DATA.exports;
  section("exports", "Exports", paragraph(`Files in ${folder}, measured when they were made. Stretched: top-1 with whole pictures ` +
    "stretched into a square, as MediaPipe does. Agreement: pictures that get the class that the checkpoint gives. ms: one picture on one thread."),
  element("div", {class: "scroll card"}, element("table", {id: "export-table"},
    element("thead", {}, element("tr", {}, ...header.map((title, place) => element("th", {class: place ? "number" : "name", scope: "col"}, title)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, place) =>
      element("td", {class: place ? "number" : "name"}, cell))))))));
}

addHeadline();
addClasses();
addMatrix();
addMistakes();
addUnsure();
addCalibration();
if (DATA.curves) addCurves();
if (DATA.exports) addExports();
