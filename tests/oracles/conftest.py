"""What the oracles share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracles.llama_cpp_source import fetch_llama_cpp_source


@pytest.fixture(scope="session")
def llama_cpp_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's folder in llama-cpp-python's source distribution, fetched once."""
    return fetch_llama_cpp_source(tmp_path_factory.mktemp("llama-cpp-source"))
