"""A tiny model with random weights, a tokenizer and a chat template."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, models

from dllama.converter import convert

TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
{%- if message.role not in ['system', 'user', 'assistant'] %}
{{- raise_exception('no role ' + message.role) }}
{%- endif %}
{{- '<|turn|>' + message.role + '\\n' + message.content + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"""
SPECIAL = ["<unk>", "<s>", "</s>", "<|turn|>", "<|end|>"]
VOCAB = 192


def make(source: Path, output: Path, weights: str = "q40", ids: int = VOCAB) -> Path:
    """Create a model folder with the weights of a source folder, whose vocabulary has so many ids.

    Every character is a token. EOS is </s>; the template ends turns with <|end|>.
    """
    folder = output.with_name(output.name + "-source")
    shutil.copytree(source, folder)
    characters = string.ascii_letters + string.digits + string.punctuation + " \n"
    more = [chr(0xC0 + index) for index in range(ids - len(SPECIAL) - len(characters))]
    vocab = {name: index for index, name in enumerate([*SPECIAL, *characters, *more])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    convert(folder, output, weights, threads=2, progress=False)
    return output
