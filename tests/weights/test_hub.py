"""Weights by name from a hub or a web server: the real clients, and a server on this machine."""

import dataclasses
import json
import pathlib
import sys

import certificates
import golden_files
import golden_weights_torch
import hub_server
import pytest
import yaml
from imported_models import logits, refused, restored_params, run_import
from main_runs import log_of, refusal
from torch_files import Call, pth_file, zip_file

from utils import checkpoint_tool, pretrained
from utils.reading import dataset_info
from utils.running import loop
from utils.training import configuration
from utils.weights import conversion, recognition, weights_file
from utils.weights import hub as hub_module

A1 = "timm/semnasnet_100.rmsp_in1k"
SMALL = "timm/mnasnet_small.lamb_in1k"
NOWHERE = "http://127.0.0.1:9"  # nobody listens
FILE = "mnasnet_small.safetensors"


@pytest.fixture(autouse=True)
def anew():
    """Forgets what other tests imported, as a new process does."""
    conversion._imported.cache_clear()


@pytest.fixture
def small(hub):
    """The hub with a repository of a small network; its commit is `first`."""
    hub.first = hub.commit(SMALL, hub_server.repository("mnasnet_small"))
    return hub


# What arrives.


def test_weights_by_name_give_the_logits_of_timm(hub, tmp_path):
    commit = hub.commit(A1, hub_server.repository("semnasnet_100"))
    run_import(f"hf://{A1}", tmp_path / "model")
    golden = golden_files.read("timm_semnasnet_100")
    ours = logits(tmp_path / "model", golden_weights_torch.images(golden["image_size"]))
    golden_files.assert_close(golden["logits"], ours.tolist())
    params = restored_params(tmp_path / "model")
    assert params["num_label_classes"] == 16 and params["input_image_size"] == 224
    assert params["eval_crop_share"] == 0.875 and params["resize_method"] == "bicubic"
    note = (tmp_path / "model" / "params.yaml").read_text()
    assert f"from hf://{A1}@{commit}/model.safetensors.\n" in note


def test_what_the_user_gives_goes_before_what_the_repository_says(hub, tmp_path):
    names = ["a\nb", *(f"class {number}" for number in range(15))]
    hub.commit(SMALL, hub_server.repository("mnasnet_small", label_names=names))
    assert hub_module.fetch(f"hf://{SMALL}").description.labels == ("a b", *names[1:])
    (tmp_path / "mine.txt").write_text("".join(f"mine {number}\n" for number in range(16)))
    run_import(
        f"hf://{SMALL}",
        tmp_path / "m",
        labels=str(tmp_path / "mine.txt"),
        input_image_size="96",
        eval_crop_share="1",
    )
    params = restored_params(tmp_path / "m")
    assert (params["input_image_size"], params["eval_crop_share"]) == (96, 1.0)
    assert (tmp_path / "m" / "labels.txt").read_text() == (tmp_path / "mine.txt").read_text()


def test_the_config_tells_two_families_with_the_same_shapes_apart(hub, tmp_path):
    files = hub_server.repository("tf_efficientnet_lite0", mean=[0.5] * 3, std=[0.5] * 3)
    hub.commit("timm/tf_efficientnet_lite0.in1k", files)
    run_import("hf://timm/tf_efficientnet_lite0.in1k", tmp_path / "m")
    params = restored_params(tmp_path / "m")
    assert params["model_name"] == "tf_efficientnet_lite0"
    assert params["model_spec"]["mean_rgb"] == [127.5] * 3


def test_a_file_may_be_named_and_a_config_missing(hub, tmp_path):
    content = hub_server.weights("mnasnet_small")
    hub.commit("me/mine", {"half/w.safetensors": content})
    refused("hf://me/mine", "has no model.safetensors and no pytorch_model.bin", tmp_path / "m")
    weights = hub_module.fetch("hf://me/mine/half/w.safetensors")
    assert pathlib.Path(weights.path).read_bytes() == content
    assert weights.description == hub_module.WeightsInfo()


@pytest.mark.parametrize(
    ("changes", "setting", "flag"),
    [
        ({"crop_pct": 1.5}, "eval_crop_share", "--eval_crop_share"),
        ({"interpolation": "lanczos"}, "resize_method", "--resize_method"),
        ({"input_size": [3, 224, 192]}, "input_image_size", "--input_image_size"),
        ({"mean": "0.5"}, "mean_rgb", "mean_rgb"),
    ],
)
def test_what_cannot_be_done_is_left_out_with_a_word(changes, setting, flag, tmp_path, caplog):
    path = tmp_path / "config.json"
    path.write_bytes(hub_server.repository("mnasnet_small", 1000, **changes)["config.json"])
    found = hub_module._of_timm_config(str(path), "hf://timm/x")
    assert setting not in {**found.settings, **found.normalization} and len(found.settings) >= 2
    assert flag in caplog.text and "hf://timm/x" in caplog.text
    assert found.labels == tuple(dataset_info.read_labels("imagenet", 1000))
    content = json.loads(path.read_bytes())  # an old one, all at one level
    path.write_text(json.dumps({**content, **content.pop("pretrained_cfg")}))
    assert hub_module._of_timm_config(str(path), "hf://timm/x") == found


def test_code_in_a_bin_is_not_run_and_safetensors_come_first(hub, tmp_path):
    hostile = zip_file({"a": Call("os", "system", f"touch {tmp_path / 'executed'}")}, {})
    hub.commit("me/code", {"pytorch_model.bin": hostile})
    refused("hf://me/code", "no dictionary of tensors", tmp_path / "m")
    assert not (tmp_path / "executed").exists()
    hub.commit(SMALL, {**hub_server.repository("mnasnet_small"), "pytorch_model.bin": hostile})
    assert hub_module.fetch(f"hf://{SMALL}").path.endswith("model.safetensors")


# The cache.


def test_pinned_revisions_stay_and_the_cache_serves_without_the_hub(small, tmp_path, monkeypatch):
    first = hub_module.fetch(f"hf://{SMALL}")
    small.downloads.clear()
    assert hub_module.fetch(f"hf://{SMALL}") == first
    changed = hub_server.weights("mnasnet_small", 10)
    new = small.commit(SMALL, {"model.safetensors": changed}, branch="refs/pr/1")
    assert hub_module.fetch(f"hf://{SMALL}@{small.first}") == first and not small.downloads
    other = hub_module.fetch(f"hf://{SMALL}@refs%2Fpr%2F1")
    assert other.origin == f"hf://{SMALL}@{new}/model.safetensors"
    assert pathlib.Path(other.path).read_bytes() == changed
    small.fails_with = 503
    assert hub_module.fetch(f"hf://{SMALL}") == first
    assert hub_module.fetch(f"hf://{SMALL}@refs%2Fpr%2F1") == other
    for name, value in (("HF_ENDPOINT", NOWHERE), ("HF_HUB_OFFLINE", "1")):
        hub_server.use(monkeypatch, **{name: value})
        assert hub_module.fetch(f"hf://{SMALL}") == first
        words = "cannot be fetched from http://127.*and the cache .* does not have it.*HF_ENDPOINT"
        assert isinstance(
            refused("hf://timm/other", words, tmp_path / "m"), hub_module.NotFetchedError
        )


def test_a_broken_download_is_resumed_and_weights_need_their_config(small, tmp_path, monkeypatch):
    small.cuts = [2_500_000]
    weights = hub_module.fetch(f"hf://{SMALL}")
    assert pathlib.Path(weights.path).read_bytes() == hub_server.weights("mnasnet_small")
    for path in (tmp_path / "hub").rglob("config.json"):
        path.unlink()
    small.fails_with = 503  # without their config.json, weights mean something else
    refused(f"hf://{SMALL}", "503", tmp_path / "m")


# What goes wrong on the way.


def test_a_gated_repository_needs_a_token(small, tmp_path, monkeypatch):
    small.gated.add(SMALL)
    refused(f"hf://{SMALL}", f"is gated: .*{small.address} .*HF_TOKEN", tmp_path / "m")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    hub_module.fetch(f"hf://{SMALL}")
    # Another host gets no token.
    assert {t for path, t in small.downloads.items() if path.startswith("/files/")} == {None}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf://timm/semnasnet_10", "is not at http://127.*--list"),
        (f"hf://{SMALL}@v9", "has no revision 'v9'"),
        ("hf://timm", "write hf://OWNER/REPOSITORY"),
        (f"hf://{SMALL}/w.onnx", "none of the endings"),
    ],
)
def test_wrong_names(name, words, small, tmp_path):
    refused(name, words, tmp_path / "m")


def test_configs_of_other_families_and_damaged_ones(hub, tmp_path):
    files = hub_server.repository("mnasnet_small")
    config = files["config.json"].replace(b"mnasnet_small", b"resnet50")
    hub.commit("timm/resnet50.a1_in1k", {**files, "config.json": config})
    refused("hf://timm/resnet50.a1_in1k", "of another family, 'resnet50'", tmp_path / "m")
    assert not any(path.startswith("/files/") for path in hub.downloads)
    hub.commit(SMALL, {**files, "config.json": b"{"})
    refused(f"hf://{SMALL}", "config.json.* is damaged", tmp_path / "m")


def test_what_is_no_hub_and_what_is_too_large(small, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_file, "LARGEST_FILE", 1000)
    refused(f"hf://{SMALL}", "bytes, more than weights of a network of this", tmp_path / "m")
    small.files[f"{SMALL}/resolve/main/config.json"] = b"<html>"
    hub_server.use(monkeypatch, HF_ENDPOINT=f"{small.address}/files", HF_HOME=tmp_path / "new")
    refused(f"hf://{SMALL}", "HF_ENDPOINT", tmp_path / "m")


# Web servers.


@pytest.fixture
def web(hub):
    """A web server with a weights file; its address is `url`, its checksum `digest`."""
    pytest.importorskip("pooch")
    hub.files[FILE] = hub_server.weights("mnasnet_small")
    hub.url = f"{hub.address}/files/{FILE}"
    hub.digest = hub_server.sha256(hub.files[FILE])
    return hub


def test_an_address_with_a_checksum(web, tmp_path):
    name = f"{web.url}#sha256={web.digest}"
    run_import(name, tmp_path / "m")
    assert restored_params(tmp_path / "m")["model_name"] == "mnasnet_small"
    assert f"from {web.url}.\n" in (tmp_path / "m" / "params.yaml").read_text()
    web.fails_with = 503
    path = pathlib.Path(hub_module.fetch(f"{web.url}#sha256={web.digest.upper()}").path)
    web.fails_with = None
    path.write_bytes(b"damaged")
    refused(name, "has the checksum .* not .*the same command fetches it anew", tmp_path / "n")
    assert pathlib.Path(hub_module.fetch(name).path).read_bytes() == web.files[FILE]


def test_half_a_file_and_a_gigantic_one_do_not_stay(web, tmp_path, monkeypatch):
    web.cuts = [300_000]
    refused(f"{web.url}#sha256={web.digest}", "check address and network", tmp_path / "m")
    monkeypatch.setattr(weights_file, "LARGEST_FILE", 1000)
    refused(f"{web.url}#sha256={web.digest}", "The file has 3.* bytes", tmp_path / "m")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{url}#sha256=12345678", "write https:// or append #sha256= and all 64"),
        ("{url}#md5=12345678", "write #sha256= and 8 to 64"),
        ("{url}.zip#sha256={digest}", "none of the endings"),
        ("{url}-x.pth#sha256={digest}", "404 .*check address"),
        (NOWHERE + "/w.pth#sha256={digest}", "refused.*check address"),
    ],
)
def test_wrong_addresses(name, words, web, tmp_path):
    refused(name.format(url=web.url, digest=web.digest), words, tmp_path / "m")


def test_https_needs_no_checksum_but_a_certificate(web, tmp_path, monkeypatch):
    certificate = certificates.write(tmp_path, "127.0.0.1")
    with hub_server.serve(tls=certificate.context()) as secure:
        secure.files[FILE] = web.files[FILE]
        url = f"https://127.0.0.1:{secure.port}/files/{FILE}"
        refused(url, "certificate.*check address", tmp_path / "m")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.authority))
        assert pathlib.Path(hub_module.fetch(url).path).read_bytes() == web.files[FILE]
        hub_module.fetch(f"{url}#sha256={web.digest[:10]}")


@pytest.mark.parametrize("library", ["huggingface_hub", "pooch"])
def test_a_missing_library_is_named(library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    name = f"hf://{SMALL}" if "hub" in library else "https://127.0.0.1:9/w.pth"
    error = refused(name, f"package {library}: run pip install", tmp_path / "m")
    assert isinstance(error, hub_module.NotFetchedError)


def test_the_table_names_what_can_be_imported():
    for known in hub_module.KNOWN:
        if known.source.startswith("hf://timm/"):
            assert recognition.source_of(known.name.partition(".")[0])
        else:
            assert hub_module._checksum(known.source)
            assert known.description.source in recognition.SOURCE_NAMES


def test_what_the_table_knows_of_an_address_comes_along(web, monkeypatch):
    """torchvision publishes no config.json; the table has what its code says."""
    (known,) = (w for w in hub_module.KNOWN if w.name == "mnasnet0_75")
    monkeypatch.setattr(
        hub_module,
        "KNOWN",
        [dataclasses.replace(known, source=f"{web.url}#sha256={web.digest}")],
    )
    described = hub_module.fetch(web.url).description
    assert described.settings["eval_crop_share"] == 224 / 232 and len(described.labels) == 1000


# In the program.


def test_fine_tuning_by_name_in_one_command(hub, digits_dir, tmp_path, monkeypatch, caplog):
    hub.commit(SMALL, hub_server.repository("mnasnet_small", crop_pct=0.9))
    model_dir = tmp_path / "model"
    flags = {
        "init_checkpoint": f"hf://{SMALL}",
        "data_dir": digits_dir,
        "model_dir": str(model_dir),
        "input_image_size": 32,
        "train_batch_size": 4,
        "train_steps": 1,
        "mode": "train",
        "freeze_backbone": True,
        "add_summaries": False,
    }
    log = log_of(caplog, *(f"--{name}={value}" for name, value in flags.items()))
    assert f"Fine-tuning from hf://{SMALL}" in log and "100.0 % of the backbone" in log
    params = yaml.safe_load((model_dir / "params.yaml").read_text())
    assert params["init_checkpoint"] == f"hf://{SMALL}"
    assert params["model_name"] == "mnasnet_small" and params["num_label_classes"] == 10
    assert params["eval_crop_share"] == 0.9 and params["input_image_size"] == 32
    # A run that resumes asks neither the hub nor the cache.
    conversion._imported.cache_clear()
    hub_server.use(monkeypatch, HF_ENDPOINT=NOWHERE, HF_HOME=tmp_path / "other")
    params = configuration.resolve(flags, conversion.initial_weights)
    assert params["model_name"] == "mnasnet_small" and params["eval_crop_share"] == 0.9
    assert loop.prepare(params)["init_checkpoint"] is None


def test_fine_tuning_from_a_file_without_classifier(digits_dir, tmp_path, caplog):
    state = golden_weights_torch.state_dict(golden_files.read("timm_mnasnet_small"))
    backbone = {f"net.{key}": v for key, v in state.items() if not key.startswith("classifier")}
    (tmp_path / "last.ckpt").write_bytes(pth_file(backbone))
    log = log_of(
        caplog,
        f"--init_checkpoint={tmp_path}/last.ckpt",
        f"--data_dir={digits_dir}",
        f"--model_dir={tmp_path}/model",
        "--input_image_size=32",
        "--train_batch_size=4",
        "--train_steps=1",
        "--mode=train",
        "--freeze_backbone",
        "--add_summaries=False",
    )
    assert "last.ckpt has no classifier" in log and "100.0 % of the backbone" in log
    held = checkpoint_tool.read(str(tmp_path / "model"))
    (kernel,) = (name for name in held if name.endswith("/dense/kernel"))
    assert kernel.startswith("mnasnet_small/") and held[kernel].shape == (1280, 10)


def test_initial_weights_that_cannot_be_fetched(hub, digits_dir, tmp_path):
    sentence = refusal(
        f"--init_checkpoint=hf://{SMALL}", f"--data_dir={digits_dir}", f"--model_dir={tmp_path}/m"
    )
    assert "check the name" in sentence and not (tmp_path / "m").exists()


# The command that prepares ImageNet weights.


def test_mnasnet_comes_from_the_hub_where_it_can_be_reached(hub, tmp_path, caplog, monkeypatch):
    prepared = []
    monkeypatch.setattr(pretrained, "prepare", prepared.append)  # other tests run it
    arguments = ["pretrained", f"--mnasnet_dir={tmp_path}/a1", "--model_dir=lite0"]
    hub.fails_with = 503
    with caplog.at_level("INFO", "absl"):
        pretrained.main(arguments)
    assert "stands in for MnasNet-A1: hf://timm/" in caplog.text
    assert prepared == ["lite0"] and not (tmp_path / "a1").exists()
    hub.fails_with = None
    hub.commit(A1, hub_server.repository("semnasnet_100", 1000))
    with caplog.at_level("INFO", "absl"):
        pretrained.main(arguments)
    assert f"MnasNet-A1 of hf://{A1} is used, published top-1 75.45 %" in caplog.text
    lines = (tmp_path / "a1" / "labels.txt").read_text().splitlines()
    assert lines == dataset_info.read_labels("imagenet", 1000)
    hub.fails_with = 503
    pretrained.main(arguments)  # a second time does nothing
    assert prepared == ["lite0"]


def test_the_list_of_known_weights(capsys):
    pretrained.main(["pretrained", "--list"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "network", "multiplier", "top-1", "%", "source", "licence"]
    assert len(rows) == 9 and rows[0].split()[1:5] == ["mnasnet-a1", "1.0", "75.45", f"hf://{A1}"]
