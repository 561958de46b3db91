import torch
from hypothesis import settings

# The tests' tensors are tiny: more threads only cost time, and vary the order of sums.
torch.set_num_threads(1)

# On a shared machine one slow example says nothing about the code.
settings.register_profile("proxyless", deadline=None)
settings.load_profile("proxyless")
