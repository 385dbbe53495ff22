"""The command `build`: makes reflection sequences from problems (section 3.1, appendix A)."""
