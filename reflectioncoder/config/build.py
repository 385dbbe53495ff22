"""Settings: one frozen dataclass for each verb; `settings.py` reads them from files and flags, and writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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
    sampler: Literal["mutation", "chat", "replay", "native"] = "mutation"
    chat: ChatConfig = field(default_factory=ChatConfig)
    native: NativeConfig = field(default_factory=NativeConfig)


@dataclass(frozen=True)
class MaskingConfig:
    """Which part of the first round the student does not see (section 3.2, figure 3; tables 2, 3 and 8).

    Args:
        strategy: by blocks (`block`, `sequential`, `random`, `mix`), by tokens (`random_token`,
            `sequential_token`), or constant: `all` (vanilla distillation, equation 1) and `none`.
        order: of the `block` strategy, first hidden first; analysis blocks are those of type `text`.
        semantics: small points where the paper's text (`paper`) and the authors' release (`release`) differ.
    """

    strategy: Literal["block", "sequential", "random", "mix", "random_token", "sequential_token", "all", "none"] = (
        "block"
    )
    order: tuple[str, ...] = ("execution", "text", "code")
    semantics: Literal["paper", "release"] = "paper"


@dataclass(frozen=True)
class LossConfig:
    """How the terms of the loss are put together (section 3.2, last paragraph).

    Args:
        cross_entropy: `pooled`: one mean over the teacher's and the student's labels; `separate`: two means, added.
        normalization: `sample`: mean over the samples of the global batch; `token`: terms are means over all its
            tokens.
        distillation: weight of KL(teacher || student); 0 leaves it out.
    """

    cross_entropy: Literal["pooled", "separate"] = "pooled"
    normalization: Literal["sample", "token"] = "sample"
    distillation: float = 1.0


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters beside frozen weights, for models too large to train whole (extra `peft`).

    Args:
        r: rank of the adapters; 0 trains all weights.
        alpha: the adapters' output is scaled by alpha / r.
        dropout: on the adapters' input.
        targets: names of the layers that get one, such as `q_proj`; `all-linear` takes all but the output head.
        output: `merged`: a plain model; `adapter`: the adapter with the rows of the special tokens.
        quantize: `4bit` keeps the frozen weights in four bits (QLoRA; needs CUDA and the extra `qlora`).
    """

    r: int = 0
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    output: Literal["merged", "adapter"] = "merged"
    quantize: Literal["none", "4bit"] = "none"


@dataclass(frozen=True)
class TrainConfig:
    """What `reflectioncoder train` does; the defaults are the paper's (section 4.1).

    Args:
        model: directory or hub name of a causal language model, or "smollm2-135m-instruct", the embedded one.
        output: directory of the trained model, its log and its checkpoints.
        data: files of dialogues: the released schema, messages with plain text, or pairs such as "query" and "answer",
            in JSONL, JSON, Parquet or a saved data set; reflection and instruction data may be mixed.
        objective: `reflection` is the paper's; `instruction` trains on the last round alone, plain.
        upsample: how often reflection samples are repeated in an epoch (section B.3).
        batch_size: samples of a global batch, whatever the number of devices.
        micro_tokens: most tokens of one forward pass; a single longer sample still goes alone.
        max_length: samples with more tokens are dropped and counted.
        epochs: passes over the (up-sampled) data; ignored where `max_steps` or `max_tokens` is given.
        max_steps: optimizer steps; -1 leaves it to `epochs`.
        max_tokens: stop at the first step that reaches this many tokens through the model (teacher and student
            rows both count); -1 leaves it to `epochs`.
        precision: `float32`, or `bfloat16` for matrix work in bfloat16 with float32 master weights.
        positions: `keep` gives student tokens their places in the teacher (rotary models); `rebase` numbers them
            from zero, as at inference.
        save_steps: write a checkpoint every so many steps; 0 writes none but the final model.
        resume: go on from the newest checkpoint in `output`.
        overwrite: replace a finished model in `output`, or the checkpoints of an unfinished run.
        eval_data: files of held-out dialogues, scored every `eval_steps` steps with everything hidden from the student.
        eval_share: share of the samples that is held out for that instead, or besides; those with the same (last)
            instruction are all held out or none, so that what is scored has not been trained on in another shape.
        patience: end after so many evaluations without a better one; 0 never does.
        keep_best: the final model is the one of the best evaluation.
        report_to: trackers beside `log.jsonl`; `auto` is TensorBoard where it is installed.
        gradient_checkpointing: keep only what goes into each layer for the backward pass and compute the rest again.
        selective_checkpointing: keep the results of matrix products and attention too; nearly as fast as keeping all.
        bos: `required` refuses a tokenizer without a token that begins a sequence; `none` allows it (Qwen).
        optimizer: AdamW, or another of the Trainer's; those with `8bit` need CUDA and bitsandbytes.
        torch_compile: compile the feed-forward blocks; worth a try on a GPU, not on a processor.
        sharding: accelerate configuration file (configs/accelerate/) of FSDP2 or DeepSpeed; empty takes what
            `accelerate launch` set, else every rank holds the whole model.
        tokens_per_second: for the expected time of `--dry-run`; 0 guesses it from a short measurement.
        rank_timeout: seconds after which a rank gives up a computation that the others do not join; on processors
            (gloo) with one line, and a rank that died is noticed at once; on GPUs NCCL's watchdog then aborts the
            process. Waits for the rank that loads or writes are not bounded by it.
    """

    model: str = EMBEDDED_MODEL
    output: str = "runs/train"
    data: tuple[str, ...] = ()
    objective: Literal["reflection", "instruction"] = "reflection"
    upsample: int = 2
    batch_size: int = 512
    micro_tokens: int = 4096
    max_length: int = 4096
    epochs: float = 2.0
    max_steps: int = -1
    max_tokens: int = -1
    learning_rate: float = 5e-5
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 3407
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    positions: Literal["keep", "rebase"] = "keep"
    optimizer: Literal["adamw", "adafactor", "sgd", "adamw_8bit", "paged_adamw_8bit", "lion_8bit"] = "adamw"
    bos: Literal["required", "none"] = "required"
    gradient_checkpointing: bool = False
    selective_checkpointing: bool = False
    torch_compile: bool = False
    logging_steps: int = 1
    save_steps: int = 100
    resume: bool = False
    overwrite: bool = False
    device: str = "auto"
    eval_data: tuple[str, ...] = ()
    eval_share: float = 0.0
    eval_steps: int = 0
    patience: int = 0
    keep_best: bool = False
    report_to: tuple[Literal["auto", "none", "tensorboard", "wandb", "trackio"], ...] = ("auto",)
    sharding: str = ""
    rank_timeout: int = 600
    tokens_per_second: float = 0.0
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)


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
    backend: Literal["transformers", "vllm", "server"] = "transformers"
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
