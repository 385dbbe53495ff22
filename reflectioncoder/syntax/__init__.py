"""Analysis of Python source and of model answers: syntax trees, asserts, code blocks. Nothing is run."""
