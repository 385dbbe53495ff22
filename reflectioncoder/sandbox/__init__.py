"""What runs on the far side of `interpreter.py`: the warm process, its isolation and the program's process."""
