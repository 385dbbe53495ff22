"""Samplers give the model's turns of a conversation: from a chat server, a fine-tuned model, or recorded answers."""
