"""Filters that select the sequences to train on: those of appendix A, and checks beyond the paper."""
