"""The responses of /v1/responses: a list of items, or events about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllama.server.apis.parts import Objects, Part, PartsFormat
from dllama.server.apis.responses.request import ResponseRequest
from dllama.server.apis.responses.store import Store
from dllama.server.fields.options import Options
from dllama.server.problems import ApiError
from dllama.server.queue.jobs import Done
from dllama.server.response_format import compact
from dllama.server.served import Served
from dllama.server.tools.answer import Answer

PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}  # of ids of items


class ResponseObject(PartsFormat):
    """A response.

    Args:
        asked: the request.
        store: keeps the conversation.
        served, options, prompt, answer: as for PartsFormat.
    """

    def __init__(
        self,
        asked: ResponseRequest,
        store: Store,
        served: Served,
        options: Options,
        prompt: Sequence[int],
        answer: Answer,
    ) -> None:
        super().__init__(served, options, prompt, answer)
        self._asked = asked
        self._store = store
        self._count = -1  # number of the last event

    def wait(self) -> str:
        return "".join(map(self.frame, self.opening() or [self._progress("in_progress")]))

    def opening(self) -> Objects:
        if self._count >= 0:
            return []
        return [self._progress("created"), self._progress("in_progress")]

    def begin(self, part: Part) -> Objects:
        item = self._item(part, "in_progress")
        if part.kind != "call":
            item["content" if part.kind == "text" else "summary"] = []
        added = self._event("response.output_item.added", output_index=part.index, item=item)
        return [added, *self._inner(part, "added")]

    def more(self, part: Part, text: str) -> Objects:
        if part.kind == "text":
            return [self._about("response.output_text.delta", part, delta=text, logprobs=[])]
        if part.kind == "call":
            return [self._about("response.function_call_arguments.delta", part, delta=text)]
        return [self._about("response.reasoning_summary_text.delta", part, delta=text)]

    def finish(self, part: Part) -> Objects:
        if part.kind == "text":
            done = self._about("response.output_text.done", part, text=part.text, logprobs=[])
        elif part.kind == "call":
            kind, text = "response.function_call_arguments.done", part.text
            done = self._about(kind, part, name=part.name, arguments=text)
        else:
            done = self._about("response.reasoning_summary_text.done", part, text=part.text)
        inner, item = self._inner(part, "done"), self._item(part, "completed")
        ended = self._event("response.output_item.done", output_index=part.index, item=item)
        return [done, *inner, ended]

    def last(self, done: Done) -> Objects:
        response = self.result(done)
        return [self._event(f"response.{response['status']}", response=response)]

    def result(self, done: Done) -> dict[str, Any]:
        status = "incomplete" if done.reason == "length" else "completed"
        output = [self._item(part, "completed") for part in self.parts]
        if status == "incomplete" and output:
            output[-1]["status"] = status
        response = self._response(status, output)
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        if self._asked.store:
            self._store.keep(response["id"], self._asked.items, output)
        return {**response, "usage": self._usage(done)}

    def error(self, error: ApiError) -> dict[str, Any]:
        """Return an error that some clients expect inside of a field, and others not."""
        about = error.as_json()["error"]
        return self._event("error", error=about, **{k: v for k, v in about.items() if k != "type"})

    def frame(self, value: dict[str, Any]) -> str:
        return f"event: {value['type']}\ndata: {compact(value)}\n\n"

    def _progress(self, kind: str) -> dict[str, Any]:
        """Return an event that tells that the response is being made."""
        return self._event(f"response.{kind}", response=self._response("in_progress", []))

    def _response(self, status: str, output: Objects) -> dict[str, Any]:
        return {
            "id": f"resp_{self.options.id}",
            "object": "response",
            "created_at": self.options.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": self.served.name,
            "output": output,
            **self._asked.repeated,
            "usage": None,
        }

    def _item(self, part: Part, status: str) -> dict[str, Any]:
        """Return an item of the response."""
        item: dict[str, Any] = {"id": self._id(part), "status": status}
        if part.kind == "text":
            return {**item, "type": "message", "role": "assistant", "content": [_content(part)]}
        if part.kind == "reasoning":
            return {**item, "type": "reasoning", "summary": [_content(part)]}
        called = {"call_id": part.id, "name": part.name, "arguments": part.text}
        return {**item, "type": "function_call", **called}

    def _id(self, part: Part) -> str:
        return f"{PREFIXES[part.kind]}_{self.options.id}{part.index:x}"

    def _inner(self, part: Part, what: str) -> Objects:
        """Return the event about the only part of an item, if it has one."""
        if part.kind == "call":
            return []
        kind = "content_part" if part.kind == "text" else "reasoning_summary_part"
        return [self._about(f"response.{kind}.{what}", part, part=_content(part))]

    def _about(self, kind: str, part: Part, /, **fields: Any) -> dict[str, Any]:
        """Return an event about what is in an item."""
        place: dict[str, Any] = {"item_id": self._id(part), "output_index": part.index}
        if part.kind != "call":
            place["content_index" if part.kind == "text" else "summary_index"] = 0
        return self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._count += 1
        return {"type": kind, "sequence_number": self._count, **fields}

    def _usage(self, done: Done) -> dict[str, Any]:
        return {
            "input_tokens": done.prompt,
            "input_tokens_details": {"cached_tokens": done.cached, "cache_write_tokens": 0},
            "output_tokens": done.generated,
            "output_tokens_details": {"reasoning_tokens": self.answer.tally.reasoning},
            "total_tokens": done.prompt + done.generated,
        }


def _content(part: Part) -> dict[str, Any]:
    """Return the text of a message or of thoughts."""
    if part.kind == "reasoning":
        return {"type": "summary_text", "text": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}
