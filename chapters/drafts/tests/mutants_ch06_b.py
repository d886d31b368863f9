"""Mistakes that one could make in sections 6.3 and 6.4; each must make a cell of its own section fail."""

MUTANTS = [
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
