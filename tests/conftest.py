"""One thread and the same examples everywhere."""

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# examples are networks that train for a while: few of them, and no clock
settings.register_profile(
    "laws", max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("laws")
