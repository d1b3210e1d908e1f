"""Trials with damaged files: models, tokenizers, GGUF, checkpoints, options and templates."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

import ggufmodel
import ggufrandom
import numpy as np
import torchfile
from chat_model import TEMPLATE, make
from mutations import damaged, damaged_json, damaged_text
from safetensors.numpy import load_file
from tooling import TEMPLATE as TOOLS
from trials import Fault, Kind, accepted

import dllama
from dllama.converter import convert
from dllama.converter.tokenizers.folder import convert_tokenizer, open_tokenizer
from dllama.model_path import DEMO
from dllama.options import FILE_OPTIONS
from dllama.options.files import read_config
from dllama.text import template_process
from dllama.text.template import PLAIN_SOURCE, ChatTemplate
from dllama.text.tokenizer import Tokenizer

TESTS = Path(__file__).parents[1]
FIXTURES = TESTS / "fixtures"
TEXT = "ROMEO: \u00e4 \U0001f600 <s>\n"
FAMILIES = ("llama-gqa", "mixtral", "gemma3", "qwen3_5", "deepseek_v2", "falcon-h1", "gpt-oss")
# A file may rightly have fewer positions (max_seq_len) than these ask for.
OPTIONS = {"threads": 1, "max_seq_len": 16, "progress": False}


def use(model: Path) -> None:
    """Evaluate some tokens."""
    with dllama.LLM(model, **OPTIONS) as llm:
        llm.eval([1, 2, 3])


class Models(Kind):
    """Model files (.m)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._good = [(FIXTURES / "llama-gqa" / "golden_q40.m").read_bytes()]
        for name in ("mixtral", "gemma3", "qwen3_5"):
            convert(FIXTURES / name, folder / name, "q80", threads=1, progress=False)
            self._good.append((folder / name / "model.m").read_bytes())

    def trial(self, rng: random.Random) -> bool:
        path = self.emptied() / "model.m"
        path.write_bytes(damaged(rng.choice(self._good), rng, head=256))
        return accepted(lambda: use(path), "model.m", "max_seq_len")


class Tokenizers(Kind):
    """Tokenizer files: .t, tokenizer.json with its configuration, and SentencePiece models."""

    def trial(self, rng: random.Random) -> bool:
        return rng.choice([self._scored, self._fast, self._pieces])(rng)

    def _scored(self, rng: random.Random) -> bool:
        path = self.emptied() / "tokenizer.t"
        path.write_bytes(damaged((DEMO / "tokenizer.t").read_bytes(), rng, head=256))
        return accepted(lambda: _encode(path), "tokenizer.t")

    def _fast(self, rng: random.Random) -> bool:
        folder = self.emptied()
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            value = json.loads((DEMO / name).read_text())
            changed = rng.random() < (0.8 if name == "tokenizer.json" else 0.4)
            data = damaged_json(value, rng, flat=rng.random() < 0.5) if changed else None
            (folder / name).write_bytes(data or json.dumps(value).encode())
        return accepted(lambda: self._convert(folder), str(folder))

    def _pieces(self, rng: random.Random) -> bool:
        folder = self.emptied()
        good = (TESTS / "data" / "small.tokenizer.model").read_bytes()
        (folder / "tokenizer.model").write_bytes(damaged(good, rng, head=1 << 20))
        return accepted(lambda: self._convert(folder), str(folder))

    def _convert(self, folder: Path) -> None:
        output = self.emptied("output")
        convert_tokenizer(open_tokenizer(folder), output, 1 << 20)
        for path in output.glob("tokenizer.*"):
            _encode(path)


def _encode(path: Path) -> None:
    tokenizer = Tokenizer.open(path)
    tokenizer.decode(tokenizer.encode(TEXT))


class Ggufs(Kind):
    """GGUF files, which are run as they are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        path, rng = folder / "good.gguf", np.random.default_rng(1)
        tokenizer = {
            "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": [chr(32 + n) * 2 for n in range(93)] + ["a", "b", "ab"],
            "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.token_type": [1] * 96,
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.chat_template": TEMPLATE,
        }  # fmt: skip
        self._good = []
        for arch, kinds in (("llama", "Q8_0"), ("qwen2", "Q4_K")):
            tensors = ggufrandom.random_tensors(rng, arch, kinds)
            ggufmodel.write(path, arch, tensors, {**ggufrandom.keys(arch), **tokenizer})
            self._good.append(path.read_bytes())

    def trial(self, rng: random.Random) -> bool:
        path = self.emptied() / "model.gguf"
        path.write_bytes(damaged(rng.choice(self._good), rng, head=6000))
        return accepted(lambda: use(path), "model.gguf", "max_seq_len")


class Checkpoints(Kind):
    """Folders of Hugging Face: config.json, safetensors, PyTorch's files; they are converted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        make(FIXTURES / "llama-gqa", folder / "chat")
        self._folders = [FIXTURES / name for name in FAMILIES] + [folder / "chat-source"]

    def trial(self, rng: random.Random) -> bool:
        folder, source = self.emptied(), rng.choice(self._folders)
        for path in source.iterdir():
            if path.suffix in (".json", ".safetensors"):
                shutil.copy(path, folder)
        rng.choice([self._config, self._config, self._header, self._bytes, self._pickle])(
            folder, rng
        )
        output = self.emptied("output")
        good = accepted(
            lambda: convert(folder, output / "model", "q40", threads=1, progress=False),
            str(folder), "/output/model",
        )  # fmt: skip
        left = [path.name for path in output.iterdir()]
        if left != ["model"] * good:
            raise Fault(f"left behind: {left}")
        return good

    def _config(self, folder: Path, rng: random.Random) -> None:
        path = rng.choice([folder / "config.json", *folder.glob("*config.json")])
        path.write_bytes(damaged_json(json.loads(path.read_text()), rng))

    def _header(self, folder: Path, rng: random.Random) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        header = damaged_json(json.loads(data[8 : 8 + size]), rng)
        path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])

    def _bytes(self, folder: Path, rng: random.Random) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(damaged(path.read_bytes(), rng))

    def _pickle(self, folder: Path, rng: random.Random) -> None:
        path = folder / "pytorch_model.bin"
        torchfile.save(path, load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
        path.write_bytes(damaged(path.read_bytes(), rng))


class Configs(Kind):
    """YAML files of options."""

    GOOD = (
        "model: x\nnodes:\n  - threads: 2\n    share: 1.5\n  - {address: 'a:1', threads: 1}\n"
        "temperature: 0.5 # c\nstop: [a, 'b']\nprompt: |\n  a\n  b\nseed: 7\ntimeout: 2.5\n"
        "logit-bias: 5=-1.0\ntemplate-kwargs: '{\"a\": [1, null, true]}'\n"
    )
    EVIL = (
        *("&a", "*a", "<<: *a", "!!python/object:os.system", "!!binary", "!!timestamp", "[" * 5000),
        *("{" * 5000, "- " * 5000, "? ", ": ", "---", "...", "%YAML 9.9", "\t", "\x00", "\x1b[2J"),
        *(
            "\u202e",
            "1e999",
            ".nan",
            "0x" + "f" * 300,
            "9" * 5000,
            "2001-99-99",
            "1:1:1",
            "~",
            "''",
        ),
    )

    def trial(self, rng: random.Random) -> bool:
        path = self.emptied() / "options.yaml"
        data = damaged_text(self.GOOD, rng, self.EVIL).encode()
        path.write_bytes(damaged(data, rng) if rng.random() < 0.2 else data)
        return accepted(lambda: read_config(path, FILE_OPTIONS), "options.yaml")


class Templates(Kind):
    """Chat templates. They may compute for half a second, so that there are many trials."""

    GOOD = (TEMPLATE, TOOLS, PLAIN_SOURCE)
    EVIL = (
        *("{{", "}}", "{%", "%}", "{#", "{% raw %}", "{% endfor %}", "{% else %}", "loop.index"),
        *(
            "{% for i in range(99999999) %}",
            "{{ 'a' * 999999999 }}",
            "([1]*9999999)|sort",
            "**9**9",
        ),
        *("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% include 'x' %}", "|map('upper')"),
        *(
            "messages.__class__",
            "self",
            "|attr('__init__')",
            "|tojson(indent=999999)",
            "|list|list",
        ),
        *("{{ '%0999999999d' % 1 }}", "'{:>999999999}'.format(1)", "|center(999999999)", "\x00"),
        *("(" * 3000, "[" * 3000, "not " * 3000, "{% if 1 %}" * 500, "\ud800", "namespace(a=1)"),
        *("raise_exception('\x1b[2J\\n')", "strftime_now('%' * 99999)", "{{ messages|tojson }}"),
    )
    MESSAGES = (
        {"role": "system", "content": "a"},
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": "", "tool_calls": []},
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        template_process.MAX_SECONDS = 0.5

    def trial(self, rng: random.Random) -> bool:
        source = damaged_text(rng.choice(self.GOOD), rng, self.EVIL)
        (self.emptied() / "template.jinja").write_text(source, errors="surrogatepass")
        messages = rng.sample(self.MESSAGES, rng.randint(0, 3))
        return accepted(lambda: ChatTemplate(source).render(messages), "template")


KINDS = {
    "models": Models,
    "tokenizers": Tokenizers,
    "gguf": Ggufs,
    "checkpoints": Checkpoints,
    "configs": Configs,
    "templates": Templates,
}
