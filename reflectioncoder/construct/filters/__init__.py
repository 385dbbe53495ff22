"""Which sequences are worth training on: appendix A, and checks beyond the paper."""
