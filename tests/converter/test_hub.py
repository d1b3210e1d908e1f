"""Downloads fetch only what is needed, resume when interrupted, and refuse damaged files."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import quantisers
from hubserver import COMMIT, HubServer
from safetensors.numpy import load

from dllama.cli import main
from dllama.converter import convert
from dllama.converter.hub import Hub, download
from dllama.errors import ConfigError, DllamaError, ModelError, OutputError, UnsupportedError

constants = pytest.importorskip("huggingface_hub.constants")
REPO = "owner/model"
TENSORS = "model.safetensors"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache folder, a working folder, and no proxy for this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "cache" / "dllama" / "hub" / "owner--model" / COMMIT


@pytest.fixture
def server(fixtures) -> Iterator[HubServer]:
    """A repository with a model and files that no conversion needs."""
    folder = fixtures / "llama-gqa"
    files = {name: (folder / name).read_bytes() for name in ("config.json", TENSORS)}
    files |= {"README.md": b"text", "original/consolidated.00.pth": b"x", "pytorch_model.bin": b"x",
              "generation_config.json": b"{}", "model.onnx": b"x"}  # fmt: skip
    hub = HubServer(files, large=(TENSORS, "pytorch_model.bin"))
    yield hub
    hub.close()


def pull(server, *words):
    return main(["pull", REPO, "--endpoint", server.endpoint, "--quiet", *words])


def shard(server):
    """Split the tensors into two files that an index names, and add one that it does not."""
    tensors = server.files.pop(TENSORS)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    server.files |= {names[0]: tensors, names[1]: tensors, "model-old.safetensors": b"x"}
    index = {"weight_map": {name: names[i % 2] for i, name in enumerate(sorted(load(tensors)))}}
    server.files["model.safetensors.index.json"] = json.dumps(index).encode()
    server.large = tuple(names)
    return names


def test_pulls_and_converts(server, tmp_path, converted, home):
    assert pull(server) == 0
    model = tmp_path / "cwd" / "model"
    assert (model / "model.m").read_bytes() == (
        converted("llama-gqa", "mixed") / "model.m"
    ).read_bytes()
    assert (model / "generation_config.json").read_bytes() == b"{}"
    assert not home.exists()


def test_two_pulls_take_turns(server, tmp_path, home, caplog):
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(pull, server, "--output", str(tmp_path / name)) for name in "abaa"]
        assert [one.result() for one in done] == [0, 0, 0, 0]
    models = [(tmp_path / name / "model.m").read_bytes() for name in "ab"]
    assert models[0] == models[1]
    assert "owner/model: waits for another process that downloads it" in caplog.text
    assert list(home.parent.iterdir()) == []


def test_downloads_only_what_is_needed(server, home):
    folder = download(Hub(REPO, endpoint=server.endpoint))
    names = ["config.json", "generation_config.json", TENSORS]
    assert folder == home
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        assert (folder / name).read_bytes() == server.files[name]
    asked = len(server.requests)
    download(Hub(REPO, endpoint=server.endpoint))
    assert len(server.requests) == asked + 1  # the list of files


def test_shards_and_other_formats(server, home):
    names = shard(server)
    download(Hub(REPO, endpoint=server.endpoint))
    assert {path.name for path in home.iterdir()} >= {*names, "model.safetensors.index.json"}
    assert not (home / "model-old.safetensors").exists()
    for name in [*names, "model.safetensors.index.json"]:
        del server.files[name]
    server.files["tokenizer.model"] = b"pieces"
    download(Hub(REPO, endpoint=server.endpoint))
    assert (home / "pytorch_model.bin").is_file()
    assert (home / "tokenizer.model").is_file()


def test_resumes_at_once_after_a_broken_connection(server, home):
    server.breaks[TENSORS] = 1000
    download(Hub(REPO, endpoint=server.endpoint))
    assert server.asked(TENSORS) == [None, "bytes=1000-"]
    assert (home / TENSORS).read_bytes() == server.files[TENSORS]


def test_resumes_a_failed_download_later(server, tmp_path, home, capsys):
    """The server breaks off and then refuses; the next command downloads the rest."""
    size = len(server.files[TENSORS])
    server.breaks[TENSORS], server.gives_up = size // 2, True
    assert pull(server) == 1
    assert f"{REPO}: {server.endpoint}: cannot download {TENSORS}" in capsys.readouterr().err
    (part,) = home.glob("*.part")
    assert part.read_bytes() == server.files[TENSORS][: part.stat().st_size] != b""
    assert not (home / TENSORS).exists()
    assert not (tmp_path / "cwd" / "model").exists()
    rest = f"bytes={part.stat().st_size}-"
    server.failing.clear()
    assert pull(server, "--keep") == 0
    assert server.asked(TENSORS) == [None, rest, rest]
    assert (home / TENSORS).read_bytes() == server.files[TENSORS]
    assert (tmp_path / "cwd" / "model" / "model.m").is_file()


def flipped(data):
    """The same data with a bit changed in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("name", [TENSORS, "generation_config.json"])
def test_damaged_files_are_refused(server, tmp_path, home, capsys, name):
    server.wrong[name] = flipped(server.files[name])
    assert pull(server) == 1
    error = capsys.readouterr().err
    assert f"{REPO}: {name} was damaged in transit" in error
    assert error.count("\n") == 1
    assert not list(home.glob(f"{name}*"))
    assert not (tmp_path / "cwd" / "model").exists()
    server.wrong.clear()
    assert pull(server) == 0


def test_a_damaged_part_is_refused(server, home):
    """The rest of an earlier download is not trusted either."""
    home.mkdir(parents=True)
    (home / f"{TENSORS}.part").write_bytes(b"x" * 100)
    (home / "config.json").write_bytes(flipped(server.files["config.json"]))
    with pytest.raises(ModelError, match=r"model\.safetensors was damaged"):
        download(Hub(REPO, endpoint=server.endpoint))
    assert (home / "config.json").read_bytes() == server.files["config.json"]
    (home / f"{TENSORS}.part").write_bytes(b"x" * (len(server.files[TENSORS]) + 1))
    download(Hub(REPO, endpoint=server.endpoint))
    assert (home / TENSORS).read_bytes() == server.files[TENSORS]


def test_a_server_that_ignores_ranges(server, home, monkeypatch):
    home.mkdir(parents=True)
    (home / f"{TENSORS}.part").write_bytes(server.files[TENSORS][:500])
    handler = server._server.RequestHandlerClass
    send = handler._send_file
    monkeypatch.setattr(handler, "_send_file", lambda self, name, begin: send(self, name, 0))
    download(Hub(REPO, endpoint=server.endpoint))
    assert (home / TENSORS).read_bytes() == server.files[TENSORS]


def test_models_that_cannot_be_converted_are_refused_first(server, capsys):
    server.files["config.json"] = b'{"model_type": "gpt2"}'
    assert pull(server) == 1
    assert "model_type 'gpt2' is not supported" in capsys.readouterr().err
    assert server.asked(TENSORS) == []


def test_gguf_files(server, home, fixtures, tmp_path, capsys):
    ggufmodel = pytest.importorskip("ggufmodel")
    ggufmodel.write_folder(tmp_path / "a.gguf", fixtures / "llama-gqa", "Q8_0")
    server.files |= {"a.Q8_0.gguf": (tmp_path / "a.gguf").read_bytes(), "b.gguf": b"x"}
    assert pull(server, "--file", "a.Q8_0.gguf", "--output", "made") == 0
    assert (tmp_path / "cwd" / "made" / "model.m").is_file()
    del server.files["config.json"]
    assert pull(server) == 1
    assert "several GGUF files, choose one: a.Q8_0.gguf, b.gguf" in capsys.readouterr().err
    del server.files["b.gguf"]
    assert pull(server) == 0
    del server.files["a.Q8_0.gguf"]
    assert pull(server) == 1
    assert "has no config.json and no GGUF file" in capsys.readouterr().err


@pytest.mark.parametrize("given", [None, 0, 2])
def test_gguf_files_in_parts(server, home, given):
    """Any part stands for all."""
    names = [f"m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    server.files = {name: name.encode() for name in names}
    file = None if given is None else names[given]
    assert download(Hub(REPO, endpoint=server.endpoint), file) == home / names[given or 0]
    assert sorted(path.name for path in home.iterdir()) == names


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_revisions(server, revision):
    assert Hub(REPO, revision, server.endpoint).commit == COMMIT
    with pytest.raises(ModelError, match=rf"{REPO}: {server.endpoint}: cannot list its files"):
        Hub(REPO, "v2", server.endpoint)


@pytest.mark.parametrize("repo", ["", "a/b/c", "../b", "a b", "a/", "http://x/a/b"])
def test_malformed_names(repo):
    with pytest.raises(ConfigError, match="expected OWNER/NAME"):
        Hub(repo, endpoint="http://127.0.0.1:1")


def test_missing_files(server, capsys):
    assert main(["pull", "owner/none", "--endpoint", server.endpoint, "--quiet"]) == 1
    error = capsys.readouterr().err
    assert f"owner/none: {server.endpoint}: cannot list its files" in error
    assert error.count("\n") == 1
    with pytest.raises(ModelError, match=r"has no file 'none\.gguf'"):
        download(Hub(REPO, endpoint=server.endpoint), "none.gguf")
    with pytest.raises(ModelError, match="has no file"):
        download(Hub(REPO, endpoint=server.endpoint), "original/consolidated.00.pth")
    server.files.pop(TENSORS)
    server.files.pop("pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        download(Hub(REPO, endpoint=server.endpoint))


def test_hostile_indexes(server, home):
    shard(server)
    for name in ("../secret", "/etc/passwd", "none.safetensors"):
        index = json.dumps({"weight_map": {"model.norm.weight": name}}).encode()
        server.files["model.safetensors.index.json"] = index
        with pytest.raises(DllamaError, match=name):
            download(Hub(REPO, endpoint=server.endpoint))
    server.files["model.safetensors.index.json"] = b'{"weight_map": []}'
    with pytest.raises(DllamaError, match="weight_map"):
        download(Hub(REPO, endpoint=server.endpoint))


def test_nobody_answers(capsys):
    assert main(["pull", REPO, "--endpoint", "http://127.0.0.1:1", "--quiet"]) == 1
    assert f"{REPO}: http://127.0.0.1:1: cannot list its files" in capsys.readouterr().err


def test_an_unusable_output_is_reported_first(server, tmp_path, capsys):
    (tmp_path / "cwd" / "model").mkdir()
    (tmp_path / "cwd" / "model" / "notes").write_text("x")
    assert pull(server) == 1
    assert "is neither empty nor a model folder" in capsys.readouterr().err
    assert server.requests == []


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub.hf_api", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'dllama\[hub\]'"):
        Hub(REPO)


def test_a_full_disk(server, home, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(OutputError, match=r"needs \d+ bytes, the disk has 10 free"):
        download(Hub(REPO, endpoint=server.endpoint))


def test_the_servers_hashes_are_those_of_git(server):
    """The same as `git hash-object` and `sha256sum` print."""
    entry = server._entry("a", b"hello\n")
    assert entry["blobId"] == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert hashlib.sha256(b"hello\n").hexdigest().startswith("5891b5b522d5df08")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 3}}, "bits 3"),
        ("config.json", {"quantization_config": {"quant_method": "hqq"}}, "'hqq'"),
        ("config.json", {"quantization_config": {"load_in_8bit": True}}, "load_in_8bit"),
        ("config.json", {"architectures": ["BitnetForCausalLM"]}, "'BitnetForCausalLM'"),
        ("config.json", {"residual_multiplier": 0.2}, "residual_multiplier"),
        ("quantize_config.json", {}, r"quantize_config\.json"),
        ("adapter_config.json", {}, r"adapter_config\.json"),
    ],
)
def test_refuses_by_configuration_before_tensors(server, home, name, content, message):
    before = json.loads(server.files.get(name, b"{}"))
    server.files[name] = json.dumps({**before, **content}).encode()
    with pytest.raises(UnsupportedError, match=message):
        download(Hub(REPO, endpoint=server.endpoint))
    assert server.asked(TENSORS) == []


def test_refuses_by_the_index_before_tensors(server, home):
    names = shard(server)
    index = json.loads(server.files["model.safetensors.index.json"])
    index["weight_map"]["model.layers.0.self_attn.q_proj.bias"] = names[0]
    server.files["model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(UnsupportedError, match=r"1 tensor is not used .*q_proj\.bias"):
        download(Hub(REPO, endpoint=server.endpoint))
    assert server.asked(names[0]) == server.asked(names[1]) == []


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
PACKED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}


def compressed(**weights):
    groups = {"group_0": {"targets": ["Linear"], "weights": {**PACKED, **weights}}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": groups}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({**GPTQ, "desc_act": True}, r"desc_act true \(act order\)"),
        ({**GPTQ, "bits": 8, "sym": False}, "8 bits with zero points"),
        ({**GPTQ, "group_size": 16}, "group_size 16"),
        ({"quant_method": "awq", "bits": 4, "group_size": 16}, "group_size 16"),
        (compressed(actorder="group"), r"actorder \(act order\)"),
        (compressed(num_bits=8, symmetric=False), "8 bits with zero points"),
        ({**GPTQ, "desc_act": True, "static_groups": True}, None),
        ({**GPTQ, "desc_act": True, "group_size": -1}, None),
        (GPTQ, None),
    ],
)
def test_integers_that_fit_in_no_block_are_refused_first(server, home, config, reason):
    before = json.loads(server.files["config.json"])
    server.files["config.json"] = json.dumps({**before, "quantization_config": config}).encode()
    hub = Hub(REPO, endpoint=server.endpoint)
    if reason:
        with pytest.raises(UnsupportedError, match=rf"config\.json: .*{reason}; --weights says"):
            download(hub)
        assert server.asked(TENSORS) == []
    download(hub, weights="q80" if reason else None)
    assert server.asked(TENSORS) == [None]


def test_pulls_quantised_weights(server, fixtures, tmp_path):
    """The index has other names than the model, all of which are known."""
    folder = tmp_path / "awq"

    def module(weight):
        matrix = quantisers.grouped(weight, 4, 32, False)
        return quantisers.awq(matrix), matrix.decoded()

    config = {"quant_method": "awq", "bits": 4, "group_size": 32}
    quantisers.write_folder(fixtures / "llama-gqa", folder, config, module)
    for name in ("config.json", TENSORS):
        server.files[name] = (folder / name).read_bytes()
    names = shard(server)
    server.files["quant_config.json"] = b"{}"
    assert pull(server) == 0
    assert server.asked(names[0]) == server.asked(names[1]) == [None]
    report = convert(folder, tmp_path / "expected", progress=False)
    pulled = tmp_path / "cwd" / "model" / "model.m"
    assert pulled.read_bytes() == (report.output / "model.m").read_bytes()


def test_an_index_may_name_files_that_no_model_needs(server, home):
    names = shard(server)
    index = json.loads(server.files["model.safetensors.index.json"])
    index["weight_map"]["rotary_emb.inv_freq"] = "gone.safetensors"
    server.files["model.safetensors.index.json"] = json.dumps(index).encode()
    download(Hub(REPO, endpoint=server.endpoint))
    assert {path.name for path in home.iterdir()} >= set(names)
