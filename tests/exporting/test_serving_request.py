"""The request and the answer of TensorFlow Serving in g3doc/app.md fit the SavedModel."""

import base64
import json
import pathlib

import app_page
import numpy as np
from exports import saved_model_in

from utils.exporting import classifiers

import tensorflow.compat.v1 as tf


def served(model, request):
    """Returns what TensorFlow Serving answers to a REST request in row format.

    The server decodes {"b64": ...}, stacks the bare values of the only input, and splits the
    outputs along their first axis.
    """
    graph = tf.Graph()
    with graph.as_default(), tf.Session(graph=graph) as session:
        meta = tf.saved_model.load(session, [tf.saved_model.SERVING], model)
        signature = meta.signature_def["serving_default"]
        [taken] = signature.inputs.values()
        assert tf.as_dtype(taken.dtype) == tf.string and taken.tensor_shape.dim[0].size == -1
        values = [base64.b64decode(instance["b64"]) for instance in request["instances"]]
        names = sorted(signature.outputs)
        outputs = session.run([signature.outputs[n].name for n in names], {taken.name: values})
    rows = zip(*(output.tolist() for output in outputs), strict=True)
    return {"predictions": [dict(zip(names, row, strict=True)) for row in rows]}


def test_tensorflow_serving(exported, digits_dir):
    request, answer = map(json.loads, app_page.snippets("json"))
    pictures = [
        pathlib.Path(digits_dir, "pictures", f"digit-{digit}.jpg").read_bytes() for digit in (3, 7)
    ]
    assert len(request["instances"]) == len(pictures)
    for instance, picture in zip(request["instances"], pictures, strict=True):
        assert list(instance) == ["b64"]
        instance["b64"] = base64.b64encode(picture).decode()
    model = saved_model_in(exported)
    found = served(model, request)
    classifier = classifiers.load(model)
    for row, example, picture in zip(
        found["predictions"], answer["predictions"], pictures, strict=True
    ):
        assert sorted(row) == sorted(example)
        expected = classifier.probabilities(picture)
        assert row["classes"] == np.argmax(expected)
        np.testing.assert_allclose(row["probabilities"], expected, atol=1e-6)
