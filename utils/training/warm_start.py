"""Starts fine-tuning from the weights of any checkpoint of this family (`--init_checkpoint`).

Variables are matched by name and shape, averaged weights first. Networks with Keras layers and with
tf.layers have the same variables under other names, so names are compared in a common form.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.reading import labels
from utils.training import averages, checkpoints, model_files, optimization

import tensorflow.compat.v1 as tf

LEAST_SHARE = 0.9
_KERAS_SCOPE = "mnas_net_model/"
_HEAD = "/mnas_head/dense/"
_LAYER = re.compile(r"^(?P<scope>.*/)(?P<kind>conv2d|depthwise_conv2d|dense)(_(?P<n>\d+))?/(?P<leaf>[^/]+)$")  # fmt: skip  # noqa: E501


def common_names(names: Iterable[str]) -> dict[str, str]:
    """Maps each variable name to the form that both kinds of layers share.

    The Keras scope goes, and layers are numbered by their order within their scope, which is how
    tf.layers numbers them: conv2d_5 and conv2d_8 of a block become conv2d and conv2d_1. The model's
    own name, the first part, stays.
    """
    matches = {name: _LAYER.match(name.replace(_KERAS_SCOPE, "")) for name in names}
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    for layer in filter(None, matches.values()):
        numbers[layer["scope"], layer["kind"]].add(int(layer["n"] or 0))
    common = {}
    for name, match in matches.items():
        if match is None:
            common[name] = name
            continue
        order = sorted(numbers[match["scope"], match["kind"]]).index(int(match["n"] or 0))
        kind = match["kind"] + (f"_{order}" if order else "")
        common[name] = f"{match['scope']}{kind}/{match['leaf']}"
    return common


@dataclasses.dataclass(frozen=True)
class Matches:
    """Says which variables of a network a checkpoint supplies.

    Attributes:
      restored: name in the checkpoint -> variable of the graph.
      head: variables of the classifier that start at 0 because the classes differ.
      missing: variables of the backbone that the checkpoint lacks or has in another shape.
      averaged: how many of the restored ones come from averages.
    """

    restored: dict[str, tf.Variable]
    head: list[tf.Variable]
    missing: list[tf.Variable]
    averaged: int


def _weights(shapes: dict[str, list[int]]) -> dict[str, str]:
    """Maps a common name to the name to read in the checkpoint: the average where there is one."""
    plain = [n for n in shapes if not re.search(r"/(RMSProp(_1)?|ExponentialMovingAverage)$", n)]
    return {
        common: name + averages.SUFFIX if name + averages.SUFFIX in shapes else name
        for name, common in common_names(plain).items()
    }


def match(
    variables: list[tf.Variable], shapes: dict[str, list[int]], same_classes: bool = True
) -> Matches:
    """Matches variables of a graph with the tensors of a checkpoint.

    Args:
      variables: of the graph.
      shapes: of the checkpoint's tensors, by name.
      same_classes: whether its classifier is one of the graph's classes.
    """
    weights = _weights(shapes)
    # A model of the same family under another name: compare without the first part.
    weights = {**{name.split("/", 1)[-1]: held for name, held in weights.items()}, **weights}
    common = common_names([v.op.name for v in variables])
    found = Matches({}, [], [], 0)
    averaged = 0
    for variable in variables:
        name = common[variable.op.name]
        held = weights.get(name) or weights.get(name.split("/", 1)[-1])
        is_head = _HEAD in "/" + name
        fits = same_classes or not is_head
        if held is not None and fits and shapes[held] == variable.shape.as_list():
            found.restored[held] = variable
            averaged += held.endswith(averages.SUFFIX)
        elif is_head:
            found.head.append(variable)
        else:
            found.missing.append(variable)
    return dataclasses.replace(found, averaged=averaged)


def resolve(path: str) -> str:
    """Finds the checkpoint that a file or folder name means; raises UserError if there is none."""
    checkpoint = checkpoints.find(path)
    if checkpoint is None:
        raise UserError(
            f"--init_checkpoint={path} holds no checkpoint: name a folder with a 'checkpoint' file "
            "or a path such as DIR/model.ckpt-1000."
        )
    return checkpoint


def init_fn(path: str, classes: Sequence[str] = ()):
    """Returns a Scaffold's init_fn that sets the network's variables from a checkpoint.

    Call it when the whole training graph is built. It prints what is restored and what is not.

    Args:
      path: of the checkpoint, or of a folder that has one.
      classes: names of the network's classes, in order; empty if they are unknown. The classifier
        of the same names in another order is put into this order.

    Raises:
      UserError: there is no checkpoint, or less than 90 % of the backbone's parameters match.
    """
    import tf_slim as slim  # here: it takes 0.6 s to load, and most trainings need none of it

    checkpoint = resolve(path)
    try:
        shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError) as e:
        raise UserError(f"--init_checkpoint={path} cannot be read: {files.reason(e)}.") from e
    exclude = ["global_step"]
    variables = [
        v
        for v in slim.get_variables_to_restore(exclude=exclude)
        if not re.search(r"/(RMSProp(_1)?|ExponentialMovingAverage)$", v.op.name)
    ]
    kept = model_files.kept_label_names(os.path.dirname(checkpoint))
    compared = labels.compare(kept if len(kept) == len(classes) else (), classes)
    found = match(variables, shapes, not compared.difference)
    _report(found, checkpoint, compared.difference)
    _report_frozen(found, checkpoint)
    assign = slim.assign_from_checkpoint_fn(checkpoint, found.restored)
    # A classifier of other classes starts at 0: random logits, large at first, would send noise
    # through the restored layers.
    zeros = tf.group(*(tf.assign(v, tf.zeros_like(v)) for v in found.head))
    heads = [v for v in found.restored.values() if _is_head(v)] if compared.order else []
    if heads:
        logging.info(
            "The classifier's outputs are put into the order of the classes here: %s has another.",
            checkpoint,
        )
    in_order = [tf.assign(v, tf.gather(v, compared.order, axis=-1)) for v in heads]
    # Averages start as copies of the weights, and they were copied before this ran.
    average_of = {v.op.name: v for v in tf.global_variables()}
    copies = [
        tf.assign(average_of[v.op.name + averages.SUFFIX], v)
        for v in [*found.restored.values(), *found.head]
        if v.op.name + averages.SUFFIX in average_of
    ]
    copy = tf.group(*copies)

    def initialize(scaffold, session):
        del scaffold
        assign(session)
        session.run(zeros)
        session.run(in_order)
        session.run(copy)

    return initialize


def scaffold(
    path: str | None, on_tpu: bool, classes: Sequence[str] = ()
) -> Callable[[], tf.train.Scaffold] | None:
    """Returns the scaffold_fn of a training; None for TensorFlow's own.

    Args:
      path: --init_checkpoint, from which it sets the initial weights; None for random ones.
      on_tpu: whether a TPU's host initializes or restores the variables, instead of this process;
        each of several workers does so itself.
      classes: names of the network's classes, as for `init_fn`.
    """
    if not path and on_tpu:
        return None

    def make():
        start = init_fn(path, classes) if path else None
        if on_tpu:
            return tf.train.Scaffold(init_fn=start)
        told = averages.none_missing()
        # For several workers the estimator tests this argument as a Python boolean, which a tensor
        # is not; but it looks into the collection, too.
        tf.add_to_collection(
            tf.GraphKeys.READY_FOR_LOCAL_INIT_OP, told.pop("ready_for_local_init_op")
        )
        return tf.train.Scaffold(init_fn=start, **told)

    return make


def _size(variables: Iterable[tf.Variable]) -> int:
    return sum(v.shape.num_elements() for v in variables)


def _report_frozen(found: Matches, checkpoint: str) -> None:
    """Logs how much is frozen and how much trains; raises UserError if a frozen layer is random."""
    trained, frozen = tf.trainable_variables(), optimization.frozen_variables()
    if not frozen:
        return
    logging.info(
        "Frozen: %d variables with %s parameters; trained: %d with %s.",
        len(frozen), f"{_size(frozen):,}", len(trained), f"{_size(trained):,}",
    )  # fmt: skip
    names = {v.op.name for v in frozen}
    for variable in found.missing:
        name = variable.op.name
        # The moving statistics of a frozen layer are frozen like its gamma.
        if name in names or f"{name.rpartition('/')[0]}/gamma" in names:
            raise UserError(
                f"--init_checkpoint: {checkpoint} does not fit {name}, which would stay random: "
                "freeze less or nothing."
            )


def _is_head(variable: tf.Variable) -> bool:
    return _HEAD in "/" + variable.op.name.replace(_KERAS_SCOPE, "")


def _report(found: Matches, checkpoint: str, difference: str | None) -> None:
    """Logs what matched; raises UserError if it is too little."""
    backbone = [v for v in found.restored.values() if not _is_head(v)]
    total = _size(backbone) + _size(found.missing)
    share = _size(backbone) / total if total else 0.0
    logging.info(
        "Initial weights from %s: %d of %d variables restored (%.1f %% of the backbone's "
        "parameters), %d of them averaged.",
        checkpoint, len(found.restored),
        len(found.restored) + len(found.head) + len(found.missing), 100 * share, found.averaged,
    )  # fmt: skip
    others = f"other names ({difference})" if difference else "other number of classes"
    for title, variables in (
        (f"Starting at 0, {others}", found.head),
        ("Not in the checkpoint with this shape", found.missing),
    ):
        for variable in variables[:10]:
            logging.info("  %s: %s %s", title, variable.op.name, variable.shape.as_list())
        if len(variables) > 10:
            logging.info("  %s: and %d more", title, len(variables) - 10)
    if share < LEAST_SHARE:
        raise UserError(
            f"--init_checkpoint: {checkpoint} fits only {share:.0%} of this network's backbone "
            f"(at least {LEAST_SHARE:.0%} is needed): is it of another model or multiplier?"
        )
