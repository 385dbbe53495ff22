"""What writes the turns of a conversation: a chat server, a tuned model, recorded answers."""
