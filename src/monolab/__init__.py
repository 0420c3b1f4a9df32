"""monolab: a research lab that fits on one GPU and runs itself."""

__version__ = "0.1.0"
