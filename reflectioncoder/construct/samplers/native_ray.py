"""The native sampler on a Ray cluster: one actor for each copy of the model."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, cast

import ray
from rich.console import Console

from reflectioncoder.clients.budget import Budget, Usage
from reflectioncoder.clients.messages import Answer, SamplerError, Tools, Turn
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.construct.engines.ray_actors import Crew
from reflectioncoder.errors import InfrastructureError, UserError

if TYPE_CHECKING:
    from reflectioncoder.construct.samplers.native import NativeSampler
from reflectioncoder.construct.engines.on_ray import printer, replicas_of


def open_sampler(config: BuildConfig, weights: str) -> NativeSampler:
    """Open the native sampler in an actor.

    Args:
        config: configuration of the build.
        weights: fingerprint of the model's weights on the driver.

    Raises:
        UserError: the actor's node does not have the model, or has different weights.
    """
    from reflectioncoder.construct.samplers.native import NativeSampler
    from reflectioncoder.models.load import weights_fingerprint  # seconds of imports

    if weights_fingerprint(config.native.model) != weights:
        raise UserError(f"native.model: {config.native.model} on node {socket.gethostname()} has other weights")
    return NativeSampler(config.native, config.seed)


class RaySampler:
    """Sampler for a fine-tuned model with one copy in each actor; created and used inside one event loop.

    Args:
        config: configuration of the build.
        budget: budget of all answers together; each answer counts as a request.
        console: console for reports of lost actors.
    """

    name = "native"

    def __init__(self, config: BuildConfig, budget: Budget, console: Console) -> None:
        from reflectioncoder.models.load import load_tokenizer, weights_fingerprint

        self.model, self.budget, self._longest = config.native.model, budget, config.native.max_new_tokens
        self._tokenizer = load_tokenizer(config.native.model, config.native.trust_remote_code)
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
        # reserve no CPUs, because the interpreters may reserve them all
        self._crew: Crew[NativeSampler] = Crew(
            partial(open_sampler, config, weights_fingerprint(config.native.model)), partial(replicas_of, config),
            config.ray_wait, printer(console), room=2 * config.native.batch_size, cpus=0, gpus=gpus,
        )  # fmt: skip

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """See `Sampler`."""
        from reflectioncoder.construct.samplers.native import prompt_of

        worst, used = Usage(1, len(prompt_of(messages, self._tokenizer)), self._longest), Usage()
        await self.budget.reserve(worst)
        try:
            answer = cast(Answer, await self._crew.use(methodcaller("answer", messages, problem, number, tools)))
            used = answer.usage
            return answer
        except InfrastructureError as error:
            raise SamplerError("server_error", str(error)) from None
        finally:
            self.budget.settle(worst, used)

    def stop(self) -> None:
        """See `Sampler`."""
        self._crew.end(SamplerError("stopped", "the build is stopping"))
        self._crew.tell(methodcaller("stop"))

    async def close(self) -> None:
        """See `Sampler`."""
        self.stop()
        await self._crew.close()
