"""Settings of `build`, as frozen dataclasses; `toml.py` reads them from files and flags, and writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template
from typing import Annotated, Any, Literal

from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.errors import UserError
from reflectioncoder.files.json_text import LIMITS
from reflectioncoder.registry import NameIn

# words of a header or parameter whose value is a credential
SECRET = frozenset(
    "key apikey token secret auth authorization password passwd cookie credential credentials signature sig jwt".split()
)
EMBEDDED_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class ChatConfig:
    """The chat model of a build, how requests are sent, and what they may cost. Keys are never stored here.

    Args:
        base_url: URL of an OpenAI-compatible endpoint, such as http://localhost:8000/v1 or https://api.openai.com/v1
            (docs/servers.md). There is no default, so that nobody is charged by accident.
        model: name of the model on the server.
        protocol: how code is marked in answers: `fenced` in a fenced block, `tools` in calls of a `python` tool.
        system_prompt: `own` sends a system message; `merged` puts its text into the first user message, for models
            without a system role.
        temperature: sampling temperature; a negative value leaves it out of the request, because some models refuse it.
        top_p: nucleus sampling; 1 leaves it out of the request.
        max_tokens: longest answer in tokens.
        token_limit_key: name of that limit in the request.
        in_flight: number of conversations at the same time.
        timeout: seconds for one complete answer.
        retries: attempts after a request that failed on the server's side.
        backoff: seconds before the first retry, doubled each time; a Retry-After header takes precedence.
        longest_wait: stop the build if a Retry-After header asks for more seconds than this.
        stream: receive the answer piece by piece, for servers that only stream. An answer that was cut off is requested
            again, as without streaming.
        extra_body: further keys of each request, as a TOML table or the text of a JSON object, such as
            '{"reasoning_effort": "low"}'. A null value leaves a key of ours out of the request.
        extra_headers: further HTTP headers of each request, as a table or JSON. $NAME stands for the environment
            variable NAME; the value of a header with a key must be given so.
        extra_query: further parameters in the URL of each request, as a table or JSON, such as
            '{"api-version": "2024-10-21"}'. $NAME stands for the environment variable NAME.
        thoughts: when the thoughts of an answer that the server returns beside its text (`reasoning_content`,
            signatures) are sent back: `with_tools` only in the protocol `tools`, `always` or `never`.
        endings: words of `finish_reason` that mean a whole answer, in addition to the known ones; `null` stands for
            none at all.
        api_key_variable: environment variable with the key; it may be unset for local servers.
        prompts: TOML file that overrides the prompts' wording (docs/building.md).
        replay: JSONL file of recorded answers, for the sampler `replay`.
        thought_marks: further marks of a model's thoughts, which are no part of its answer: each is an opening and a
            closing mark with a blank between them, such as "<plan> </plan>". The usual ones (`<think>`, `[THINK]`,
            channels and others) are known.
        budget_requests: HTTP requests, or answers of a model on this machine, after which the build stops cleanly; 0
            sets no limit.
        budget_tokens: input and output tokens after which the build stops cleanly; 0 sets no limit.
        budget_money: cost, by `prices`, after which the build stops cleanly; 0 sets no limit.
        prices: prices per million tokens as "MODEL=INPUT/OUTPUT".

    Raises:
        UserError: the URL has a user name, password, query or fragment, or a header or parameter holds a key in plain
            text. They are refused before they could be written to a file or printed.
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
    stream: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict, hash=False)
    extra_headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    extra_query: Mapping[str, str] = field(default_factory=dict, hash=False)
    thoughts: Literal["with_tools", "always", "never"] = "with_tools"
    endings: tuple[str, ...] = ()
    api_key_variable: str = "OPENAI_API_KEY"
    prompts: str = ""
    replay: str = ""
    thought_marks: tuple[str, ...] = ()
    budget_requests: int = 0
    budget_tokens: int = 0
    budget_money: float = 0.0
    prices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "@" in self.base_url or "?" in self.base_url or "#" in self.base_url:
            raise UserError(
                "chat.base_url: leave user name, password and query out of it; the key comes from the environment"
                f" variable {self.api_key_variable}, and chat.extra_query takes other parameters"
            )
        for where, table in (("headers", self.extra_headers), ("query", self.extra_query)):
            for name, text in table.items():
                if holds_key(name) and text and not Template(text).get_identifiers():
                    raise UserError(
                        f"chat.extra_{where}: '{name}' holds a key; put it into an environment variable and write $NAME"
                        " here"
                    )


def holds_key(name: str) -> bool:
    """Whether a header or parameter of this name holds a credential."""
    return bool(SECRET & set(re.split(r"[^a-z0-9]+", name.lower())))


@dataclass(frozen=True)
class VllmConfig:
    """How vLLM divides a model over GPUs, and how much memory it takes.

    Args:
        tensor_parallel: number of GPUs over which each layer of the model is spread; a divisor of its attention heads.
        memory_share: share of each GPU's memory that vLLM takes for weights, keys and values, in (0, 1]; 0 is vLLM's
            own default (about 0.9). Lower it if other programs use the GPU.
        max_length: longest prompt with its answer, in tokens; 0 is the model's number of positions. Lower it if vLLM
            says that keys and values do not fit into memory.
    """

    tensor_parallel: int = 1
    memory_share: float = 0.0
    max_length: int = 0


@dataclass(frozen=True)
class NativeConfig:
    """A fine-tuned model that writes the typed blocks itself, for the sampler `native` (appendix A).

    Args:
        model: directory or hub name of a model that `reflectioncoder train` made, or of another that knows the special
            tokens. There is no default, because the embedded model does not know them before training.
        backend: `transformers`; `vllm` (an extra); or `completions` for a server that has the model and accepts vLLM's
            parameters. The server's URL, budget and timeouts are those of `chat`, and so is the model's name there if
            `chat.model` is set; only the tokenizer of `model` is then loaded here.
        prompt: for `completions`: `ids` sends token ids; `text` is for servers that accept none, and rejects problems
            whose text contains special tokens.
        batch_size: conversations that are decoded together; with `completions` it is `chat.in_flight`.
        max_new_tokens: longest answer in tokens. An answer is an analysis with a code block, a closing remark, or the
            final answer.
        temperature: sampling temperature; 0 is greedy.
        samples: conversations per problem. Each different one can be in the output, with the id PROBLEM#NUMBER.
        keep: `all` keeps every sample of a problem that passes; `first` stops at the first that passes and counts the
            others as `not_needed`.
        replicas: copies of the model on a Ray cluster; 0 means one per GPU, or one without a GPU.
        top_p: probability mass that nucleus sampling keeps.
        precision: data type of the parameters.
        device: `auto` is a CUDA GPU if there is one; or `cpu`, `cuda`, `cuda:N`.
        trust_remote_code: run Python code that comes with the model, for architectures that transformers does not have.
            The code has every right of this process; set it only for models whose code you have read.
        vllm: GPUs and memory for the back end `vllm`.
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
    trust_remote_code: bool = False
    vllm: VllmConfig = field(default_factory=VllmConfig)


@dataclass(frozen=True)
class AttemptsConfig:
    """The model whose own attempts become sequences, for the sampler `attempts`, and how they are repaired.

    Args:
        model: directory or hub name of the model that answers the problems: the one that is to be trained, or any
            other. With the back end `server` it is `chat.model`.
        backend: `transformers`; `vllm` (an extra); or `server` for a model behind an OpenAI-compatible server, whose
            URL, budget and timeouts are those of `chat`.
        prompt_style: see `generate`; `auto` is what the model was made for.
        samples: attempts per problem; each different one can be in the output, with the id PROBLEM#NUMBER.
        temperature: sampling temperature; 0 is greedy, and more than one sample needs more.
        top_p: probability mass that nucleus sampling keeps.
        max_new_tokens: longest attempt in tokens; one that reaches it is rejected as `answer_too_long`.
        batch_size: attempts that are decoded together.
        repair: who analyses and repairs an attempt: `reference` takes the smallest edit from the problem's solution;
            `chat` continues with the model behind `chat.base_url`; `self` with the model itself, which must know the
            format unless it is behind a server.
        largest_repair: largest share of the repaired program, in syntax nodes, that a repair from the reference may
            write or remove. An attempt that needs more is rejected as `repair_too_large`; 1 also keeps programs that
            are written anew.
        answer: code of the final answer after a repair from the reference: `repaired` is the attempt with its mistakes
            repaired, `reference` the problem's own solution.
        precision: data type of the parameters.
        device: `auto` is a CUDA GPU if there is one; or `cpu`, `cuda`, `cuda:N`.
        trust_remote_code: run Python code that comes with the model, for architectures that transformers does not have.
            The code has every right of this process; set it only for models whose code you have read.
        vllm: GPUs and memory for the back end `vllm`.
    """

    model: str = EMBEDDED_MODEL
    backend: Annotated[str, NameIn("generate.registry:BACKENDS")] = "transformers"
    prompt_style: Literal["auto", "native", "chat", "plain"] = "auto"
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 0.95
    max_new_tokens: int = 512
    batch_size: int = 64
    repair: Literal["reference", "chat", "self"] = "reference"
    largest_repair: float = 0.5
    answer: Literal["repaired", "reference"] = "repaired"
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    device: str = "auto"
    trust_remote_code: bool = False
    vllm: VllmConfig = field(default_factory=VllmConfig)


@dataclass(frozen=True)
class BuildConfig:
    """Make reflection sequences from problems: with planted bugs (no language model), or with a model.

    Args:
        sampler: source of the sequences: `mutation` plants bugs in verified solutions, `attempts` repairs a model's own
            wrong answers, `chat` uses a chat model, `replay` recorded answers of one, `native` a model that was
            fine-tuned on the format.
        chat: the chat model. The prompts and budgets also apply to `native`, and with its back end `completions` so do
            the server's settings, as for `attempts` with its back end `server`. Ignored by `mutation`.
        native: the fine-tuned model of the sampler `native`.
        attempts: the model of the sampler `attempts`, and how its mistakes are repaired.
        output: output directory with the ledger, the sequences, the rejects and the funnel.
        problems: "procedural" (or its part "procedural_micro", for micro models), a JSONL or Parquet file, or a Hugging
            Face data set. Samplers with a model need only instructions; `mutation` and `attempts` need solutions and
            tests.
        fields: names of the data set's columns, such as "instruction=text,tests=test_list", or a preset; empty for our
            own names and the shapes in docs/data.md.
        skip_bad: leave out rows that cannot be read, and list them with the reasons in problem_notes.txt; otherwise the
            first one ends the command.
        max_row_mb: longest row of a data file, in MB of text; a longer one counts as damaged.
        max_file_mb: most MB that one compressed data file may unpack to.
        count: number of problems.
        seed: seed of the problems and of all random choices.
        levels: difficulty levels of the procedural problems.
        workers: number of processes, each with an interpreter; 0 means one per core (of the cluster, with `ray`).
        engine: `local` is this machine; `ray` (an extra) runs interpreters and native models on a Ray cluster.
        ray_address: HOST:PORT of the cluster's head; empty uses the cluster of this machine, or starts one.
        ray_wait: seconds without a node that accepts work after which the build stops.
        seconds: time limit of one cell, in seconds of processor time, or of sleeping.
        memory_mb: memory limit of one session, in MB.
        isolation: level of isolation; `auto` is the strongest that this machine offers (see `doctor`).
        libraries: libraries that programs may import besides the standard library, such as numpy or scikit-learn, each
            with what it requires. Other installed packages are hidden, because some hold the answers of benchmarks.
        max_rounds: most rounds of a sequence; one that needs more is rejected as unresolved (appendix A).
        decontaminate: directories or files whose problems must not be in the output: HumanEval(+), MBPP(+), MultiPL-E
            and DS-1000 as published, or other data files.
        decontaminate_fields: names of the columns in these files, such as "instruction=question,solution=code"; empty
            for the published formats and the shapes in docs/data.md.
        decontaminate_split: split of these directories or data sets; `all` takes every file.
        contamination_share: share of a benchmark prompt's 5-word sequences from which a problem counts as a copy;
            above 1 finds none (docs/contamination.md).
        split: split of the data set.
        io_names: function names that count as input or output (appendix A); empty for the built-in list.
        io_match: `tree` finds these names on the syntax tree; `words` is the paper's plain keyword matching.
        repeats: number of times that the last cell of a sequence is rerun in fresh sessions; a sequence whose result
            changes is rejected as `non_deterministic`. 0 skips this.
        near_duplicates: share of common 5-grams from which two sequences count as duplicates; above 1 keeps all.
        formats: output formats: `jsonl` (always written), `parquet`, and `dataset` for `datasets.load_from_disk`.
        fork: new directory for a build with changed settings that reuses all results in `output` that they leave
            valid (docs/building.md).
    """

    output: str = "runs/build"
    problems: str = "procedural"
    fields: str = ""
    skip_bad: bool = True
    max_row_mb: int = LIMITS.row_mb
    max_file_mb: int = LIMITS.file_mb
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
    libraries: tuple[str, ...] = DEFAULT_LIBRARIES
    max_rounds: int = 8
    decontaminate: tuple[str, ...] = ()
    decontaminate_fields: str = ""
    decontaminate_split: str = "all"
    contamination_share: float = 0.4
    split: str = "train"
    io_names: tuple[str, ...] = ()
    io_match: Literal["tree", "words"] = "tree"
    repeats: int = 2
    near_duplicates: float = 0.9
    formats: tuple[str, ...] = ("jsonl", "parquet")
    fork: str = ""
    sampler: Annotated[str, NameIn("construct.samplers.registry:SAMPLERS", ("mutation", "attempts"))] = "mutation"
    chat: ChatConfig = field(default_factory=ChatConfig)
    native: NativeConfig = field(default_factory=NativeConfig)
    attempts: AttemptsConfig = field(default_factory=AttemptsConfig)
