"""The version of the distribution; package.json holds the same."""

__version__ = "{{version}}"
