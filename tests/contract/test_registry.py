"""The registry: what may be registered, what is refused with which words, and what others see of it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conifer_gguf import settings
from conifer_gguf.errors import PluginRefused, UnknownPlugin
from conifer_gguf.native_api import known, registry, state, trial
from conifer_gguf.native_api.kernels import load_library

from .conftest import Compile, MakeFolder

OP = "conifer.ssd_scan/1"


def replace_file(path: Path, data: bytes) -> None:
    """A new file under the old name: the bytes under a library that this process has loaded must stay."""
    path.unlink()
    path.write_bytes(data)


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of names, pins and order: the library is loaded here, and not put through the kit."""

    def load(_found: object, library: Path, _folders: object) -> dict[str, int]:
        return {kernel.op: kernel.preference for kernel in load_library(library).kernels}

    monkeypatch.setattr(trial, "run", load)


def test_a_registered_plugin_supplies_its_op_until_it_is_unregistered(plugin_folder: MakeFolder) -> None:
    assert registry.missing([OP, "conifer.gated_delta/1"]) == (OP, "conifer.gated_delta/1")
    (made,) = registry.register(plugin_folder())
    assert (made.name, made.id, made.ops) == ("my_scan", "org.example.plain-ssd-scan", (OP,))
    assert registry.missing([OP, "conifer.gated_delta/1"]) == ("conifer.gated_delta/1",)
    assert registry.kernel_for(OP).plugin == "org.example.plain-ssd-scan"
    registry.unregister("my_scan")
    assert registry.missing([OP]) == (OP,)
    assert registry.registered() == ()
    assert not made.library.exists(), "the private copy of an unregistered plugin stays behind"


@pytest.mark.usefixtures("no_trial")
def test_what_runs_is_a_private_copy(plugin_folder: MakeFolder) -> None:
    folder = plugin_folder()
    (made,) = registry.register(folder)
    assert made.library.is_relative_to(settings.plugins_dir())
    shutil.rmtree(folder)
    assert registry.missing([OP]) == ()
    assert registry.kernel_for(OP).op == OP


def test_several_are_registered_all_or_none(plugin_folder: MakeFolder) -> None:
    good = plugin_folder()
    bad = plugin_folder("broken/crashes", "bad_scan")
    with pytest.raises(PluginRefused, match="bad_scan"):
        registry.register(good, bad)
    assert registry.registered() == ()
    assert list((settings.plugins_dir() / "store").iterdir()) == []


def test_a_failed_registration_leaves_the_earlier_one(plugin_folder: MakeFolder) -> None:
    folder = plugin_folder()
    (before,) = registry.register(folder)
    plugin_folder("broken/accepts_anything")
    with pytest.raises(PluginRefused, match="wrong calls are refused"):
        registry.register(folder)
    assert registry.registered() == (before,)
    assert before.library.exists()


@pytest.mark.usefixtures("no_trial")
def test_a_library_that_changed_is_refused_until_it_is_registered_again(plugin_folder: MakeFolder) -> None:
    folder = plugin_folder()
    registry.register(folder)
    library = folder / "my_scan.so"
    replace_file(library, library.read_bytes() + b"\0")
    assert registry.missing([OP]) == (OP,)
    (line,) = registry.tried(OP)
    assert "changed since it was registered (sha256" in line
    registry.register(folder)
    assert registry.missing([OP]) == ()


@pytest.mark.usefixtures("no_trial")
def test_a_private_copy_that_was_tampered_with_is_not_loaded(plugin_folder: MakeFolder) -> None:
    (made,) = registry.register(plugin_folder(version="1.0.0"))
    made.library.chmod(0o600)
    replace_file(made.library, made.library.read_bytes() + b"\0")
    with pytest.raises(PluginRefused, match=r"changed since it was registered \(sha256"):
        registry.kernel_for(OP)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ops": ["conifer.unheard_of/1"]}, "unknown op `conifer.unheard_of/1`: this host knows"),
        ({"ops": ["org.example.other/1"]}, "the plugin's folder has no op.toml for it"),
        ({"ops": []}, "`ops`"),
        ({"ops": ["no revision"]}, "`ops.0`"),
        ({"abi": 2}, "abi = 2, this host speaks 1"),
        ({"abi": "1"}, "`abi`"),
        ({"id": None}, "`id`: Field required"),
        ({"id": "no-domain"}, "`id`"),
        ({"licence": ""}, "`licence`"),
        ({"colour": "red"}, "`colour`: Extra inputs are not permitted"),
        ({"library": "../my_scan.so"}, "library = '../my_scan.so' leads outside the plugin's folder"),
        ({"library": "/lib/x86_64-linux-gnu/libm.so.6"}, "leads outside the plugin's folder"),
        ({"source": "../../secret.c"}, "source = '../../secret.c' leads outside the plugin's folder"),
        ({"library": "missing.so"}, "missing.so does not exist"),
        ({"version": "2.0.0"}, "plugin.toml says version = '2.0.0', the library says '1.0.0'"),
        ({"id": "org.example.other"}, "plugin.toml says id = 'org.example.other'"),
        ({"ops": [OP, "conifer.gated_delta/1"]}, "plugin.toml says ops"),
    ],
    ids=str,
)
def test_a_manifest_that_lies_is_refused(
    plugin_folder: MakeFolder, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(PluginRefused) as caught:
        registry.register(plugin_folder(**changes))
    assert words in caught.value.fact
    assert "my_scan" in caught.value.fact
    assert registry.registered() == ()


def test_a_link_that_leads_out_of_the_folder_is_refused(plugin_folder: MakeFolder, tmp_path: Path) -> None:
    folder = plugin_folder()
    (folder / "my_scan.so").rename(tmp_path / "elsewhere.so")
    (folder / "my_scan.so").symlink_to(tmp_path / "elsewhere.so")
    with pytest.raises(PluginRefused, match="leads outside the plugin's folder"):
        registry.register(folder)


@pytest.mark.parametrize(
    ("text", "words"), [("id = ", "is not TOML"), ("\0", "is not TOML"), ("x" * 70_000, "is larger than")]
)
def test_a_manifest_that_is_no_toml_is_refused(plugin_folder: MakeFolder, text: str, words: str) -> None:
    folder = plugin_folder()
    (folder / "plugin.toml").write_text(text, "utf-8")
    with pytest.raises(PluginRefused, match=words):
        registry.register(folder)


@pytest.mark.parametrize("file", ["my_scan.so", "plugin.toml"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(plugin_folder: MakeFolder, file: str) -> None:
    folder = plugin_folder()
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(PluginRefused, match="is not a regular file"):
        registry.register(folder)


def test_a_home_that_cannot_be_written_is_named(
    plugin_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder", "utf-8")
    monkeypatch.setenv("CONIFER_GGUF_HOME", str(tmp_path / "file"))
    with pytest.raises(PluginRefused, match="cannot be written") as caught:
        registry.register(plugin_folder())
    assert "CONIFER_GGUF_HOME" in str(caught.value.hint)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginRefused, match=r"a plugin is a folder with plugin\.toml"):
        registry.register(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a shared library"),
        (b"#!/bin/sh\nexit 0\n# padding to have twenty bytes", "not a shared library"),
        (b"\x7fELF\x02\x01\x01" + bytes(11) + (183).to_bytes(2, "little") + bytes(44), "built for aarch64"),
        (b"\x7fELF\x02\x01\x01" + bytes(11) + (3).to_bytes(2, "little") + bytes(44), "built for i386"),
        (
            b"\x7fELF\x02\x01\x01" + bytes(11) + (62).to_bytes(2, "little") + bytes(44),
            "the dynamic linker says",
        ),
    ],
    ids=["empty", "script", "aarch64", "i386", "damaged"],
)
def test_what_is_no_library_for_this_machine_is_refused(
    plugin_folder: MakeFolder, data: bytes, words: str
) -> None:
    folder = plugin_folder()
    (folder / "my_scan.so").write_bytes(data)
    with pytest.raises(PluginRefused) as caught:
        registry.register(folder)
    assert words in caught.value.fact


@pytest.mark.usefixtures("no_trial")
def test_a_word_is_a_name_and_never_a_path(
    plugin_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plugin_folder()
    monkeypatch.chdir(folder.parent)
    for word in ("my_scan", "my_scan.so"):
        with pytest.raises(UnknownPlugin, match=word):
            registry.register(word)
    (made,) = registry.register(f".{os.sep}my_scan")
    assert made.origin == folder / "my_scan.so"


@pytest.mark.usefixtures("no_trial")
def test_a_library_is_registered_with_the_manifest_beside_it(plugin_folder: MakeFolder) -> None:
    (made,) = registry.register(plugin_folder() / "my_scan.so")
    assert made.name == "my_scan"


@pytest.mark.usefixtures("no_trial")
def test_a_name_belongs_to_one_plugin(plugin_folder: MakeFolder, compiled: Compile) -> None:
    folder = plugin_folder()
    registry.register(folder)
    (folder / "plugin.toml").write_text(
        (folder / "plugin.toml").read_text("utf-8").replace("plain-ssd-scan", "another"), "utf-8"
    )
    with pytest.raises(PluginRefused, match=r"the name is taken by org\.example\.plain-ssd-scan"):
        registry.register(folder)


@pytest.mark.usefixtures("no_trial")
def test_of_two_plugins_the_users_order_decides(plugin_folder: MakeFolder) -> None:
    registry.register(
        plugin_folder(), plugin_folder("kernels/eager_ssd_scan", "eager", id="org.example.eager")
    )
    assert [k.plugin for k in registry.kernels_for(OP)] == ["org.example.eager", "org.example.plain-ssd-scan"]
    registry.prefer("my_scan")
    assert [k.plugin for k in registry.kernels_for(OP)] == ["org.example.plain-ssd-scan", "org.example.eager"]


def _as_bundled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder the only bundled plugin."""
    native = folder.parent / "native"
    shutil.copytree(folder, native / "plugins" / folder.name)
    monkeypatch.setattr(known, "native_dir", lambda: native)


@pytest.mark.usefixtures("no_trial")
def test_a_bundled_plugin_is_known_by_name_and_not_registered_by_itself(
    plugin_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _as_bundled(plugin_folder(), monkeypatch)
    assert [(c.name, c.source) for c in registry.known()] == [("my_scan", "bundled")]
    assert registry.missing([OP]) == (OP,)
    (made,) = registry.register("my_scan")
    assert made.source == "bundled"
    assert registry.missing([OP]) == ()


@pytest.mark.usefixtures("no_trial")
def test_an_upgrade_never_gates_again(plugin_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plugin_folder()
    _as_bundled(folder, monkeypatch)
    (before,) = registry.register("my_scan")
    upgraded = folder.parent / "native" / "plugins" / "my_scan" / "my_scan.so"
    replace_file(upgraded, upgraded.read_bytes() + b"\0")
    monkeypatch.setattr(state, "package_version", lambda: "99.0.0")
    assert registry.missing([OP]) == ()
    assert registry.kernel_for(OP).op == OP
    (after,) = registry.registered()
    assert after.package_version == "99.0.0"
    assert after.sha256 != before.sha256


def test_an_upgrade_that_breaks_a_bundled_plugin_is_refused_with_its_case(
    plugin_folder: MakeFolder, compiled: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plugin_folder()
    _as_bundled(folder, monkeypatch)
    registry.register("my_scan")
    upgraded = folder.parent / "native" / "plugins" / "my_scan" / "my_scan.so"
    replace_file(upgraded, compiled("broken/leaves_padding").read_bytes())
    monkeypatch.setattr(state, "package_version", lambda: "99.0.0")
    with pytest.raises(PluginRefused, match="padding rows"):
        registry.kernel_for(OP)


@pytest.mark.usefixtures("no_trial")
def test_another_processor_means_another_trial_of_the_same_bytes(
    plugin_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plugin_folder()
    (before,) = registry.register(folder)
    shutil.rmtree(folder)
    monkeypatch.setattr(state, "cpu_features", lambda: "another processor")
    assert registry.kernel_for(OP).op == OP
    (after,) = registry.registered()
    assert after == dataclasses.replace(before, cpu="another processor")


def _install(site: Path, name: str, folder: Path) -> None:
    """What pip leaves behind: a package with the plugin's files, and metadata with an entry point."""
    shutil.copytree(folder, site / name)
    (site / name / "__init__.py").write_text("raise RuntimeError('imported')\n", "utf-8")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[conifer_gguf.plugins]\nmy_scan = {name}\n", "utf-8")


@pytest.mark.usefixtures("no_trial")
def test_an_installed_package_is_known_without_being_imported(
    plugin_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    _install(site, "my_package", plugin_folder(library="my_scan.so"))
    monkeypatch.syspath_prepend(str(site))
    assert ("my_scan", "installed") in [(c.name, c.source) for c in registry.known()]
    assert registry.missing([OP]) == (OP,)
    (made,) = registry.register("my_scan")
    assert made.origin == site / "my_package" / "my_scan.so"


def test_what_lies_in_the_working_directory_announces_nothing(
    plugin_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "downloads"
    _install(here, "my_package", plugin_folder(library="my_scan.so"))
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    assert "my_scan" not in [c.name for c in registry.known()]


def test_processes_that_register_at_once_lose_nothing(plugin_folder: MakeFolder) -> None:
    code = "import sys; from pathlib import Path; from conifer_gguf.native_api import registry; registry.register(Path(sys.argv[1]))"
    folders = [plugin_folder(name=f"scan_{i}") for i in range(2)]
    children = [subprocess.Popen([sys.executable, "-c", code, str(folder)]) for folder in folders]
    assert [child.wait() for child in children] == [0, 0]
    # This process, too, sees what others wrote, without being told.
    assert sorted(p.name for p in registry.registered()) == ["scan_0", "scan_1"]


@pytest.mark.usefixtures("no_trial")
def test_a_damaged_registry_names_its_file(plugin_folder: MakeFolder) -> None:
    registry.register(plugin_folder())
    path = settings.plugins_dir() / "registry.json"
    path.write_text(path.read_text("utf-8")[:40], "utf-8")
    with pytest.raises(PluginRefused, match=r"registry\.json is damaged"):
        registry.registered()


@pytest.mark.usefixtures("no_trial")
def test_the_registry_file_holds_the_pin(plugin_folder: MakeFolder) -> None:
    (made,) = registry.register(plugin_folder())
    (entry,) = json.loads((settings.plugins_dir() / "registry.json").read_text("utf-8"))["plugins"]
    assert entry["sha256"] == made.sha256 == known.sha256_of(made.library.read_bytes())


@pytest.mark.usefixtures("no_trial")
def test_unregistering_what_is_not_registered_changes_nothing(plugin_folder: MakeFolder) -> None:
    registry.register(plugin_folder())
    with pytest.raises(UnknownPlugin, match="other"):
        registry.unregister("my_scan", "other")
    assert [p.name for p in registry.registered()] == ["my_scan"]


def test_a_loaded_library_stays_loaded(compiled: Compile) -> None:
    first = load_library(compiled("kernels/plain_ssd_scan"))
    pointer = first.kernels[0].pointer
    del first
    assert load_library(compiled("kernels/plain_ssd_scan")).kernels[0].pointer == pointer
