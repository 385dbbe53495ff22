"""The sandboxed side of `interpreter/`: the warm process, its isolation layers and the process of the program."""
