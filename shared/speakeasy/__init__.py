"""speakeasy: give a Llama-family model the voice of a region.

The shared layer. It prepares data, weights, runs and figures with numpy and plain files;
the arithmetic is done by one of two backends, ``speakeasy_mlx`` or ``speakeasy_torch``.
Importing this package imports no machine-learning library.
"""

__version__ = "0.1.0"
