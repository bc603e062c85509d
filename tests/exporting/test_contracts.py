"""What .tflite files of each contract take and give, read by TensorFlow's own interpreter."""

import flatbuffers
import numpy as np
import pytest
from exports import SIZE, make_export, report_of, saved_model_in, settings_of

from utils.exporting import classifiers, measure, metadata, samples, saved_model, tflite

import tensorflow.compat.v1 as tf
from tensorflow.lite.python import schema_py_generated as schema

NAMES = {
    "float32": "tiny",
    "dynamic": "tiny_postquant",
    "float16": "tiny_float16",
    "int8": "tiny_int8",
}
# Largest difference from the checkpoint, of probabilities and of logits as a share of the largest.
DIFFERENCES = {"float32": 1e-4, "dynamic": 0.05, "float16": 0.01, "int8": 0.2}


@pytest.fixture(scope="module")
def published(model_dir, digits_dir, tmp_path_factory):
    """The folder of an export with the contract `published`."""
    folder = str(tmp_path_factory.mktemp("published"))
    make_export(
        settings_of(
            model_dir,
            folder,
            data_dir=digits_dir,
            post_quantize=True,
            quantize="float16,int8",
            export_eval_images=10,
            tflite_contract="published",
        )
    )
    return folder


@pytest.fixture(params=metadata.CONTRACTS.values(), ids=metadata.CONTRACTS)
def contract(request):
    return request.param


@pytest.fixture
def folder(contract, exported, published):
    return {"app": exported, "published": published}[contract.name]


@pytest.fixture(scope="module")
def sample(exported, model_dir, digits_dir):
    """(pixels of a digit, whole numbers from 0 to 255; the checkpoint's logits for them)."""
    params = settings_of(model_dir, "none", data_dir=digits_dir)
    pixels = np.rint(next(samples.evaluation_images(params))[0])
    return pixels, saved_model.SavedModel(saved_model_in(exported)).logits(pixels)


def content_of(folder, kind):
    with open(f"{folder}/{NAMES[kind]}.tflite", "rb") as f:
        return f.read()


@pytest.mark.parametrize("kind", tflite.SUFFIXES)
def test_tensors_and_signature(contract, folder, kind):
    interpreter = tf.lite.Interpreter(model_content=content_of(folder, kind))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": [contract.input_name], "outputs": [contract.output_name]}
    }
    (before,), (after,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (before["name"], after["name"]) == (contract.input_name, contract.output_name)
    assert before["shape"].tolist() == [1, SIZE, SIZE, 3] and after["shape"].tolist() == [1, 10]
    expected = np.uint8 if kind == "int8" else np.float32
    assert before["dtype"] == after["dtype"] == expected
    if kind == "int8" and contract == metadata.APP:
        assert before["quantization"] == (1.0, 0) and after["quantization"] == (1 / 256, 0)


@pytest.mark.parametrize("kind", tflite.SUFFIXES)
def test_the_signature_computes_what_the_checkpoint_does(contract, folder, kind, sample):
    """An app's author knows the signature alone, and feeds what the contract says."""
    content = content_of(folder, kind)
    interpreter = tf.lite.Interpreter(model_content=content)
    (before,), (after,) = interpreter.get_input_details(), interpreter.get_output_details()
    run = interpreter.get_signature_runner("serving_default")
    pixels, logits = sample
    if contract.takes_normalized:
        prepared = metadata.preparation(content, SIZE)
        pixels = (pixels - prepared.mean) / prepared.stddev
    else:
        assert metadata.preparation(content, SIZE).is_raw
    if kind == "int8":
        scale, zero = before["quantization"]
        pixels = np.rint(pixels / scale + zero)
        assert pixels.min() >= 0 and pixels.max() <= 255
    given = {contract.input_name: pixels[None].astype(before["dtype"])}
    found = run(**given)[contract.output_name][0].astype(np.float64)
    if kind == "int8":
        scale, zero = after["quantization"]
        found = (found - zero) * scale
    expected = metadata.softmax(logits) if contract.gives_probabilities else logits
    np.testing.assert_allclose(found, expected, atol=DIFFERENCES[kind] * np.abs(expected).max())
    if contract.gives_probabilities:
        assert found.min() >= 0 and found.sum() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", tflite.SUFFIXES)
def test_a_file_says_its_contract(contract, folder, kind):
    content = content_of(folder, kind)
    assert metadata.contract(content) == contract
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    said = {m.name: bytes(bytearray(model.buffers[m.buffer].data)) for m in model.metadata}
    assert said[b"mnasnet_contract"] == contract.name.encode()
    assert said[b"mnasnet_image_size"] == b"32" and said[b"mnasnet_crop_share"] == b"0.5"
    assert said[b"mnasnet_resize_method"] == b"bilinear"
    text = said[b"TFLITE_METADATA"]
    assert b"the centre square of 50.0 % of the shorter side" in text
    assert b"(bilinear) to 32 x 32 pixels" in text


def test_classify_applies_the_softmax_where_the_output_are_logits(exported, published, pictures):
    content = content_of(published, "float32")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.metadata = [m for m in model.metadata if m.name != b"mnasnet_contract"]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    before_contracts = published + "/before.tflite"
    with open(before_contracts, "wb") as f:
        f.write(bytes(builder.Output()))
    expected = classifiers.load(exported + "/tiny.tflite")
    for path in (published + "/tiny.tflite", before_contracts):
        ours = classifiers.load(path)
        for picture in pictures[:3]:
            np.testing.assert_allclose(
                ours.probabilities(picture), expected.probabilities(picture), atol=1e-5
            )


def test_the_cost_of_stretching_is_in_the_report_of_the_float32_file(exported, published, plain):
    for folder in (exported, published):
        for name, row in report_of(folder)["files"].items():
            assert (measure.STRETCHED in row) == (name == "tiny.tflite")
    assert measure.STRETCHED not in report_of(plain)["files"]["tiny.tflite"]
    stretched = [
        r[measure.STRETCHED]
        for r in (report_of(folder)["files"]["tiny.tflite"] for folder in (exported, published))
    ]
    assert stretched[0] == stretched[1] and 0 <= stretched[0] <= 1
    (line,) = [
        line
        for line in measure.table({"a": report_of(exported)["files"]["tiny.tflite"]}).split("\n")
        if line.startswith("a ")
    ]
    assert line.split()[4] == f"{100 * stretched[0]:.2f}"


def test_what_is_compared_follows_the_contract(exported, published):
    for folder, name in ((exported, "probability"), (published, "logit")):
        rows = [r for r in report_of(folder)["files"].values() if "latency_ms" in r]
        assert len(rows) == 5
        assert all(f"largest_{name}_difference" in row for row in rows)
    assert report_of(published)["identity"]["tflite_contract"] == "published"
