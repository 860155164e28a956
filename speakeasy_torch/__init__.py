"""The PyTorch backend: CUDA, or the CPU where there is none."""
