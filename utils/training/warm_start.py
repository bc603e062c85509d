"""Starts fine-tuning from the weights of any checkpoint of this family (`--init_checkpoint`).

Variables are matched by name and shape, averaged weights first. Networks with Keras layers and with
tf.layers have the same variables under other names, so names are compared in a common form.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from absl import logging

from utils.base import files
from utils.base.errors import UserError
from utils.reading import dataset_info
from utils.training import averages, checkpoints, model_files, optimization

import tensorflow.compat.v1 as tf

LEAST_SHARE = 0.9
_MOST_LISTED = 10
_KERAS_SCOPE = "mnas_net_model/"
_HEAD = "/mnas_head/dense/"
_LAYER = re.compile(
    r"^(?P<scope>.*/)(?P<kind>conv2d|depthwise_conv2d|dense)(_(?P<n>\d+))?/(?P<leaf>[^/]+)$"
)
_SLOT = re.compile(r"/(RMSProp(_1)?|ExponentialMovingAverage)$")


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


class Matches(NamedTuple):
    """Which variables of a network a checkpoint supplies.

    Attributes:
      restored: name in the checkpoint -> variable of the graph.
      head: variables of the classifier that start at 0 because the classes differ.
      missing: variables of the backbone that the checkpoint lacks or has in another shape.
    """

    restored: dict[str, tf.Variable]
    head: list[tf.Variable]
    missing: list[tf.Variable]


def _is_head(variable: tf.Variable) -> bool:
    return _HEAD in "/" + variable.op.name.replace(_KERAS_SCOPE, "")


def _match(
    variables: list[tf.Variable], shapes: dict[str, list[int]], same_classes: bool
) -> Matches:
    """Matches variables of a graph with the shapes of a checkpoint's tensors, averages first."""
    # A model of the same family may have another name: compare without the first part.
    held = {
        common.split("/", 1)[-1]: n + averages.SUFFIX if n + averages.SUFFIX in shapes else n
        for n, common in common_names(n for n in shapes if not _SLOT.search(n)).items()
    }
    own = common_names(v.op.name for v in variables)
    found = Matches({}, [], [])
    for variable in variables:
        name = held.get(own[variable.op.name].split("/", 1)[-1])
        is_head = _is_head(variable)
        if name and shapes[name] == variable.shape.as_list() and (same_classes or not is_head):
            found.restored[name] = variable
        else:
            (found.head if is_head else found.missing).append(variable)
    return found


def resolve(path: str) -> str:
    """Finds the checkpoint that a file or folder name means; raises UserError if there is none."""
    checkpoint = checkpoints.find(path)
    if checkpoint is None:
        raise UserError(
            f"--init_checkpoint={path} holds no checkpoint: name a folder with a 'checkpoint' file "
            "or a path such as DIR/model.ckpt-1000."
        )
    return checkpoint


def init_fn(path: str, classes: Sequence[str] = ()) -> Callable[..., None]:
    """Returns a Scaffold's init_fn that sets the network's variables from a checkpoint.

    Call it when the whole training graph is built. It prints what is restored and what is not.

    Args:
      path: of the checkpoint, or of a folder that has one.
      classes: names of the network's classes, in order; empty if they are unknown. The classifier
        of the same names in another order is put into this order.

    Raises:
      UserError: there is no checkpoint, or less than 90 % of the backbone's parameters match.
    """
    checkpoint = resolve(path)
    try:
        shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError) as e:
        raise UserError(f"--init_checkpoint={path} cannot be read: {files.reason(e)}.") from e
    by_name = {v.op.name: v for v in tf.global_variables() if v.op.name != "global_step"}
    variables = [v for name, v in by_name.items() if not _SLOT.search(name)]
    kept = model_files.kept_label_names(os.path.dirname(checkpoint))
    compared = dataset_info.compare_names(kept if len(kept) == len(classes) else (), classes)
    found = _match(variables, shapes, not compared.difference)
    _report(found, checkpoint, compared.difference)
    _check_frozen(found, checkpoint)
    saver = tf.train.Saver(found.restored)
    # A classifier of other classes starts at 0: random logits, large at first, would send noise
    # through the restored layers.
    zeros = [tf.assign(v, tf.zeros_like(v)) for v in found.head]
    heads = [v for v in found.restored.values() if _is_head(v)] if compared.order else []
    if heads:
        logging.info(
            "The classifier's outputs are put into the order of the classes here: %s has another.",
            checkpoint,
        )
    in_order = [tf.assign(v, tf.gather(v, compared.order, axis=-1)) for v in heads]
    # Averages start as copies of the weights, and they were copied before this ran.
    copies = [
        tf.assign(by_name[v.op.name + averages.SUFFIX], v)
        for v in variables
        if v not in found.missing and v.op.name + averages.SUFFIX in by_name
    ]

    def initialize(scaffold, session):
        del scaffold
        saver.restore(session, checkpoint)
        session.run([*zeros, *in_order])
        session.run(copies)

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


def _check_frozen(found: Matches, checkpoint: str) -> None:
    """Logs how much is frozen and how much trains; raises UserError if a frozen layer is random."""
    trained, frozen = tf.trainable_variables(), optimization.frozen_variables()
    if not frozen:
        return
    logging.info(
        "Frozen: %d variables with %s parameters; trained: %d with %s.",
        len(frozen),
        f"{_size(frozen):,}",
        len(trained),
        f"{_size(trained):,}",
    )
    names = {v.op.name for v in frozen}
    for variable in found.missing:
        name = variable.op.name
        # The moving statistics of a frozen layer are frozen like its gamma.
        if name in names or f"{name.rpartition('/')[0]}/gamma" in names:
            raise UserError(
                f"--init_checkpoint: {checkpoint} does not fit {name}, which would stay random: "
                "freeze less or nothing."
            )


def _report(found: Matches, checkpoint: str, difference: str | None) -> None:
    """Logs what matched; raises UserError if it is too little."""
    restored, head, missing = found
    backbone = _size(v for v in restored.values() if not _is_head(v))
    share = backbone / max(1, backbone + _size(missing))
    logging.info(
        "Initial weights from %s: %d of %d variables restored (%.1f %% of the backbone's "
        "parameters), %d of them averaged.",
        checkpoint,
        len(restored),
        len(restored) + len(head) + len(missing),
        100 * share,
        sum(name.endswith(averages.SUFFIX) for name in restored),
    )
    others = f"other names ({difference})" if difference else "other number of classes"
    for title, variables in (
        (f"Starting at 0, {others}", head),
        ("Not in the checkpoint with this shape", missing),
    ):
        for variable in variables[:_MOST_LISTED]:
            logging.info("  %s: %s %s", title, variable.op.name, variable.shape.as_list())
        if len(variables) > _MOST_LISTED:
            logging.info("  %s: and %d more", title, len(variables) - _MOST_LISTED)
    if share < LEAST_SHARE:
        raise UserError(
            f"--init_checkpoint: {checkpoint} fits only {share:.0%} of this network's backbone "
            f"(at least {LEAST_SHARE:.0%} is needed): is it of another model or multiplier?"
        )
