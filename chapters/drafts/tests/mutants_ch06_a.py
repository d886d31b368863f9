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
    # data augmentation
    ("6.2", "images.flip(3), images)", "images.flip(2), images)"),
    ("6.2", "x = mirror(x, chance) if mirrored else x", "x = mirror(x, chance)"),
    ("6.2", "train(net, data, loss, 4e-3, epochs=200 // len(data))", "train(net, data, classification_loss, 4e-3, 8)"),
    # asking about several views
    ("6.2", ".softmax(dim=1) for view in views", ".softmax(dim=0) for view in views"),
    # the confusion matrix
    ("6.2", "(10 * kinds_new + answers).bincount", "(10 * answers + kinds_new).bincount"),
    # calibration
    ("6.2", "(count * (right - certainty).abs()).sum()", "(count * (right - certainty)).sum().abs()"),
    ("6.2", "right @ member / count.clamp(min=1)", "right @ member / len(right)"),
    ("6.2", "F.cross_entropy(held_logits / T, held_kinds)", "F.cross_entropy(held_logits * T, held_kinds)"),
    ("6.2", "(naive_logits / T).softmax(dim=1)", "(naive_logits * T).softmax(dim=1)"),
]
