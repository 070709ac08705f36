"""MNIST's download from local HTTPS servers: which files are requested, and the message for each failure."""

import gzip
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import trustme

from netkit.core.errors import DataError
from netkit.data import mnist
from netkit.data.dataset import ArrayDataSet
from tests.support.commands import Netkit

FIRST = "train-images-idx3-ubyte.gz"  # the file that is downloaded first
NAMES = [FIRST, "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


class Mirror(ThreadingHTTPServer):
    """A local server that sends raw responses by file name and records the requested names."""

    def __init__(self, issuer: trustme.CA | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"{'https' if issuer else 'http'}://127.0.0.1:{self.server_port}/"
        self.responses: dict[str, bytes] = {}
        self.requested: list[str] = []
        if issuer:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            issuer.issue_cert("127.0.0.1").configure_cert(context)
            self.socket = context.wrap_socket(self.socket, server_side=True)


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.requested.append(name)
        self.wfile.write(self.server.responses.get(name, response(status="404 Not Found")))

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def response(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]).encode() + body


def with_length(body: bytes) -> bytes:
    return response(body, f"Content-Length: {len(body)}")


def redirect_to(url: str) -> bytes:
    return response(b"", f"Location: {url}", status="302 Found")


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mirror]]:
    """Two HTTPS servers with a trusted certificate, one with an untrusted one, and one plain HTTP server; no proxy."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("no_proxy", "*")
    mirrors = [Mirror(issuer) for issuer in (authority, authority, trustme.CA(), None)]
    for mirror in mirrors:
        threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield mirrors
    for mirror in mirrors:
        mirror.shutdown()
        mirror.server_close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of MNIST's files, which does not exist yet."""
    monkeypatch.setenv("NETKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data/mnist"


@pytest.fixture(scope="session")
def files(mnist_data: ArrayDataSet) -> dict[str, bytes]:
    """MNIST's four files, compressed, as on the mirrors."""
    data = {}
    for name in NAMES:
        packed = Path(mnist_data.source) / name
        data[name] = packed.read_bytes() if packed.exists() else gzip.compress(packed.with_suffix("").read_bytes(), 1)
    return data


@pytest.fixture
def closed_url() -> Iterator[str]:
    """A URL that refuses connections. Its port is bound, so that no other program can listen on it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"https://127.0.0.1:{bound.getsockname()[1]}/"


def test_a_second_load_makes_no_request(
    mirrors: list[Mirror], folder: Path, files: dict[str, bytes], mnist_data: ArrayDataSet
) -> None:
    mirrors[0].responses = {name: with_length(content) for name, content in files.items()}
    for _ in range(2):
        data = mnist.load(mirrors=[mirrors[0].url])
        assert (data.name, data.source, data.sha256) == ("mnist", str(folder), mnist_data.sha256)
        assert (data.train_images.shape, data.test_images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
        assert np.array_equal(data.test_images, mnist_data.test_images)
    assert mirrors[0].requested == NAMES
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_only_missing_files_are_downloaded_from_the_first_mirror_that_has_them_intact(
    mirrors: list[Mirror], folder: Path, files: dict[str, bytes]
) -> None:
    folder.mkdir(parents=True)
    (folder / FIRST).write_bytes(files[FIRST])
    (folder / NAMES[3]).with_suffix("").write_bytes(gzip.decompress(files[NAMES[3]]))
    labels, images = NAMES[1:3]
    mirrors[0].responses = {labels: with_length(files[NAMES[3]]), images: with_length(files[images])}
    mirrors[1].responses = {labels: with_length(files[labels])}
    assert len(mnist.load(mirrors=[mirrors[0].url, mirrors[1].url]).train_labels) == 60_000
    assert (mirrors[0].requested, mirrors[1].requested) == ([labels, images], [labels])
    assert (folder / labels).read_bytes() == files[labels]


def test_responses_without_length_and_redirects_to_https_are_accepted(
    mirrors: list[Mirror], folder: Path, files: dict[str, bytes]
) -> None:
    mirrors[0].responses = {name: response(content) for name, content in files.items()}
    mirrors[1].responses = {name: redirect_to(mirrors[0].url + name) for name in NAMES}
    assert len(mnist.load(mirrors=[mirrors[1].url]).test_labels) == 10_000
    assert mirrors[0].requested == mirrors[1].requested == NAMES


FAILURES = {
    "404": (response(status="404 Not Found"), "Not Found"),
    "another-file": (with_length(gzip.compress(b"")), "SHA-256 e3b0c44298fc1c149afbf4c8996fb92427ae41e464"),
    "html": (with_length(b"<html>please log in</html>"), "Not a gzipped file (b'<h')"),
    "truncated-gzip": (
        with_length(gzip.compress(b"digits")[:-9]),
        "Compressed file ended before the end-of-stream marker",
    ),
    "garbled-gzip": (with_length(gzip.compress(b"")[:10] + b"\xff" * 9), "Error -3 while decompressing data"),
    "bomb": (with_length(gzip.compress(bytes(2**27), 1)), "(unpacked), not ba891046e6505d7a"),
    "too-large": (response(bytes(16 * 2**20 + 1)), "more than 16,777,216 bytes"),
    "cut-body": (response(b"half", "Content-Length: 8"), "received 4 of 8 bytes"),
    "cut-chunk": (response(b"8\r\nhalf", "Transfer-Encoding: chunked"), "IncompleteRead("),
    "invalid-length": (response(b"x", "Content-Length: many"), "invalid literal for int() with base 10: 'many'"),
    "not-http": (b"220 smtp.example.org ready\r\n", "220 smtp.example.org ready"),
    "closed": (b"", "Remote end closed connection without response"),
    "to-invalid-url": (redirect_to("https://[nowhere"), "Invalid IPv6 URL"),
    "to-a-file": (redirect_to("file:///etc/hostname"), "'file:///etc/hostname' is not allowed"),
    "redirect-loop": (redirect_to(f"/{FIRST}"), "infinite loop"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_if_every_mirror_fails_the_message_names_each_cause_and_no_file_is_written(
    mirrors: list[Mirror], folder: Path, closed_url: str, failure: str
) -> None:
    mirrors[0].responses[FIRST], cause = FAILURES[failure]
    with pytest.raises(DataError) as caught:
        mnist.load(mirrors=[mirrors[0].url, closed_url])
    first, _, second = str(caught.value).partition("; ")
    assert first.startswith(f"cannot download {FIRST}: {mirrors[0].url}: ") and cause in first
    assert (
        second.startswith(f"{closed_url}: ") and "Connection refused; without a network, pass --data digits" in second
    )
    assert f"and the other files of MNIST into {folder} (set NETKIT_DATA" in second
    assert set(mirrors[0].requested) == {FIRST}
    assert not folder.exists()


def test_a_plain_http_server_gets_no_request(mirrors: list[Mirror], folder: Path) -> None:
    https, plain = mirrors[0], mirrors[3]
    https.responses[FIRST] = redirect_to(f"{plain.url}moved")
    with pytest.raises(DataError) as caught:
        mnist.load(mirrors=[plain.url, https.url])
    assert f"{plain.url}: refused: {plain.url}{FIRST} is not https" in str(caught.value)
    assert f"{https.url}: refused: {plain.url}moved is not https" in str(caught.value)
    assert (https.requested, plain.requested) == ([FIRST], [])


def test_a_server_with_an_untrusted_certificate_gets_no_request(mirrors: list[Mirror], folder: Path) -> None:
    with pytest.raises(DataError, match=f"{mirrors[2].url}: .*certificate verify failed"):
        mnist.load(mirrors=[mirrors[2].url])
    assert mirrors[2].requested == []


def test_a_server_that_does_not_respond_times_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(mnist, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DataError, match="timed out"):
        mnist.load(mirrors=[f"https://127.0.0.1:{silent.getsockname()[1]}/"])


def test_a_folder_that_cannot_be_created_is_an_os_error(
    mirrors: list[Mirror], folder: Path, files: dict[str, bytes]
) -> None:
    mirrors[0].responses = {name: with_length(content) for name, content in files.items()}
    folder.parent.mkdir()
    folder.write_text("a file, not a folder")
    with pytest.raises(OSError, match=re.escape(str(folder))):
        mnist.load(mirrors=[mirrors[0].url, mirrors[1].url])
    assert (mirrors[0].requested, mirrors[1].requested) == ([FIRST], [])


def test_a_file_in_place_of_the_data_folder_is_an_error_before_any_request(mirrors: list[Mirror], folder: Path) -> None:
    folder.parent.write_text("a file, not a folder")
    with pytest.raises(DataError, match=f"{folder.parent}: is not a folder; set NETKIT_DATA to the folder"):
        mnist.load(mirrors=[mirrors[0].url])
    assert mirrors[0].requested == []


def test_the_error_names_a_local_file_with_a_wrong_hash(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    labels = bytearray(gzip.decompress(files[NAMES[3]]))
    labels[-1] ^= 1
    (folder / NAMES[3]).write_bytes(gzip.compress(labels))
    message = rf"{folder / NAMES[3]}: SHA-256 [0-9a-f]{{64}} \(unpacked\), not {mnist.SHA256['test-labels']}; delete it"
    with pytest.raises(DataError, match=message):
        mnist.load(mirrors=[])


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {"NETKIT_DATA": "/data", "XDG_CACHE_HOME": "/cache"}, "/data"),
        ("linux", {"NETKIT_DATA": "", "XDG_CACHE_HOME": "/cache"}, "/cache/netkit"),
        ("linux", {"XDG_CACHE_HOME": ""}, "/home/ada/.cache/netkit"),
        ("darwin", {"XDG_CACHE_HOME": "/cache"}, "/home/ada/Library/Caches/netkit"),
    ],
)
def test_the_data_folder_comes_from_the_environment_or_the_platform(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], folder: str
) -> None:
    for name in ("NETKIT_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/ada", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert mnist.data_folder() == Path(folder)


def test_without_a_network_the_command_suggests_the_bundled_digits(
    netkit: Netkit, tmp_path: Path, closed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NETKIT_DATA", "XDG_CACHE_HOME", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    done = netkit("train", HOME=str(tmp_path), https_proxy=closed_url.replace("https", "http"))
    *logged, message = done.stderr.splitlines()
    assert [line.rpartition("/")[2] for line in logged] == [FIRST] * len(mnist.MIRRORS)
    assert message.startswith(f"netkit: cannot download {FIRST}: {mnist.MIRRORS[0]}: ")
    assert message.count("Connection refused") == len(mnist.MIRRORS) and "pass --data digits" in message
    assert (done.returncode, done.stdout) == (1, "")
    assert not (tmp_path / ".cache/netkit").exists() and not (tmp_path / "runs").exists()
