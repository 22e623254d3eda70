"""The version of the distribution; a test holds it to pyproject.toml and to the library."""

__version__ = "0.1.0"
