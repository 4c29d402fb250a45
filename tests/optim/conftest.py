"""Properties are not timed: a busy machine is no counterexample. One thread, so that test processes may
run side by side."""

from __future__ import annotations

import torch
from hypothesis import settings

settings.register_profile("optim", deadline=None)
settings.load_profile("optim")
torch.set_num_threads(1)
