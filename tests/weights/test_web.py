"""Weights from a plain web server: addresses, checksums, the cache, TLS."""

import dataclasses
import pathlib
import shutil
import sys

import certificates
import hub_server
import hub_weights
import pytest
from imported_models import refused, restored_params, run_import

from utils.weights import hub as hub_module
from utils.weights import known_weights, weights_file

FILE = "mnasnet_small.safetensors"


@pytest.fixture
def web(hub):
    """A web server with a weights file; its address is `url`, its checksum `digest`."""
    pytest.importorskip("pooch")
    hub.files[FILE] = hub_weights.weights("mnasnet_small")
    hub.url = f"{hub.address}/files/{FILE}"
    hub.digest = hub_server.sha256(hub.files[FILE])
    return hub


def test_an_address_with_a_checksum(web, tmp_path):
    run_import(f"{web.url}#sha256={web.digest}", tmp_path / "m")
    assert restored_params(str(tmp_path / "m"))["model_name"] == "mnasnet_small"
    assert f"from {web.url}.\n" in (tmp_path / "m" / "params.yaml").read_text()
    hub_module.fetch(f"{web.url}#sha256={web.digest.upper()}")
    assert len(web.requests) == 1  # the cache has it


def test_a_file_with_another_checksum_is_refused_and_does_not_stay(web, tmp_path):
    web.files[FILE] = hub_weights.weights("mnasnet_small", 10)
    words = f"has another checksum than {web.digest}, namely [0-9a-f]{{64}}: .* has changed"
    refused(f"{web.url}#sha256={web.digest}", words, tmp_path / "m")
    web.files[FILE] = hub_weights.weights("mnasnet_small")
    hub_module.fetch(f"{web.url}#sha256={web.digest}")


def test_a_damaged_file_of_the_cache_is_fetched_anew(web):
    path = pathlib.Path(hub_module.fetch(f"{web.url}#sha256={web.digest}").path)
    path.write_bytes(b"damaged")
    assert hub_module.fetch(f"{web.url}#sha256={web.digest}").path == str(path)
    assert path.read_bytes() == web.files[FILE]


def test_half_a_file_is_refused_and_does_not_stay(web, tmp_path):
    web.cuts = [300_000]
    refused(f"{web.url}#sha256={web.digest}", "did not arrive whole", tmp_path / "m")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    hub_module.fetch(f"{web.url}#sha256={web.digest}")


def test_a_gigantic_file_is_not_downloaded(web, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_file, "LARGEST_FILE", 1000)
    words = "The file has 3.* bytes, more than weights"
    refused(f"{web.url}#sha256={web.digest}", words, tmp_path / "m")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_no_network(web, tmp_path):
    name = f"http://127.0.0.1:9/{FILE}#sha256={web.digest}"
    refused(name, r"the server cannot be reached \(.*refused\)", tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{url}", "may be changed on its way: write https:// or append #sha256= and all 64"),
        ("{url}#sha256=12345678", "may be changed on its way"),
        ("{url}#sha256=1234", "is invalid behind the #: write #sha256= and 8 to 64"),
        ("{url}#md5=12345678", "is invalid behind the #"),
        ("{url}.zip#sha256={digest}", "has none of the endings"),
        ("{url}-x.pth#sha256={digest}", "the server says '404 .*check the address"),
    ],
)
def test_wrong_addresses(name, words, web, tmp_path):
    name = name.format(url=web.url, digest=web.digest)
    refused(name, words, tmp_path / "m")


def test_a_missing_library_is_named(web, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    refused(f"{web.url}#sha256={web.digest}", "without the package pooch", tmp_path / "m")


def test_what_the_table_knows_of_an_address_comes_along(web, tmp_path, monkeypatch):
    """torchvision publishes no config.json; the table has what its code says."""
    (entry,) = (w for w in known_weights.WEIGHTS if w.name == "mnasnet0_75")
    source = f"{web.address}/files/0_75.safetensors"
    web.files["0_75.safetensors"] = hub_weights.weights("mnasnet_small")
    digest = hub_server.sha256(web.files["0_75.safetensors"])
    known = dataclasses.replace(entry, source=f"{source}#sha256={digest}")
    monkeypatch.setattr(known_weights, "WEIGHTS", (known,))
    assert hub_module.fetch(source).description == entry.description
    assert entry.description.settings["eval_crop_share"] == 224 / 232
    web.files["0_75.safetensors"] += b" "
    shutil.rmtree(tmp_path / "cache")
    refused(source, "has another checksum", tmp_path / "m")  # the table has it, too


def test_https_needs_no_checksum_but_a_certificate(web, tmp_path, monkeypatch):
    certificate = certificates.write(tmp_path, "127.0.0.1")
    with hub_server.serve(tls=certificate.context()) as secure:
        secure.files[FILE] = web.files[FILE]
        url = f"https://127.0.0.1:{secure.port}/files/{FILE}"
        refused(url, "cannot be reached .*certificate", tmp_path / "m")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.authority))
        assert pathlib.Path(hub_module.fetch(url).path).read_bytes() == web.files[FILE]
        hub_module.fetch(f"{url}#sha256={web.digest[:10]}")
        refused(f"{url}#sha256={'0' * 8}", "has another checksum", tmp_path / "m")
