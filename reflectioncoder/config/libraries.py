"""The libraries that programs may import by default."""

DEFAULT_LIBRARIES = ("numpy",)  # evalplus runs programs where numpy is installed
