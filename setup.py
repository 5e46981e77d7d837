"""Builds the optional C kernels; everything else about the package is in pyproject.toml.

Where no compiler can build them, the installation goes on without: the same operators then run in PyTorch.
"""

from __future__ import annotations

import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi"]
FOLDER = "src/dfmamba/ops/native"


class BuildKernels(build_ext):
    """Tries with OpenMP threads, then without."""

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "msvc":
            print("dfmamba: no C kernels with MSVC, which lacks GNU vector extensions", file=sys.stderr)
            return
        ext.extra_compile_args = [*FLAGS, "-fopenmp"]
        ext.extra_link_args = ["-fopenmp"]
        try:
            super().build_extension(ext)
        except Exception:
            print("dfmamba: building the C kernels again, without OpenMP", file=sys.stderr)
            ext.extra_compile_args, ext.extra_link_args = FLAGS, []
            super().build_extension(ext)


setup(
    ext_modules=[
        Extension(
            "dfmamba.ops.native.kernels",
            [f"{FOLDER}/kernels.c"],
            depends=[f"{FOLDER}/{name}.h" for name in ("kernels", "vector", "scan", "sample", "network")],
            py_limited_api=True,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
