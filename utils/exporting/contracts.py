"""Names the two contracts between a .tflite file and the app that runs it.

A file of the contract `app` takes the pixels of a picture and gives probabilities, as image
classifiers from other sources do, so that MediaPipe and ML Kit show percentages. A file of the
contract `published` has the tensors of historical files of this program: it takes normalized
pixels, `truediv`, and gives `logits`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIGNATURE = "serving_default"


class Contract(NamedTuple):
    """Describes what a .tflite file takes and gives.

    Attributes:
      name: value of the setting tflite_contract.
      input_name: name of the input, as a tensor and in the signature.
      output_name: name of the output, likewise.
      takes_normalized: whether the input is (x - mean) / standard deviation of RGB in [0, 255].
      gives_probabilities: whether the output has gone through the softmax.
    """

    name: str
    input_name: str
    output_name: str
    takes_normalized: bool
    gives_probabilities: bool


APP = Contract("app", "images", "probabilities", False, True)
PUBLISHED = Contract("published", "truediv", "logits", True, False)
CONTRACTS = {contract.name: contract for contract in (APP, PUBLISHED)}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities, float [classes], of logits; NaN if a logit is not finite."""
    with np.errstate(invalid="ignore"):
        exponents = np.exp(logits - logits.max())
        return exponents / exponents.sum()
