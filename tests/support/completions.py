"""A stub of vLLM's completions endpoint with a real model. It follows vLLM's documentation; options limit it."""

from __future__ import annotations

import json
import threading
from typing import Any

from chatserver import Reply, failure

from reflectioncoder.models.decode import Request, decode_batched
from reflectioncoder.models.load import load_model_and_tokenizer


class Completions:
    """A script for `chatserver.ChatServer` that decodes with a model.

    Args:
        model: directory of the model.
        takes_ids: whether the prompt may be a list of token ids.
        returns_ids: whether `return_token_ids` has an effect.
        shows: whether `skip_special_tokens = false` has an effect.
    """

    def __init__(self, model: str, takes_ids: bool = True, returns_ids: bool = True, shows: bool = True) -> None:
        self.network, self.tokenizer = load_model_and_tokenizer(model, "float32", "cpu")
        self.takes_ids, self.returns_ids, self.shows = takes_ids, returns_ids, shows
        self.billed: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def __call__(self, _: int, request: dict[str, Any]) -> Reply | bytes:
        prompt, most = request["prompt"], request["max_tokens"]
        if isinstance(prompt, list) and not self.takes_ids:
            return failure(400, "prompt must be a string.")
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt, add_special_tokens=request.get("add_special_tokens", True))
        positions = self.network.config.max_position_embeddings
        if len(prompt) + most > positions:
            return failure(400, f"This model's maximum context length is {positions} tokens.")
        stops = {*request.get("stop_token_ids", ()), self.tokenizer.eos_token_id}
        asked = Request("", 0, tuple(prompt), most, ended=lambda ids: "stop" if ids[-1] in stops else "")
        with self._lock:
            (done,) = decode_batched(
                self.network, self.tokenizer, [asked], 1, request["temperature"], request["top_p"], request["seed"]
            )
        stopped = done.reason == "stop"
        hidden = request.get("skip_special_tokens", True) or not self.shows
        shown = done.ids[: len(done.ids) - (stopped and not request.get("include_stop_str_in_output", False))]
        choice = {
            "index": 0,
            "text": self.tokenizer.decode(shown, skip_special_tokens=hidden, clean_up_tokenization_spaces=False),
            "finish_reason": done.reason,
            "stop_reason": done.ids[-1] if stopped and done.ids[-1] != self.tokenizer.eos_token_id else None,
        }
        if self.returns_ids and request.get("return_token_ids"):
            choice |= {"token_ids": list(done.ids), "prompt_token_ids": prompt}
        self.billed.append((len(prompt), len(done.ids)))
        return body(choice, self.billed[-1])


def body(choice: dict[str, Any], tokens: tuple[int, int] | None = (10, 5)) -> bytes:
    """JSON of a completion."""
    data: dict[str, Any] = {"id": "x", "object": "text_completion", "created": 0, "model": "served-model"}
    data["choices"] = [choice]
    if tokens:
        data["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return json.dumps(data).encode()


def said(text: str | None, finish: str = "stop", **more: Any) -> bytes:
    """JSON of a completion with this text."""
    return body({"index": 0, "text": text, "finish_reason": finish, **more})
