"""Tells what a request to a bucket is, counts requests, and says which to answer with a fault."""

import collections
import dataclasses
import re
import urllib.parse

# TensorFlow takes this from the environment while it loads: what fails, it asks for again at once,
# as often as ever.
AT_ONCE = {"GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "0"}
HANG_UP = 0  # the status of a request whose connection ends without an answer

_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_COPY = re.compile(r"/storage/v1/b/([^/]+)/o/(.+)/rewriteTo/b/[^/]+/o/(.+)")
_OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/(.+)")
_BUCKET = re.compile(r"/storage/v1/b/([^/]+)")


@dataclasses.dataclass
class Request:
    """A request and its answer.

    Attributes:
      kind: one of begin (an upload), upload, read, stat, list, copy, delete, bucket.
      path: 'BUCKET/OBJECT'; of a list the prefix; of a copy, which is one half of a renaming, the
        new name.
      seconds: since the start of the server.
      status: of the answer.
      received: bytes of the request's body.
      sent: bytes of the answer's body.
    """

    kind: str
    path: str
    seconds: float
    status: int = HANG_UP
    received: int = 0
    sent: int = 0

    def __str__(self):
        return (
            f"{self.seconds:7.2f} {self.kind:7} {self.status:3} {self.received:8} {self.sent:8} "
            f"{self.path}"
        )


@dataclasses.dataclass
class Fault:
    """How requests are answered instead of being handed on.

    Attributes:
      status: of the answer, or `HANG_UP`.
      kinds: of the requests that fail; all kinds if it is empty.
      every: of each kind one in so many fails.
    """

    status: int
    kinds: tuple = ()
    every: int = 1


def described(method, target):
    """Returns (kind, path) of a request."""
    url = urllib.parse.urlsplit(target)
    query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query).items()}

    def path(*parts):
        return "/".join(map(urllib.parse.unquote, parts))

    if url.path.startswith("/upload/"):
        bucket = url.path.split("/b/")[-1].split("/")[0]
        return "upload" if method == "PUT" else "begin", path(bucket, query.get("name", "?"))
    if match := _LIST.fullmatch(url.path):
        return "list", path(match[1], query.get("prefix", ""))
    if match := _COPY.fullmatch(url.path):
        return "copy", path(match[1], match[3])
    if match := _OBJECT.fullmatch(url.path):
        return "delete" if method == "DELETE" else "stat", path(match[1], match[2])
    if match := _BUCKET.fullmatch(url.path):
        return "bucket", path(match[1])
    return "read", path(url.path.lstrip("/"))


def counts(requests):
    """Returns the number of requests of each kind."""
    return collections.Counter(request.kind for request in requests)


def summary(requests):
    """Returns a line that counts requests by kind, and the bytes that went each way."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts(requests).most_common())
    received = sum(request.received for request in requests)
    sent = sum(request.sent for request in requests)
    return f"{len(requests)} requests ({kinds}); {received} bytes written, {sent} read"
