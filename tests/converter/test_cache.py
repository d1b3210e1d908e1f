"""GGUF files as models: converted on first use only."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import dllama
from dllama.cli import main
from dllama.converter import cache
from dllama.converter.cache import cached_model
from dllama.errors import DllamaError, ModelError
from dllama.model_path import model_file, model_name

pytest.importorskip("gguf")
ggufmodel = pytest.importorskip("ggufmodel")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dllama" / "models"


@pytest.fixture
def path(tmp_path, fixtures):
    """A GGUF file."""
    ggufmodel.write_folder(tmp_path / "model.gguf", fixtures / "llama-gqa", "Q8_0")
    return tmp_path / "model.gguf"


@pytest.fixture
def conversions(monkeypatch):
    """Calls of the converter."""
    calls = []
    convert = cache.convert
    monkeypatch.setattr(cache, "convert", lambda *a, **k: calls.append(a) or convert(*a, **k))
    return calls


def folders(home):
    """The model folders of the cache."""
    return sorted(home.glob("*/*"))


def test_converts_once(home, path, conversions):
    first = cached_model(path, progress=False)
    assert folders(home) == [first]
    assert model_file(path) == first / "model.m"
    assert cached_model(path, progress=False) == first
    assert len(conversions) == 1


def test_has_the_name_of_the_file(home, path, tmp_path):
    """The name is not that of the cache folder, and lacks the number of a split model."""
    with dllama.LLM(path, threads=1) as llm:
        assert llm.name == "model"
    made = cached_model(path) / "model.m"
    names = {"Qwen3-0.6B-Q8_0.gguf": "Qwen3-0.6B-Q8_0", "big-00001-of-00003.gguf": "big"}
    for file, name in names.items():
        assert model_name(path.rename(tmp_path / file), made) == name
        (tmp_path / file).rename(path)
    folder = tmp_path / "llama"
    folder.symlink_to(made.parent)
    assert model_name(folder, folder / "model.m") == "llama"
    assert model_name(None, model_file(None)) == "demo"
    assert model_name("x/7b.m", tmp_path / "7b.m") == "7b"


def test_runs_from_the_file(home, path, conversions, capsys):
    words = ["--prompt", "1 5 9", "--steps", "3", "--temperature", "0", "--quiet"]
    assert main(["run", "--model", str(path), *words]) == 0
    ids = capsys.readouterr().out
    assert main(["run", "--model", str(folders(home)[0]), *words]) == 0
    assert capsys.readouterr().out == ids
    assert main(["info", str(path)]) == 0
    assert str(folders(home)[0] / "model.m") in capsys.readouterr().out
    words = ["--nodes", "1", "--steps", "2", "--repeats", "1", "--prompt-tokens", "4", "--quiet"]
    assert main(["bench", "--model", str(path), *words]) == 0
    assert main(["perplexity", __file__, "--model", str(path)]) == 1
    assert "has no tokenizer" in capsys.readouterr().err
    with dllama.LLM(path) as llm:
        assert np.isfinite(llm.eval([1, 5, 9])).all()
    assert len(conversions) == 1


def test_converts_again_when_the_file_changes(home, path, fixtures, conversions):
    first = cached_model(path, progress=False)
    ggufmodel.write_folder(path, fixtures / "llama-gqa", "Q4_0")
    second = cached_model(path, progress=False)
    assert first != second
    assert folders(home) == [second]
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert folders(home) == [second] != [cached_model(path, progress=False)]
    assert len(conversions) == 3


def test_files_with_the_same_name_are_kept_apart(home, path, tmp_path, conversions):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "model.gguf"
    other.write_bytes(path.read_bytes())
    assert cached_model(path, progress=False) != cached_model(other, progress=False)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    assert len(folders(home)) == 2


def test_a_failure_leaves_nothing(home, path):
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"llama.block_count", b"llama.block_cOunt"))
    with pytest.raises(DllamaError, match=r"model\.gguf"):
        cached_model(path, progress=False)
    assert folders(home) == []
    path.write_bytes(whole)
    assert (cached_model(path, progress=False) / "model.m").is_file()


def test_another_process_may_be_first(home, path, monkeypatch):
    """It creates the folder after this one has checked; the result is the same."""
    target = cached_model(path, progress=False)
    before = (target / "model.m").read_bytes()
    convert = cache.convert

    def late(source, output, **options):
        convert(source, output, **options)
        return convert(source, output, **options)

    monkeypatch.setattr(cache, "convert", late)
    (target / "model.m").rename(target / "moved")
    (target / "moved").unlink()
    target.rmdir()
    assert cached_model(path, progress=False) == target
    assert (target / "model.m").read_bytes() == before


def test_other_files_are_refused(home, tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"text")
    with pytest.raises(ModelError, match=r"a\.gguf: not a GGUF file"):
        cached_model(tmp_path / "a.gguf")
    assert not home.exists()


@pytest.mark.parametrize("given", ["", "relative", None])
def test_the_cache_is_in_the_home_folder_by_default(tmp_path, monkeypatch, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    if given is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cache.cache_folder() == tmp_path / ".cache" / "dllama"


def test_a_cache_that_cannot_be_written_is_named(path, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DllamaError, match="cache"):
        cached_model(path, progress=False)


def test_gguf_needs_no_package_to_be_recognised(tmp_path):
    """The package is imported only for a tensor that needs it."""
    code = "import sys, dllama; assert 'gguf' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
