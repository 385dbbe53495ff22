"""Settings of `generate`, `evaluate` and `demo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from reflectioncoder.config.build import EMBEDDED_MODEL, ChatConfig
from reflectioncoder.registry import NameIn


@dataclass(frozen=True)
class GenerateConfig:
    """How `reflectioncoder generate` and `evaluate` decode.

    Args:
        model: directory or hub name, or the embedded model's name.
        task: "heldout", "handwritten", "humaneval", "humaneval_plus", "mbpp", "mbpp_plus", or a JSONL file of problems
            with tests.
        output: JSONL file of completions; empty for runs/completions/TASK-MODEL.jsonl.
        prompt_style: `native` is the format of appendix C and D (trained models), `chat` the model's own chat
            template, `plain` the bare prompt; `auto` is native where the tokenizer knows the special tokens.
        samples: completions of each problem; more than one needs a temperature.
        temperature: 0 is greedy.
        max_new_tokens: an answer ends there at the latest; 0 takes the task's own number.
        batch_size: most rows that are decoded together.
        limit: only the first so many problems; 0 takes all (300 held-out ones).
        levels: of difficulty of the held-out problems.
        seed: of the held-out problems; their sampling seed too.
        data: folder of the benchmarks' data files, or of this one's; empty for where its package keeps them.
        backend: `transformers`; `vllm` (an extra), which chooses the device itself; or `server`: any OpenAI-compatible
            one, which has the model. Its styles are `chat` (the server renders the template) and `plain` (its
            completions endpoint).
        most_stops: of a task's stop texts, how many are sent to a server in style `plain`; some take no more than
            four. An answer is cut at all of them whatever the server does.
        chat: the server, for `server`: `model` is the name there, and key, patience, `in_flight` and budgets are as for
            a build. Temperature, top_p and the most tokens are those above; a negative `chat.temperature` leaves the
            temperature out of the requests, for models that refuse it.
        top_p: share of probability that nucleus sampling keeps; of no effect with temperature 0.
        precision: of the parameters.
        device: `auto` takes a CUDA GPU where there is one; or `cpu`, `cuda`, `cuda:N`.
    """

    model: str = EMBEDDED_MODEL
    task: str = "heldout"
    output: str = ""
    prompt_style: Literal["auto", "native", "chat", "plain"] = "auto"
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 0.95
    max_new_tokens: int = 0
    batch_size: int = 64
    limit: int = 0
    levels: tuple[int, ...] = (1, 2, 3, 4)
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    device: str = "auto"
    data: str = ""
    backend: Annotated[str, NameIn("generate.registry:BACKENDS")] = "transformers"
    most_stops: int = 4
    chat: ChatConfig = field(default_factory=ChatConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    """How `reflectioncoder evaluate` scores: decoding as in `generate`, or completions from a file.

    Args:
        generate: the model, the task and how to decode.
        completions: score this file instead of decoding; lines with "task_id" and "completion" or "solution".
        output: directory of the verdicts and the score; empty for one of its own below runs/evaluate. One that holds
            another evaluation is never overwritten.
        k: the k of pass@k, at most `generate.samples`.
        partial: count problems without a completion in the file as failed; otherwise they are an error.
        formats: also write the verdicts as evalplus does (eval_results.json), or as the BigCode harness
            (generations.json and metrics.json).
        seconds: time limit of one candidate with all its tests; where the reference solution's time has been measured,
            that sets the limit instead.
        memory_mb: memory limit of one candidate; evalplus gives 4096.
        workers: interpreters at work at once; 0 means one per core.
        isolation: see `BuildConfig`.
    """

    generate: GenerateConfig = field(default_factory=GenerateConfig)
    completions: str = ""
    output: str = ""
    k: tuple[int, ...] = (1,)
    partial: bool = False
    formats: tuple[Literal["evalplus", "bigcode"], ...] = ()
    seconds: float = 10.0
    memory_mb: int = 4096
    workers: int = 0
    isolation: Literal["auto", "full", "reduced", "none"] = "auto"


@dataclass(frozen=True)
class DemoConfig:
    """The whole pipeline with the embedded model: three arms on the same problems, at equal training tokens.

    Args:
        output: directory of everything the demo makes.
        problems: procedural problems to learn from; each gives a reflection sequence and a plain instruction sample.
        plain: how often the ReflectionCoder arm meets a plain sample for each meeting with a sequence; the paper
            mixes 156k plain samples with 22k sequences, each met twice, which is 3.5.
        tokens: through the model in each trained arm, teacher and student rows counted.
        heldout: held-out procedural problems to score.
        handwritten: handwritten problems to score, 0 for all.
        humaneval: HumanEval problems to score, 0 for all.
        learning_rate: of both trained arms, as are `batch_size`, `micro_tokens` and `seed`.
        levels: levels of difficulty of the problems to learn from and of the held-out ones.
        batch_size: samples of a global batch in both trained arms.
        micro_tokens: most tokens of a micro-batch in both trained arms.
        seed: of the problems and of training.
    """

    output: str = "runs/demo"
    problems: int = 300
    plain: int = 8
    tokens: int = 45_000
    heldout: int = 200
    handwritten: int = 60
    humaneval: int = 60
    learning_rate: float = 2e-4
    batch_size: int = 4
    micro_tokens: int = 3072
    seed: int = 0
    levels: tuple[int, ...] = (1, 2)
