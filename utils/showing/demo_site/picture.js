// Turns a picture into the network's input exactly as the evaluation does (preprocessing.py).

// The TensorFlow 1 kernel reads its cubic weights from a table of this many steps.
const STEPS = 1024;
const SHARPNESS = -0.75;

/** Returns the centre square that the evaluation crops: {left, top, side} in pixels. */
export function centreSquare(width, height, cropShare) {
  // Rounding to float32 is part of the rule.
  const side = Math.max(1, Math.trunc(
    Math.fround(Math.fround(cropShare) * Math.min(width, height))));
  const offset = (length) => Math.floor((length - side + 1) / 2);
  return {left: offset(width), top: offset(height), side};
}

/** Returns the pixels of a square of a picture or a video frame, RGBA bytes [side * side * 4]. */
export function pixelsOf(source, {left, top, side}) {
  const canvas = new OffscreenCanvas(side, side);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.fillStyle = "white"; // behind a transparent picture, as in the training
  context.fillRect(0, 0, side, side);
  context.drawImage(source, left, top, side, side, 0, 0, side, side);
  return context.getImageData(0, 0, side, side).data;
}

function cubicWeights(share) {
  const a = SHARPNESS;
  const near = (x) => ((a + 2) * x - (a + 3)) * x * x + 1;
  const far = (x) => ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
  const x = Math.round(share * STEPS) / STEPS;
  return [far(x), near(x), near(1 - x), far(1 - x)];
}

const METHODS = {
  bicubic: {first: -1, weights: cubicWeights},
  bilinear: {first: 0, weights: (share) => [1 - share, share]},
};

/** Returns for each output position the input positions and weights that make it. */
function taps(from, to, {first, weights}) {
  const scale = Math.fround(from / to);
  return Array.from({length: to}, (_, position) => {
    // Corners are aligned at the top left, without half a pixel, as the kernels do.
    const place = Math.fround(position * scale);
    const whole = Math.floor(place);
    return weights(place - whole).map((weight, i) => ({
      at: Math.min(from - 1, Math.max(0, whole + first + i)), weight,
    }));
  });
}

/**
 * Returns a square resized, RGB floats [size * size * 3]; bicubic may leave 0 to 255.
 *
 * The browser's own scaling smooths; a network that was trained without smoothing notices.
 */
export function resize(pixels, side, size, method) {
  const positions = taps(side, size, METHODS[method]);
  const result = new Float32Array(size * size * 3);
  let place = 0;
  for (const rows of positions) {
    for (const columns of positions) {
      let red = 0, green = 0, blue = 0;
      for (const row of rows) {
        for (const column of columns) {
          const weight = row.weight * column.weight;
          const start = 4 * (row.at * side + column.at);
          red += weight * pixels[start];
          green += weight * pixels[start + 1];
          blue += weight * pixels[start + 2];
        }
      }
      result[place++] = red;
      result[place++] = green;
      result[place++] = blue;
    }
  }
  return result;
}

/** Returns the network's input: normalized if the file asks for it, and bytes for an int8 file. */
export function encode(rgb, {normalization, input}) {
  const values = rgb.slice();
  if (normalization) {
    const {mean, stddev} = normalization;
    values.forEach((value, i) => {
      values[i] = (value - mean[i % mean.length]) / stddev[i % stddev.length];
    });
  }
  if (!input) return values;
  // The array rounds and clamps to 0 to 255.
  return new Uint8Array(
    Uint8ClampedArray.from(values, (value) => value / input.scale + input.zero).buffer);
}
