"""Which tokens of a reflection sequence are labels of the next-token loss, where a run asks for fewer than all."""

from __future__ import annotations

from dataclasses import replace

from reflectioncoder.config.train import SequenceLabels
from reflectioncoder.dialogues.tokens import Encoded


def choose_labels(encoded: Encoded, labels: SequenceLabels) -> Encoded:
    """The sample with the labels that `loss.labels` leaves it.

    Args:
        encoded: any sample; a plain one is returned as it is.
        labels: `all` keeps every label of appendix C; `right` drops the contents of the code blocks that were
            repaired, so that nothing teaches the model to write mistakes; `answer` keeps the final answer only.

    Returns:
        The sample. `right` keeps the type token of a dropped block, so that the model still learns when it writes code.
    """
    if labels == "all" or not encoded.is_reflection:
        return encoded
    is_label = list(encoded.is_label)
    first, last = encoded.message_bounds[0], encoded.message_bounds[-1]
    if labels == "answer":
        is_label[first[0] : last[0]] = [False] * (last[0] - first[0])
    else:
        # A first round ends with the code that passed; every code block before it was run, failed and was repaired.
        code = [span for span in encoded.spans if span.message == 1 and span.type == "code"]
        for span in code[:-1]:
            is_label[span.start + 1 : span.end] = [False] * (span.end - span.start - 1)
    return replace(encoded, is_label=tuple(is_label))
