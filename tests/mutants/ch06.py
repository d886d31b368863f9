"""Mistakes that one could make in chapter 6; each must make a cell of its own section fail."""

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
    # boxes and matching
    ("6.3", "(high - low).clamp(min=0).prod(-1)", "(high - low).prod(-1).clamp(min=0)"),
    ("6.3", "shared / (areas - shared).clamp(min=1e-6)", "shared / areas.clamp(min=1e-6)"),
    (
        "6.3",
        "torch.where(closest.any(2) | (best >= 0.5), owner, -1)",
        "torch.where(best >= 0.5, owner, -1)",
    ),
    # what the network is told and what is read from it: these are trained again
    (
        "6.3",
        "torch.where(matched, classes[n, owner] + 1, 0)",
        "torch.where(matched, classes[n, owner], 0)",
    ),
    ("6.3", "torch.cat([x, y, x, y], dim=1)", "torch.cat([y, x, y, x], dim=1)"),
    ("6.3", "return defaults + t / 10 *", "return defaults + t / 2 *"),
    # from outputs to answers, and the measure
    ("6.3", "softmax(2)[..., 1:]  # (N, boxes, C)", "softmax(2)[..., :-1]  # (N, boxes, C)"),
    ("6.3", "(iou(boxes, boxes) > threshold) &", "(iou(boxes, boxes) < threshold) &"),
    ("6.3", "(best[:, k] >= at_least) & ~taken[n, thing[:, k]]", "best[:, k] >= at_least"),
    ("6.3", "precision.flip(0).cummax(0).values.flip(0)", "precision.cummax(0).values"),
    (
        "6.3",
        "(best * right).sum() / (classes == c).sum()",
        "(best * right).sum() / right.sum().clamp(min=1)",
    ),
    # the measure and the baselines
    ("6.4", "(pairs.sum(0) + pairs.sum(1) - both)", "(pairs.sum(0) + pairs.sum(1))"),
    (
        "6.4",
        "(C * labels + answers).flatten().bincount",
        "(C * answers + answers).flatten().bincount",
    ),
    ("6.4", "class_iou(answers, labels, C)[1:].mean()", "class_iou(answers, labels, C).mean()"),
    ("6.4", "return 64 * r + 8 * g + b", "return 8 * r + 8 * g + b"),
    # what is measured after the training, which takes too long to be done again for a mistake
    ("6.4", "model.eval()(some).softmax(1)", "model.eval()(some).softmax(2)"),
    ("6.4", "return (largest > smallest)[:, 0]", "return (largest == smallest)[:, 0]"),
    ("6.4", "wrong[name, place] = (answer != truth)", "wrong[name, place] = (answer == truth)"),
]
