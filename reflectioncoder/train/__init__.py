"""The command `train`: masked self-distillation (section 3.2)."""
