"""Weights by name from a hub: the real client, and a server that speaks the hub's protocol."""

import errno
import fcntl
import os
import pathlib
import socket
import sys

import golden_files
import golden_weights_torch
import hub_server
import hub_weights
import pytest
from imported_models import logits, refused, restored_params, run_import
from torch_files import Call, zip_file

from utils.base.errors import UserError
from utils.reading import labels
from utils.weights import description, weights_file
from utils.weights import hub as hub_module

A1 = "timm/semnasnet_100.rmsp_in1k"
SMALL = "timm/mnasnet_small.lamb_in1k"


@pytest.fixture
def small(hub):
    """The hub with a repository of a small network; its commit is `commit`."""
    hub.small_commit = hub.commit(SMALL, hub_weights.repository("mnasnet_small"))
    return hub


@pytest.fixture
def closed_port():
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


# What arrives.


def test_weights_by_name_give_the_logits_of_timm(hub, tmp_path):
    commit = hub.commit(A1, hub_weights.repository("semnasnet_100"))
    model_dir = str(tmp_path / "model")
    run_import(f"hf://{A1}", model_dir)
    golden = golden_files.read("timm_semnasnet_100")
    ours = logits(model_dir, golden_weights_torch.images(golden["image_size"]))
    golden_files.assert_close(golden["logits"], ours.tolist())
    params = restored_params(model_dir)
    assert params["num_label_classes"] == 16 and params["input_image_size"] == 224
    assert params["eval_crop_share"] == 0.875 and params["resize_method"] == "bicubic"
    note = (tmp_path / "model" / "params.yaml").read_text()
    assert f"from hf://{A1}@{commit}/model.safetensors.\n" in note


def test_imagenet_labels_come_along(hub, tmp_path):
    hub.commit(SMALL, hub_weights.repository("mnasnet_small", 1000))
    run_import(f"hf://{SMALL}", tmp_path / "model")
    lines = (tmp_path / "model" / "labels.txt").read_text().splitlines()
    assert lines == labels.read("imagenet", 1000)


def test_what_the_user_gives_goes_before_what_the_repository_says(hub, tmp_path):
    names = [f"class {number}" for number in range(16)]
    hub.commit(SMALL, hub_weights.repository("mnasnet_small", label_names=names))
    assert hub_module.fetch(f"hf://{SMALL}").description.labels == tuple(names)
    (tmp_path / "mine.txt").write_text("".join(f"mine {number}\n" for number in range(16)))
    run_import(
        f"hf://{SMALL}", tmp_path / "m", labels=str(tmp_path / "mine.txt"), input_image_size="96",
        eval_crop_share="1",
    )  # fmt: skip
    params = restored_params(str(tmp_path / "m"))
    assert (params["input_image_size"], params["eval_crop_share"]) == (96, 1.0)
    assert (tmp_path / "m" / "labels.txt").read_text() == (tmp_path / "mine.txt").read_text()


def test_the_config_tells_two_families_with_the_same_shapes_apart(hub, tmp_path):
    files = hub_weights.repository("tf_efficientnet_lite0", mean=[0.5] * 3, std=[0.5] * 3)
    hub.commit("timm/tf_efficientnet_lite0.in1k", files)
    run_import("hf://timm/tf_efficientnet_lite0.in1k", tmp_path / "m")
    params = restored_params(str(tmp_path / "m"))
    assert params["model_name"] == "tf_efficientnet_lite0"
    assert params["model_spec"]["mean_rgb"] == [127.5] * 3


def test_a_repository_without_config_says_nothing_more(hub):
    hub.commit("me/mine", {"model.safetensors": hub_weights.weights("mnasnet_small")})
    assert hub_module.fetch("hf://me/mine").description == description.Description()


def test_a_file_may_be_named(hub, tmp_path):
    content = hub_weights.weights("mnasnet_small")
    hub.commit("me/mine", {"half/w.safetensors": content})
    refused("hf://me/mine", "has no model.safetensors and no pytorch_model.bin", tmp_path / "m")
    weights = hub_module.fetch("hf://me/mine/half/w.safetensors")
    assert pathlib.Path(weights.path).read_bytes() == content
    refused("hf://me/mine/half/w.onnx", "has none of the endings", tmp_path / "n")


# The cache.


def test_a_second_time_downloads_nothing(small):
    first = hub_module.fetch(f"hf://{SMALL}")
    assert len(small.paths("GET")) == 2
    assert hub_module.fetch(f"hf://{SMALL}") == first
    assert len(small.paths("GET")) == 2


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_cache_on_a_disk_without_locks(small, monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    if number == errno.ENOSYS:
        assert hub_module.fetch(f"hf://{SMALL}").origin.startswith(f"hf://{SMALL}@")
        return
    with pytest.raises(UserError, match=r"without locks.*HF_HOME"):
        hub_module.fetch(f"hf://{SMALL}")


def test_a_pinned_revision_stays_and_a_changed_file_is_fetched(small):
    old = small.small_commit
    changed = golden_weights_torch.state_dict(hub_weights.golden_of("mnasnet_small"))
    changed["bn1.weight"] += 1
    import safetensors.numpy

    content = safetensors.numpy.save(changed)
    new = small.commit(SMALL, {"model.safetensors": content})
    small.commit(SMALL, {"model.safetensors": content}, branch="refs/pr/1")
    for name, commit in (
        (f"hf://{SMALL}", new),
        (f"hf://{SMALL}@{old}", old),
        (f"hf://{SMALL}@refs%2Fpr%2F1", new),
    ):
        weights = hub_module.fetch(name)
        assert weights.origin == f"hf://{SMALL}@{commit}/model.safetensors"
        assert (pathlib.Path(weights.path).read_bytes() == content) is (commit == new)


@pytest.mark.parametrize("why", ["offline", "no network", "a broken hub"])
def test_without_the_hub_the_cache_serves(why, small, closed_port, tmp_path, monkeypatch, caplog):
    first = hub_module.fetch(f"hf://{SMALL}")
    asked = len(small.requests)
    if why == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif why == "no network":
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    else:
        small.fails_with = 503
    hub_server.restart_client(monkeypatch)
    caplog.set_level("INFO", "absl")
    assert hub_module.fetch(f"hf://{SMALL}") == first
    assert f"hf://{SMALL} is taken from the cache: " in caplog.text
    if why != "a broken hub":
        assert len(small.requests) == asked
    refused("hf://timm/other", "cannot be fetched, because .* does not have it", tmp_path / "m")


# What goes wrong on the way.


def test_without_a_network_one_sentence_says_so(hub, closed_port, tmp_path, monkeypatch):
    hub_server.use(f"http://127.0.0.1:{closed_port}", tmp_path, monkeypatch)
    words = rf"127.0.0.1:{closed_port} cannot be reached \(.*refused.*check the network"
    error = refused(f"hf://{SMALL}", words, tmp_path / "m")
    assert isinstance(error, hub_module.NotFetchedError)


def test_a_broken_download_is_resumed(small):
    small.cuts = [2_500_000]  # it is resumed after whole chunks of 1 MiB
    weights = hub_module.fetch(f"hf://{SMALL}")
    assert pathlib.Path(weights.path).read_bytes() == hub_weights.weights("mnasnet_small")
    ranges = [wanted for _, path, wanted, _ in small.requests if path.startswith("/large/")]
    assert ranges == [None, f"bytes={2 << 20}-"]


def test_a_download_that_stays_broken_leaves_nothing(small, tmp_path):
    small.cuts = [300_000, "503"]
    refused(f"hf://{SMALL}", "answers with status 503: run the same command", tmp_path / "m")
    blobs = list((tmp_path / "hub").glob("hub/*/blobs/*"))
    assert max(path.stat().st_size for path in blobs) < 10_000  # config.json alone
    hub_module.fetch(f"hf://{SMALL}")


def test_weights_without_their_config_are_not_taken(small, tmp_path, monkeypatch):
    answer = hub_server._Handler._resolve

    def break_off(handler, name, revision, file, authorization):
        if file == "config.json":
            handler.close_connection = True  # without an answer
            return None
        return answer(handler, name, revision, file, authorization)

    monkeypatch.setattr(hub_server._Handler, "_resolve", break_off)
    refused(f"hf://{SMALL}", "cannot be fetched|did not arrive whole", tmp_path / "m")


def test_a_file_that_is_not_the_one_of_the_hub_is_refused(small, tmp_path):
    content = bytearray(hub_weights.weights("mnasnet_small"))
    content[-1] ^= 1
    small.replaced[hub_server.sha256(hub_weights.weights("mnasnet_small"))] = bytes(content)
    error = refused(f"hf://{SMALL}", "is damaged: its checksum is not the one", tmp_path / "m")
    small.replaced.clear()
    pathlib.Path(str(error).partition(" is damaged")[0]).unlink()  # as the sentence says
    hub_module.fetch(f"hf://{SMALL}")


def test_a_gated_repository_needs_a_token(small, tmp_path, monkeypatch):
    small.repositories[SMALL].is_gated = True
    words = rf"is gated: accept its conditions at {small.address}/{SMALL}.*HF_TOKEN"
    refused(f"hf://{SMALL}", words, tmp_path / "m")
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    refused(f"hf://{SMALL}", "answers with status 401: check HF_TOKEN", tmp_path / "m")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    hub_module.fetch(f"hf://{SMALL}")
    # Another host gets no token.
    assert {a for _, path, _, a in small.requests if path.startswith("/large/")} == {None}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf://timm/semnasnet_10", "is not at http://127.*check the name .*--list"),
        (f"hf://{SMALL}@v9", "has no revision 'v9'"),
        ("hf://timm", "does not name weights at a hub: write hf://OWNER/REPOSITORY"),
        ("hf://", "does not name weights at a hub"),
        ("hf://a/b@", "does not name weights at a hub"),
        ("hf://a/b c", "does not name weights at a hub"),
    ],
)
def test_wrong_names(name, words, small, tmp_path):
    refused(name, words, tmp_path / "m")


def test_another_family_is_refused_before_it_is_downloaded(hub, tmp_path):
    files = hub_weights.repository("mnasnet_small")
    files["config.json"] = hub_weights.config("resnet50", 1000)
    hub.commit("timm/resnet50.a1_in1k", files)
    refused("hf://timm/resnet50.a1_in1k", "of another family, 'resnet50': name", tmp_path / "m")
    assert not any(path.startswith("/large/") for path in hub.paths("GET"))


def test_a_config_of_other_weights_is_refused(hub, tmp_path):
    files = hub_weights.repository("mnasnet_small")
    hub.commit(SMALL, {**files, "config.json": hub_weights.config("mnasnet_small", 1000)})
    refused(f"hf://{SMALL}", "has 16 classes, and its config.json says 1000", tmp_path / "m")
    hub.commit(SMALL, {**files, "config.json": b"{"})
    refused(f"hf://{SMALL}", "config.json of .* is not JSON", tmp_path / "m")


def test_a_gigantic_file_is_not_downloaded(small, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_file, "LARGEST_FILE", 1000)
    refused(f"hf://{SMALL}", "bytes, more than weights of a network of this", tmp_path / "m")
    assert not small.paths("GET")


def test_code_in_a_bin_is_not_run_and_safetensors_come_first(hub, tmp_path):
    hostile = zip_file({"a": Call("os", "system", f"touch {tmp_path / 'executed'}")}, {})
    hub.commit("me/code", {"pytorch_model.bin": hostile})
    refused("hf://me/code", "cannot be used", tmp_path / "m")
    assert not (tmp_path / "executed").exists()
    hub.commit(SMALL, {**hub_weights.repository("mnasnet_small"), "pytorch_model.bin": hostile})
    hub_module.fetch(f"hf://{SMALL}")
    assert not any(SMALL in path and path.endswith(".bin") for path in hub.paths("HEAD"))


def test_a_server_that_is_no_hub_is_named(hub, tmp_path, monkeypatch):
    hub_server.use(f"{hub.address}/files", tmp_path, monkeypatch)
    path = f"{SMALL}/resolve/main/model.safetensors"
    hub.files[path] = b"<html>"
    refused(f"hf://{SMALL}", "is not a hub: check HF_ENDPOINT", tmp_path / "m")


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = "without the package huggingface_hub: run pip install 'huggingface_hub"
    assert isinstance(refused(f"hf://{SMALL}", words, tmp_path / "m"), hub_module.NotFetchedError)


def test_a_folder_with_a_model_is_left_alone_and_nothing_is_fetched(small, tmp_path):
    (tmp_path / "params.yaml").write_text("model_name: mine\n")
    with pytest.raises(UserError, match="holds a model already"):
        run_import(f"hf://{SMALL}", tmp_path)
    assert not small.requests
