"""Checks, when it is imported, that the installed TensorFlow fits; TensorFlow is not loaded.

TPUEstimator and tf.layers left TensorFlow with 2.16 (tensorflow/tensorflow#76349). Import this
module before TensorFlow: it also sets what TensorFlow's native code reads once: log levels and
threads.
"""

import importlib.metadata
import importlib.util
import os

import mnasnet_start

SUPPORTED = "2.15"


def _installed_version() -> str | None:
    # Several distributions carry the same module: the CPU build, the one for Cloud TPU VMs.
    for name in ("tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tf-nightly"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def problem(version: str | None) -> str | None:
    """Returns the sentence for a version of TensorFlow that does not fit; None if it fits."""
    remedy = f"install tensorflow {SUPPORTED}.1 (pip install 'tensorflow=={SUPPORTED}.1')"
    if version is None:
        return f"TensorFlow is not installed: {remedy}."
    if tuple(int(part) for part in version.split(".")[:2]) >= (2, 16):
        return f"TensorFlow {version} has no TPUEstimator (removed in 2.16): {remedy}."
    return None


def check() -> None:
    """Ends the program with one sentence if TensorFlow is missing or does not fit.

    Raises:
      mnasnet_start.CannotStart: this sentence, without a stack trace if nobody catches it.
    """
    version = _installed_version()
    # A TensorFlow that was built from source has no package metadata, and is not checked.
    if version is None and importlib.util.find_spec("tensorflow") is not None:
        return
    sentence = problem(version)
    if sentence:
        mnasnet_start.refuse(sentence)


# TensorFlow 2.15 prints "Unable to register cuDNN factory" as an error on every machine, and gRPC
# its channel chatter; real errors reach Python as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Each session has the threads that its configuration asks for. Otherwise all sessions of a process
# share those of the first one, so one that is to run on one thread (`devices.one_thread`) does not.
os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")
check()
