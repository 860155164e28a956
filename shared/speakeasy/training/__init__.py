"""The training loop, its state and its run directory; the backends' protocol."""
