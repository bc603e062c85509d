"""Finds the checkpoints of a folder: which is the newest, which are complete, what a kill left."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence

from absl import logging

from utils.base import files
from utils.base.errors import UserError

import tensorflow.compat.v1 as tf

STATE_FILE = "checkpoint"
_INDEX = re.compile(r"(model\.ckpt-\d+)\.index")
_DATA = re.compile(r"(model\.ckpt-\d+)\.data-\d+-of-\d+")
_LEFTOVER = re.compile(rf"model\.ckpt-.*(_temp.*|\.tempstate\d+)|{STATE_FILE}\.tmp.+")
_PIECE = 1 << 24
_POLL_SECONDS = 1
_REMOTE_POLL_SECONDS = 10  # each look at a bucket takes three requests


def step_of(path: str | None) -> int:
    """Reads the global step off a checkpoint's name; 0 for None or a name without one."""
    match = re.search(r"-(\d+)$", path or "")
    return int(match.group(1)) if match else 0


def is_complete(path: str) -> bool:
    """Whether every tensor of a checkpoint can be read.

    Raises:
      UserError: its files cannot be read now, so it may be complete or not.
    """
    if _opens(path):
        return True
    # TensorFlow reports a damaged file and a missing permission alike; reading the bytes tells.
    folder, name = os.path.split(path)
    for file in names(folder):
        if file.startswith(name + "."):
            _check_readable(os.path.join(folder, file))
    return _opens(path)  # the error of a bucket may have passed


def _opens(path: str) -> bool:
    """Whether TensorFlow can read every tensor."""
    try:
        reader = tf.train.load_checkpoint(path)
        # In the order of the file: a bucket would send a part again for each step back.
        for name in sorted(reader.get_variable_to_shape_map()):
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError):
        return False  # a data file cut short is an IndexError
    return True


def _check_readable(path: str) -> None:
    """Raises UserError if a file is there but its bytes cannot be read; a missing one is fine."""
    try:
        with tf.io.gfile.GFile(path, "rb") as f:
            while f.read(_PIECE):
                pass
    except tf.errors.NotFoundError:
        pass
    except tf.errors.OpError as e:
        raise _unreadable(path, e) from e


def _unreadable(path: str, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read ({files.reason(error)}), though it may be good: make it readable, "
        "try again later, or move it elsewhere to do without it."
    )


def names(folder: str) -> list[str]:
    """Returns the names of all files and folders in a folder; none if the folder is missing.

    Raises:
      UserError: the folder cannot be read.
    """
    try:
        return files.names(folder or ".")
    except tf.errors.OpError as e:
        raise _unreadable(folder, e) from e


def _listed(folder: str, there: Sequence[str]) -> list[str]:
    """Returns the checkpoints among the names in a folder, newest first."""
    found = [os.path.join(folder, m[1]) for m in map(_INDEX.fullmatch, there) if m]
    return sorted(found, key=step_of, reverse=True)


def _state(folder: str) -> tuple[str | None, list[str]]:
    """Reads the state file: (newest checkpoint, all of them), or (None, []) if it is invalid."""
    try:
        state = tf.train.get_checkpoint_state(folder)
    except ValueError:  # it is empty or not text
        state = None
    if state is None:  # missing or invalid, or not readable: TensorFlow does not say which
        _check_readable(os.path.join(folder, STATE_FILE))
        return None, []
    return state.model_checkpoint_path, list(state.all_model_checkpoint_paths)


def _candidates(folder: str) -> tuple[list[str], str | None]:
    """Returns a folder's checkpoints, the one to prefer first, and the one the state file means.

    A kill between a save's last rename and the state file leaves a checkpoint that is newer than
    the state file knows. Newer ones that the file does name among its older ones are others: they
    are damaged (`recover`), or somebody went back on purpose.
    """
    there = names(folder)
    listed = _listed(folder, there)
    named, counted = _state(folder) if STATE_FILE in there else (None, [])
    if named is not None:
        here = os.path.join(folder, os.path.basename(named))  # the folder may have moved
        if here in listed:
            named = here
        elif not tf.train.checkpoint_exists(named):
            named = None
    if named is None:
        return listed, None
    known = {os.path.basename(path) for path in counted}
    unknown = [
        path
        for path in listed
        if step_of(path) > step_of(named) and os.path.basename(path) not in known
    ]
    return list(dict.fromkeys([*unknown, named, *listed])), named


def latest(model_dir: str, seen: str | None = None) -> str | None:
    """Returns the newest complete checkpoint of a folder; None if there is none.

    A checkpoint that the state file does not name is read whole, to see whether it is complete.

    Args:
      model_dir: folder of the checkpoints.
      seen: a checkpoint that the caller knows to be complete, so that it is not read again.

    Raises:
      UserError: files that may be good cannot be read.
    """
    candidates, named = _candidates(model_dir)
    return next((p for p in candidates if p in (named, seen) or is_complete(p)), None)


def follow(folder: str, timeout: float | None) -> Iterator[str]:
    """Yields the newest checkpoint, and each newer one as it comes.

    Ends when none has come for `timeout` seconds; None waits for ever.
    """
    found = latest(folder) or _next(folder, None, timeout)
    while found:
        yield found
        found = _next(folder, found, timeout)


def _next(folder: str, last: str | None, timeout: float | None) -> str | None:
    """Waits for another newest checkpoint than `last`; None if there is none in time."""
    start, warned = time.monotonic(), False
    pause = _REMOTE_POLL_SECONDS if files.is_remote(folder) else _POLL_SECONDS
    while True:
        try:
            found = latest(folder, seen=last)
        except UserError as e:  # a bucket that is away for a moment ends no evaluation
            found = None
            if not warned:
                logging.warning("%s Waiting for it.", e)
            warned = True
        if found and found != last:
            return found
        left = math.inf if timeout is None else start + timeout - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(pause, left))


def find(path: str) -> str | None:
    """Finds the checkpoint that a folder, a file of a checkpoint or its name means, or None."""
    checkpoint = (latest(path) or "") if tf.io.gfile.isdir(path) else path
    checkpoint = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", checkpoint)
    return checkpoint if checkpoint and tf.io.gfile.exists(checkpoint + ".index") else None


def variable_names(path: str) -> set[str]:
    """Returns the names of the variables in a checkpoint, or in the newest readable of a folder.

    The values are not read. Without a readable checkpoint there are no names.

    Raises:
      UserError: files that may be good cannot be read.
    """
    candidates = _candidates(path)[0] if tf.io.gfile.isdir(path) else [find(path)]
    for candidate in filter(None, candidates):
        with contextlib.suppress(tf.errors.OpError, ValueError, RuntimeError):
            return set(tf.train.load_checkpoint(candidate).get_variable_to_shape_map())
    return set()


def has_any(model_dir: str) -> bool:
    """Whether the folder has a checkpoint, even one that the state file does not name."""
    return bool(_candidates(model_dir)[0])


def write_state(folder: str, names: list[str]) -> None:
    """Writes the state file that names a folder's checkpoints, oldest first, by their base names.

    TensorFlow's own function takes base names for paths relative to the working directory, and
    writes ../../model.ckpt-1 for a folder given by a relative path or in a bucket.
    """
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    files.write_text(os.path.join(folder, STATE_FILE), "\n".join(lines) + "\n")


def recover(model_dir: str, keep: int | None = None) -> str | None:
    """Makes the state file name the newest complete checkpoint, and removes what a kill left.

    Call it before training, when no other program writes to the folder.

    Args:
      model_dir: of the training.
      keep: how many checkpoints training keeps (keep_checkpoint_max); None or 0 for all.

    Returns:
      The checkpoint that training resumes from; None if it starts from the beginning.

    Raises:
      UserError: files that may be good cannot be read.
    """
    _remove_leftovers(model_dir)
    candidates, named = _candidates(model_dir)
    found = next(filter(is_complete, candidates), None)
    state = os.path.join(model_dir, STATE_FILE)
    if found:
        if found != named:
            logging.warning(
                "Resuming from %s, the newest complete checkpoint; %s names %s.",
                found,
                state,
                named or "none that is there",
            )
        _count_all(model_dir, found, keep)
    elif candidates or tf.io.gfile.exists(state):
        # All are known to be damaged, or gone: the estimator would stumble over the state file.
        logging.warning("No checkpoint in %s is complete; starting from step 0.", model_dir)
        files.remove(state)
    return found


def _remove_leftovers(model_dir: str) -> None:
    """Removes parts of checkpoints and state files that a killed save or removal left."""
    there = set(names(model_dir))
    for name in there:
        data = _DATA.fullmatch(name)
        if _LEFTOVER.fullmatch(name) or (data and data[1] + ".index" not in there):
            files.remove(os.path.join(model_dir, name))


def _count_all(model_dir: str, newest: str, keep: int | None) -> None:
    """Makes the state file name every checkpoint in the folder, oldest first.

    Training removes one checkpoint from the front for each that it saves, so those that a killed
    save left have to make room here. Damaged ones, newer than the newest complete one, go first.
    """
    listed = _listed(model_dir, names(model_dir))
    if newest not in listed:  # it has a name of its own, or is elsewhere
        return
    place = listed.index(newest)
    paths = [*listed[:place], *reversed(listed[place:])]
    named, counted = _state(model_dir)
    surplus = _surplus(paths, counted, keep)
    for path in paths[:surplus]:
        tf.train.remove_checkpoint(path)
    paths = paths[surplus:]
    if (named, counted) != (newest, paths):
        write_state(model_dir, [os.path.basename(path) for path in paths])


def _surplus(paths: Sequence[str], counted: Sequence[str], keep: int | None) -> int:
    """Counts the checkpoints that are there only because a save was killed.

    An earlier training with a larger keep_checkpoint_max kept more on purpose: those it counted.
    """
    if not keep or not counted:
        return 0
    known = {os.path.basename(path) for path in counted}
    return max(0, len(paths) - max(keep, sum(os.path.basename(p) in known for p in paths)))


def check_shapes(
    path: str, variables: Mapping[str, tf.Variable], held: Mapping[str, Sequence[int]] | None = None
) -> None:
    """Checks that a checkpoint's tensors have the shapes of a network's variables.

    TensorFlow restores a Keras variable without looking: ten classes would be served as a thousand.

    Args:
      path: of the checkpoint.
      variables: by their names in the checkpoint; those that it lacks are passed over.
      held: the shapes in the checkpoint by name, if the caller has read them.

    Raises:
      UserError: names the first variable of another shape, and both shapes.
    """
    if held is None:
        held = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    for name, variable in sorted(variables.items()):
        expected = variable.shape.as_list()
        if held.get(name, expected) != expected:
            raise UserError(
                f"{path} is of another network than these settings describe: {name} has the shape "
                f"{held[name]} there and {expected} here; use the --model_dir and the settings "
                "(--model_name, --num_label_classes) that it was trained with."
            )
