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
]
