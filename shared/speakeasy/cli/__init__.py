"""The ``speakeasy`` command, one file a command group. Nothing here imports an ML library early."""
