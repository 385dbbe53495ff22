"""The HTML page of a run, its charts, and the tables of the paper."""
