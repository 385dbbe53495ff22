"""Every sampler by its name, and what a build needs to create one.

A sampler answers the turns of a conversation; the interface is `Sampler` in `clients/messages.py`. `--sampler` takes
every name in `SAMPLERS`, and `mutation` and `attempts`, which hold no conversation. Add yours to it, or from outside
the package with `SAMPLERS.add`.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from reflectioncoder.clients.address import check_endpoint
from reflectioncoder.clients.budget import Budget, price_of
from reflectioncoder.clients.messages import Sampler
from reflectioncoder.config.build import AttemptsConfig, BuildConfig, ChatConfig, NativeConfig
from reflectioncoder.construct.prompts import Prompts
from reflectioncoder.errors import UserError
from reflectioncoder.models.model_files import check_model_files
from reflectioncoder.models.vllm_engine import check_vllm
from reflectioncoder.registry import Registry
from reflectioncoder.syntax.answers.thoughts import check_marks

# Creates a sampler inside the event loop that uses it. What a sampler spends it asks of the budget first.
MakeSampler = Callable[[BuildConfig, Budget, Prompts, Console], Sampler]


def served_model(config: BuildConfig) -> str:
    """The name of a build's model on its server."""
    return config.chat.model or (config.native.model if config.sampler == "native" else "")


def make_sampler(config: BuildConfig, budget: Budget, prompts: Prompts, console: Console) -> Sampler:
    """Create the configured sampler. Call it inside the event loop that uses the sampler."""
    return SAMPLERS.choose(config.sampler)(config, budget, prompts, console)


def chat_sampler(config: BuildConfig, budget: Budget, prompts: Prompts, console: Console) -> Sampler:
    """Any chat model behind an OpenAI-compatible endpoint."""
    from reflectioncoder.clients.chat import ChatSampler  # a second of imports

    return ChatSampler(config.chat, budget, prompts.tool)


def replay_sampler(config: BuildConfig, budget: Budget, prompts: Prompts, console: Console) -> Sampler:
    """Recorded answers."""
    from reflectioncoder.construct.samplers.replay import ReplaySampler

    return ReplaySampler(config.chat.replay, config.chat.model)


def check_sampler(config: BuildConfig) -> None:
    """Raise UserError for settings of the sampler that cannot work, without creating it."""
    check_marks(config.chat.thought_marks)
    if config.sampler == "native":
        check_native(config.native, config.chat)
    if config.sampler == "chat" or (config.sampler == "native" and config.native.backend == "completions"):
        check_endpoint(config.chat, served_model(config))
        check_budget(config)
    if config.sampler == "attempts":
        check_attempts(config.attempts, config.chat)
        if config.attempts.repair == "chat":
            check_endpoint(config.chat, config.chat.model)
        check_budget(config)
    if config.sampler == "replay" and not config.chat.replay:
        raise UserError("chat.replay: name the file of recorded answers")


def check_budget(config: BuildConfig) -> None:
    """Raise UserError for a budget or a table of prices that cannot be used."""
    chat = config.chat
    Budget(chat.budget_requests, chat.budget_tokens, chat.budget_money, price_of(served_model(config), chat.prices))


def check_answers(config: BuildConfig) -> None:
    """Make sure that recorded answers can be read, before the first is needed. Raises UserError."""
    if config.sampler == "replay":
        from reflectioncoder.construct.samplers.replay import places_of

        places_of(config.chat.replay)


def check_native(config: NativeConfig, chat: ChatConfig) -> None:
    """Raise UserError for invalid settings of the fine-tuned model or of its budget."""
    if not config.model:
        raise UserError("native.model: name a model that was trained on the format, such as runs/train")
    check_model_files(config.model, weights=config.backend != "completions")
    check_vllm(config.vllm, "native.")
    _check_decoding(config, "native")
    if chat.budget_money and config.backend != "completions":
        raise UserError("chat.budget_money: a model on this machine has no price; set chat.budget_tokens")


def _check_decoding(config: NativeConfig | AttemptsConfig, table: str) -> None:
    """Raise UserError for invalid settings of decoding, which are keys of `table`."""
    for name in ("batch_size", "max_new_tokens", "samples"):
        if getattr(config, name) < 1:
            raise UserError(f"{table}.{name} = {getattr(config, name)}: give a number above 0")
    if config.temperature < 0 or not 0 < config.top_p <= 1:
        raise UserError(f"{table}: temperature must be at least 0 and top_p in (0, 1]")
    if config.samples > 1 and config.temperature == 0:
        raise UserError(f"{table}: several samples of greedy decoding are all the same; set a temperature")


def check_attempts(config: AttemptsConfig, chat: ChatConfig) -> None:
    """Raise UserError for invalid settings of the model that attempts the problems."""
    if config.backend == "server":
        check_endpoint(chat, chat.model)
    elif config.backend in ("transformers", "vllm"):
        check_model_files(config.model)
        check_vllm(config.vllm, "attempts.")
    _check_decoding(config, "attempts")
    if not 0 < config.largest_repair <= 1:
        raise UserError(f"attempts.largest_repair = {config.largest_repair}: give a share in (0, 1]")


def native_sampler(config: BuildConfig, budget: Budget, prompts: Prompts, console: Console) -> Sampler:
    """A model that was fine-tuned on the format: behind a server, on this machine, or on a Ray cluster."""
    if config.native.backend == "completions":
        from reflectioncoder.construct.samplers.native_completions import CompletionsSampler

        return CompletionsSampler(config.native, config.chat, config.seed, budget)
    if config.engine == "local":
        from reflectioncoder.construct.samplers.native import NativeSampler  # seconds of imports

        return NativeSampler(config.native, config.seed, budget=budget)
    from reflectioncoder.construct.samplers.native_ray import RaySampler

    return RaySampler(config, budget, console)


SAMPLERS: Registry[MakeSampler] = Registry(
    "sampler",
    {
        "chat": chat_sampler,
        "replay": replay_sampler,
        "native": native_sampler,
        # add yours here
    },
)
