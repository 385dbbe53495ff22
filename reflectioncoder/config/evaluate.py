"""Settings of `generate` and `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from reflectioncoder.config.build import EMBEDDED_MODEL, ChatConfig, VllmConfig
from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.registry import NameIn


@dataclass(frozen=True)
class GenerateConfig:
    """Decode completions of a task's problems.

    Args:
        model: directory or hub name of a causal language model, or the embedded "smollm2-135m-instruct".
        task: name of a task ("heldout", "handwritten", "humaneval", "humaneval_plus", "mbpp", "mbpp_plus", "ds1000",
            "multipl_e_cpp", ...), or a JSONL file of problems with tests.
        output: JSONL file of completions; empty for runs/completions/TASK-MODEL.jsonl.
        semantics: `release` uses the prompts of the authors' test script to the letter, cuts answers where it does, and
            lets answers have 1,024 tokens: for HumanEval, MBPP (both with evalplus's data) and MultiPL-E in the style
            `native`. `paper` uses the prompts that the paper prints. See docs/release.md.
        prompt_style: `native` is the format of appendices C and D, for models trained on it; `chat` is the model's own
            chat template; `plain` is the bare prompt; `auto` is `native` if the tokenizer knows the special tokens,
            else `chat` or `plain`.
        samples: completions per problem; more than one needs a temperature.
        temperature: sampling temperature; 0 is greedy.
        max_new_tokens: longest answer in tokens; 0 is the task's own limit.
        batch_size: most sequences that are decoded together.
        limit: number of problems to take from the start; 0 takes all (300 of the held-out ones).
        levels: difficulty levels of the held-out problems.
        seed: seed of the held-out problems and of sampling.
        data: folder of the benchmarks' data files, or of this one's; empty for the default location.
        backend: `transformers`; `vllm` (an extra), which chooses the device itself; or `server` for a model behind an
            OpenAI-compatible server, with the prompt styles `chat` (the server renders the template) and `plain` (its
            completions endpoint).
        most_stops: number of the task's stop strings that are sent to a server in style `plain`; some accept no more
            than four. Answers are cut at all of them in any case.
        chat: the server of the back end `server`: URL, model name, timeouts, `in_flight` and budgets. Temperature,
            top_p and the token limit are those above; a negative `chat.temperature` leaves the temperature out of the
            requests, for models that refuse it.
        top_p: probability mass that nucleus sampling keeps; ignored at temperature 0.
        precision: data type of the parameters.
        device: `auto` is a CUDA GPU if there is one; or `cpu`, `cuda`, `cuda:N`.
        trust_remote_code: run Python code that comes with the model, for architectures that transformers does not have.
            The code has every right of this process; set it only for models whose code you have read.
        vllm: GPUs and memory for the back end `vllm`.
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
    semantics: Literal["paper", "release"] = "paper"
    chat: ChatConfig = field(default_factory=ChatConfig)
    trust_remote_code: bool = False
    vllm: VllmConfig = field(default_factory=VllmConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a model on a task, or completions from a file.

    Args:
        generate: the model, the task, and how completions are decoded.
        completions: score this file instead of decoding; lines have "task_id" and "completion" or "solution".
        output: directory of the verdicts and the score; empty for a new one below runs/evaluate. A directory with
            another evaluation is never overwritten.
        k: values of k for pass@k, at most `generate.samples`.
        rounds: also score what the model reaches with at most so many rounds of its own debugging: its program is run
            with the asserts that its prompt shows, or else with asserts that it writes itself, never with hidden ones,
            and it analyses the output and repairs the program. 0 scores the first answers only.
        partial: count problems without a completion in the file as failed, and leave out completions of problems that
            the task does not have, instead of stopping with an error.
        clean: the completions are chat answers that no program has cleaned: score the code in them, without prose,
            fences and thoughts.
        formats: also write the verdicts in the format of evalplus (eval_results.json) or of the BigCode harness
            (generations.json and metrics.json).
        seconds: time limit of one completion with all its tests, in seconds of processor time, or of sleeping. It does
            not count for tasks that time their reference solution (HumanEval and MBPP with evalplus's tests).
        min_time_limit: for tasks that time their reference solution: the shortest time limit of one call, in seconds of
            processor time; evalplus's default.
        gt_time_limit_factor: for tasks that time their reference solution: the time limit of one call as a multiple of
            the time that the reference takes on this machine; evalplus's default.
        memory_mb: memory limit of one completion, in MB; evalplus uses 4096.
        workers: number of interpreters at work; 0 means one per core.
        isolation: level of isolation; `auto` is the strongest that this machine offers (see `doctor`).
        libraries: libraries that programs may import besides the standard library, such as numpy or scikit-learn, each
            with what it requires. Other installed packages are hidden, because some hold the answers of benchmarks.
    """

    generate: GenerateConfig = field(default_factory=GenerateConfig)
    completions: str = ""
    output: str = ""
    k: tuple[int, ...] = (1,)
    rounds: int = 0
    partial: bool = False
    clean: bool = False
    formats: tuple[Literal["evalplus", "bigcode"], ...] = ()
    seconds: float = 10.0
    min_time_limit: float = 1.0
    gt_time_limit_factor: float = 4.0
    memory_mb: int = 4096
    workers: int = 0
    isolation: Literal["auto", "full", "reduced", "none"] = "auto"
    libraries: tuple[str, ...] = DEFAULT_LIBRARIES
