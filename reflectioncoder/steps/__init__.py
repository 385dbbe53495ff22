"""Commands as steps, each in a process and a folder of its own, and what chains of them score and cost."""
