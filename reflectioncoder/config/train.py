"""Settings of `train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from reflectioncoder.config.build import EMBEDDED_MODEL
from reflectioncoder.registry import NameIn


@dataclass(frozen=True)
class MaskingConfig:
    """Which part of the first round the student does not see (section 3.2, figure 3; tables 2, 3 and 8).

    Args:
        strategy: by blocks (`block`, `sequential`, `random`, `mix`), by tokens (`random_token`,
            `sequential_token`), or constant: `all` (vanilla distillation, equation 1) and `none`.
        order: of the `block` strategy, first hidden first; analysis blocks are those of type `text`.
        semantics: small points where the paper's text (`paper`) and the authors' release (`release`) differ.
    """

    strategy: Annotated[str, NameIn("train.batch.strategies:STRATEGIES")] = "block"
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
        learning_rate: its peak, after the warm-up (section 4.1).
        scheduler: how the learning rate goes down after the warm-up.
        warmup_ratio: share of the steps in which the learning rate rises from 0.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm; 0 leaves them as they are.
        seed: of the order of samples, of random masks and of new adapters.
        logging_steps: steps between two lines of log.jsonl.
        device: `auto` takes a CUDA GPU where there is one; or `cpu`, `cuda`, `cuda:N`.
        eval_steps: steps between two held-out evaluations; 0 makes none.
        masking: what the student does not see.
        loss: how the loss terms are combined.
        lora: low-rank adapters instead of all weights.
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
