"""Wrong places behind flags: the program goes ahead, or refuses in one sentence."""

import socket

import pytest
from console_commands import main_of

import mnasnet_main

pytestmark = pytest.mark.slow

each_place = pytest.mark.parametrize(
    "kind", ["missing", "below-a-file", "binary", "empty-folder", "link-to-itself", "socket"]
)


def make_place(kind, folder):
    """Makes a place in a folder where no program can read or write what it expects."""
    path = folder / kind
    if kind == "below-a-file":
        path.write_bytes(b"")
        return path / "below"
    if kind == "binary":
        path.write_bytes(bytes(range(256)) * 8)
    elif kind == "empty-folder":
        path.mkdir()
    elif kind == "link-to-itself":
        path.symlink_to(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    return path


@each_place
@pytest.mark.parametrize(
    "flag", ["data_dir", "model_dir", "export_dir", "init_checkpoint", "config_file", "model_spec"]
)
def test_a_training(flag, kind, base, answer, tmp_path):
    given = {"model_dir": tmp_path / "new", flag: make_place(kind, tmp_path)}
    answer(mnasnet_main.main, *base.flags(**given))


@each_place
def test_an_export(kind, base, answer, tmp_path):
    given = {"mode": "export_only", "export_dir": tmp_path / "export"}
    place = make_place(kind, tmp_path)
    assert answer(mnasnet_main.main, *base.flags(**given, export_checkpoint=place))
    assert not (tmp_path / "export").exists()


# {} stands for the wrong place, the other names for files of the base.
COMMANDS = """
mnasnet-checkpoint list {}
mnasnet-checkpoint compare {} {model}
mnasnet-classify --model={} {picture}
mnasnet-classify --model={tflite} {}
mnasnet-classify --model={tflite} --labels={} {picture}
mnasnet-data inspect --data_dir={}
mnasnet-data inspect --data_dir={data} --json={}
mnasnet-data inspect --data_dir={data} --contact_sheet={}
mnasnet-data fake --output_dir={} --num_train=2
mnasnet-data folder --input_dir={} --output_dir={new}
mnasnet-data folder --input_dir={pictures} --output_dir={}
mnasnet-data imagenet --input_dir={} --output_dir={new} --validation_labels={}
mnasnet-evaluate --model={} --data_dir={data}
mnasnet-evaluate --model={tflite} --data_dir={}
mnasnet-check-exports {} --pictures {picture}
mnasnet-demo-page --model={} --output_dir={new}
mnasnet-demo-page --model={tflite} --output_dir={new} --labels={}
mnasnet-demo-page --model={tflite} --output_dir={new} {}
mnasnet-export-table {}
mnasnet-export-weights --model_dir={} --output={new}
mnasnet-export-weights --model_dir={model} --output={}
mnasnet-import --weights={} --model_dir={new}
mnasnet-import --weights={weights} --model_dir={}
mnasnet-import --weights={weights} --model_dir={new} --labels={}
mnasnet-complexity --model_spec={}
"""


@each_place
@pytest.mark.parametrize("command", COMMANDS.strip().splitlines())
def test_a_command(command, kind, base, answer, tmp_path):
    place = make_place(kind, tmp_path)
    name, *words = command.split()
    values = {
        "model": base.folder / "model",
        "data": base.folder / "data",
        "new": tmp_path / "new",
        "weights": base.folder / "weights.safetensors",
        "pictures": base.folder / "pictures",
        "tflite": base.folder / "model" / "export" / "tiny.tflite",
        "picture": base.folder / "pictures" / "coffee" / "coffee.jpg",
    }
    answer(main_of(name), *(word.format(place, place, **values) for word in words))
    assert kind != "socket" or place.is_socket()  # nothing took its place
