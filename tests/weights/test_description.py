"""What the config.json of a repository says, and what it may say wrongly."""

import json

import hub_weights
import pytest

from utils.base.errors import UserError
from utils.weights import description, hub, known_weights, recognition

NAME = "hf://timm/x"


def described(**changes):
    content = json.loads(hub_weights.config("semnasnet_100", 1000, **changes))
    return description.of_timm_config(content, NAME)


def test_a_config_of_timm():
    found = described(crop_pct=0.9, interpolation="bilinear", input_size=[3, 192, 192])
    assert found.settings == {
        "input_image_size": 192, "resize_method": "bilinear", "eval_crop_share": 0.9,
    }  # fmt: skip
    assert found.source == "timm:semnasnet" and found.num_classes == 1000
    assert found.labels == description.IMAGENET_LABELS
    assert not found.normalization  # it is ImageNet's


def test_normalizations_are_those_of_pixels_up_to_255():
    found = described(mean=[0.5, 0.5, 0.5], std=[0.25, 0.5, 1])
    assert found.normalization == {
        "mean_rgb": [127.5] * 3, "stddev_rgb": [63.75, 127.5, 255],
    }  # fmt: skip


def test_an_old_config_has_all_at_one_level():
    content = json.loads(hub_weights.config("semnasnet_100", 10, crop_pct=1.0))
    flat = {"architecture": "semnasnet_100", **content["pretrained_cfg"]}
    assert description.of_timm_config(flat, NAME).settings["eval_crop_share"] == 1.0


@pytest.mark.parametrize(
    ("changes", "setting", "flag"),
    [
        ({"crop_pct": 1.5}, "eval_crop_share", "--eval_crop_share"),
        ({"crop_pct": "much"}, "eval_crop_share", "--eval_crop_share"),
        ({"crop_pct": [1]}, "eval_crop_share", "--eval_crop_share"),
        ({"interpolation": "lanczos"}, "resize_method", "--resize_method"),
        ({"input_size": [3, 224, 192]}, "input_image_size", "--input_image_size"),
        ({"input_size": [3, 7, 7]}, "input_image_size", "--input_image_size"),
        ({"input_size": 224}, "input_image_size", "--input_image_size"),
    ],
)
def test_what_cannot_be_done_is_left_out_with_a_word(changes, setting, flag, caplog):
    assert setting not in described(**changes).settings
    assert flag in caplog.text and NAME in caplog.text


@pytest.mark.parametrize("mean", [[0.5], [0.5, 0.5, "x"], "0.5", [0.5, 0.5, float("nan")]])
def test_a_strange_mean_is_left_out_with_a_word(mean, caplog):
    assert not described(mean=mean).normalization
    assert "asks for mean=" in caplog.text


@pytest.mark.parametrize(
    "names", [["a"], "ab", ["a", 1], ["a", " "], {"0": "a"}, None, ["a", "b", "c"]]
)
def test_strange_names_of_classes_are_left_out(names):
    content = json.loads(hub_weights.config("semnasnet_100", 2, label_names=names))
    assert description.of_timm_config(content, NAME).labels == ()


def test_names_of_classes_stay_on_their_lines():
    content = json.loads(hub_weights.config("semnasnet_100", 2, label_names=["a\nb", "c"]))
    assert description.of_timm_config(content, NAME).labels == ("a b", "c")


@pytest.mark.parametrize("content", [None, [], "x", {}, {"architectures": ["ResNet"]}])
def test_a_config_of_another_program_says_nothing(content):
    assert description.of_timm_config(content, NAME) == description.Description()


@pytest.mark.parametrize(
    "architecture", ["resnet50", "semnasnet_100x", "xsemnasnet_100", "mnasnet_", "efficientnet_b0"]
)
def test_another_family_is_refused(architecture):
    with pytest.raises(UserError, match="another family"):
        description.of_timm_config({"architecture": architecture}, NAME)


def test_the_table_names_what_can_be_imported():
    for known in known_weights.WEIGHTS:
        if known.source.startswith("hf://timm/"):
            assert hub._parse(known.source).repository == f"timm/{known.name}"
            assert recognition.source_of(known.name.partition(".")[0])
        else:
            # torchvision's files carry the beginning of their checksum in the name.
            assert hub._checksum(known.source) in known.source.partition("#")[0]
            assert known.description.source in recognition.SOURCE_NAMES
        assert 60 < float(known.top_1) < 80
