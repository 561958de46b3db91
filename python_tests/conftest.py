import os
import signal

# Read when torch is loaded. Others run beside each test: a thread that waits leaves them its core.
os.environ["OMP_WAIT_POLICY"] = "passive"

import torch
from hypothesis import settings

# The tests' tensors are tiny: more threads only cost time, and vary the order of sums. What tests
# start has one, too, since others run beside it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Shells start what runs in the background deaf to Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a shared machine one slow example says nothing about the code. Every run draws other examples.
settings.register_profile("proxyless", deadline=None, max_examples=50)
settings.load_profile("proxyless")
