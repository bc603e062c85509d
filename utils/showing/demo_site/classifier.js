// Runs the model of the page with LiteRT.js.

import {Tensor, loadAndCompile, loadLiteRt} from "./litert/index.js";
import {centreSquare, encode, pixelsOf, resize} from "./picture.js";

const TOP = 5;

function softmax(scores) {
  const highest = Math.max(...scores);
  const exponents = Array.from(scores, (score) => Math.exp(score - highest));
  const sum = exponents.reduce((a, b) => a + b, 0);
  return exponents.map((value) => value / sum);
}

export class Classifier {
  /** Loads runtime and model. `page` is the content of page.json. */
  static async load(page) {
    await loadLiteRt(new URL("litert/wasm/", document.baseURI).href);
    const model = await loadAndCompile(
      new URL(page.model, document.baseURI).href, {accelerator: "wasm"});
    const classifier = new Classifier(page, model);
    // The first run prepares memory; it would show as the first picture's time.
    await classifier.probabilities(new Float32Array(3 * page.image_size ** 2));
    return classifier;
  }

  constructor(page, model) {
    this.page = page;
    this.model = model;
  }

  /** Returns the probability of each class for RGB floats [size * size * 3]. */
  async probabilities(rgb) {
    const {image_size: size, output, is_probabilities: isDone} = this.page;
    const tensor = new Tensor(encode(rgb, this.page), [1, size, size, 3]);
    const [result] = await this.model.run([tensor]);
    let values = Array.from(result.toTypedArray());
    result.delete();
    tensor.delete();
    if (output) values = values.map((value) => (value - output.zero) * output.scale);
    return isDone ? values : softmax(values);
  }

  /**
   * Classifies a picture or a video frame.
   *
   * Returns {classes: [{name, probability}], square, pictureMs, networkMs}, the best class first.
   */
  async classify(source, width, height) {
    const {image_size: size, crop_share: share, resize_method: method} = this.page;
    const start = performance.now();
    const square = centreSquare(width, height, share);
    const rgb = resize(pixelsOf(source, square), square.side, size, method);
    const middle = performance.now();
    const probabilities = await this.probabilities(rgb);
    const end = performance.now();
    return {
      classes: this.best(probabilities), square,
      pictureMs: middle - start, networkMs: end - middle,
    };
  }

  best(probabilities) {
    const {labels} = this.page;
    return probabilities
      .map((probability, i) => ({name: labels ? labels[i] : `class ${i}`, probability}))
      .sort((a, b) => b.probability - a.probability)
      .slice(0, TOP);
  }
}
