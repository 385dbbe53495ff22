"""Samples to batches: masks, rows, packing, the plan of the steps. Numbers only."""
