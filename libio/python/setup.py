"""Puts libhayate.so into the package, and says that the wheel fits any Python of this platform.

The library is that of the environment's HAYATE_LIBRARY, else it is built with cargo from the sources around this directory.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent.parent


def built_library():
    if not (SOURCES / "libio" / "c" / "Cargo.toml").exists():
        raise SystemExit("hayate: build it in Hayate's sources (libio/python), or set HAYATE_LIBRARY to a libhayate.so")
    command = ["cargo", "build", "--release", "--package", "hayate-c", "--manifest-path", str(SOURCES / "Cargo.toml")]
    try:
        subprocess.run(command, check=True)
        told = subprocess.run(
            ["cargo", "metadata", "--no-deps", "--format-version", "1", "--manifest-path", str(SOURCES / "Cargo.toml")],
            check=True, capture_output=True)
    except FileNotFoundError:
        raise SystemExit("hayate: cargo is not installed, and HAYATE_LIBRARY is not set") from None
    return Path(json.loads(told.stdout)["target_directory"]) / "release" / "libhayate.so"


class BuildWithLibrary(build_py):
    def run(self):
        super().run()
        given = os.environ.get("HAYATE_LIBRARY")
        library = Path(given) if given else built_library()
        target = Path(self.build_lib) / "hayate" / "libhayate.so"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, target)
        # Without what only a debugger needs it has a quarter of the size.
        if shutil.which("strip"):
            subprocess.run(["strip", "--strip-unneeded", str(target)], check=True)


class WheelForAnyPython(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class WithLibrary(Distribution):
    def has_ext_modules(self):
        return True


setup(cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": WheelForAnyPython}, distclass=WithLibrary)
