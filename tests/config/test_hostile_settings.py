"""Settings of each kind that no run can take end in one sentence, before anything is built."""

import pytest
from absl import flags

from utils.base.errors import UserError
from utils.config import setting_flags
from utils.training import configuration

STAGES = "stages: [r1_k3_s22_e3_i8_o8]\n"
FLAGS = [
    ("--train_steps=0", "at least 1"),
    ("--train_steps=1e30", "at most"),
    ("--train_steps=many", "whole number"),
    ("--base_learning_rate=nan", "a number"),
    ("--momentum=0.99999999", "less than 1"),
    ("--mode=test", "choose one of"),
    ("--use_tpu=maybe", "use_tpu"),
    ("--quantize=int4", "int4"),
    ("--freeze_until=block_99", "block_99"),
    ("--model_name=mnasnet-a2", "mnasnet-a2"),
    ("--model_spec={folder}/nowhere.yaml", "nowhere.yaml"),
    ("--model_dir=", "--model_dir is missing"),
    ("--model_dir={folder}/a\x1bb", "cannot be printed"),
    (f"--data_dir={{folder}}/{'x' * 5000}", "at most 4096 characters"),
    ("--config_file={folder}", "cannot be read"),
    ("--train_step=5", "train_step"),
    ("train", "'train' is not a flag"),
    ("--params_override=train_steps=[", "train_steps=["),
    ("--params_override=train_steps=!x 5", "!x"),
    ("--params_override=train_steps=5,train_steps=6", "train_steps=6"),
    ("--params_override=config_file=cpu", "on the command line only"),
]
CONFIG_FILES = {
    "list": (b"- 1\n", "mapping"),
    "no_yaml": (b"[\n", "line 2"),
    "twice": (b"train_steps: 5\nmode: train\ntrain_steps: 6\n", "train_steps"),
    "python": (b"mode: !!python/name:os.system\n", "python/name"),
    "unknown": (b"train_step: 5\n", "'train_steps'"),
    "out_of_range": (b"num_label_classes: 1000000000\n", "at most 1000000"),
    "other_type": (b"model_dir: {a: b}\n", "a text"),
    "binary": (bytes(range(256)), "cannot be read"),
    "spec_unknown": (f"model_spec:\n  {STAGES}  stem: 3\n".encode(), "unknown key 'stem'"),
}
SPEC_FILES = {
    "spec_twice": ((STAGES + STAGES).encode(), "stages"),
    "spec_nan": (f"{STAGES}dropout_rate: .nan\n".encode(), "dropout_rate=nan"),
    "spec_stage": (b"stages: [r1_k3]\n", "r1_k3"),
}


def sentence(folder, argument):
    """What a run says to an argument, which it must refuse."""
    argv = [f"--model_dir={folder}/model", "--data_dir=null", "--model_name=mnasnet-small"]
    argv.append(argument.replace("{folder}", str(folder)))
    with pytest.raises((UserError, flags.Error)) as error:
        configuration.resolve(setting_flags.parse_settings(["mnasnet_main.py", *argv], ""))
    assert len(str(error.value)) < 1000
    return str(error.value)


@pytest.mark.parametrize(("argument", "words"), FLAGS, ids=[ascii(f)[:40] for f, _ in FLAGS])
def test_a_flag(argument, words, tmp_path):
    assert words in sentence(tmp_path, argument)


@pytest.mark.parametrize(
    ("flag", "name", "content", "words"),
    [("config_file", name, *rest) for name, rest in CONFIG_FILES.items()]
    + [("model_spec", name, *rest) for name, rest in SPEC_FILES.items()],
)
def test_a_file(flag, name, content, words, tmp_path):
    (tmp_path / f"{name}.yaml").write_bytes(content)
    assert words in sentence(tmp_path, f"--{flag}={tmp_path}/{name}.yaml")
