"""Decodes, crops, resizes and normalizes pictures, alike for training, serving and calibration.

Pixels are float32 in [0, 255], except where bicubic resizing overshoots, until the model normalizes
them. Crop and resizing are the published ones. Evaluation takes a centre square of
size / (size + 32) of the shorter side, training a random box, and the TensorFlow 1 kernels resize
it. The published accuracies were measured with bicubic resizing; the published code has resized
bilinearly since July 2019. A mix of the two costs up to 1.6 points (tensorflow/tpu#666).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import utils  # noqa: F401  (before TensorFlow: sets its environment, checks its version)

import tensorflow.compat.v1 as tf

IMAGE_SIZE = 224
CROP_PADDING = 32

MEAN_RGB = [0.485 * 255, 0.456 * 255, 0.406 * 255]
STDDEV_RGB = [0.229 * 255, 0.224 * 255, 0.225 * 255]

RESIZE_METHODS = {"bicubic": tf.image.resize_bicubic, "bilinear": tf.image.resize_bilinear}


class Preparation(NamedTuple):
    """How an encoded picture becomes the input of a network that is not in training.

    Attributes:
      image_size: side of the input in pixels.
      resize_method: 'bicubic' or 'bilinear'.
      eval_crop_share: side of the centre crop as a share of the shorter side; None for
        image_size / (image_size + 32), as published.
      mean: what is subtracted from RGB in [0, 255], one number or one for each channel.
      stddev: what is divided by afterwards. Most inputs take raw pixels: mean 0 and stddev 1.
    """

    image_size: int
    resize_method: str = "bicubic"
    eval_crop_share: float | None = None
    mean: Sequence[float] = (0.0,)
    stddev: Sequence[float] = (1.0,)

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Preparation:
        """Returns that of complete settings, with raw pixels."""
        return cls(params["input_image_size"], params["resize_method"], params["eval_crop_share"])

    @property
    def crop_share(self) -> float:
        """The side of the centre crop as a share of the shorter side."""
        given = self.eval_crop_share
        return crop_share(self.image_size) if given is None else given

    @property
    def is_raw(self) -> bool:
        """Whether the network takes pixels of 0 to 255."""
        return set(self.mean) == {0.0} and set(self.stddev) == {1.0}

    def pixels(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Returns float32 [image_size, image_size, 3] of an encoded picture, not normalized yet."""
        return preprocess_image(
            image_bytes,
            image_size=self.image_size,
            resize_method=self.resize_method,
            eval_crop_share=self.eval_crop_share,
        )


class Augmentation(NamedTuple):
    """Sets the random crops and flips of training pictures.

    Attributes:
      min_object_covered: smallest share of the picture that a crop covers.
      aspect_ratio_range: range of a crop's width / height.
      area_range: range of a crop's share of the picture's area.
      max_attempts: tries before the centre crop is taken instead.
      flip: whether to mirror half of the pictures.
    """

    min_object_covered: float = 0.1
    aspect_ratio_range: tuple[float, float] = (3.0 / 4, 4.0 / 3)
    area_range: tuple[float, float] = (0.08, 1.0)
    max_attempts: int = 10
    flip: bool = True


def normalize(images: tf.Tensor, mean=None, stddev=None) -> tf.Tensor:
    """Subtracts the mean and divides by the standard deviation of each channel.

    Args:
      images: float [..., 3], pixels in [0, 255].
      mean: mean of each channel, three numbers; None for ImageNet's.
      stddev: standard deviation of each channel, likewise.

    Returns:
      Images of the same shape and dtype.
    """
    mean = tf.constant(MEAN_RGB if mean is None else mean, shape=[1, 1, 3], dtype=images.dtype)
    stddev = tf.constant(
        STDDEV_RGB if stddev is None else stddev, shape=[1, 1, 3], dtype=images.dtype
    )
    return (images - mean) / stddev


def is_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether an encoded picture, a scalar string, begins as a JPEG does."""
    return tf.equal(tf.substr(image_bytes, 0, 3), b"\xff\xd8\xff")


def decode_whole(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG, PNG (over white), BMP or GIF (its first frame) to uint8 [H, W, 3]."""
    image = tf.cond(
        tf.equal(tf.substr(image_bytes, 0, 8), b"\x89PNG\r\n\x1a\n"),
        lambda: _over_white(tf.io.decode_png(image_bytes, channels=0)),
        lambda: tf.io.decode_image(image_bytes, channels=3, expand_animations=False),
    )
    image.set_shape([None, None, 3])
    return image


def _over_white(image: tf.Tensor) -> tf.Tensor:
    """Makes uint8 [H, W, 3] of the channels of a PNG: grey or RGB, each with or without alpha."""
    height, width, channels = tf.unstack(tf.shape(image))

    def blended():
        values = tf.cast(image, tf.int32)
        colours, alpha = values[..., :-1], values[..., -1:]
        return tf.cast((colours * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)

    colours = tf.cond(tf.equal(channels % 2, 0), blended, lambda: image)
    return tf.broadcast_to(colours, [height, width, 3])


def decode_and_crop(image_bytes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Decodes a window of a picture, and of a JPEG nothing else.

    Args:
      image_bytes: scalar string, an encoded JPEG, PNG, GIF or BMP.
      window: int32 [4]: offset from the top and from the left, height, width.

    Returns:
      uint8 [height, width, 3].
    """

    def crop_whole():
        top, left, height, width = tf.unstack(window)
        return decode_whole(image_bytes)[top : top + height, left : left + width]

    image = tf.cond(
        is_jpeg(image_bytes),
        lambda: tf.io.decode_and_crop_jpeg(image_bytes, window, channels=3),
        crop_whole,
    )
    image.set_shape([None, None, 3])
    return image


def image_shape(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns int32 [3]: height, width and channels; of a JPEG from its header alone."""
    shape = tf.cond(
        is_jpeg(image_bytes),
        lambda: tf.io.extract_jpeg_shape(image_bytes),
        lambda: tf.shape(decode_whole(image_bytes)),
    )
    return tf.ensure_shape(shape, [3])


def claimed_shape(image_bytes: tf.Tensor) -> tf.Tensor:
    """Reads the size that the header of a JPEG or a GIF claims, without decoding it.

    The decoders of PNG and BMP refuse a gigantic size themselves. The decoder of GIF does not, nor
    does the decoder of JPEG at a fraction of the scale.

    Returns:
      int32 [3]: height, width and channels; zeros for a picture of another kind.
    """

    # Appended zeros make a header of a picture that has only a few bytes.
    header = tf.substr(tf.strings.join([image_bytes, b"\0" * 10]), 0, 10)
    width_and_height = tf.cast(tf.decode_raw(tf.substr(header, 6, 4), tf.uint16), tf.int32)
    gif = tf.concat([width_and_height[::-1], [3]], 0)
    is_gif = tf.equal(tf.substr(header, 0, 4), b"GIF8")
    shape = tf.cond(
        is_jpeg(image_bytes),
        lambda: tf.io.extract_jpeg_shape(image_bytes),
        lambda: gif * tf.cast(is_gif, tf.int32),
    )
    return tf.ensure_shape(shape, [3])


def crop_share(image_size: int) -> float:
    """Returns the published side of the evaluation's square, as a share of the shorter side."""
    return image_size / (image_size + CROP_PADDING)


def centre_window(
    shape: tf.Tensor, image_size: int, eval_crop_share: float | None = None
) -> tf.Tensor:
    """Returns the evaluation crop of a picture as a window for `decode_and_crop`, int32 [4].

    Args:
      shape: int32 [3], the picture's shape.
      image_size: side in pixels to which the crop will be resized.
      eval_crop_share: side of the crop as a share of the shorter side; None for the published one.
    """
    height, width = shape[0], shape[1]
    share = crop_share(image_size) if eval_crop_share is None else eval_crop_share
    side = tf.cast(share * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
    side = tf.maximum(side, 1)  # for a picture one pixel high or wide
    return tf.stack([((height - side) + 1) // 2, ((width - side) + 1) // 2, side, side])


def random_window(
    shape: tf.Tensor, image_size: int, augmentation: Augmentation, seed: tf.Tensor
) -> tf.Tensor:
    """Returns a random training crop as a window for `decode_and_crop`, int32 [4].

    It is the centre crop if the sampler finds no box that fits.

    Args:
      shape: int32 [3], the picture's shape.
      image_size: side in pixels to which the crop will be resized; it sets the centre crop.
      augmentation: the distribution of the crops.
      seed: int [2]; the crop is a pure function of it.
    """
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    random = _sampled_window(shape, whole, augmentation, seed)
    # The sampler returns the whole picture if it finds no box.
    is_whole = tf.reduce_all(tf.equal(random[2:], shape[:2]))
    return tf.cond(is_whole, lambda: centre_window(shape, image_size), lambda: random)


def _sampled_window(shape, boxes, augmentation: Augmentation, seed) -> tf.Tensor:
    """Returns a window, int32 [4], that covers enough of one of the boxes, if the sampler can."""
    begin, size, _ = tf.compat.v2.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=boxes,
        seed=seed,
        min_object_covered=augmentation.min_object_covered,
        aspect_ratio_range=augmentation.aspect_ratio_range,
        area_range=augmentation.area_range,
        max_attempts=augmentation.max_attempts,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def distorted_bounding_box_crop(
    image_bytes: tf.Tensor,
    bbox: tf.Tensor,
    min_object_covered: float = 0.1,
    aspect_ratio_range: tuple[float, float] = (0.75, 1.33),
    area_range: tuple[float, float] = (0.05, 1.0),
    max_attempts: int = 100,
    scope: str | None = None,
    *,
    seed=None,
) -> tf.Tensor:
    """Decodes a random window of a picture; published under this name, with these defaults.

    Args:
      image_bytes: scalar string: a JPEG, PNG, GIF (its first frame) or BMP.
      bbox: float32 [1, boxes, 4]: boxes as (top, left, bottom, right), in shares of the picture.
      min_object_covered: smallest share of one of the boxes that the window covers.
      aspect_ratio_range: range of the window's width / height.
      area_range: range of the window's share of the picture's area.
      max_attempts: tries before the whole picture is taken instead.
      scope: name scope of the operations.
      seed: int [2], fixes the window; None draws one.

    Returns:
      uint8 [height, width, 3].
    """
    augmentation = Augmentation(min_object_covered, aspect_ratio_range, area_range, max_attempts)
    with tf.name_scope(scope, "distorted_bounding_box_crop", [image_bytes, bbox]):
        shape = image_shape(image_bytes)
        window = _sampled_window(shape, bbox, augmentation, _random_seed(seed))
        return decode_and_crop(image_bytes, window)


def resize(image: tf.Tensor, image_size: int, resize_method: str = "bicubic") -> tf.Tensor:
    """Resizes [H, W, 3] to float32 [image_size, image_size, 3] with a TensorFlow 1 kernel."""
    if resize_method not in RESIZE_METHODS:
        choices = " or ".join(sorted(RESIZE_METHODS))
        raise ValueError(f"resize_method={resize_method!r} is invalid: choose {choices}.")
    # Cast first: from uint8 the kernels convert each value at each use, which takes 12 % longer.
    image = tf.cast(image, tf.float32)
    # `expand_dims` makes the batch of one, because stacking would copy the pixels.
    resized = RESIZE_METHODS[resize_method](tf.expand_dims(image, 0), [image_size, image_size])
    return tf.ensure_shape(tf.squeeze(resized, 0), [image_size, image_size, 3])


def _random_seed(seed) -> tf.Tensor:
    if seed is None:
        return tf.random_uniform([2], maxval=tf.int64.max, dtype=tf.int64)
    return tf.cast(seed, tf.int64)


def preprocess_for_train(
    image_bytes: tf.Tensor,
    use_bfloat16: bool,
    image_size: int = IMAGE_SIZE,
    *,
    resize_method: str = "bicubic",
    augmentation: Augmentation | None = None,
    seed=None,
) -> tf.Tensor:
    """Returns a random crop, resized and perhaps mirrored, [image_size, image_size, 3].

    Arguments and result are those of `preprocess_image`.
    """
    augmentation = augmentation or Augmentation()
    seed = _random_seed(seed)
    window = random_window(image_shape(image_bytes), image_size, augmentation, seed)
    image = resize(decode_and_crop(image_bytes, window), image_size, resize_method)
    if augmentation.flip:
        # With the crop's seed, flips would depend on crops.
        image = tf.compat.v2.image.stateless_random_flip_left_right(image, seed + [0, 1])
    return _with_precision(image, use_bfloat16)


def preprocess_for_eval(
    image_bytes: tf.Tensor,
    use_bfloat16: bool,
    image_size: int = IMAGE_SIZE,
    *,
    resize_method: str = "bicubic",
    eval_crop_share: float | None = None,
) -> tf.Tensor:
    """Returns the centre crop, resized, [image_size, image_size, 3].

    Arguments and result are those of `preprocess_image`.
    """
    window = centre_window(image_shape(image_bytes), image_size, eval_crop_share)
    image = resize(decode_and_crop(image_bytes, window), image_size, resize_method)
    return _with_precision(image, use_bfloat16)


def _with_precision(image: tf.Tensor, use_bfloat16: bool) -> tf.Tensor:
    return tf.cast(image, tf.bfloat16) if use_bfloat16 else image


def preprocess_image(
    image_bytes: tf.Tensor,
    is_training: bool = False,
    use_bfloat16: bool = False,
    image_size: int = IMAGE_SIZE,
    *,
    resize_method: str = "bicubic",
    augmentation: Augmentation | None = None,
    seed=None,
    eval_crop_share: float | None = None,
) -> tf.Tensor:
    """Decodes, crops and resizes one encoded picture.

    Args:
      image_bytes: scalar string: a JPEG, PNG, GIF (its first frame) or BMP.
      is_training: whether to take a random crop and flip it, instead of the centre crop.
      use_bfloat16: whether to return bfloat16 instead of float32.
      image_size: side of the result in pixels.
      resize_method: 'bicubic' or 'bilinear'.
      augmentation: the random crops and flips of training; None for the published ones.
      seed: int [2], fixes the augmentation; None draws one.
      eval_crop_share: side of the centre crop as a share of the shorter side; None for
        image_size / (image_size + 32), as published.

    Returns:
      [image_size, image_size, 3], RGB in [0, 255] (bicubic may overshoot).
    """
    if is_training:
        return preprocess_for_train(
            image_bytes,
            use_bfloat16,
            image_size,
            resize_method=resize_method,
            augmentation=augmentation,
            seed=seed,
        )
    return preprocess_for_eval(
        image_bytes,
        use_bfloat16,
        image_size,
        resize_method=resize_method,
        eval_crop_share=eval_crop_share,
    )
