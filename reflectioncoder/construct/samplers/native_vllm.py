"""The vLLM back end of the native sampler; tested with vLLM on CPU (`tests/generate/test_vllm.py`), not on a GPU.

vLLM stops at token ids and cannot distinguish the end of a code block from the end of an analysis, so it stops at every
end of a block. If the answer continues, it is submitted again with its tokens so far; the prefix cache makes this
cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from reflectioncoder.config.build import NativeConfig
from reflectioncoder.models.decode import Decoded, More, Request
from reflectioncoder.models.vllm_engine import seed_of, start_engine


def load_vllm(config: NativeConfig, seed: int, stops: Sequence[int]) -> tuple[Callable[[More], Iterator[Decoded]], int]:
    """Load the back end; return it with the model's number of positions.

    Args:
        config: settings of the model; vLLM chooses the device itself.
        seed: see `native.NativeSampler`.
        stops: ids of all special tokens except those that open a block the model may write.

    Raises:
        UserError: as in `start_engine`.
    """
    engine = start_engine(
        config.model, config.precision, config.batch_size, seed, config.vllm, config.trust_remote_code
    )
    from vllm import SamplingParams

    def parameters(request: Request, done: int) -> Any:
        return SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p if config.temperature else 1.0,
            seed=seed_of(seed, request.task_id, request.sample, done),
            max_tokens=request.max_new_tokens - done,
            stop_token_ids=list(stops),
            detokenize=False,
        )

    return lambda more: decode_vllm(engine, parameters, more), int(engine.model_config.max_model_len)


def decode_vllm(engine: Any, parameters: Callable[[Request, int], Any], more: More) -> Iterator[Decoded]:
    """Decode with vLLM's `LLMEngine`; the counterpart of `decode.decode_batched`.

    Args:
        engine: the engine; only `add_request`, `step` and `has_unfinished_requests` are used.
        parameters: returns the sampling parameters for a request and its number of tokens decoded so far.
        more: as for `decode.decode_batched`; every request must have an `ended` function.
    """
    under_way: dict[str, tuple[Request, list[int]]] = {}

    def hand_in(request: Request, ids: list[int]) -> None:
        name = f"{request.task_id}@{len(ids)}"
        under_way[name] = request, ids
        engine.add_request(name, {"prompt_token_ids": [*request.ids, *ids]}, parameters(request, len(ids)))

    while (arrived := more(not engine.has_unfinished_requests())) is not None or under_way:
        for request in arrived or ():
            hand_in(request, [])
        if not under_way:
            continue
        for output in engine.step():
            if not output.finished:
                continue
            request, ids = under_way.pop(output.request_id)
            reason = ""
            for token in output.outputs[0].token_ids:
                ids.append(token)
                if reason := request.ended(ids) if request.ended is not None else "":
                    break
            if not reason and len(ids) >= request.max_new_tokens:
                reason = "length"
            if reason:
                yield Decoded(request, tuple(ids), "", reason)
            else:
                hand_in(request, ids)
