"""How often each sample occurs in an epoch: plain and reflection data mixed by samples, instructions or tokens.

Needs no torch. A sample that occurs less than once in an epoch takes turns with others, so that every epoch is as long
as the last and the choice is the same in a resumed run.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.errors import UserError

LARGEST_DENOMINATOR = 10_000


@dataclass(frozen=True)
class Turns:
    """A number of occurrences in an epoch that is not whole.

    Args:
        rate: mean number of occurrences in an epoch.
        phase: in [0, 1); samples of one rate with the phases 0/k, 1/k, ... (k-1)/k take turns.
    """

    rate: Fraction
    phase: Fraction = Fraction(0)

    def times(self, epoch: int) -> int:
        """How often the sample occurs in an epoch, counted from 0; over all epochs this sums to the rate."""
        return (self.rate * (epoch + 1) + self.phase).__floor__() - (self.rate * epoch + self.phase).__floor__()


Repeats = int | Turns


def times(repeats: Repeats, epoch: int) -> int:
    """How often a sample occurs in an epoch, counted from 0."""
    return repeats if isinstance(repeats, int) else repeats.times(epoch)


def epoch_size(repeats: Sequence[Repeats]) -> float:
    """Mean number of samples in an epoch."""
    return float(sum(one if isinstance(one, int) else one.rate for one in repeats))


def instruction_of(sample: Encoded) -> str:
    """Hash of a sample's last user message: samples of one instruction share it, whatever comes before."""
    start, end = sample.message_bounds[-2]
    return hashlib.sha256(array("I", sample.ids[start:end]).tobytes()).hexdigest()


def repeats_of(
    samples: Sequence[Encoded], reflections: Sequence[bool], config: TrainConfig, tokens: Callable[[Encoded], float]
) -> list[Repeats]:
    """How often each sample occurs in an epoch, as `config.mix` says.

    Args:
        samples: the encoded samples of a run.
        reflections: for each of them, whether its dialogue is a reflection sequence; the objective may have made it a
            plain sample.
        config: `mix`, `upsample` and `reflection_share`.
        tokens: mean number of tokens through the model, over the run, of one occurrence of a sample.

    Raises:
        UserError: `mix` is `tokens`, and there is only one kind of data.
    """
    usual = [config.upsample if reflection else 1 for reflection in reflections]
    if config.mix == "samples":
        return list(usual)
    found: list[Repeats] = list(usual)
    if config.mix == "instructions":
        groups: dict[tuple[str, bool], list[int]] = defaultdict(list)
        for place, (sample, reflection) in enumerate(zip(samples, reflections, strict=True)):
            groups[instruction_of(sample), reflection].append(place)
        for places in groups.values():
            for turn, place in enumerate(places):
                found[place] = _turns(Fraction(usual[place], len(places)), Fraction(turn, len(places)))
        return found
    sequences = [place for place, reflection in enumerate(reflections) if reflection]
    if not 0 < len(sequences) < len(samples):
        kind = "plain" if sequences else "reflection"
        raise UserError(f"mix = tokens: there are no {kind} samples to mix with; set mix = samples")
    costs = [tokens(sample) for sample in samples]
    of_sequences = sum(costs[place] for place in sequences)
    share = config.reflection_share
    rate = Fraction(share / (1 - share) * (sum(costs) - of_sequences) / of_sequences)
    rate = rate.limit_denominator(LARGEST_DENOMINATOR)
    for turn, place in enumerate(sequences):
        found[place] = _turns(rate, Fraction(turn, len(sequences)))
    return found


def _turns(rate: Fraction, phase: Fraction) -> Repeats:
    return int(rate) if rate.denominator == 1 else Turns(rate, phase)


def numbers(repeats: Sequence[Repeats]) -> list[int]:
    """Integers that determine the repeats, for a digest; whole repeats stand for themselves."""
    found: list[int] = []
    for one in repeats:
        if isinstance(one, int):
            found.append(one)
        else:
            found += [one.rate.numerator, one.rate.denominator, one.phase.numerator, one.phase.denominator]
    return found
