"""Settings of `train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from reflectioncoder.config.build import EMBEDDED_MODEL
from reflectioncoder.files.json_text import LIMITS
from reflectioncoder.registry import NameIn

DivergenceKind = Literal["forward", "reverse", "jensen_shannon"]
SequenceLabels = Literal["all", "right", "answer"]


@dataclass(frozen=True)
class MaskingConfig:
    """Which part of the first round the student does not see (section 3.2, figure 3; tables 2, 3 and 8).

    Args:
        strategy: what is hidden as the mask rate grows: whole blocks (`block`, `sequential`, `random`, `mix`), tokens
            (`random_token`, `sequential_token`), `all` from the start (vanilla distillation, equation 1), or `none`;
            `influence` hides each sample's blocks in the order of their measured influence on its final answer.
        drop: share of the blocks of each reflection sequence, in [0, 1], that are dropped before training, for teacher
            and student alike: those with the least measured influence. 1 leaves the two requests and the final answer.
        order: order in which the strategy `block` hides the block types; analyses have the type `text`.
        semantics: `paper` or `release`, where details of the paper's text and of the authors' code differ.
        schedule: `steps` is the paper's "current step / max step"; with `kl` the mask rate also moves on to the next of
            `stages` equal stages as soon as the student has caught up with its teacher.
        stages: stages of the mask rate under `kl`; 3 hide one more type of block at each.
        caught_up: mean divergence, in nats per token, at or below which the student has caught up.
        window: steps with reflection samples over which that mean is taken.
    """

    strategy: Annotated[str, NameIn("train.batch.strategies:STRATEGIES")] = "block"
    drop: float = 0.0
    order: tuple[str, ...] = ("execution", "text", "code")
    semantics: Literal["paper", "release"] = "paper"
    schedule: Literal["steps", "kl"] = "steps"
    stages: int = 3
    caught_up: float = 0.05
    window: int = 3


@dataclass(frozen=True)
class LossConfig:
    """How the terms of the loss are combined (section 3.2, last paragraph).

    Args:
        cross_entropy: `pooled` is one mean over the labels of teacher and student; `separate` adds two means.
        normalization: `sample` averages over the samples of the global batch, `token` over all its tokens.
        distillation: weight of KL(teacher || student); 0 leaves it out.
        teacher_only: train on the whole sequences alone, with the cross-entropy of the teacher rows and without student
            rows. This is what "w/o Distillation" (table 4) means in the authors' code; `distillation` = 0 keeps the
            student's cross-entropy.
        student_weight: weight of a label of the student's row in the cross-entropy, where one of the teacher's row has
            1; with `separate` it multiplies the student's mean.
        divergence: `forward` is the paper's KL(teacher || student), `reverse` is KL(student || teacher), and
            `jensen_shannon` lies between them.
        temperature: the divergence compares the distributions of logits / temperature, and is multiplied by its square.
        changed_weight: weight, in the divergence, of the final answer's tokens that the first attempt does not have,
            where the others have 1; a sample's weights are scaled to a mean of 1.
        teacher: `same` reads the teacher's row with the weights that are trained; `average` with their moving average,
            for another forward pass of the teacher's row and the memory of one more set of weights.
        decay: share of the moving average that is kept at each step.
        labels: labels of a reflection sequence: `all` of appendix C; `right` without the code that was repaired; or
            only the final `answer`.
    """

    cross_entropy: Literal["pooled", "separate"] = "pooled"
    normalization: Literal["sample", "token"] = "sample"
    distillation: float = 1.0
    teacher_only: bool = False
    student_weight: float = 1.0
    divergence: DivergenceKind = "forward"
    temperature: float = 1.0
    changed_weight: float = 1.0
    teacher: Literal["same", "average"] = "same"
    decay: float = 0.99
    labels: SequenceLabels = "all"


@dataclass(frozen=True)
class OnPolicyConfig:
    """How the model learns from its own answers, with the objective `on_policy`.

    Args:
        context: what the teacher reads before the instruction: the sample's `reflection` sequence, its reference
            `answer` (SDFT), or `feedback`, the execution of the model's own answer with the asserts of the sequence
            (SDPO).
        max_new_tokens: most tokens of an answer.
        temperature: sampling temperature of the answers; 0 is greedy.
        top_p: probability mass of nucleus sampling.
        decode_batch: answers that are decoded at the same time.
    """

    context: Literal["reflection", "answer", "feedback"] = "reflection"
    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    decode_batch: int = 64


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on frozen weights, for models too large to train whole (extra `peft`).

    Args:
        r: rank of the adapters; 0 trains all weights.
        alpha: the adapters' output is scaled by alpha / r.
        dropout: dropout on the adapters' input.
        targets: names of the layers with adapters, such as `q_proj`; `all-linear` is every linear layer but the output
            head.
        output: `merged` writes a plain model; `adapter` writes the adapter with the rows of the special tokens.
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
    """Fine-tune a causal language model by masked self-distillation. The defaults are the paper's (section 4.1).

    Args:
        model: directory or hub name of a causal language model, or the embedded "smollm2-135m-instruct".
        output: directory of the trained model, its log and its checkpoints.
        data: files, folders, builds or data sets of dialogues: the released schema, messages with plain text, pairs
            such as "query" and "answer", and the other shapes in docs/data.md. Reflection and instruction data may be
            mixed.
        fields: names of the data's columns, such as "instruction=question,answer=reply", or a preset; empty takes the
            shape of each row.
        split: split of folders and data sets in `data` and `eval_data`; `all` takes every file.
        skip_bad: leave out rows that cannot be read, and list them with the reasons in skipped_rows.txt in `output`;
            otherwise the first one ends the command.
        max_row_mb: longest row of a data file, in MB of text; a longer one counts as damaged.
        max_file_mb: most MB that one compressed data file may unpack to.
        objective: `reflection` is the paper's; `instruction` is plain tuning on the last round alone; with `on_policy`
            the model answers the instruction of each reflection sample itself, and learns by the divergence of `loss`
            from a teacher with more context (`on_policy`). Plain samples are trained on as they are.
        upsample: how many times an epoch repeats each reflection sample (section B.3).
        mix: how reflection and plain data share an epoch. `samples` takes each plain sample once and each reflection
            sample `upsample` times, as in the paper. `instructions` shows every instruction equally often: its plain
            samples take turns, once in an epoch together, and so do its reflection samples, `upsample` times together.
            `tokens` repeats or thins the reflection samples until they take `reflection_share` of the tokens.
        reflection_share: share of the tokens through the model that reflection samples take if `mix` is `tokens`;
            teacher and student rows are both counted.
        batch_size: samples of a global batch, for any number of devices.
        micro_tokens: most tokens of one forward pass; a longer sample is a pass of its own.
        max_length: longer samples, in tokens, are dropped and counted.
        epochs: passes over the (up-sampled) data; ignored if `max_steps` or `max_tokens` is set.
        max_steps: number of optimizer steps; -1 leaves it to `epochs`.
        max_tokens: end at the first step that reaches this many tokens through the model, with teacher and student rows
            both counted; -1 leaves it to `epochs`.
        precision: `float32`, or `bfloat16` for matrix products in bfloat16 with float32 master weights.
        positions: `keep` gives student tokens their position ids in the teacher row, for rotary models; `rebase`
            numbers them from zero, as at inference, for models with absolute positions.
        save_steps: steps between checkpoints; 0 saves only the final model.
        resume: continue from the newest checkpoint in `output`.
        overwrite: replace a finished model in `output`, or the checkpoints of an unfinished run.
        eval_data: files of held-out dialogues, scored every `eval_steps` steps with the whole first round hidden from
            the student.
        eval_share: share of the samples to hold out, in addition to `eval_data`. Samples with the same last
            instruction are held out together, so that none is scored after training on another form of it.
        patience: stop after this many evaluations without an improvement; 0 never stops.
        keep_best: make the final model the one with the best evaluation.
        report_to: trackers besides `log.jsonl`; `auto` is TensorBoard if it is installed.
        gradient_checkpointing: keep only the inputs of each layer for the backward pass, and recompute the rest.
        selective_checkpointing: keep the results of matrix products and attention as well; nearly as fast as keeping
            everything.
        bos: `required` refuses a tokenizer without a beginning-of-sequence token; `none` accepts it (Qwen).
        optimizer: `adamw` or another; those with `8bit` need CUDA and bitsandbytes.
        torch_compile: compile the feed-forward blocks; may pay on a GPU, does not on a CPU.
        sharding: accelerate configuration file (configs/accelerate/) for FSDP2 or DeepSpeed; empty uses what
            `accelerate launch` set, or else keeps the whole model on every rank.
        tokens_per_second: speed for the time estimate of `--dry-run`; 0 measures it briefly.
        rank_timeout: seconds after which a rank gives up a collective operation that other ranks do not join. On CPUs
            (gloo) it exits with one line, and a rank that died is noticed at once; on GPUs NCCL's watchdog aborts the
            process. Waits for the rank that loads or writes have no such limit.
        learning_rate: peak learning rate, after the warm-up (section 4.1).
        scheduler: shape of the learning rate after the warm-up.
        warmup_ratio: share of the steps over which the learning rate rises from 0. The first of them has rate 0, so it
            changes nothing; 0 begins with the peak.
        weight_decay: weight decay of the optimizer.
        max_grad_norm: clip gradients to this norm; 0 does not clip.
        seed: seed of the order of samples, of random masks and of new adapters.
        logging_steps: steps between two lines of log.jsonl.
        device: `auto` is a CUDA GPU if there is one; or `cpu`, `cuda`, `cuda:N`.
        trust_remote_code: run Python code that comes with the model, for architectures that transformers does not have.
            The code has every right of this process; set it only for models whose code you have read.
        eval_steps: steps between two evaluations on held-out samples; 0 makes none.
        masking: what the student does not see.
        loss: how the loss terms are combined.
        on_policy: learning from the model's own answers.
        lora: low-rank adapters instead of all weights.
    """

    model: str = EMBEDDED_MODEL
    output: str = "runs/train"
    data: tuple[str, ...] = ()
    fields: str = ""
    split: str = "train"
    skip_bad: bool = False
    max_row_mb: int = LIMITS.row_mb
    max_file_mb: int = LIMITS.file_mb
    objective: Literal["reflection", "instruction", "on_policy"] = "reflection"
    upsample: int = 2
    mix: Literal["samples", "instructions", "tokens"] = "samples"
    reflection_share: float = 0.5
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
    trust_remote_code: bool = False
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    on_policy: OnPolicyConfig = field(default_factory=OnPolicyConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
