"""Fine-tuning by masked self-distillation (section 3.2): `train(config)`, from settings to a saved model."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)

from reflectioncoder.config.train import LossConfig, MaskingConfig, TrainConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.errors import UserError
from reflectioncoder.files.owned import check_writable, held
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.models.saved_files import repair_generation_config, try_to_save
from reflectioncoder.models.special_tokens import add_special_tokens, train_every_row
from reflectioncoder.train import dry_run as dryrun
from reflectioncoder.train import held_out as validation
from reflectioncoder.train import lora, trackers
from reflectioncoder.train.arguments import check_optimizer, trainer_arguments
from reflectioncoder.train.batch.steps import TrainSteps, count_instructions, data_digest, prepare, summary
from reflectioncoder.train.batch.strategies import STRATEGIES, check_order
from reflectioncoder.train.checkpoints import (
    LOG,
    NARRATION_SECONDS,
    LogFile,
    TrainProgress,
    check_checkpoints,
    check_same_data,
    check_same_run,
    how_to_go_on,
    newest_checkpoint,
    read_progress,
)
from reflectioncoder.train.compute.activation_checkpointing import checkpoint_layers
from reflectioncoder.train.compute.influence import measure_influence
from reflectioncoder.train.compute.model_check import check_model
from reflectioncoder.train.compute.packed_attention import has_rotary_positions, use_varlen_attention
from reflectioncoder.train.data import note_skipped, read_dialogues
from reflectioncoder.train.on_policy import OnPolicy, executor
from reflectioncoder.train.output import (
    RESULT_FILE,
    check_inputs,
    check_output,
    check_places,
    complete_output,
    read_influence,
    save_model,
    start_output,
    write_influence,
)
from reflectioncoder.train.ranks.sharding import choose_engine, like_the_first, loads_once, whole_model
from reflectioncoder.train.ranks.world import SMALLER, EndsWithALine, World, one_line
from reflectioncoder.train.trainer import ReflectionTrainer, TokenLimit, readable

# Advice if the host does not have enough memory for the whole model.
ROOM = "this needs more host memory (consolidate converts a checkpoint to a model, on any machine)"


@dataclass(frozen=True)
class TrainResult:
    """Result of a run.

    Args:
        output: directory of the trained model.
        steps: optimizer steps of the whole run.
        tokens: tokens through the model, teacher and student rows both counted, over the whole run.
        seconds: time in the training loop, over the whole run.
        samples: samples used, without up-sampling.
        dropped: samples left out because they were longer than `max_length`.
        loss: loss of the last step.
        teacher_tokens: the part of `tokens` that is in teacher rows; plain samples have only those.
        student_tokens: the part of `tokens` that is in student rows.
        passes: passes over the data, with its up-sampling.
        seen: samples that the steps trained on, with every repetition.
        instructions: different last instructions among the samples; seen / instructions is how often training saw each
            instruction on average.
        measuring_tokens: tokens that went through the model before the first step, to measure the influence of blocks;
            not part of `tokens`.
        decoded_tokens: the part of `tokens` that decoded the model's own answers, their prompts among them.
    """

    output: str
    steps: int
    tokens: int
    seconds: float
    samples: int
    dropped: int
    loss: float
    teacher_tokens: int = 0
    student_tokens: int = 0
    passes: float = 0.0
    seen: int = 0
    instructions: int = 0
    measuring_tokens: int = 0
    decoded_tokens: int = 0


def train(
    config: TrainConfig, say: Callable[[str], None] | None = None, callbacks: Sequence[TrainerCallback] = ()
) -> TrainResult:
    """Fine-tune a model and save it to `config.output`.

    Args:
        config: configuration of the run.
        say: receives one-line messages; by default they go to standard error.
        callbacks: additional callbacks of the Trainer.

    Raises:
        UserError: the configuration or data is invalid, the output would be overwritten or cannot be written, or the
            run was interrupted with Ctrl-C.
        RankError: a rank ran out of memory, lost contact with another rank, or could not write a checkpoint.

    Example:
        from reflectioncoder import TrainConfig, train

        done = train(TrainConfig(data=("runs/build/sequences.jsonl",), output="runs/train", batch_size=16))
        print(done.steps, done.output)
    """
    world = World.from_environment()
    say = (say or _to_stderr) if world.first else _to_nobody
    _check(config)
    if not world.first:
        return _train(config, world, say, callbacks)
    check_inputs(config)
    with held(Path(config.output)):
        complete_output(Path(config.output), say)
        check_output(config)
        if config.resume:
            check_checkpoints(Path(config.output), say)
        return _train(config, world, say, callbacks)


def _train(
    config: TrainConfig, world: World, say: Callable[[str], None], callbacks: Sequence[TrainerCallback]
) -> TrainResult:
    output = Path(config.output)
    engine = choose_engine(config.sharding)
    checkpoint = newest_checkpoint(output) if config.resume else None
    if checkpoint is not None:
        check_same_run(config, output)
        first = read_progress(checkpoint)
        if first.engine != engine:
            raise UserError(f"{checkpoint}: was written with sharding engine {first.engine}, this run has {engine}")
        say(f"continuing from {checkpoint}")
    else:
        first = TrainProgress()
    dialogues, skipped = read_dialogues(config, config.data, say)
    others, more = read_dialogues(config, config.eval_data, say)
    arguments = trainer_arguments(config, engine)
    # FSDP2 keeps float32 shards and puts them on their devices itself.
    precision, place = (config.precision, str(arguments.device)) if engine != "fsdp2" else ("float32", "cpu")
    lora.check_lora(config, arguments.device, engine)
    check_optimizer(config, arguments.device)
    if config.objective == "on_policy" and engine != "none":
        raise UserError("objective = on_policy: does not work with sharding")
    if config.loss.teacher == "average" and engine != "none":
        raise UserError("loss.teacher = average: does not work with sharding; set loss.teacher = same")
    world = world.meet()

    def advice() -> str:
        return how_to_go_on(output)

    def fits(what: str) -> AbstractContextManager[None]:
        return one_line(world, lambda: f"while {what} {config.model}", lambda: SMALLER, advice)

    with fits("loading"):
        load = partial(
            load_model_and_tokenizer,
            config.model,
            precision,
            place,
            config.trust_remote_code,
            **lora.quantisation(config),
        )
        model, tokenizer = like_the_first(load, world) if loads_once(engine) else load()
        add_special_tokens(model, tokenizer)
    if repaired := repair_generation_config(model):
        say(repaired)
    if world.first:
        try_to_save(model, tokenizer)
    samples, repeats, dropped = prepare(dialogues, tokenizer, config)
    say(summary(samples, dropped, config))
    samples, repeats, held_out = validation.hold_out(samples, repeats, others, tokenizer, config)
    data = data_digest(samples, repeats, held_out)
    check_same_data(config, first, data)
    first = dataclasses.replace(first, data=data)
    with fits("preparing"):
        loaded = world.first or not loads_once(engine)
        _make_ready(model, config, max(map(len, [*samples, *held_out])), loaded, say)
        trained = lora.add_adapters(model, tokenizer, config) if config.lora.r else model
    samples, measuring = _measured(model, samples, config, checkpoint, engine, world, say)
    steps = TrainSteps(samples, repeats, config, world)
    say(
        f"{'at most ' if steps.by_tokens else ''}{len(steps)} steps of {config.batch_size} samples; a line every "
        f"{NARRATION_SECONDS:.0f} seconds, every step in {output / LOG}"
    )
    if world.first:
        check_places(config, len(steps))
    arguments.max_steps = len(steps)
    arguments.warmup_steps = math.ceil(config.warmup_ratio * len(steps))
    if arguments.warmup_steps and checkpoint is None:
        say(f"the learning rate rises from 0 over {arguments.warmup_steps} steps, so the first changes nothing")
    with fits("loading"):
        world.wait()  # until every rank has read the previous contents of the output
    if world.first:
        start_output(output, config, checkpoint, first)
        note_skipped(output, [*skipped, *more])
        if measuring:
            write_influence(output, samples, measuring)
    trainer = ReflectionTrainer(trained, arguments, steps, config, first, tokenizer, engine)
    trainer.held_out = validation.micro_batches(held_out, config, world) if held_out else []
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    own = [LogFile(output / LOG, first, say)] if world.first else []
    patience = [EarlyStoppingCallback(config.patience)] if config.patience else []
    limit = [TokenLimit(trainer)] if steps.by_tokens else []
    for added in (*own, *patience, *limit, *callbacks):
        trainer.add_callback(added)
    if config.objective == "on_policy":
        trainer.own_answers = OnPolicy(trainer.network, tokenizer, steps, executor(config))
    with EndsWithALine(world, lambda: f"stopped by SIGTERM {_where(trainer)}; {advice()}"):
        with one_line(world, partial(_where, trainer), partial(_what_to_lower, trainer), advice):
            _loop(trainer, checkpoint, output)
        seconds = trainer.seconds
        model.config.use_cache = True
        done = trainer.state.global_step
        teacher = trainer.teacher_tokens if config.objective == "on_policy" else steps.teacher_tokens(done)
        result = TrainResult(
            str(output),
            done,
            trainer.tokens,
            seconds,
            len(samples),
            dropped,
            trainer.terms.get("loss", math.nan),
            teacher,
            trainer.tokens - teacher - trainer.decoded_tokens,
            steps.passes(done),
            sum(map(len, steps.plan[:done])),
            count_instructions(samples),
            measuring,
            trainer.decoded_tokens,
        )
        with one_line(world, lambda: "while the model was written", lambda: ROOM, advice):
            whole = whole_model(trained, trainer, engine, config.precision, world.first)
            if whole is not None:
                _save(whole, tokenizer, config, result)
            world.wait()  # the other ranks would treat a rank that exits earlier as dead
    return result


def _measured(
    model: Any,
    samples: list[Encoded],
    config: TrainConfig,
    checkpoint: Path | None,
    engine: str,
    world: World,
    say: Callable[[str], None],
) -> tuple[list[Encoded], int]:
    """The samples with the influence of their blocks, if the settings of masking need it, and the tokens it took.

    A resumed run reads what the run before had measured.
    """
    students = config.objective == "reflection" and not config.loss.teacher_only
    hides = students and STRATEGIES.choose(config.masking.strategy).measured
    if not (hides or config.masking.drop) or config.masking.drop == 1:  # dropping all of them needs no order
        return samples, 0
    found = read_influence(Path(config.output), samples) if checkpoint is not None else None
    if found is None:
        if engine != "none":
            key = f"drop = {config.masking.drop}" if config.masking.drop else f"strategy = {config.masking.strategy}"
            raise UserError(f"masking.{key}: blocks cannot be measured with sharding; choose another")
        say("measuring the influence of each block on its final answer")
        measured = measure_influence(model, samples, config, world)
        found = measured.values, measured.tokens
    pairs = zip(samples, found[0], strict=True)
    return [dataclasses.replace(sample, influence=values) for sample, values in pairs], found[1]


def _loop(trainer: ReflectionTrainer, checkpoint: Path | None, output: Path) -> None:
    """Run the training loop. Raises UserError on Ctrl-C."""
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        raise UserError(f"interrupted {_where(trainer)}; {how_to_go_on(output)}") from None
    except Exception:
        if checkpoint is None or trainer.passing:
            raise
        with readable(str(checkpoint)):  # what fails before the first pass fails by what was read
            raise


def _what_to_lower(trainer: ReflectionTrainer) -> str:
    """Advise how to use less memory after the latest pass ran out of it."""
    budget, tokens = trainer.config.micro_tokens, trainer.passing
    if not tokens:
        return f"the model does not fit with its optimizer; {SMALLER}"
    if tokens > budget:  # a resumed run must have the same samples, so a lower max_length needs a new run
        return (
            f"the last pass was a single sample of {tokens} tokens, which micro_tokens (now {budget}) cannot cut; set "
            "gradient_checkpointing, which does not change the result, or lower max_length and start again"
        )
    return f"lower micro_tokens (now {budget}), or set gradient_checkpointing, neither of which changes the result"


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, config: TrainConfig, result: TrainResult) -> None:
    """Save the trained model or PEFT model; an adapter is merged first if `lora.output` is `merged`."""
    output = Path(config.output)
    if config.lora.r and config.lora.output == "merged":
        if config.lora.quantize == "none":
            model = model.merge_and_unload()
        else:  # merging into 4-bit weights would lose much of the update to rounding
            with tempfile.TemporaryDirectory(dir=output, prefix=".adapter-") as folder:
                model.save_pretrained(folder, save_embedding_layers=False)
                model, _ = load_model_and_tokenizer(folder, config.precision, "cpu", config.trust_remote_code)
    text = json.dumps(dataclasses.asdict(result), indent=2)
    save_model(model, tokenizer, output, others={RESULT_FILE: f"{text}\n"})


def _where(trainer: ReflectionTrainer) -> str:
    return f"after step {trainer.state.global_step} of {len(trainer.steps)}"


def _make_ready(
    model: PreTrainedModel, config: TrainConfig, longest: int, loaded: bool, say: Callable[[str], None]
) -> None:
    """Prepare a model for rows of at most `longest` tokens; if its weights are loaded, check it (`model_check.py`).

    Raises:
        UserError: the model cannot be trained here.
    """
    students = config.objective == "reflection" and not config.loss.teacher_only
    if config.positions == "keep" and students and not has_rotary_positions(model):
        say(
            f"model {config.model}: has no rotary positions; students with positions = keep train positions that "
            "inference does not use, as in table 7 of the paper; positions = rebase trains those that it uses"
        )
    use_varlen_attention(model, longest)
    if loaded:
        check_model(model)
    train_every_row(model)
    model.config.use_cache = False
    if config.gradient_checkpointing or config.selective_checkpointing:
        checkpoint_layers(model, selective=not config.gradient_checkpointing)
    if config.torch_compile:
        compile_feed_forward(model)


def compile_feed_forward(model: PreTrainedModel) -> None:
    """Compile the feed-forward blocks with torch.compile, for rows of any length."""
    for name, module in model.named_modules():
        if name.endswith(".mlp"):
            module.compile(dynamic=True)


def describe_plan(config: TrainConfig) -> str:
    """Describe what a run would do, without loading the weights (see `dry_run.py`). Raises UserError like `train`."""
    _check(config)
    check_inputs(config)
    output, notes, first = Path(config.output), list[str](), TrainProgress()
    check_output(config)
    check_writable(output)
    if config.resume:
        check_checkpoints(output, notes.append)
        if (checkpoint := newest_checkpoint(output)) is not None:
            check_same_run(config, output)
            first = read_progress(checkpoint)
            notes.append(f"would continue from {checkpoint}")
    return "\n".join([*notes, dryrun.plan_text(config, first)])


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _to_nobody(line: str) -> None:
    pass


def _check(config: TrainConfig) -> None:
    """Raise UserError for settings that can be rejected before anything is loaded."""
    if config.lora.r < 0:
        raise UserError(f"lora.r = {config.lora.r}: must be positive, or 0 to train all weights")
    if not config.data:
        raise UserError("data: name at least one file of dialogues")
    for name in ("batch_size", "micro_tokens", "max_length", "upsample"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} = {getattr(config, name)}: must be at least 1")
    for name in ("max_steps", "max_tokens"):
        if getattr(config, name) == 0 or getattr(config, name) < -1:
            raise UserError(f"{name} = {getattr(config, name)}: must be positive, or -1 for none")
    _check_loss(config.loss)
    _check_masking(config.masking)
    _check_on_policy(config)
    if config.masking.drop and config.objective != "reflection":
        raise UserError(f"masking.drop = {config.masking.drop}: the objective {config.objective} does not drop blocks")
    if config.masking.drop and config.mix == "tokens":
        raise UserError("masking.drop: mix = tokens counts whole sequences; choose another mix")
    if not 0 < config.reflection_share < 1:
        raise UserError(f"reflection_share = {config.reflection_share}: must be above 0 and below 1")
    validation.check_held_out(config)
    trackers.choose_trackers(config.report_to)
    if config.epochs <= 0:
        raise UserError(f"epochs = {config.epochs}: must be positive")


def _check_loss(loss: LossConfig) -> None:
    for name, good, what in (
        ("temperature", loss.temperature > 0, "positive"),
        ("changed_weight", loss.changed_weight > 0, "positive"),
        ("student_weight", loss.student_weight >= 0, "0 or more"),
        ("decay", 0 <= loss.decay < 1, "at least 0 and below 1"),
    ):
        if not good:
            raise UserError(f"loss.{name} = {getattr(loss, name)}: must be {what}")


def _check_masking(masking: MaskingConfig) -> None:
    check_order(masking.order)
    for name in ("stages", "window"):
        if getattr(masking, name) < 1:
            raise UserError(f"masking.{name} = {getattr(masking, name)}: must be at least 1")
    if not 0 <= masking.drop <= 1:
        raise UserError(f"masking.drop = {masking.drop}: must be a share of the blocks, from 0 to 1")
    if masking.caught_up < 0:
        raise UserError(f"masking.caught_up = {masking.caught_up}: must be 0 or more")


def _check_on_policy(config: TrainConfig) -> None:
    settings = config.on_policy
    for name, good, what in (
        ("max_new_tokens", settings.max_new_tokens >= 1, "at least 1"),
        ("temperature", settings.temperature >= 0, "0 or more"),
        ("top_p", 0 < settings.top_p <= 1, "above 0 and at most 1"),
        ("decode_batch", settings.decode_batch >= 1, "at least 1"),
    ):
        if not good:
            raise UserError(f"on_policy.{name} = {getattr(settings, name)}: must be {what}")
    if config.objective == "on_policy" and config.masking.schedule != "steps":
        raise UserError("masking.schedule = kl: the objective on_policy hides everything from the student")
    if config.objective == "on_policy" and config.loss.teacher_only:
        raise UserError("loss.teacher_only: the objective on_policy has only students to train")
