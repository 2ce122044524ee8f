"""holdfast: how robust is an image classifier, how to make it robust, and why it is or is not."""

__version__ = "0.1.0"
