"""Lists the variables of checkpoints, and compares checkpoints.

mnasnet-checkpoint list PATH
mnasnet-checkpoint compare A B

A path is a checkpoint (DIR/model.ckpt-1000), a folder with a 'checkpoint' file, or a .safetensors
or .pth file. `compare` exits with 0 if names, shapes and values agree, else with 1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping

import numpy as np

from utils.base import files, program
from utils.base.errors import UserError
from utils.base.tensorflow_version import importing_later, tf

with importing_later():
    from utils.training import checkpoints
    from utils.weights import weights_file

MOST = 20


def read(path: str) -> dict[str, np.ndarray]:
    """Returns every tensor of a checkpoint or weights file: name -> array, sorted by name.

    Raises:
      UserError: the path holds none, or it is damaged.
    """
    if weights_file.is_one(path):
        values = weights_file.read(path)
        return {name: values[name] for name in sorted(values)}
    checkpoint = checkpoints.find(path)
    if checkpoint is None:
        raise UserError(
            f"{path} holds no checkpoint: name a folder with a 'checkpoint' file, a path such as "
            "DIR/model.ckpt-1000, or a .safetensors or .pth file."
        )
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        names = sorted(reader.get_variable_to_shape_map())
        return {name: np.asarray(reader.get_tensor(name)) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as e:
        raise UserError(f"{checkpoint} cannot be read: {files.reason(e)}.") from e


def describe(values: Mapping[str, np.ndarray]) -> Iterable[str]:
    """Yields a line for each tensor (name, type, shape, mean, standard deviation), then totals."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        line = f"{name:<{width}}  {value.dtype}  {list(value.shape)}"
        if value.size == 1:
            line += f"  = {value.reshape(()).item()}"
        elif value.size and np.issubdtype(value.dtype, np.number):
            with np.errstate(all="ignore"):  # infinite numbers give NaN without a warning
                line += f"  mean {value.mean(dtype=np.float64):.4g}"
                line += f"  std {value.std(dtype=np.float64):.4g}"
        yield line
    numbers, size = (sum(getattr(v, n) for v in values.values()) for n in ("size", "nbytes"))
    yield f"{len(values)} tensors, {numbers:,} numbers, {size / 1e6:.1f} MB"


def compare(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], tolerance: float = 0.0
) -> dict[str, list[str]]:
    """Returns what differs: title -> entries, without titles that have no entries.

    Args:
      a: name -> array.
      b: name -> array.
      tolerance: largest difference of values that counts as equal, relative to the tensor's
        largest number.
    """
    found: dict[str, list[str]] = {
        "only in the first": [f"{n} {list(a[n].shape)}" for n in a if n not in b],
        "only in the second": [f"{n} {list(b[n].shape)}" for n in b if n not in a],
        "other shape or type": [],
        "other values": [],
    }
    for name in (name for name in a if name in b):
        one, other = a[name], b[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            kinds = f"{one.dtype} {list(one.shape)} and {other.dtype} {list(other.shape)}"
            found["other shape or type"].append(f"{name}: {kinds}")
        elif not _equal(one, other):
            difference = _relative_difference(one, other)
            # Written so that NaN counts as a difference.
            if not difference <= tolerance:
                found["other values"].append(f"{name}: {difference:.3g} relative")
    return {title: entries for title, entries in found.items() if entries}


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=np.issubdtype(one.dtype, np.floating))


def _relative_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest difference over the largest number; 1 for texts."""
    if not np.issubdtype(one.dtype, np.number):
        return 1.0
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    largest = max(np.abs(one).max(), np.abs(other).max())
    with np.errstate(all="ignore"):  # infinite numbers differ by NaN
        return float(np.abs(one - other).max() / largest) if largest else 0.0


def main(argv: list[str]) -> int:
    """Runs list or compare; returns the exit status."""
    parser = program.ArgumentParser(
        prog="mnasnet-checkpoint", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="print names, shapes, means and standard deviations")
    listing.add_argument("path")
    comparing = commands.add_parser("compare", help="print the differences of two")
    comparing.add_argument("paths", nargs=2, metavar="PATH")
    comparing.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="largest relative difference that counts as equal (default: 0)",
    )
    arguments = parser.parse_args(argv[1:])
    if arguments.command == "list":
        print("\n".join(describe(read(arguments.path))))
        return 0
    if not 0 <= arguments.tolerance < math.inf:
        raise UserError(f"--tolerance={arguments.tolerance} is invalid: it must be at least 0.")
    a, b = (read(path) for path in arguments.paths)
    return _report(a, compare(a, b, arguments.tolerance), arguments)


def _report(a, differences, arguments) -> int:
    for title, entries in differences.items():
        print(f"{title} ({len(entries)}):")
        more = [f"and {len(entries) - MOST} more"] if len(entries) > MOST else []
        print("\n".join(f"  {entry}" for entry in [*entries[:MOST], *more]))
    if not differences:
        first, second = (os.path.basename(path.rstrip("/")) for path in arguments.paths)
        within = f" within {arguments.tolerance:g}" if arguments.tolerance else ""
        print(f"{first} and {second} agree in {len(a)} names, shapes and values{within}.")
    return 1 if differences else 0


def console() -> None:
    """Runs the console command `mnasnet-checkpoint`."""
    program.run(main)


if __name__ == "__main__":
    console()
