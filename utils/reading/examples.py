"""Makes, parses and checks a tf.train.Example that holds an encoded picture and its label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from utils.base import files
from utils.base.errors import UserError, excerpt
from utils.base.tensorflow_version import importing_later, tf
from utils.reading import pictures

with importing_later():
    import preprocessing

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
LABEL_ERROR = "Label out of range"
GREATEST_LABEL = 2**31 - 1

# What a feature holds, by the field of tf.train.Feature.
_KINDS = {"bytes_list": "bytes", "float_list": "floats", "int64_list": "integers"}
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")  # of JPEG, PNG, GIF and BMP
_BOXES = "image/object/"  # begins the features of records for object detection
_MOST_KEYS = 20  # that a sentence names


class RecordFormat(NamedTuple):
    """How records name a picture and its label.

    Attributes:
      image_key: name of the feature with the encoded picture.
      label_key: name of the feature with the label.
      first_label: label of the first class.
    """

    image_key: str = IMAGE_KEY
    label_key: str = LABEL_KEY
    first_label: int = 1

    def stored(self, label: int) -> int:
        """Returns the number that stands in a record for a label that counts from 1."""
        return label - 1 + self.first_label


PUBLISHED = RecordFormat()


def record_format(params: Mapping[str, Any]) -> RecordFormat:
    """Returns the format that the settings record_keys and first_label name.

    Raises:
      UserError: record_keys does not name features.
    """
    keys = {"image": IMAGE_KEY, "label": LABEL_KEY}
    given = params["record_keys"]
    for pair in given.split(",") if given else ():
        name, _, key = pair.strip().partition("=")
        if name not in keys or not key:
            raise UserError(
                f"--record_keys={excerpt(given)} is invalid: write image=NAME,label=NAME with the "
                "names of the features of a record."
            )
        keys[name] = key
    first = params["first_label"]
    return RecordFormat(keys["image"], keys["label"], 1 if first is None else first)


def parse(serialized: tf.Tensor, form: RecordFormat = PUBLISHED) -> tuple[tf.Tensor, tf.Tensor]:
    """Parses a serialized example, a scalar string.

    Returns:
      (encoded picture, label): scalars, string and int32. Labels count from 1, whatever the
      format. One beyond the range +-`GREATEST_LABEL` is clipped to it.
    """
    features = tf.parse_single_example(
        serialized,
        {
            form.image_key: tf.FixedLenFeature([], tf.string),
            form.label_key: tf.FixedLenFeature([], tf.int64),
        },
    )
    label = features[form.label_key]
    if form.first_label != 1:
        label += 1 - form.first_label
    # A label beyond int32 must not wrap around to one that is in range.
    label = tf.clip_by_value(label, -GREATEST_LABEL, GREATEST_LABEL)
    return features[form.image_key], tf.cast(label, tf.int32)


def label_message(label: tf.Tensor, num_classes: int, form: RecordFormat = PUBLISHED) -> tf.Tensor:
    """Returns the text of the error that the input raises for a label, from 1, out of range."""
    stored = tf.as_string(label - 1 + form.first_label)
    return tf.string_join(
        [LABEL_ERROR, ": ", stored, f" is not in {form.first_label}..{form.stored(num_classes)}."]
    )


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


def problem_of(serialized: bytes, num_classes: int, form: RecordFormat = PUBLISHED) -> str | None:
    """Returns what is wrong with an example without decoding its picture; None if nothing is."""
    found, reason = features(serialized, form)
    return reason or label_problem(label_of(found, form), num_classes, form)


def label_of(features: Mapping[str, tf.train.Feature], form: RecordFormat = PUBLISHED) -> int:
    """Returns the label of an example with nothing wrong; it counts from 1, whatever the format."""
    return features[form.label_key].int64_list.value[0] + 1 - form.first_label


def features(
    serialized: bytes, form: RecordFormat = PUBLISHED
) -> tuple[Mapping[str, tf.train.Feature], str | None]:
    """Returns an example's features by name, and what is wrong with those that training reads."""
    try:
        features = tf.train.Example.FromString(serialized).features.feature
    except Exception:  # protobuf's DecodeError differs between its implementations
        return {}, "this is not a tf.train.Example: build or copy the data again."
    return features, _feature_problem(features, form)


def _feature_problem(features: Mapping[str, tf.train.Feature], form: RecordFormat) -> str | None:
    """Returns what is wrong with the picture's or the label's feature; None if nothing is."""
    for key, kind in ((form.image_key, "bytes_list"), (form.label_key, "int64_list")):
        found = features[key].WhichOneof("kind") if key in features else None
        if found is None:
            return _missing(key, features)
        if found != kind:
            return (
                f"the feature {key} holds {_KINDS[found]} where {_KINDS[kind]} are expected: build "
                "the data again."
            )
        count = len(getattr(features[key], kind).value)
        if count != 1:
            return f"the feature {key} has {count} values, not one: build the data again."
    return None


def _missing(key: str, features: Mapping[str, tf.train.Feature]) -> str:
    """Returns the sentence on a missing feature."""
    if is_for_detection(features):
        return (
            f"the feature {key} is missing: this record is for object detection, with a label for "
            f"each box ({_BOXES}class/label), and a classifier needs one label a picture."
        )
    if not any(feature.WhichOneof("kind") for feature in features.values()):
        return f"the feature {key} is missing: build the data again with it."
    there = sorted(features)
    named = ", ".join(there[:_MOST_KEYS]) + (", ..." if len(there) > _MOST_KEYS else "")
    return (
        f"the feature {key} is missing from this record of another program, which has {named}: "
        f"add {keys_flag(features)}, and --first_label=0 if its labels count from 0."
    )


def is_for_detection(features: Mapping[str, tf.train.Feature]) -> bool:
    """Whether an example has labels of boxes, but none of its picture."""
    return LABEL_KEY not in features and any(key.startswith(_BOXES) for key in features)


def keys_flag(features: Mapping[str, tf.train.Feature]) -> str:
    """Returns --record_keys for an example, NAME standing for a key that cannot be guessed."""
    pictures = [
        key
        for key in sorted(features)
        if any(v.startswith(_PICTURE_STARTS) for v in features[key].bytes_list.value)
    ]
    numbers = [key for key in sorted(features) if len(features[key].int64_list.value) == 1]
    likely = [key for word in ("label", "class") for key in numbers if word in key.lower()]
    label = likely[0] if likely else numbers[0] if len(numbers) == 1 else "NAME"
    return f"--record_keys=image={pictures[0] if pictures else 'NAME'},label={label}"


def label_problem(label: int, num_classes: int, form: RecordFormat = PUBLISHED) -> str | None:
    """Returns what is wrong with a label, counted from 1; None if nothing is."""
    if 1 <= label <= num_classes:
        return None
    stored, first = form.stored(label), form.first_label
    if abs(stored) > GREATEST_LABEL:
        return (
            f"label {stored} does not fit in 32 bits: labels in the files are {first} to "
            f"{form.stored(num_classes)}."
        )
    wrong = f"label {stored} is not in {first}..{form.stored(num_classes)}"
    if stored == 0:
        return f"{wrong}: if the labels of these files count from 0, add --first_label=0."
    return f"{wrong}: labels in the files start at {first}; check --num_label_classes."


class Decoding:
    """Tries whether pictures can be decoded; one session for all of them saves 30 ms each."""

    def __init__(self) -> None:
        """Makes the session; it ends with the object."""
        self._session = tf.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self._encoded = tf.placeholder(tf.string, [])
            self._claimed = preprocessing.claimed_shape(self._encoded)
            self._image = preprocessing.decode_whole(self._encoded)

    def problem_of(self, serialized: bytes, form: RecordFormat = PUBLISHED) -> str | None:
        """Returns why an example's picture cannot be decoded; None if it can."""
        features = tf.train.Example.FromString(serialized).features.feature
        return self.picture_problem(features[form.image_key].bytes_list.value[0])

    def picture_problem(self, image_bytes: bytes) -> str | None:
        """Returns why an encoded picture cannot be decoded; None if it can."""
        given = {self._encoded: image_bytes}
        try:
            claimed = self._session.run(self._claimed, given)
            too_large = pictures.size_problem(*claimed.tolist())
            if too_large:
                return too_large
            self._session.run(self._image, given)
        except tf.errors.OpError as e:
            return undecodable_because(e)
        return None


def undecodable(serialized: bytes, form: RecordFormat = PUBLISHED) -> str | None:
    """Returns why an example's picture cannot be decoded; None if it can."""
    return Decoding().problem_of(serialized, form)


def picture_problem(image_bytes: bytes) -> str | None:
    """Returns why an encoded picture cannot be decoded; None if it can."""
    return Decoding().picture_problem(image_bytes)


def undecodable_because(error: Exception) -> str:
    """Returns the sentence that a picture cannot be decoded because of a decoder's error."""
    return f"the picture cannot be decoded ({files.reason(error)}): replace or remove it."
