"""Speed and memory of the fused blocks beside PyTorch's layers: how they are measured."""
