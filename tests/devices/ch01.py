"""Chapter 1 on an accelerator: see tests/devices."""

ALLOWED_ON_CPU = {
    "1.2 widgets": {"linalg_lstsq", "mv"},  # at most 24 bumps; only the CPU's gelsd fits more bumps than points
    "1.3 widgets": {"linalg_lstsq", "mv"},  # small fits, one after the other, while a slider moves
    "1.4": {"mm", "linalg_solve_triangular"},  # three covariances and densities in two dimensions, for the widget
    "1.4 widgets": {"linalg_solve_triangular"},  # the same densities on the cut
}

MODELS = {}
