"""Makes, parses and checks a tf.train.Example that holds an encoded picture and its label."""

from __future__ import annotations

from collections.abc import Mapping

from utils.base import files
from utils.base.tensorflow_version import importing_later, tf
from utils.reading import picture_limits

with importing_later():
    import preprocessing

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
LABEL_ERROR = "Label out of range"
GREATEST_LABEL = 2**31 - 1

# What a feature holds, by the field of tf.train.Feature.
_KINDS = {"bytes_list": "bytes", "float_list": "floats", "int64_list": "integers"}


def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Parses a serialized example, a scalar string.

    Returns:
      (encoded picture, label as stored): scalars, string and int32. A label beyond the range
      +-`GREATEST_LABEL` is clipped to it.
    """
    features = tf.parse_single_example(
        serialized,
        {
            IMAGE_KEY: tf.FixedLenFeature([], tf.string),
            LABEL_KEY: tf.FixedLenFeature([], tf.int64),
        },
    )
    # A label beyond int32 must not wrap around to one that is in range.
    label = tf.clip_by_value(features[LABEL_KEY], -GREATEST_LABEL, GREATEST_LABEL)
    return features[IMAGE_KEY], tf.cast(label, tf.int32)


def label_message(label: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Returns the text of the error that the input raises for a label out of range."""
    return tf.string_join([LABEL_ERROR, ": ", tf.as_string(label), f" is not in 1..{num_classes}."])


def example(
    image_bytes: bytes, label: int, more: Mapping[str, str | bytes | int] | None = None
) -> bytes:
    """Makes a serialized example; labels start at 1, and `more` are further features."""
    values = {IMAGE_KEY: image_bytes, LABEL_KEY: label, **(more or {})}
    features = tf.train.Features(feature={key: _feature(v) for key, v in values.items()})
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


def _feature(value: str | bytes | int) -> tf.train.Feature:
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def problem_of(serialized: bytes, num_classes: int) -> str | None:
    """Returns what is wrong with an example without decoding its picture; None if nothing is."""
    found, reason = features(serialized)
    return reason or label_problem(found[LABEL_KEY].int64_list.value[0], num_classes)


def features(serialized: bytes) -> tuple[Mapping[str, tf.train.Feature], str | None]:
    """Returns an example's features by name, and what is wrong with those that training reads."""
    try:
        features = tf.train.Example.FromString(serialized).features.feature
    except Exception:  # protobuf's DecodeError differs between its implementations
        return {}, "this is not a tf.train.Example: build or copy the data again."
    return features, _feature_problem(features)


def _feature_problem(features: Mapping[str, tf.train.Feature]) -> str | None:
    """Returns what is wrong with the picture's or the label's feature; None if nothing is."""
    for key, kind in ((IMAGE_KEY, "bytes_list"), (LABEL_KEY, "int64_list")):
        found = features[key].WhichOneof("kind") if key in features else None
        if found is None:
            return f"the feature {key} is missing: build the data again with it."
        if found != kind:
            return (
                f"the feature {key} holds {_KINDS[found]} where {_KINDS[kind]} are expected: build "
                "the data again."
            )
        count = len(getattr(features[key], kind).value)
        if count != 1:
            return f"the feature {key} has {count} values, not one: build the data again."
    return None


def label_problem(label: int, num_classes: int) -> str | None:
    """Returns what is wrong with a label as stored; None if nothing is."""
    if 1 <= label <= num_classes:
        return None
    if abs(label) > GREATEST_LABEL:
        return (
            f"label {label} does not fit in 32 bits: labels in the files are 1 to the number of "
            "classes."
        )
    return (
        f"label {label} is not in 1..{num_classes}: labels in the files start at 1; "
        "check --num_label_classes."
    )


class Decoding:
    """Tries whether pictures can be decoded; one session for all of them saves 30 ms each."""

    def __init__(self) -> None:
        """Makes the session; it ends with the object."""
        self._session = tf.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self._encoded = tf.placeholder(tf.string, [])
            self._claimed = preprocessing.claimed_shape(self._encoded)
            self._image = preprocessing.decode_whole(self._encoded)

    def problem_of(self, serialized: bytes) -> str | None:
        """Returns why an example's picture cannot be decoded; None if it can."""
        features = tf.train.Example.FromString(serialized).features.feature
        return self.picture_problem(features[IMAGE_KEY].bytes_list.value[0])

    def picture_problem(self, image_bytes: bytes) -> str | None:
        """Returns why an encoded picture cannot be decoded; None if it can."""
        given = {self._encoded: image_bytes}
        try:
            claimed = self._session.run(self._claimed, given)
            too_large = picture_limits.size_problem(*claimed.tolist())
            if too_large:
                return too_large
            self._session.run(self._image, given)
        except tf.errors.OpError as e:
            return undecodable_because(e)
        return None


def undecodable(serialized: bytes) -> str | None:
    """Returns why an example's picture cannot be decoded; None if it can."""
    return Decoding().problem_of(serialized)


def picture_problem(image_bytes: bytes) -> str | None:
    """Returns why an encoded picture cannot be decoded; None if it can."""
    return Decoding().picture_problem(image_bytes)


def undecodable_because(error: Exception) -> str:
    """Returns the sentence that a picture cannot be decoded because of a decoder's error."""
    return f"the picture cannot be decoded ({files.reason(error)}): replace or remove it."
