"""Texts with a grammar: the same ones on any nodes, in any batch and with any drafts."""

from __future__ import annotations

import json
import re

import pytest
from chat_model import make

import dllama
from dllama.errors import ConfigError, GrammarError
from dllama.model_path import DEMO
from dllama.text.stream import End

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 16},
        "lines": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 2},
    },
    "required": ["name", "lines"],
    "additionalProperties": False,
}
GRAMMARS = (
    {"schema": SCHEMA},
    {"regex": "[A-Z]{2,8}:\n([a-z]{2,9} ){3}"},
    {"choice": ["MACBETH speaks", "MACBETH", "BANQUO"]},
    {"grammar": 'start: (NAME ":" / ay/+ "\\n"){2}\nNAME: /[A-Z]{3,8}/'},
)
SETTINGS = (
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 3, "repetition_penalty": 1.1},
    {"temperature": 0.6, "top_k": 9, "seed": 5, "logprobs": 2},
)
PROMPTS = ["MACBETH:\n", "KING", "Enter BANQUO.\n\nBANQUO:\nAy"]


def text_of(tokens) -> str:
    return "".join(token.text for token in tokens)


@pytest.fixture(scope="module")
def alone() -> dict[int, dict[str, list[dllama.Token]]]:
    """The tokens with each grammar after each prompt, on one node and without drafts."""
    with dllama.LLM(threads=1, buffer="f32") as llm:
        return {at: texts(llm, grammar, SETTINGS[at % 3]) for at, grammar in enumerate(GRAMMARS)}


def texts(llm, grammar, settings) -> dict[str, list[dllama.Token]]:
    found = {}
    for prompt in PROMPTS:
        llm.reset()
        found[prompt] = list(llm.generate(prompt, 60, **grammar, **settings))
    return found


def test_texts_fit(alone):
    for at in range(len(GRAMMARS)):
        for tokens in alone[at].values():
            text, end = text_of(tokens), tokens[-1].end
            assert end in (End.COMPLETE, End.EOS, End.LENGTH)
            assert (end is End.LENGTH) == (len(tokens) == 60)
            if end is End.LENGTH:
                continue
            if at == 0:
                assert list(json.loads(text)) == ["name", "lines"]
            if at == 1:
                assert re.fullmatch(GRAMMARS[1]["regex"], text)
            if at == 2:
                assert text in GRAMMARS[2]["choice"]
            if at == 3:
                assert re.fullmatch(r"([A-Z]{3,8}:( ay)+\n){2}", text)
    ends = {tokens[-1].end for one in alone.values() for tokens in one.values()}
    assert End.COMPLETE in ends
    assert all(tokens[-1].end is not End.LENGTH for tokens in alone[2].values())


@pytest.mark.parametrize("options", [
    {"nodes": 2}, {"nodes": 3}, {"draft": "ngram"}, {"draft": str(DEMO), "nodes": 2},
], ids=str)  # fmt: skip
def test_nodes_batches_and_drafts_give_the_same_texts(options, alone, monkeypatch):
    monkeypatch.setattr("dllama.drafts.Costs.worth", lambda self, chances, rows, most, s=0.0: most)
    with dllama.LLM(threads=1, buffer="f32", parallel=3, draft_tokens=4, **options) as llm:
        drafted = accepted = 0
        for at, grammar in enumerate(GRAMMARS):
            settings = SETTINGS[at % 3]
            assert texts(llm, grammar, settings) == alone[at]
            llm.reset()
            found = {prompt: [] for prompt in PROMPTS}
            for number, token in llm.generate_many(PROMPTS, 60, **grammar, **settings):
                found[PROMPTS[number]].append(token)
            assert found == alone[at]
            summary = llm.stats.summary()
            drafted, accepted = drafted + summary["drafted"], accepted + summary["accepted"]
        assert bool(accepted) == ("draft" in options)
        if options.get("draft") == str(DEMO):  # the same model and grammar; an end counts as wrong
            assert drafted > 100
            assert drafted - accepted <= len(GRAMMARS) * len(PROMPTS)


def test_texts_with_and_without_a_grammar_share_passes(alone):
    with dllama.LLM(threads=1, buffer="f32", parallel=8) as llm:
        free = list(llm.generate("KING", 20, seed=1))
        llm.reset()
        submitted = [llm.submit("KING", 20, seed=1)]
        submitted += [
            llm.submit("KING", 60, **grammar, **SETTINGS[at % 3])
            for at, grammar in enumerate(GRAMMARS)
        ]
        taken = [[] for _ in submitted]
        while not all(text.done for text in submitted):
            llm.step()
            for text, tokens in zip(submitted, taken, strict=True):
                while (token := text.take()) is not None:
                    tokens.append(token)
        assert taken == [free, *(alone[at]["KING"] for at in range(len(GRAMMARS)))]


def test_ends():
    digits = {"regex": "[0-9]{30}", "temperature": 0.0}
    with dllama.LLM(threads=1) as llm:
        cut = list(llm.generate("MACBETH:\n", 5, **digits))
        assert [len(cut), cut[-1].end] == [5, End.LENGTH]
        llm.reset()
        tokens = list(llm.generate("MACBETH:\n", 40, **digits))
        text = text_of(tokens)
        assert [len(text), tokens[-1].end] == [30, End.COMPLETE]
        llm.reset()
        stopped = list(llm.generate("MACBETH:\n", 40, stop=text[10:12], **digits))
        assert [text_of(stopped), stopped[-1].end] == [text[: text.index(text[10:12])], End.STOP]
        llm.reset()
        exact = list(llm.generate("MACBETH:\n", len(tokens), **digits))
        assert exact == tokens
        llm.reset()
        (one,) = llm.generate("MACBETH:\n", 1, regex="[0-9]")
        assert one.end is End.COMPLETE


def test_an_end_of_sequence_id_ends_where_a_text_may_go_on():
    with dllama.LLM(threads=1) as llm:
        (eos,) = llm.tokenizer.eos_ids
        longer = {"choice": ["MACBETH", "MACBETH speaks"], "temperature": 0.0}
        tokens = list(llm.generate("BANQUO and ", 40, **longer))
        assert tokens[-1].end in (End.EOS, End.COMPLETE)
        llm.reset()
        longest = list(llm.generate("BANQUO and ", 40, ignore_eos=True, **longer))
        assert text_of(longest) == "MACBETH speaks"
        assert longest[-1].end is End.COMPLETE
        assert eos not in [token.id for token in longest]


def test_a_text_goes_on_from_what_is_kept():
    with dllama.LLM(threads=1) as llm:
        ids = llm.tokenizer.prompt_ids("MACBETH:\nTo-morrow", True)
        first = list(llm.generate(ids, 30, seed=2, schema=SCHEMA))
        assert llm.continue_from(ids) == len(ids) - 1
        assert list(llm.generate([], 30, seed=2, schema=SCHEMA)) == first
        after = list(llm.generate("\n", 10, seed=2, regex="[a-z]{3}"))
        assert re.fullmatch("[a-z]{3}", text_of(after))


def test_what_is_wrong_is_said_at_once():
    with dllama.LLM(threads=1) as llm:
        for arguments, message in [
            ({"schema": {"type": "obj"}}, "schema: Invalid type: obj"),
            ({"regex": "a", "choice": ["a"]}, "regex and choice: only one of them"),
            ({"grammar": "start: foo"}, "grammar: "),
        ]:
            for begin in (llm.generate, llm.submit):
                with pytest.raises(ConfigError, match=message):
                    begin("KING", 5, **arguments)
        assert len(list(llm.generate("KING", 5, ignore_eos=True))) == 5


def test_a_grammar_that_fails_on_the_way_ends_only_its_text(monkeypatch):
    with dllama.LLM(threads=1, parallel=2) as llm:
        bad, good = llm.submit("KING", 9, regex="[a-z ]+"), llm.submit("KING", 9, ignore_eos=True)
        llm.step()
        assert [bad.count, good.count] == [0, 0]
        assert None not in (bad.take(), good.take())
        monkeypatch.setattr(type(bad.constraint), "_failure", lambda self: "too complex")
        bad.constraint.advance(bad.ids[-1])
        while not good.done:
            llm.step()
            good.take()
        with pytest.raises(GrammarError, match=r"^regex cannot go on: too complex$"):
            bad.take()
        assert good.count == 9


def test_tokens_that_can_only_follow_take_no_pass():
    """But with log-probabilities each token has its own."""
    names = {"type": "object", "properties": {"character": {"enum": ["a", "b"]}}}
    asked = {"schema": {**names, "required": ["character"]}, "temperature": 0.0}
    with dllama.LLM(threads=1) as llm:
        tokens = list(llm.generate("KING", 60, **asked))
        passes = len(llm.stats.steps)
        assert len(tokens) > passes + 4
        assert llm.stats.summary()["drafted"] == 0
        llm.reset()
        each = list(llm.generate("KING", 60, logprobs=0, **asked))
        assert len(llm.stats.steps) == len(each)
        assert [token.id for token in each] == [token.id for token in tokens]
        for most in range(1, len(tokens)):
            llm.reset()
            cut = list(llm.generate("KING", most, **asked))
            assert [token.id for token in cut] == [token.id for token in tokens[:most]]
            assert cut[-1].end is End.LENGTH
        llm.reset()
        ids = llm.tokenizer.prompt_ids("KING", True) + [token.id for token in tokens]
        list(llm.generate("KING", 60, **asked))
        after = list(llm.generate([], 9, temperature=0.0))
        llm.reset()
        llm.continue_from(ids)
        assert list(llm.generate([], 9, temperature=0.0)) == after


@pytest.mark.parametrize("name", ["qwen3_5", "mistral-window"])
def test_states_and_windows_take_tokens_that_can_only_follow(name, fixtures, tmp_path):
    """As one pass, with the same text afterwards as after a pass for each."""
    model = make(fixtures / name, tmp_path / name, ids=160)
    with dllama.LLM(model, threads=1) as llm:
        found = []
        for logprobs in (None, 0):
            llm.reset()
            asked = llm.generate("Hello there", 80, schema=SCHEMA, logprobs=logprobs, seed=1)
            ids = [token.id for token in asked]
            passes = len(llm.stats.steps)
            after = [token.id for token in llm.generate([], 12, temperature=0.0)]
            found.append((ids, after, passes < len(ids)))
        assert found == [(ids, after, True), (ids, after, False)]
