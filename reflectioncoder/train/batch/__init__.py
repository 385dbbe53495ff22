"""From samples to batches: masking, rows, packing and the plan of the optimizer steps."""
