"""Makes predictions by hand, and the records that they are of."""

import numpy as np
from shades import jpeg

from utils.reading import examples
from utils.showing import models, predictions, report_page

import tensorflow.compat.v1 as tf


def of(labels, top, probabilities, label_probabilities, num_classes, paths=("data/validation-0",)):
    """Predictions whose records follow each other in the first of the files."""
    labels = np.array(labels, np.int32)
    return predictions.Predictions(
        list(paths),
        np.zeros(len(labels), np.int32),
        np.arange(len(labels)),
        [f"picture {number}.jpg" for number in range(len(labels))],
        labels,
        np.array(top, np.int32),
        np.array(probabilities, np.float32),
        np.array(label_probabilities, np.float32),
        num_classes,
    )


def subject(names, **more):
    """What a report is about: a model without a training, unless its folder is given."""
    model = models.Model("net", "checkpoint", "m/model.ckpt-3", len(names), names, None, **more)
    return report_page.Subject(model, "some/data", "validation")


def write_records(folder, labels):
    """Writes a file of grey pictures; returns its path. Labels are indices of classes."""
    path = str(folder / "validation-00000-of-00001")
    with tf.io.TFRecordWriter(path) as writer:
        for number, label in enumerate(labels):
            more = {"image/filename": f"picture {number}.jpg"}
            writer.write(examples.example(jpeg(10 * number % 250), label + 1, more))
    return path
