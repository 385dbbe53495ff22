"""Models on this machine: loading, special tokens, adapters, decoding."""
