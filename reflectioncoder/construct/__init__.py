"""The verb build: problems to reflection sequences (section 3.1, appendix A)."""
