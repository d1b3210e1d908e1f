"""Builds the extension against the headers of the installed dllama."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

import dllama

PACKAGE = Path(dllama.__file__).parent
HEADERS = [str(PACKAGE / "_kernels")]
EXTENSIONS = [Extension("dllama_masked", ["dllama_masked.pyx"], include_dirs=HEADERS)]

setup(ext_modules=cythonize(EXTENSIONS, include_path=[str(PACKAGE.parent)]))
