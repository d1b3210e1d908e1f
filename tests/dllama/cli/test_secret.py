"""`dllama secret`, and secrets that are too short."""

from __future__ import annotations

import stat

import pytest

from dllama import LLM, ConfigError
from dllama.cli import main
from dllama.cluster.secrets import LEAST, read_secret


def test_every_secret_is_another(capsys):
    made = []
    for _ in range(2):
        assert main(["secret"]) == 0
        made.append(capsys.readouterr().out)
    assert made[0] != made[1]
    assert all(len(line) > 40 and line.endswith("\n") for line in made)


def test_a_file_is_only_for_its_owner_and_never_replaced(tmp_path, capsys):
    file = tmp_path / "secret"
    assert main(["secret", "--output", str(file)]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = read_secret(file)
    assert len(secret) >= LEAST
    assert main(["secret", "--output", str(file)]) == 1
    assert capsys.readouterr() == ("", f"dllama: error: {file}: File exists\n")
    assert read_secret(file) == secret


@pytest.mark.parametrize(
    "words",
    [
        ["worker", "--listen", "0.0.0.0:0", "--secret-file"],
        ["serve", "--host", "0.0.0.0", "--port", "0", "--api-key-file"],
        ["run", "--workers", "10.0.0.1:9999", "--secret-file"],
    ],
)
def test_short_secrets_are_only_for_this_machine(words, tmp_path, capsys):
    file = tmp_path / "secret"
    file.write_text("fifteen-bytes..\n")
    assert main([*words, str(file)]) == 2
    said = capsys.readouterr().err
    assert "the secret has 15 bytes" in said
    assert "needs at least 16: dllama secret makes one" in said


def test_a_short_secret_in_the_environment(monkeypatch):
    monkeypatch.setenv("DLLAMA_SECRET", "short")
    with pytest.raises(ConfigError, match=r"^DLLAMA_SECRET: the secret has 5 bytes, at 10\.0\."):
        LLM(workers=["10.0.0.1:9999"])
