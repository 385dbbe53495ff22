#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.23.0 and torch 2.13.0: what a model is after its adapter is merged or removed.
#
# 1. `merge_and_unload()` and `unload()` return the base model with every parameter frozen. Expected: the model that was
#    given, whose parameters all took gradients. A second training on the merged model trains nothing and says nothing
#    (an optimizer over the trainable parameters gets an empty list).
# 2. `get_peft_model` replaces a `base_model_name_or_path` that the configuration holds by the model's `name_or_path`.
#    Expected: a name that the caller gave stays. A model built from a configuration has none, so the saved
#    adapter names no base.
# Matters for: reflectioncoder/train/lora.py, which merges adapters, and everything that continues with the result.
# Output on 2026-11-30, Python 3.11:
#   before 12 of 12 trainable
#   merge_and_unload 0 of 12 trainable
#   unload 0 of 12 trainable
#   given org/base, kept None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check transformers==5.23.0 peft==0.21.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON' >"$folder/seen"
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def base():
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
    ))


def trainable(model):
    every = list(model.parameters())
    return f"{sum(p.requires_grad for p in every)} of {len(every)} trainable"


print("before", trainable(base()))
for ending in ("merge_and_unload", "unload"):
    wrapped = get_peft_model(base(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    print(ending, trainable(getattr(wrapped, ending)()))
wanted = LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path="org/base")
wrapped = get_peft_model(base(), wanted)
print(f"given org/base, kept {wrapped.peft_config['default'].base_model_name_or_path!r}")
PYTHON
diff <(printf '%s\n' "before 12 of 12 trainable" "merge_and_unload 0 of 12 trainable" \
    "unload 0 of 12 trainable" "given org/base, kept None") "$folder/seen"
