"""Settings: one frozen dataclass for each verb; `settings.py` reads them from files and flags, and writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from reflectioncoder.registry import NameIn

EMBEDDED_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class ChatConfig:
    """The chat model of a build, how it is asked, and what it may cost. Keys are never written here.

    Args:
        base_url: of an OpenAI-compatible endpoint, such as http://localhost:8000/v1 or https://api.openai.com/v1; there
            is no default, so that nobody is charged by accident.
        model: its name there.
        protocol: `fenced`: code stands in a fenced block of the answer; `tools`: the model calls a `python` tool.
        system_prompt: `own` message, or `merged` into the first of the user's, for models that know no system role.
        temperature: negative leaves it out of the request; some models refuse it.
        top_p: 1 leaves it out of the request.
        max_tokens: of one answer.
        token_limit_key: what the server calls that limit.
        in_flight: conversations at work at once.
        timeout: seconds for one whole answer.
        retries: of a request that failed on the server's side.
        backoff: seconds before the first retry, doubled each time; a server's Retry-After goes before it.
        longest_wait: a Retry-After of more seconds than this stops the build.
        api_key_variable: environment variable that holds the key; may be unset for local servers.
        prompts: TOML file that overrides the wordings (see `prompts.py`).
        replay: JSONL file of recorded answers, for the sampler `replay`.
        budget_requests: HTTP requests (answers of a model on this machine) after which the build stops cleanly; 0 for
            no limit, as below.
        budget_tokens: input and output tokens together.
        budget_money: by `prices`.
        prices: entries "MODEL=INPUT/OUTPUT", for a million tokens.
    """

    base_url: str = ""
    model: str = ""
    protocol: Literal["fenced", "tools"] = "fenced"
    system_prompt: Literal["own", "merged"] = "own"
    temperature: float = 0.2
    top_p: float = 1.0
    max_tokens: int = 2048
    token_limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    in_flight: int = 64
    timeout: float = 120.0
    retries: int = 6
    backoff: float = 0.5
    longest_wait: float = 120.0
    api_key_variable: str = "OPENAI_API_KEY"
    prompts: str = ""
    replay: str = ""
    budget_requests: int = 0
    budget_tokens: int = 0
    budget_money: float = 0.0
    prices: tuple[str, ...] = ()


@dataclass(frozen=True)
class NativeConfig:
    """The model of a build that was fine-tuned on the format and writes its blocks itself (appendix A).

    Args:
        model: directory or hub name of a model that `reflectioncoder train` made, or another that knows the special
            tokens; there is no default, for the embedded model does not know them untrained.
        backend: `transformers`, `vllm` (an extra), or `completions`: a server that has the model and takes vLLM's
            parameters (see `native_completions.py`). It is reached, paid and waited for by `chat`, where `chat.model`
            is its name there if that is another than `model`; here only the tokenizer of `model` is loaded.
        prompt: for `completions`: `ids` hands in token ids; `text` is for servers that take none, and rejects what
            names special tokens in its text.
        batch_size: conversations that are decoded together; with `completions` that is `chat.in_flight`.
        max_new_tokens: of one answer: an analysis and a code block, a closing remark, or the final answer.
        temperature: 0 is greedy.
        samples: conversations about each problem; each but identical ones can end up in the output, under the
            problem's id and "#" and its number.
        keep: `all` of a problem's samples that pass; `first` makes them one after the other up to the first that
            passes, and counts the others as `not_needed`.
        replicas: of the model, on a Ray cluster; 0 means one per GPU of it, or one where there is none.
        top_p: share of probability that nucleus sampling keeps.
        precision: of the parameters.
        device: `auto` takes a CUDA GPU where there is one; or `cpu`, `cuda`, `cuda:N`.
    """

    model: str = ""
    backend: Literal["transformers", "vllm", "completions"] = "transformers"
    prompt: Literal["ids", "text"] = "ids"
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    device: str = "auto"
    batch_size: int = 64
    max_new_tokens: int = 1024
    temperature: float = 0.7
    top_p: float = 0.95
    samples: int = 1
    keep: Literal["all", "first"] = "all"
    replicas: int = 0


@dataclass(frozen=True)
class BuildConfig:
    """What `reflectioncoder build` makes: sequences from problems, by mutation (no language model) or by a model.

    Args:
        sampler: `mutation` plants bugs in verified solutions; `chat` converses with a model; `replay` does so with
            recorded answers; `native` lets a model write that was fine-tuned on the format.
        chat: the chat model; of no effect for `mutation`. For `native` its prompts and budgets hold as well, and for
            the back end `completions` all that says where the server is and how it is asked.
        native: the fine-tuned model, for `native`.
        output: directory of the build; holds the ledger, the sequences, rejects and the funnel.
        problems: "procedural", or a JSONL/Parquet file or Hugging Face data set with solutions and tests
            (a chat model needs neither).
        fields: how its columns are called, as "instruction=text,tests=test_list"; empty for our own names.
        count: how many problems to take.
        seed: of the problems and of every choice made on the way.
        levels: levels of difficulty of the procedural problems.
        workers: processes, each with its own interpreter; 0 means one per core, of the whole cluster with `ray`.
        engine: `local`, or `ray` (an extra) for interpreters and native models on the nodes of a Ray cluster.
        ray_address: HOST:PORT of its head; empty takes the cluster that this machine is in, or starts one of its own.
        ray_wait: seconds without a node that takes work after which the build stops.
        seconds: time limit of one cell.
        memory_mb: memory limit of one session.
        isolation: "auto" takes the strongest this machine gives.
        max_rounds: rounds after which a sequence counts as unresolved (appendix A).
        decontaminate: directories or files whose problems must not be in the output: HumanEval(+), MBPP(+), MultiPL-E
            and DS-1000 as they are published, or any other data file.
        contamination_share: share of the runs of five words of a benchmark's prompt from which a problem counts as a
            copy (see `contamination.py`); above 1 finds none.
        split: of the data set, for problems that are not procedural.
        io_names: called names that count as input or output (appendix A); empty for the list of `filters.py`.
        io_match: `tree` finds these names on the syntax tree, `words` by the paper's plain keyword matching.
        repeats: how often the last cell of a sequence is run again in fresh sessions; whatever then ends or prints
            otherwise is rejected as `non_deterministic`. 0 leaves that out.
        near_duplicates: share of common 5-grams from which two samples count as the same; above 1 keeps all.
        formats: of the sequences: `jsonl` (always written), `parquet`, and `dataset` for `datasets.load_from_disk`.
        fork: a new directory to build in instead of `output`, whose build has other settings; all that they do not
            touch is taken over from there (see `fork.py`).
    """

    output: str = "runs/build"
    problems: str = "procedural"
    fields: str = ""
    count: int = 300
    seed: int = 0
    levels: tuple[int, ...] = (1, 2, 3, 4)
    workers: int = 0
    engine: Literal["local", "ray"] = "local"
    ray_address: str = ""
    ray_wait: float = 120.0
    seconds: float = 5.0
    memory_mb: int = 512
    isolation: Literal["auto", "full", "reduced", "none"] = "auto"
    max_rounds: int = 8
    decontaminate: tuple[str, ...] = ()
    contamination_share: float = 0.4
    split: str = "train"
    io_names: tuple[str, ...] = ()
    io_match: Literal["tree", "words"] = "tree"
    repeats: int = 2
    near_duplicates: float = 0.9
    formats: tuple[str, ...] = ("jsonl", "parquet")
    fork: str = ""
    sampler: Annotated[str, NameIn("construct.samplers.registry:SAMPLERS", ("mutation",))] = "mutation"
    chat: ChatConfig = field(default_factory=ChatConfig)
    native: NativeConfig = field(default_factory=NativeConfig)
