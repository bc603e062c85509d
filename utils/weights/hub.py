"""Fetches weights by name: from a Hugging Face hub (hf://) or from a web server (https://).

The libraries that fetch them also cache them, so a second fetch needs no download. Whatever
arrives is checked against the checksum that its server or its name gives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib
import json
import logging as python_logging
import os
import posixpath
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from absl import logging

from utils.base import disk_errors, files, progress
from utils.base.errors import UserError, excerpt, quoted
from utils.weights import description, known_weights, weights_file

_FILES = ("model.safetensors", "pytorch_model.bin")  # those of timm, the safer one first
_CONFIG = "config.json"
_HUB_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?", re.ASCII | re.IGNORECASE)
_CHECKSUM = re.compile(r"sha256=([0-9a-f]{8,64})", re.IGNORECASE)
_SHA256_DIGITS = 64
_GIT_DIGITS = 40
_LOOK_UP_S = 10.0
_READ_S = 30.0
_AGAIN = "run the same command again"


class NotFetchedError(UserError):
    """Says why weights cannot be fetched."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Describes a file with weights on this machine.

    Attributes:
      path: of the file; one that was fetched belongs to a cache: read it only.
      name: what messages call it.
      origin: where it comes from, with the revision.
      description: what is published next to the weights.
    """

    path: str
    name: str
    origin: str
    description: description.Description


def fetch(name: str) -> Weights:
    """Downloads weights, or finds them in the cache.

    Args:
      name: 'hf://OWNER/REPOSITORY', perhaps with '@REVISION' and '/FILE', or 'https://...', perhaps
        with '#sha256=' and the beginning of the checksum.

    Raises:
      NotFetchedError: the server cannot be reached or does not have them, or a library is missing.
      UserError: the name is invalid, or they are of another family or damaged.
    """
    weights = _from_hub(name) if name.lower().startswith("hf://") else _from_web(name)
    logging.info("%s is here: %s.", weights.origin, weights.path)
    return weights


def _library(module: str, package: str, name: str) -> Any:
    """Imports a package of the extra `hub`, which most uses of this program do not need."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise NotFetchedError(
            f"{name} cannot be fetched without the package {package}: run pip install "
            "'huggingface_hub>=2.0,<3' 'pooch>=1.9', or make setup."
        ) from e


# Hugging Face hubs.


@dataclasses.dataclass(frozen=True)
class _Place:
    """Holds the parts of a hf:// name; `name` is the whole, without revision and file."""

    name: str
    repository: str
    revision: str
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Found:
    """Tells where a file is in a repository; the checksum is None if the cache has the file."""

    file: str
    commit: str
    checksum: str | None

    @property
    def is_cached(self) -> bool:
        return self.checksum is None


def _parse(name: str) -> _Place:
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"{quoted(name)} does not name weights at a hub: write hf://OWNER/REPOSITORY, perhaps "
            "with @REVISION or /FILE behind it."
        )
    repository, revision, file = match.groups()
    if file:
        weights_file.check_ending(file)
    return _Place(
        f"hf://{repository}",
        repository,
        urllib.parse.unquote(revision) if revision else "main",
        (file,) if file else _FILES,
    )


def _from_hub(name: str) -> Weights:
    place = _parse(name)
    hub = _client(name)
    with _explaining(hub, place):
        found = _locate(hub, place)
        described = _describe(hub, place, found)
        path = hub.hf_hub_download(
            place.repository, found.file, revision=found.commit,
            local_files_only=found.is_cached, tqdm_class=progress.DownloadBar,
        )  # fmt: skip
    _check_blob(path, found.checksum, place.name)
    origin = f"{place.name}@{found.commit}/{found.file}"
    return Weights(path, place.name, origin, described)


def _client(name: str) -> Any:
    """Returns the package of the hub's client; its warnings are about what this module reports."""
    hub = _library("huggingface_hub", "huggingface_hub", name)
    for module in ("constants", "errors", "file_download"):  # the package itself loads them late
        importlib.import_module(f"huggingface_hub.{module}")
    # Progress and resuming go by these chunks; ten megabytes would be most of a file.
    hub.constants.DOWNLOAD_CHUNK_SIZE = 1 << 20
    for logger in ("huggingface_hub", "httpx2"):
        python_logging.getLogger(logger).setLevel(python_logging.ERROR)
    return hub


def _locate(hub, place: _Place) -> _Found:
    """Asks the hub for the newest commit; if the hub cannot be reached, asks the cache."""
    import httpx2  # it comes with the client, whose errors of connections it raises

    for file in place.files:
        url = hub.hf_hub_url(place.repository, file, revision=place.revision)
        try:
            metadata = hub.get_hf_file_metadata(url, timeout=_LOOK_UP_S)
        except hub.errors.EntryNotFoundError:
            continue
        except (httpx2.TransportError, hub.errors.OfflineModeIsEnabled) as e:
            return _locate_in_cache(hub, place, e)
        except hub.errors.HfHubHTTPError as e:
            if e.response.status_code < 500:
                raise
            return _locate_in_cache(hub, place, e)
        if metadata.commit_hash is None:
            raise NotFetchedError(
                f"{hub.constants.ENDPOINT} is not a hub: check HF_ENDPOINT and the proxy."
            )
        _check_size(metadata.size or 0, f"{place.name}/{file}")
        return _Found(file, metadata.commit_hash, metadata.etag or "")
    raise NotFetchedError(
        f"{place.name} has no {' and no '.join(place.files)}: name a weights file that it has, as "
        f"{place.name}/FILE."
    )


def _locate_in_cache(hub, place: _Place, error: Exception) -> _Found:
    for file in place.files:
        with contextlib.suppress(hub.errors.LocalEntryNotFoundError):
            path = hub.hf_hub_download(
                place.repository, file, revision=place.revision, local_files_only=True
            )
            logging.info(
                "%s is taken from the cache: %s.", place.name, _why_unreachable(hub, error)
            )
            folders = path.removesuffix(file).rstrip("/")  # .../snapshots/COMMIT
            return _Found(file, os.path.basename(folders), None)
    raise NotFetchedError(
        f"{place.name} cannot be fetched, because {_why_unreachable(hub, error)}, and the cache "
        f"{hub.constants.HF_HUB_CACHE} does not have it: check the network, or fetch the file "
        "elsewhere and name its path."
    )


def _describe(hub, place: _Place, found: _Found) -> description.Description:
    """Returns what the repository's config.json says of the weights."""
    try:
        # By this call the cache learns, too, which commit a branch or tag stands for.
        path = hub.hf_hub_download(
            place.repository, _CONFIG, revision=place.revision,
            local_files_only=found.is_cached, tqdm_class=progress.DownloadBar,
        )  # fmt: skip
    except hub.errors.EntryNotFoundError as e:
        if isinstance(e, hub.errors.LocalEntryNotFoundError) and not found.is_cached:
            raise  # the connection broke; without its config.json, weights mean something else
        return description.Description()
    try:
        content = json.loads(files.read_text(path))
    except (ValueError, RecursionError) as e:
        raise UserError(
            f"The config.json of {place.name} is not JSON ({files.reason(e)}): remove {path} and "
            f"{_AGAIN}."
        ) from e
    return description.of_timm_config(content, place.name)


@contextlib.contextmanager
def _explaining(hub, place: _Place) -> Iterator[None]:
    """Makes one sentence of each error of the hub's client."""
    import httpx2

    page = f"{hub.constants.ENDPOINT}/{place.repository}"
    try:
        yield
    except hub.errors.GatedRepoError as e:
        sentence = (
            f"{place.name} is gated: accept its conditions at {page} with your account, and set "
            "HF_TOKEN to a token of that account"
        )
        raise NotFetchedError(f"{sentence}.") from e
    except hub.errors.RepositoryNotFoundError as e:
        raise NotFetchedError(
            f"{place.name} is not at {hub.constants.ENDPOINT}, or it is private: check the name "
            "(python -m utils.pretrained --list shows known ones), or set HF_TOKEN to a token that "
            "may read it."
        ) from e
    except hub.errors.RevisionNotFoundError as e:
        raise NotFetchedError(
            f"{place.name} has no revision {quoted(place.revision)}: see {page}/commits/main."
        ) from e
    except (httpx2.TransportError, hub.errors.HfHubHTTPError, hub.errors.XetDownloadError) as e:
        status = getattr(getattr(e, "response", None), "status_code", None)
        remedy = "check HF_TOKEN" if status in (401, 403) else f"{_AGAIN} later"
        raise NotFetchedError(
            f"{place.name} cannot be fetched, because {_why_unreachable(hub, e)}: {remedy}."
        ) from e
    except OSError as e:
        if disk_errors.find(e):
            raise
        if e.errno in (errno.ENOLCK, errno.EOPNOTSUPP):  # the client can do without for ENOSYS
            raise UserError(
                f"{hub.constants.HF_HUB_CACHE}, the cache of the hub's client, is on a disk "
                "without locks: name a folder of another disk in the variable HF_HOME."
            ) from e
        raise NotFetchedError(
            f"{place.name} did not arrive whole ({files.reason(e)}): {_AGAIN}."
        ) from e


def _why_unreachable(hub, error: Exception) -> str:
    if isinstance(error, hub.errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    response = getattr(error, "response", None)
    if response is not None:
        return f"{hub.constants.ENDPOINT} answers with status {response.status_code}"
    return f"{hub.constants.ENDPOINT} cannot be reached ({files.reason(error)})"


def _check_blob(path: str, checksum: str | None, name: str) -> None:
    """Compares a file of the hub's cache with the checksum that the hub or, offline, its name has.

    A large file has a SHA-256, a small one the checksum that git gives it. The client itself
    compares sizes alone.
    """
    if checksum is None and os.path.islink(path):
        checksum = os.path.basename(os.readlink(path))
    checksum = checksum or ""
    with open(path, "rb") as f:
        content = f.read()
    if len(checksum) == _SHA256_DIGITS:
        found = hashlib.sha256(content).hexdigest()
    elif len(checksum) == _GIT_DIGITS:
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        return
    if found != checksum:
        raise UserError(
            f"{os.path.realpath(path)} is damaged: its checksum is not the one that {name} has at "
            f"the hub: remove it and {_AGAIN}."
        )


class _LimitedBar(progress.DownloadBar):
    """Ends a download that is too large; the server tells the size at its beginning."""

    def update(self, n: float | None = 1) -> None:
        _check_size(int(self.total or 0), "The file")
        super().update(n)


def _check_size(size: int, what: str) -> None:
    if size > weights_file.LARGEST_FILE:
        raise UserError(
            f"{what} has {size} bytes, more than weights of a network of this family ever take "
            f"({weights_file.LARGEST_FILE}): name other weights."
        )


# Web servers.


def _from_web(name: str) -> Weights:
    url, _, fragment = name.partition("#")
    known = known_weights.find(name)
    checksum = _checksum(known.source if known and not fragment else name)
    weights_file.check_ending(posixpath.basename(urllib.parse.urlsplit(url).path))
    if url.lower().startswith("http://") and len(checksum) < _SHA256_DIGITS:
        raise UserError(
            f"{name} may be changed on its way: write https:// or append #sha256= and all 64 "
            "digits of the checksum."
        )
    path = _download(url, name)
    if not _fits(path, checksum):
        os.remove(path)  # a file of the cache that is damaged, or older than the one at the server
        path = _download(url, name)
    if not _fits(path, checksum):
        found = _sha256(path)
        os.remove(path)
        raise UserError(
            f"{url} has another checksum than {checksum}, namely {found}: the file there has "
            "changed or is damaged, so nothing is imported."
        )
    described = known.description if known else None
    return Weights(path, url, url, described or description.Description())


def _checksum(name: str) -> str:
    """Returns the checksum behind a URL, in whole or its beginning; '' if there is none."""
    fragment = name.partition("#")[2]
    if not fragment:
        return ""
    match = _CHECKSUM.fullmatch(fragment)
    if match is None:
        raise UserError(
            f"{quoted(name)} is invalid behind the #: write #sha256= and 8 to 64 hexadecimal "
            "digits, the checksum or its beginning."
        )
    return match[1].lower()


def _fits(path: str, checksum: str) -> bool:
    return not checksum or _sha256(path).startswith(checksum)


def _sha256(path: str) -> str:
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def _download(url: str, name: str) -> str:
    """Returns the path of a URL's file in the cache, which it enters only when it is complete."""
    pooch = _library("pooch", "pooch", name)
    import requests  # pooch downloads with it

    pooch.get_logger().setLevel(python_logging.ERROR)
    bar = _LimitedBar()
    # A compressed answer would not tell the size of the file.
    headers = {"Accept-Encoding": "identity"}
    try:
        return pooch.retrieve(
            url, known_hash=None, path=pooch.os_cache("mnasnet-tpu"),
            downloader=pooch.HTTPDownloader(
                progressbar=bar, chunk_size=1 << 16, headers=headers, timeout=_READ_S
            ),
        )  # fmt: skip
    except requests.exceptions.HTTPError as e:
        raise NotFetchedError(
            f"{url} cannot be fetched: the server says {quoted(str(e))}; check the address."
        ) from e
    except requests.exceptions.ChunkedEncodingError as e:
        raise NotFetchedError(f"{url} did not arrive whole: {_AGAIN}.") from e
    except requests.exceptions.RequestException as e:
        raise NotFetchedError(
            f"{url} cannot be fetched: the server cannot be reached ({_innermost(e)}); check "
            "address and network, or fetch the file elsewhere and name its path."
        ) from e
    finally:
        bar.close()


def _innermost(error: BaseException) -> str:
    """Returns the words of the system behind an error that names the objects of two libraries."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return excerpt(str(error) or type(error).__name__)
