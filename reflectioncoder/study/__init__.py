"""A matrix of variants and seeds over the other commands: plan, run, and statistics of the scores."""
