"""The arithmetic of a training step: attention, loss, optimizer state, memory."""
