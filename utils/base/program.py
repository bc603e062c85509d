"""Runs every command the same way: log format, signals, one-sentence errors, exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import logging as python_logging
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

from absl import flags, logging

import utils.base.tensorflow_version  # noqa: F401
from utils.base import disk_errors, files, standard_streams, stopping, unforeseen
from utils.base.errors import UserError, excerpt

import tensorflow.compat.v1 as tf  # isort: skip


_LONGEST_SENTENCE = 2000


DEBUG_HELP = f"{unforeseen.DEBUG_FLAG} shows the stack trace of an error."


def set_up_logging() -> None:
    """Log lines of ours with time of day; of TensorFlow only errors."""
    # absl warns on stderr while its own flags are unparsed; ours are parsed separately.
    flags.FLAGS.mark_as_parsed()
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    tf.get_logger().setLevel("ERROR")
    tf.get_logger().propagate = False
    # tf.layers is what names the variables of published checkpoints; its deprecation is known.
    warnings.filterwarnings("ignore", message=r".*tf\.layers.*", category=UserWarning)
    warnings.filterwarnings(
        "ignore", message=r"`(tf\.)?layer.* is deprecated", category=UserWarning
    )
    warnings.filterwarnings("ignore", module=r"(tf_slim|tensorflow|keras|google)\..*")


def run(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> None:
    """Runs a program and exits with its status.

    An error prints one sentence and exits with 1, whether it is a user's mistake (UserError), of
    the machine, or a bug; `--debug`, which `main` does not see, prints the stack trace as well.
    Ctrl-C and SIGTERM exit with 128 + the signal's number; so does an output that nobody reads any
    more (141).
    """
    argv = list(sys.argv if argv is None else argv)
    debug = unforeseen.DEBUG_FLAG in argv
    argv = [argument for argument in argv if argument != unforeseen.DEBUG_FLAG]
    standard_streams.open_missing()
    set_up_logging()
    stopping.install()
    tf.disable_v2_behavior()
    try:
        with standard_streams.checked_output():
            standard_streams.check_locale(argv)
            status = main(argv)
    except BrokenPipeError:  # such as `... | head`: who read the output has enough
        standard_streams.discard_output()
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Exception as e:
        if debug:
            traceback.print_exception(e)
        _print_error(_foreseen(e) or unforeseen.explain(e, debug))
        status = 1
    python_logging.shutdown()
    sys.exit(status or 0)


def _foreseen(error: Exception) -> str | None:
    """Returns the sentence for an error that the user can repair; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, flags.Error):
        return f"{_sentence(error)} --help lists the flags."
    if failure := disk_errors.find(error):
        return f"{failure}."
    if isinstance(error, (tf.errors.PermissionDeniedError, tf.errors.UnauthenticatedError)):
        return f"access denied: {files.reason(error)}."
    if isinstance(error, MemoryError) or (
        # A full disk is ResourceExhausted as well.
        isinstance(error, tf.errors.ResourceExhaustedError) and "allocat" in str(error)
    ):
        return (
            f"there is not enough memory ({files.reason(error)}): lower the size of the batches "
            "(--train_batch_size, --eval_batch_size) or of the images (--input_image_size)."
        )
    if isinstance(error, UnicodeError):
        text = error.object if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)) else ""
        return (
            f"a name or text is not valid in the encoding {sys.getfilesystemencoding()} "
            f"({excerpt(ascii(text))}): rename the file or save the text as UTF-8, and set "
            "PYTHONUTF8=1 if the encoding is not utf-8."
        )
    return None


def _print_error(sentence: str) -> None:
    """Prints a sentence as one line."""
    with contextlib.suppress(OSError):  # where stderr is full, the status has to tell
        print("error: " + excerpt(sentence, _LONGEST_SENTENCE), file=sys.stderr, flush=True)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else text + "."


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose help names the flag that `run` takes out of every program's arguments."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **{"epilog": DEBUG_HELP, **more})
