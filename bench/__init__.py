"""The benchmarks of `make bench`, which need a clone of the repository."""

import utils.base.tensorflow_version  # noqa: F401  (sets the log levels before TensorFlow loads)
