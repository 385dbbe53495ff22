"""ReflectionCoder: teach code models from their own debugging (arXiv 2405.17057)."""

__version__ = "0.1.0"
