"""Downloads, against a local server that speaks the hub's endpoints and plain HTTP with ranges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from local_hub import REVISION, Hub

from conifer_gguf.errors import BadModelFile, ChecksumMismatch, DownloadFailed, NoDiskSpace
from conifer_gguf.store import catalog, download, library

from .conftest import TINY

DATA = TINY.read_bytes()
SHA256 = hashlib.sha256(DATA).hexdigest()
REPO, FILE = "forest/Pine-1B-GGUF", "Pine-1B-Q8_0.gguf"

FAMILY = """
family = "pine"
class = "dense"
architecture = "lfm2"
licence = "MIT"
context = 4096
[[model]]
name = "pine-1b"
profile = "a tree"
parameters = 290000
shape = {{ layers = 3, attention = 1, kv_heads = 2, key_length = 8, value_length = 4, n_embd = 16, n_vocab = 32 }}
source = [{{ quant = "Q8_0", repo = "{repo}", file = "{file}"{more} }}]
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(REPO, FILE, DATA).running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield running


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the catalog one family with one hub source."""

    def write(more: str = "") -> None:
        folder = tmp_path / "catalog"
        folder.mkdir(exist_ok=True)
        (folder / "pine.toml").write_text(FAMILY.format(repo=REPO, file=FILE, more=more))
        found = catalog.read_catalog(folder)
        monkeypatch.setattr(download, "catalog", lambda: found)
        monkeypatch.setattr(library, "catalog", lambda: found)

    write()
    return write


class Notices(download.Progress):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def notice(self, text: str) -> None:
        self.seen.append(text)


def test_a_hub_model_is_installed_with_the_hubs_own_checksum(hub: Hub, family: object, home: Path) -> None:
    model = download.pull("pine-1b")
    assert model.path.read_bytes() == DATA
    assert model.sha256 == SHA256
    assert library.by_name("pine-1b:Q8_0") == model
    assert not (home / "downloads" / "pine-1b-Q8_0").exists()


def test_pulling_twice_downloads_once(hub: Hub, family: object) -> None:
    download.pull("pine-1b")
    n = len(hub.ranges)
    download.pull("pine-1b")
    assert len(hub.ranges) == n


def test_wrong_bytes_are_kept_but_not_installed(hub: Hub, family: object) -> None:
    hub.sha256 = "0" * 64
    with pytest.raises(ChecksumMismatch) as caught:
        download.pull("pine-1b")
    assert (caught.value.actual, caught.value.expected) == (SHA256, "0" * 64)
    assert Path(caught.value.partial).read_bytes() == DATA
    assert library.pulled() == []


def test_a_catalog_hash_binds_with_a_revision_and_warns_without(
    hub: Hub, family: Callable[..., None]
) -> None:
    family(f', sha256 = "{"1" * 64}"')
    notices = Notices()
    assert download.pull("pine-1b", progress=notices).sha256 == SHA256
    assert "is not the catalog's" in notices.seen[0]
    library.remove("pine-1b")
    family(f', sha256 = "{"1" * 64}", revision = "{REVISION}"')
    with pytest.raises(ChecksumMismatch):
        download.pull("pine-1b")


def test_a_gated_repository_says_how_to_get_in(
    hub: Hub, family: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "secret"
    with pytest.raises(DownloadFailed) as caught:
        download.pull("pine-1b")
    assert "HF_TOKEN" in str(caught.value.hint)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert download.pull("pine-1b").sha256 == SHA256


def test_a_file_that_the_uploader_renamed_is_named(hub: Hub, family: Callable[..., None]) -> None:
    family()
    entry = download.catalog().entries[0]
    gone = entry.sources[0].model_copy(update={"file": "Gone.gguf"})
    with pytest.raises(DownloadFailed, match=r"has no file `Gone\.gguf`"):
        download._pull_hub("pine-1b", gone, download.SILENT, False)


def test_an_unreachable_hub_is_a_clear_error(family: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1:9"):
        download.pull("pine-1b")


def test_a_broken_download_resumes_where_it_stopped(hub: Hub) -> None:
    hub.cut_after = 400_000
    with pytest.raises(DownloadFailed):
        download.pull(f"{hub.url}/{FILE}")
    model = download.pull(f"{hub.url}/{FILE}")
    assert hub.ranges == [None, "bytes=400000-"]
    assert model.path.read_bytes() == DATA


def test_a_broken_hub_download_is_finished_without_starting_over(hub: Hub, family: object) -> None:
    hub.data = DATA + bytes(
        24 << 20
    )  # the hub's library writes 10 MiB at a time; what follows the tensors is ignored
    hub.sha256 = hashlib.sha256(hub.data).hexdigest()
    hub.cut_after = 15 << 20
    assert download.pull("pine-1b").size == len(hub.data)
    assert hub.ranges == [None, f"bytes={10 << 20}-"]


def test_a_disk_that_is_too_small_is_found_before_the_download(
    hub: Hub, family: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "DISK_RESERVE", 1 << 60)
    with pytest.raises(NoDiskSpace) as caught:
        download.pull("pine-1b")
    assert caught.value.needed == len(DATA)
    assert hub.ranges == []


def test_a_web_page_is_not_installed_as_a_model(hub: Hub) -> None:
    hub.data = b"<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(BadModelFile, match="HTML page"):
        download.pull(f"{hub.url}/{FILE}")
    assert library.pulled() == []


@pytest.mark.real_model
def test_a_model_in_a_package_of_the_index_is_taken_out_and_checked(
    cli: Callable[..., CompletedProcess[str]], real_models: Path
) -> None:
    environment = {"CONIFER_GGUF_HOME": str(real_models)}
    rows = {row["name"]: row for row in json.loads(cli("list", "--json", env=environment).stdout)}
    smollm, gemma = rows["smollm2-135m-instruct:Q4_1"], rows["gemma-3-270m:Q4_K_M"]
    assert (smollm["size"], smollm["sha256"][:8]) == (98_362_432, "b179c952")
    assert (gemma["size"], gemma["sha256"][:8]) == (253_113_024, "a5fd3b62")
