"""Runs every command the same way: log format, signals, one-sentence errors, exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import logging as python_logging
import os
import platform
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

from absl import flags, logging

from utils.base import files, memory, stopping, tensorflow_version
from utils.base.errors import UserError, excerpt
from utils.base.tensorflow_version import tf
from utils.base.version import __version__


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a table in Markdown, without a line feed at its end.

    Args:
      header: titles of the columns.
      rows: the cells of each row.
      left: number of columns that are aligned left.
    """
    return "\n".join([markdown_head(header, left), *map(markdown_row, rows)])


def markdown_head(header: Sequence[str], left: int = 1) -> str:
    """Returns the two lines above the rows, for a caller that prints each row when it is known."""
    return f"{markdown_row(header)}\n|{'---|' * left}{'---:|' * (len(header) - left)}"


def markdown_row(cells: Iterable[str]) -> str:
    """Returns one line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def plain(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a table whose columns are as wide as their widest cell, two spaces apart.

    Args:
      header: titles of the columns.
      rows: the cells of each row, as many as the header has.
      left: number of columns that are aligned left.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


@contextlib.contextmanager
def hold_native_output() -> Iterator[None]:
    """Holds back what C++ code writes to stdout and stderr; an exception lets the text out.

    TensorFlow Lite's converter and interpreter print notes at every use, whatever the log level.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    with tempfile.TemporaryFile() as held:
        for number in saved:
            os.dup2(held.fileno(), number)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved[2], held.read())
            raise
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
            logging.set_verbosity(verbosity)


DEBUG_FLAG = "--debug"
DEBUG_HELP = f"{DEBUG_FLAG} shows the stack trace of an error."
_LONGEST_SENTENCE = 2000


def set_up_logging() -> None:
    """Puts the time of day before log lines of this package; TensorFlow logs errors alone."""
    # absl warns on stderr until its own flags are parsed; those of this package are parsed apart.
    flags.FLAGS.mark_as_parsed()
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    tensorflow_version.when_loaded(_silence_tensorflow)
    # tf.layers names the variables as in published checkpoints; that it is deprecated is known.
    warnings.filterwarnings("ignore", message=r".*tf\.layers.*", category=UserWarning)
    warnings.filterwarnings(
        "ignore", message=r"`(tf\.)?layer.* is deprecated", category=UserWarning
    )
    warnings.filterwarnings("ignore", module=r"(tf_slim|tensorflow|keras|google)\..*")


def _silence_tensorflow() -> None:
    tf.get_logger().setLevel("ERROR")
    tf.get_logger().propagate = False


def run(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> None:
    """Runs a program and exits with its status.

    An error prints one sentence and exits with 1, whether it is a user's mistake (UserError), a
    fault of the machine or a bug. `--debug`, which `main` does not see, prints the stack trace as
    well. Ctrl-C and SIGTERM exit with 128 + the signal's number; an output that nobody reads any
    more exits with 141 (128 + SIGPIPE).

    Args:
      main: takes the arguments and returns the exit status; None for 0.
      argv: the program's name and its arguments; None for those of this process.
    """
    argv = list(sys.argv if argv is None else argv)
    debug = DEBUG_FLAG in argv
    argv = [argument for argument in argv if argument != DEBUG_FLAG]
    memory.keep_freed_memory()
    set_up_logging()
    stopping.install()
    threading.excepthook = _print_trace_unless_of_a_file
    tensorflow_version.when_loaded(lambda: tf.disable_v2_behavior())
    _collect_garbage_less_often()
    _name_cache_if_homeless()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for letters that its encoding lacks
    try:
        status = main(argv)
        if sys.stdout is not None:  # as by >&-
            sys.stdout.flush()
    except BrokenPipeError:  # as by `... | head`, which has read enough
        _discard_output()
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Exception as e:
        if debug:
            traceback.print_exception(e)
        stop = stopping.behind(e)
        if stop is None:
            _print_error(_foreseen(e) or _unforeseen(e, debug))
            status = e.exit_status if isinstance(e, UserError) else 1
        else:
            status = 128 + stop.signal_number
    finally:
        stopping.uninstall()
    python_logging.shutdown()
    sys.exit(status or 0)


@contextlib.contextmanager
def graph_mode() -> Iterator[None]:
    """Gives the block TensorFlow 1's behaviour, which notebooks do not have.

    If TensorFlow executed eagerly before, it does so afterwards. Keras layers that are older then
    work only after another one of their class is made.
    """
    eager = tf.executing_eagerly()
    tf.disable_v2_behavior()
    if not eager:
        yield
        return
    try:
        with tf.Graph().as_default():
            yield
    finally:
        tf.reset_default_graph()  # TensorFlow refuses the next call if there is one
        tf.enable_v2_behavior()


def _collect_garbage_less_often() -> None:
    """Saves a second of the start of a training.

    TensorFlow's modules and graphs are millions of objects that stay; after every 700 new ones,
    which is Python's default, the collector would walk over them for nothing.
    """
    gc.set_threshold(50_000, 10, 10)
    tensorflow_version.when_loaded(gc.freeze)


def _name_cache_if_homeless() -> None:
    """Lets libraries cache among the temporary files what they cannot keep in the user's home.

    Users of containers often have no name and no home; libraries would make a folder named ~.
    """
    home = os.path.expanduser("~")
    writable = os.access(home, os.W_OK) or os.path.isdir(os.path.join(home, ".cache"))
    if not (os.path.isabs(home) and writable):
        cache = os.path.join(tempfile.gettempdir(), f"mnasnet-cache-{os.getuid()}")
        os.environ.setdefault("XDG_CACHE_HOME", cache)
        os.environ.setdefault("KERAS_HOME", os.path.join(cache, "keras"))


def _discard_output() -> None:
    """Drops what stdout still holds, because Python flushes stdout once more when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _print_trace_unless_of_a_file(given: threading.ExceptHookArgs) -> None:
    """Ends a thread; TensorFlow raises in the main thread what was wrong with its event files."""
    error = given.exc_value
    if error is None or not (files.failure_of(error) or files.is_of_bucket(error)):
        threading.__excepthook__(given)


def _foreseen(error: Exception) -> str | None:
    """Returns the sentence for an error that the user can repair; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, flags.Error):
        return f"{_sentence(error)} --help lists the flags."
    if failure := files.failure_of(error):
        return f"{failure}."
    if _is_of_tensorflow(error, "PermissionDeniedError", "UnauthenticatedError"):
        return f"access denied: {files.reason(error)}."
    if files.is_of_bucket(error):
        return (
            f"a bucket cannot be used: {files.reason(error)}: check the network (TensorFlow asks "
            "for three minutes and more) and your rights there, and start the same command again."
        )
    if isinstance(error, MemoryError) or (
        # TensorFlow reports a full disk as ResourceExhausted as well.
        _is_of_tensorflow(error, "ResourceExhaustedError") and "allocat" in str(error)
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


def _is_of_tensorflow(error: Exception, *names: str) -> bool:
    """Whether an error is one of tf.errors, without loading TensorFlow for it."""
    types = (getattr(tf.errors, name) for name in names)
    return tensorflow_version.is_loaded() and isinstance(error, tuple(types))


def _unforeseen(error: Exception, debug: bool) -> str:
    """Returns the sentence for a bug of this package.

    Args:
      error: the exception that no code caught.
      debug: whether the trace was printed; otherwise it is saved to a file that the sentence names.
    """
    # The text of a foreign error may be of any length.
    said = excerpt(files.reason(error), 500) if str(error) else "no message"
    if debug:
        place = "the stack trace above"
    else:
        path = _save_trace(error)
        place = f"the stack trace in {path}" if path else f"what it shows with {DEBUG_FLAG}"
    return (
        "this is a bug in mnasnet-tpu, not a mistake of yours: "
        f"{type(error).__name__}: {said}; please report it with {place}."
    )


def _save_trace(error: Exception) -> str | None:
    """Writes a trace to the folder of temporary files; returns its path, None if that fails."""
    lines = [
        f"mnasnet-tpu {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        f"{sys.argv}\n",
        *traceback.format_exception(error),
    ]
    try:
        number, path = tempfile.mkstemp(prefix="mnasnet-error-", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as f:
            f.writelines(lines)
    except OSError:
        return None
    return path


def _print_error(sentence: str) -> None:
    """Prints a sentence as one line."""
    with contextlib.suppress(OSError):  # if stderr is full, the exit status alone tells
        print("error: " + excerpt(sentence, _LONGEST_SENTENCE), file=sys.stderr, flush=True)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()).replace(" ?", "?")  # absl's hint ends in 'model_dir ?'
    return text if text.endswith((".", "?")) else text + "."


class ArgumentParser(argparse.ArgumentParser):
    """Parses arguments; in those without a type, which may be paths, ~ is the home folder.

    Its help names --debug, which `run` takes out of all arguments.
    """

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **{"epilog": DEBUG_HELP, **more})
        self.register("type", None, files.expand_home)
