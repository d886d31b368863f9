"""Chapter 3 on an accelerator: see tests/devices."""

import torch

ALLOWED_ON_CPU = {
    "3.4": {"mm"},  # 64 units wide, for a widget that computes on the CPU
    "3.4 widgets": {"mm"},
    "3.5": {"mm", "mv"},  # points of a line and of the plane, exactly and for drawing
    "3.7": {"_linalg_solve_ex", "bmm", "addmm", "mm"},  # by design: the law's fit in 64 bits, the team's script
}

MODELS = {
    "CausalNetwork": lambda cls: (cls(7, D=8), torch.arange(12).reshape(2, 6) % 7),
}
