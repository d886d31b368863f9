"""Mistakes that one could make in sections 6.1 and 6.2; each must make a cell of its own section fail."""

MUTANTS = [
    # the yardstick
    ("6.1", "return -10 * error.log10()", "return -20 * error.log10()"),
    ("6.1", "(images.clamp(0, 1) - truth).square()", "(images - truth).square()"),
    # the conditional mean
    ("6.1", "given_seen = joint / joint.sum(dim=0)", "given_seen = joint / joint.sum()"),
    ("6.1", "flips**wrong * (1 - flips) ** (8 - wrong)", "flips**wrong * (1 - flips) ** wrong"),
    ("6.1", "* (f - X[:, None]).square()).sum()", "* (f - X[:, None]).abs()).sum()"),
    ("6.1", '"xs,ys,xy->", joint, given_seen', '"xs,ys,xy->", joint, joint'),
    # the network and its training
    ("6.1", "bell.sum() ** 2).repeat", "bell.sum()).repeat"),
    ("6.1", "nn.init.zeros_(weights)", "nn.init.ones_(weights)"),
    ("6.1", "return blurred + self.back(", "return x + self.back("),
    ("6.1", "(model(noisy) - tiles).square()", "(model(noisy) - noisy).square()"),
    ("6.1", "(net(x) + net(x.flip(3)).flip(3)) / 2", "(net(x) + net(x.flip(3))) / 2"),
]
