"""Samplers, which write the model's turns: a chat server, a fine-tuned model, or recorded answers."""
