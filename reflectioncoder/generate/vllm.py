"""The vLLM back end of `generate.py`: decodes with vLLM; prompts, stops and cleaning are those of the local back end.

All requests go to one `LLMEngine`, which batches them continuously. Each completion is stored as soon as it ends,
so after a kill the next run requests only the missing ones. Greedy decoding gives the same result as transformers,
except for near-ties. The text comes from vLLM's incremental detokenization, which starts from the prompt's last tokens,
so no leading blank is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflectioncoder.dialogues.tokens import END_OF_BLOCK, END_OF_MESSAGE
from reflectioncoder.errors import UserError
from reflectioncoder.generate.backend import Keep, SampleKey
from reflectioncoder.generate.completions import Completion
from reflectioncoder.generate.local import LocalBackend
from reflectioncoder.models.vllm_engine import seed_of, start_engine


class VllmBackend(LocalBackend):
    """Back end that decodes with vLLM; see `Backend`. Prompts and fingerprint are those of `LocalBackend`."""

    def load(self) -> None:
        """See `Backend`. Raises UserError if vLLM is missing or cannot run the model."""
        from reflectioncoder.models.load import resolve
        from reflectioncoder.models.model_files import base_of

        config = self._config
        if base_of(Path(config.model)) is not None:
            raise UserError(
                f"model {config.model}: is a LoRA adapter, which the vLLM back end does not take; "
                'train with lora.output = "merged", or use backend transformers'
            )
        self._engine = start_engine(
            resolve(config.model), config.precision, config.batch_size, config.seed, config.vllm,
            config.trust_remote_code,
        )  # fmt: skip

    def complete(self, missing: Sequence[SampleKey], keep: Keep) -> None:
        """See `Backend`."""
        from reflectioncoder.models.decode import check_lengths

        if any(request.ended is not None for request in self._requests.values()):
            raise UserError("rounds of a model that writes blocks are not decoded with vLLM; use backend transformers")
        engine, requests = self._engine, {f"{key[0]}@{key[1]}": (key, self._requests[key]) for key in missing}
        check_lengths([request for _, request in requests.values()], int(engine.model_config.max_model_len))
        for name, (_, request) in requests.items():
            engine.add_request(name, {"prompt_token_ids": list(request.ids)}, self._parameters(request))
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    key, request = requests[output.request_id]
                    made = output.outputs[0]
                    # stop_reason is the stop text; for an end token it is the token's id or None
                    by_token = made.finish_reason == "stop" and not isinstance(made.stop_reason, str)
                    finish = "end" if by_token else str(made.finish_reason)
                    code, whole = self._read(request, made.text)
                    done = Completion(*key, code, made.text, self.wanted[key], whole, finish=finish)
                    keep(done, len(made.token_ids))

    def _parameters(self, request: Any) -> Any:
        from vllm import SamplingParams

        config, vocabulary = self._config, self._tokenizer.get_vocab()
        return SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p if config.temperature else 1.0,
            seed=seed_of(config.seed, request.task_id, request.sample),
            max_tokens=request.max_new_tokens,
            # vLLM itself adds the end-of-sequence token and the end tokens of the generation config.
            stop_token_ids=[vocabulary[token] for token in (END_OF_BLOCK, END_OF_MESSAGE) if token in vocabulary],
            stop=list(request.stops),
            include_stop_str_in_output=True,
        )
