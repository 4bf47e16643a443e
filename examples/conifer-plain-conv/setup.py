"""Compiles the kernel into the package before it is packed; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

from conifer_gguf import kit


class BuildKernel(build_py):
    def run(self) -> None:
        kit.build(Path(__file__).parent / "conifer_plain_conv")
        super().run()


class WithLibrary(Distribution):
    def has_ext_modules(self) -> bool:
        return True  # the wheel is for one kind of processor


setup(cmdclass={"build_py": BuildKernel}, distclass=WithLibrary)
