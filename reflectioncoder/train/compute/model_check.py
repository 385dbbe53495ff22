"""A check before training: does a model keep packed rows apart, and is its output head a plain linear layer?

No list covers all the ways in which architectures differ. So the check runs a few tokens through the model, and rejects
a model that would be trained wrongly.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.train.compute.loss import head_of
from reflectioncoder.train.compute.packed_attention import boundaries

FIRST, SECOND = 5, 7  # tokens of the two rows
# Relative to the largest value. Kernels may round differently for another length; a leak or a different head gives a
# larger difference.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


@torch.no_grad()
def check_model(model: PreTrainedModel) -> None:
    """Make sure that a model can be trained on packed rows.

    Args:
        model: a model with `packed_attention.use_varlen_attention` applied. The check is skipped if its weights are
            not available, as on `meta` or in ZeRO-3's partitions.

    Raises:
        UserError: tokens of one row affect another row, or the logits are not those of the output head.
    """
    device, name = model.device, type(model).__name__
    if device.type == "meta" or any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return
    training = model.training
    model.eval()
    size = model.config.get_text_config().vocab_size
    ids = (torch.arange(3, 3 + FIRST + SECOND) * 7 % size)[None].to(device)
    other = ids.clone()
    other[0, :FIRST] = (other[0, :FIRST] + 1) % size
    positions = torch.tensor([[*range(FIRST), *range(SECOND)]], device=device)
    bounds = torch.tensor([0, FIRST, FIRST + SECOND], dtype=torch.int32, device=device)
    rows = boundaries(bounds, SECOND, positions[0])
    try:
        hidden = [
            model.base_model(input_ids=tokens, position_ids=positions, use_cache=False, **rows).last_hidden_state[0]
            for tokens in (ids, other)
        ]
        logits = model(input_ids=ids, position_ids=positions, use_cache=False, **rows).logits[0]
    except UserError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{name} does not take packed rows: {first_line(error)}") from None
    finally:
        model.train(training)
    tolerance = TOLERANCE.get(logits.dtype, 0.1)

    def differ(found: torch.Tensor, expected: torch.Tensor) -> bool:
        gap = (found.double() - expected.double()).abs().max()
        return not bool(gap <= tolerance * expected.double().abs().max())

    if differ(hidden[1][FIRST:], hidden[0][FIRST:]):
        raise UserError(f"{name}: tokens of one packed row affect another row, so it cannot be trained here")
    if not differ(hidden[1][:FIRST], hidden[0][:FIRST]):
        raise UserError(f"{name}: its hidden states do not depend on its tokens; are its weights loaded?")
    if differ(head_of(model).logits(hidden[0]), logits):
        raise UserError(
            f"{name}: its logits are not its output head applied to its last hidden states, which training needs"
        )
