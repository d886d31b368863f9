"""Mistakes that one could make in chapter 1; each must make a cell of its own section fail."""

MUTANTS = [
    # 1.1: the model, the loss, the search
    ("1.1", "w[..., :1] + w[..., 1:] * x", "w[..., :1] - w[..., 1:] * x"),
    ("1.1", "(y - f(x, w)).square().mean(-1)", "(y - f(x, w)).abs().mean(-1)"),
    ("1.1", "(y - f(x, w)).square().mean(-1)", "(y - f(x, w)).mean(-1).square()"),
    ("1.1", "around[loss(around).argmin()]", "around[loss(around).argmax()]"),
    ("1.1", "radius = radius / 4 if", "radius = radius * 4 if"),
    # 1.2: equation 1.1, the closed form, gradient descent, the basis
    ("1.2", "(y[n] - prediction) ** 2 / N", "(y[n] - prediction) ** 2"),
    (
        "1.2",
        "prediction = sum(w[k] * Phi[n, k] for k in range(K))",
        "prediction = sum(w[k] * Phi[n, k] for k in range(K - 1))",
    ),
    ("1.2", "in_tensors = (y - Phi @ w).square().mean()", "in_tensors = (y[:, None] - Phi @ w).square().mean()"),
    ("1.2", "torch.linalg.solve(Phi.mT @ Phi, Phi.mT @ y)", "torch.linalg.solve(Phi.mT @ Phi, 2 * Phi.mT @ y)"),
    ("1.2", "slope = -2 / N * Phi.mT @ (y - Phi @ w)", "slope = 2 / N * Phi.mT @ (y - Phi @ w)"),
    ("1.2", "w = w - slope / curvature", "w = w - 3 * slope / curvature"),
    ("1.2", "gaussian_basis(pixels, bumps, 0.7 / bumps)", "gaussian_basis(pixels, bumps, 0.7 * bumps)"),
    # 1.3: the fits, the split of the error, the second descent
    (
        "1.3",
        "bias2[bumps - 1] = (fits.mean(0) - truth(grid))",
        "bias2[bumps - 1] = (fits.mean(1, keepdim=True) - truth(grid))",
    ),
    ("1.3", "variance[bumps - 1] = (fits - fits.mean(0))", "variance[bumps - 1] = (fits - fits.mean(1, keepdim=True))"),
    (
        "1.3",
        "training[bumps - 1] = (bump_fit(x, y, bumps, x) - y)",
        "training[bumps - 1] = (bump_fit(x, y, bumps, x) - truth(x))",
    ),
    ("1.3", "/ (1 + k if slow else 1)", "* (1 + k if slow else 1)"),
    ("1.3", "wave_basis(at, count, slow) @ w", "wave_basis(at, count, not slow) @ w"),
    # 1.4: densities and what is made of them
    ("1.4", "-0.5 * z.square().sum(0) - constant", "-0.5 * z.square().sum(0) + constant"),
    ("1.4", "-0.5 * z.square().sum(0) - constant", "-z.square().sum(0) - constant"),
    ("1.4", "len(mean) / 2 * math.log(2 * math.pi)", "1 / 2 * math.log(2 * math.pi)"),
    ("1.4", "(x - mean).mT, upper=False", "(x + mean).mT, upper=False"),
    ("1.4", "log_joint.argmax(dim=1) == labels_new", "log_joint.argmin(dim=1) == labels_new"),
    ("1.4", "images_new.rot90(1, dims=(2, 3))", "images_new.rot90(4, dims=(2, 3))"),
    ("1.4", "(inputs_new @ w - mass_new).abs().mean()", "(inputs_new @ w + mass_new).abs().mean()"),
    ("1.4", "F.cross_entropy(model(x), y)", "-F.cross_entropy(model(x), y)"),
]
