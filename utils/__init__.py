"""What the modules of the package share.

Before any of them imports TensorFlow, this sets what TensorFlow's native code reads once, and
checks that the installed version fits: TPUEstimator and tf.layers left TensorFlow with 2.16
(tensorflow/tensorflow#76349).
"""

import importlib.metadata
import importlib.util
import os
import sys

SUPPORTED = "2.15"
# TensorFlow 2.15 prints "Unable to register cuDNN factory" as an error on every machine, and gRPC
# its channel chatter; real errors reach Python as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Each session has the threads that its configuration asks for. Otherwise all sessions of a process
# share those of the first one, so one that is to run on one thread (`devices.one_thread`) does not.
os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")


class UnsupportedTensorFlow(ImportError):
    """No program of this package can run with the installed TensorFlow."""


def _installed_version() -> str | None:
    # Several distributions carry the same module: the CPU build, the one for Cloud TPU VMs.
    for name in ("tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tf-nightly"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def tensorflow_problem(version: str | None) -> str | None:
    """Returns the sentence for a version of TensorFlow that does not fit; None if it fits."""
    remedy = f"install tensorflow {SUPPORTED}.1 (pip install 'tensorflow=={SUPPORTED}.1')"
    if version is None:
        return f"TensorFlow is not installed: {remedy}."
    if tuple(int(part) for part in version.split(".")[:2]) >= (2, 16):
        return f"TensorFlow {version} has no TPUEstimator (removed in 2.16): {remedy}."
    return None


def _print_without_trace(kind, error, trace):
    if issubclass(kind, UnsupportedTensorFlow):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _check_tensorflow() -> None:
    version = _installed_version()
    # A TensorFlow that was built from source has no package metadata, and is not checked.
    if version is None and importlib.util.find_spec("tensorflow") is not None:
        return
    sentence = tensorflow_problem(version)
    if sentence:
        sys.excepthook = _print_without_trace
        raise UnsupportedTensorFlow(sentence)


_check_tensorflow()
