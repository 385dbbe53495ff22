"""The command `train`: masked self-distillation (section 3.2)."""

from reflectioncoder._callable import make_callable

make_callable(__name__)
