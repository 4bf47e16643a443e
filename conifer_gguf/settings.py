"""The one place for environment variables, folders and units. May be imported from anywhere, imports nothing of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True)
class Variable:
    """One environment variable: `meaning` and `default` are what the reference page prints."""

    name: str
    meaning: str
    default: str

    def get(self) -> str | None:
        return os.environ.get(self.name) or None


HOME = Variable("CONIFER_GGUF_HOME", "folder for models, plugins and caches", "the platform's data folder")
RUNTIME = Variable("CONIFER_GGUF_RUNTIME", "runtime to use: auto, hybrid or llama.cpp", "auto")
REGISTER = Variable(
    "CONIFER_GGUF_REGISTER", "`bundled` registers the bundled plugins when `serve` starts", "nothing"
)
API_KEY = Variable("CONIFER_GGUF_API_KEY", "the key that `serve` asks for", "none")
HF_ENDPOINT = Variable("HF_ENDPOINT", "address of the Hugging Face Hub or a mirror", "https://huggingface.co")
HF_TOKEN = Variable("HF_TOKEN", "access token for gated or private Hub repositories", "none")

# Entry points of packages that bring architectures: a module with its catalog file beside it.
ARCHITECTURES = "conifer_gguf.architectures"

VARIABLES = (HOME, RUNTIME, REGISTER, API_KEY, HF_ENDPOINT, HF_TOKEN)


def home() -> Path:
    """The folder that holds everything we write; not created here."""
    return Path(HOME.get() or platformdirs.user_data_dir("conifer-gguf")).expanduser()


def models_dir() -> Path:
    return home() / "models"


def packaged_models_dir() -> Path:
    """The small models that come with the package."""
    return Path(__file__).parent / "models"


def plugins_dir() -> Path:
    return home() / "plugins"


def native_dir() -> Path:
    """Compiled libraries, headers, bundled plugins and the catalog, as the build installed them."""
    return Path(__file__).parent / "_native"


def catalog_dir() -> Path:
    """A checkout's own `catalog/` where the package runs from its source tree, else the installed copy."""
    checkout = Path(__file__).parent.parent
    return checkout / "catalog" if (checkout / "pyproject.toml").is_file() else native_dir() / "catalog"


def include_dir() -> Path:
    """Where `conifer_kernel.h` lies: a checkout's own `native/include/`, else the installed copy."""
    checkout = Path(__file__).parent.parent
    in_tree = (checkout / "pyproject.toml").is_file()
    return (checkout / "native" if in_tree else native_dir()) / "include"


def bundled_dir() -> Path:
    """The sources of the bundled plugins and the template: a checkout's own `plugins/`, else the installed copy."""
    checkout = Path(__file__).parent.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else native_dir()) / "plugins"


def format_bytes(n: int) -> str:
    """Decimal units, three significant digits: 98362432 -> '98.4 MB'."""
    size = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{n} B"
        size /= 1000
    return f"{size:.3g} TB"
