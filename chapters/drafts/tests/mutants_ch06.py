"""Mistakes that one could make in chapter 6; each must make a cell of its own section fail."""

MUTANTS = [
    (
        "6.1",
        "return images + level * noise.to(images.device)",
        "return images + level**2 * noise.to(images.device)",
    ),
    # the yardsticks
    ("6.1", "return -10 * error.log10()", "return -20 * error.log10()"),
    (
        "6.1",
        "(images.clamp(0, 1) - truth).square().flatten(1)",
        "(images - truth).square().flatten(1)",
    ),
    ("6.1", "(2 * together + c2)", "(together + c2)"),
    ("6.1", "below = (mean_x.square() + mean_y.square() + c1)", "below = (mean_x + mean_y + c1)"),
    (
        "6.1",
        "together = bell_mean(x * y, 1.5) - mean_x * mean_y",
        "together = bell_mean(x * y, 1.5)",
    ),
    # the conditional mean
    (
        "6.1",
        "greys @ joint_table / joint_table.sum(dim=0)",
        "greys @ joint_table / joint_table.sum()",
    ),
    (
        "6.1",
        "(joint_table * (answer_for - greys[:, None]).square()).sum()",
        "(joint_table * (answer_for - greys[:, None]).abs()).sum()",
    ),
    (
        "6.1",
        "(-distances / (2 * level**2)).softmax(dim=1)",
        "(-distances / (2 * level**2)).softmax(dim=0)",
    ),
    (
        "6.1",
        "(-distances / (2 * level**2)).softmax(dim=1)",
        "(-distances / (2 * level)).softmax(dim=1)",
    ),
    ("6.1", "torch.cdist(seen_top, top).square()", "torch.cdist(seen_top, top)"),
    # the classical methods
    (
        "6.1",
        "F.pad(right, (1, 0)) - F.pad(right, (0, 1))",
        "F.pad(right, (0, 1)) - F.pad(right, (1, 0))",
    ),
    (
        "6.1",
        "u = images - strength * slopes_transposed(ahead)",
        "u = images + strength * slopes_transposed(ahead)",
    ),
    (
        "6.1",
        "length = longer.square().sum(dim=(0, 2), keepdim=True)",
        "length = longer.square().sum(dim=0, keepdim=True)",
    ),
    ("6.1", "- 2 * level**2", "+ 2 * level**2"),
    ("6.1", "values[held.index(max(held))]", "values[held.index(min(held))]"),
    ("6.1", "weights += weight", "weights += 1"),
    # the network and its loss (and the answer about the mirror image, after the training)
    ("6.1", "nn.init.zeros_(self.last.weight)", "nn.init.ones_(self.last.weight)"),
    ("6.1", "flatten(1).mean(dim=1).log().mean()", "flatten(1).mean(dim=1).mean().log10()"),
    # the split, the baselines, the network
    (
        "6.2",
        "(indicator.cumsum(dim=0) * indicator).sum(dim=1)",
        "(indicator.cumsum(dim=1) * indicator).sum(dim=1)",
    ),
    ("6.2", "place_in_class <= 450", "place_in_class <= 460"),
    ("6.2", "distances.argmin(dim=1)", "distances.argmax(dim=1)"),
    ("6.2", "nn.Conv2d(24, 48, 3, padding=1, bias=False)", "nn.Conv2d(24, 48, 3, padding=1)"),
    # data augmentation
    ("6.2", "images.flip(3), images)", "images.flip(2), images)"),
    ("6.2", "generator=generator) < 0.5", "generator=generator) < 0.9"),
    # error bars
    (
        "6.2",
        "scores.std(correction=0) / math.sqrt(len(scores))",
        "scores.std(correction=0) / len(scores)",
    ),
    ("6.2", "paired = mirror_right - plain_right", "paired = mirror_right - plain_right.flip(0)"),
    # the confusion matrix
    ("6.2", "(classes * truth + answers).bincount", "(classes * answers + truth).bincount"),
    # calibration
    (
        "6.2",
        "(count * (right - certainty).abs()).sum()",
        "(count * (right - certainty)).sum().abs()",
    ),
    (
        "6.2",
        "(count * (right - certainty).abs()).sum() / count.sum()",
        "(right - certainty).abs().mean()",
    ),
    ("6.2", "F.cross_entropy(logits / T, truth)", "F.cross_entropy(logits * T, truth)"),
    ("6.2", "candidates[losses.index(min(losses))]", "candidates[losses.index(max(losses))]"),
    ("6.2", "cooler = plain_logits / temperature", "cooler = plain_logits * temperature"),
    # coverage
    (
        "6.2",
        "from_surest = mirror_certainty.argsort(descending=True)",
        "from_surest = mirror_certainty.argsort()",
    ),
    # 6.3: scenes, boxes, matching, the detector, the loss, from outputs to answers, the measure
    ("6.3", "width = size[:, None, None] / 32", "width = size[:, None, None] / 31"),
    (
        "6.3",
        "line.shape[-1] - line.flip(-1).int().argmax(-1)",
        "line.shape[-1] - 1 - line.flip(-1).int().argmax(-1)",
    ),
    ("6.3", "left, right, top, bottom = ends", "top, bottom, left, right = ends"),
    ("6.3", "(areas - shared).clamp(min=1e-6)", "areas.clamp(min=1e-6)"),
    ("6.3", "(high - low).clamp(min=0).prod(-1)", "(high - low).prod(-1).clamp(min=0)"),
    (
        "6.3",
        "at = (torch.arange(cells) + 0.5) * 64 / cells",
        "at = torch.arange(cells) * 64 / cells",
    ),
    (
        "6.3",
        "middle = torch.stack([x, y, x, y], dim=-1)[:, :, None]",
        "middle = torch.stack([y, x, y, x], dim=-1)[:, :, None]",
    ),
    (
        "6.3",
        "owner[n, nearest[n, b]], best[n, nearest[n, b]] = b, 1.0",
        "best[n, nearest[n, b]] = best[n, nearest[n, b]]",
    ),
    ("6.3", "torch.where(best >= 0.5, owner, -1)", "torch.where(best >= 0.3, owner, -1)"),
    ("6.3", "10 * (c - c0) / s0, 5", "10 * (c - c0) / s, 5"),
    ("6.3", "s0 * torch.exp(offsets[..., 2:] / 5)", "s0 * torch.exp(offsets[..., 2:] / 10)"),
    ("6.3", "self.conv(x).permute(0, 2, 3, 1).reshape", "self.conv(x).reshape"),
    ("6.3", "self.conv(x).permute(0, 2, 3, 1).reshape", "self.conv(x).permute(0, 3, 2, 1).reshape"),
    ("6.3", "return (order.argsort(dim=1) < 3", "return (order < 3"),
    (
        "6.3",
        "losses.masked_fill(matched, -1).argsort(dim=1, descending=True)",
        "losses.masked_fill(matched, -1).argsort(dim=1)",
    ),
    (
        "6.3",
        "torch.where(matched, classes[n, owner] + 1, 0)",
        "torch.where(matched, classes[n, owner], 0)",
    ),
    (
        "6.3",
        "torch.where(d < 1, d.square() / 2, d - 0.5)",
        "torch.where(d < 1, d.square(), d - 0.5)",
    ),
    ("6.3", "& alive[:, k : k + 1])", "& True)"),
    ("6.3", "& (classes[:, :, None] == classes[:, None, :])", "& True"),
    ("6.3", "(best[:, k] >= at_least) & ~taken[n, thing[:, k]]", "best[:, k] >= at_least"),
    (
        "6.3",
        "(falling * right).sum() / (classes == c).sum()",
        "(falling * right).sum() / right.sum()",
    ),
    (
        "6.3",
        "right.cumsum(0) / torch.arange(1, len(right) + 1, device",
        "right.cumsum(0) / torch.arange(2, len(right) + 2, device",
    ),
    # how to count
    ("6.4", "(counts.sum(0) + counts.sum(1) - both)", "(counts.sum(0) + counts.sum(1))"),
    ("6.4", "(counts.sum(0) + counts.sum(1) - both)", "counts.sum(1)"),
    ("6.4", "class_iou(answers, labels, C)[1:].mean()", "class_iou(answers, labels, C).mean()"),
    # the colour of a pixel, and blocks
    ("6.4", "64 * r + 8 * g + b", "8 * r + 8 * g + b"),
    (
        "6.4",
        "votes.argmax(dim=1).repeat_interleave(k, dim=1)",
        "votes.argmin(dim=1).repeat_interleave(k, dim=1)",
    ),
    # the network
    ("6.4", ".permute(0, 1, 3, 5, 2, 4)", ".permute(0, 1, 5, 3, 2, 4)"),
    ("6.4", "bridge * kept[level]", "kept[level]"),
    ("6.4", "x = block(F.max_pool2d(x, 2))", "x = block(F.max_pool2d(0 * x, 2))"),
    # the loss
    (
        "6.4",
        "weight_of = class_weights.double()[some_labels]",
        "weight_of = torch.ones_like(logs[:, 0])",
    ),
    ("6.4", "-(weight_of * picked).sum() / weight_of.sum()", "-(weight_of * picked).mean()"),
    # borders
    ("6.4", "steps[reached[:, 0] & (steps == most)] = k", "steps[reached[:, 0]] = k"),
    ("6.4", "> -F.max_pool2d(-maps, 3, 1, 1)", "> maps"),
    # the spectrogram, the filters, the levelling
    ("6.5", "frames = waves.unfold(-1, window, hop)", "frames = waves.unfold(-1, window, hop + 1)"),
    ("6.5", "torch.fft.rfft(frames * hann).abs().square()", "torch.fft.rfft(frames * hann).abs()"),
    (
        "6.5",
        "torch.fft.rfft(frames * hann).abs().square()",
        "torch.fft.rfft(frames).abs().square()",
    ),
    ("6.5", "(right - f) / (right - peak)", "(right - f) / (peak - left)"),
    ("6.5", "return x / (power + 1e-5).sqrt()", "return x / (power + 1e-5)"),
    (
        "6.5",
        "x = (x - (x * real).sum(dim=1, keepdim=True) / count) * real",
        "x = (x - (x * real).sum(dim=1, keepdim=True) / x.shape[1]) * real",
    ),
    # words, counted
    ("6.5", "paired = above[j - 1] + (from_a != from_b)", "paired = above[j - 1] + 1"),
    ("6.5", "return edits / sum(len(s.split()) for s in said)", "return edits / len(said)"),
    # the network
    (
        "6.5",
        "return self.scores(self.decoder(self.positions(self.written(target)), Z, real))",
        "return self.scores(self.decoder(self.positions(self.written(target)), Z))",
    ),
    ("6.5", "((frames + 3) // 4)[:, None]", "(frames // 4)[:, None]"),
    # other voices
    ("6.5", "where[:, 1, 2] = where[:, 1, 1] - 1", "where[:, 1, 2] = 1 - where[:, 1, 1]"),
    ("6.5", "strength * (0.7 * slower - 0.2)", "strength * (0.7 * slower - 0.7)"),
    (
        "6.5",
        "x = x.masked_fill(hole.unsqueeze(3 - along), 0.0)",
        "x = x.masked_fill(hole.unsqueeze(3 - along), 1.0)",
    ),
    (
        "6.5",
        "x = x.masked_fill(hole.unsqueeze(3 - along), 0.0)",
        "x = x.masked_fill(~hole.unsqueeze(3 - along), 0.0)",
    ),
    # the losses and the training
    ("6.5", "if symbol != 0]", "]"),
    (
        "6.5",
        "logits = model.decode(target[:, :-1], Z, real)  # (N, S - 1, symbols)",
        "logits = model.decode(target[:, 1:], Z, real)  # (N, S - 1, symbols)",
    ),
    ("6.5", "labels = target[:, 1:].masked_fill(", "labels = target[:, :-1].masked_fill("),
    (
        "6.5",
        "spelled = F.ctc_loss(log_p, target[:, 1:], real.sum(dim=1), letters, zero_infinity=True)",
        "spelled = F.ctc_loss(log_p, target[:, :-1], real.sum(dim=1), letters, zero_infinity=True)",
    ),
    # attention
    (
        "6.5",
        "asks, A = layer.cross_attention.norm(layer.attention(y)), layer.cross_attention.attention\n        return",
        "asks, A = layer.attention(y), layer.cross_attention.attention\n        return",
    ),
    # the drawings
    ("6.6", "images[:, 3:] * (1 - images[:, :3])", "1 - images[:, 3:] * images[:, :3]"),
    # the loss
    ("6.6", "F.cross_entropy(S.mT, pairs)", "F.cross_entropy(S, pairs)"),
    ("6.6", "F.cross_entropy(S.mT, pairs)) / 2", "F.cross_entropy(S.mT, pairs))"),
    (
        "6.6",
        "column = sum((picture[m] @ text[n] / tau)",
        "column = sum((picture[n] @ text[m] / tau)",
    ),
    ("6.6", "((own / row).log() + (own / column).log())", "(own / (row + column)).log()"),
    ("6.6", "(S.softmax(dim=1) + S.softmax(dim=0)) / 2", "S.softmax(dim=1)"),
    # the encoders
    ("6.6", "real = (numbers > 0) | first", "real = (numbers >= 0) | first"),
    ("6.6", "self.encoder(x, real)", "self.encoder(x)"),
    ("6.6", "/ real.sum(dim=1, keepdim=True)", "/ numbers.shape[1]"),
    ("6.6", "return F.normalize(self.out(mean), dim=1)", "return self.out(mean)"),
    (
        "6.6",
        "return F.normalize(self.out(maps.flatten(1)), dim=1)",
        "return F.normalize(self.out(maps.flatten(1)), dim=0)",
    ),
    ("6.6", "fixed[places[word]] = 0.2 * vector", "fixed[places[word] - 1] = 0.2 * vector"),
    # the yardstick
    ("6.6", "return (own <= S).sum(dim=1)", "return (own < S).sum(dim=1) + 1"),
    ("6.6", "return (own <= S).sum(dim=1)", "return (own >= S).sum(dim=1)"),
    ("6.6", "-torch.stack(by_style).amin(dim=0)", "-torch.stack(by_style).amax(dim=0)"),
    # the training
    ("6.6", "emojis = old[part.to(DEVICE)]", "emojis = part.to(DEVICE)"),
    ("6.6", "choices[which, emojis]", "choices[which, emojis.roll(1)]"),
    # the results
    ("6.6", "cosines = seen_as @ read_as.mT", "cosines = -seen_as @ read_as.mT"),
    ("6.6", "right_before = before.argmax(dim=1)", "right_before = after.argmax(dim=1)"),
    ("6.6", "searched = zero_shot[:, old].mT", "searched = zero_shot[:, old]"),
    ("6.6", "clip.image(1 - colours * alpha)", "clip.image(alpha - colours * alpha)"),
    # the world
    (
        "6.7",
        "torch.tensor([0, 1, 0, -1])  # (S, 4)\n    inside",
        "torch.tensor([0, -1, 0, 1])  # (S, 4)\n    inside",
    ),
    (
        "6.7",
        "there = torch.where(inside, width * row + column, here)",
        "there = (width * row + column) % len(here)",
    ),
    ("6.7", "return torch.where(wall[there], here, there)", "return there"),
    ("6.7", "slip / 2 * sideways", "slip * sideways"),
    (
        "6.7",
        "straight.roll(1, dims=1) + straight.roll(-1, dims=1)",
        "straight.roll(2, dims=1) + straight",
    ),
    ("6.7", "- 2 * (u < self.slip / 2).long()", "- (u < self.slip / 2).long()"),
    (
        "6.7",
        "return arrived, self.gain[arrived], self.over",
        "return arrived, self.gain[state], self.over",
    ),
    # a policy and its return
    ("6.7", "rewards.append(reward * playing)", "rewards.append(reward)"),
    ("6.7", "cumsum(dim=1)[:, :-1]).sum(dim=1)", "cumsum(dim=1)[:, 1:]).sum(dim=1)"),
    (
        "6.7",
        "(gamma ** torch.arange(100, device=DEVICE)",
        "(gamma ** torch.arange(1, 101, device=DEVICE)",
    ),
    ("6.7", "world.chances) * ~world.over", "world.chances)"),
    (
        "6.7",
        "torch.linalg.solve(unit - gamma * moves, rewards)",
        "torch.linalg.solve(unit - moves * gamma**2, rewards)",
    ),
    # the best policy, equation 6.1
    ("6.7", "best = values.sum(dim=1).argmax()", "best = values[:, 2].argmin()"),
    ("6.7", "future = max(known[following])", "future = sum(known[following]) / 4"),
    ("6.7", "(tiny.gain[following] + gamma * future)", "(tiny.gain[s] + gamma * future)"),
    # sweep by sweep
    ("6.7", "best_next = Q.amax(dim=-1) * ~world.over", "best_next = Q.mean(dim=-1) * ~world.over"),
    ("6.7", "best_next = Q.amax(dim=-1) * ~world.over", "best_next = Q.amax(dim=-1)"),
    (
        "6.7",
        "world.reward + gamma * world.chances @ best_next",
        "world.reward + world.chances @ best_next",
    ),
    ("6.7", "F.one_hot(Q.argmax(dim=1), Q.shape[1])", "F.one_hot(Q.argmin(dim=1), Q.shape[1])"),
    # learning from experience
    (
        "6.7",
        "target = reward if over else reward + gamma * max(Q[following])",
        "target = reward + gamma * max(Q[following])",
    ),
    ("6.7", "target = reward if over else reward + gamma * max(Q[following])", "target = reward"),
    ("6.7", "gamma * max(Q[following])", "gamma * sum(Q[following]) / 4"),
    ("6.7", "rate or 10 / (10 + visits[s][a])", "rate or 1 / (1 + visits[s][a])"),
    ("6.7", "* (target - Q[s][a])", "* target"),
    ("6.7", "action = any_action if curious else best_action", "action = best_action"),
    (
        "6.7",
        "for s, a, reward, following, over in steps",
        "for s, a, reward, over, following in steps",
    ),
    # equation 6.2, the buffer, who plays
    ("6.7", "gather(1, actions[:, None]).squeeze(1)", "amax(dim=1)"),
    (
        "6.7",
        "    with torch.no_grad():\n        best = frozen",
        "    with torch.enable_grad():\n        best = frozen",
    ),
    ("6.7", "frozen(next_seen).amax(dim=1)", "frozen(next_seen).mean(dim=1)"),
    ("6.7", "frozen(next_seen).amax(dim=1)", "model(next_seen).amax(dim=1)"),
    ("6.7", "rewards + gamma * best * ~terminated)", "rewards + gamma * best)"),
    ("6.7", "rewards + gamma * best * ~terminated)", "rewards + gamma * best * terminated)"),
    (
        "6.7",
        "device=parts[0].device) % self.capacity",
        "device=parts[0].device).clamp(max=self.capacity - 1)",
    ),
    (
        "6.7",
        "tuple(kept[chosen.to(kept.device)] for kept",
        "tuple(kept[chosen if kept is self.parts[0] else chosen.flip(0)] for kept",
    ),
    ("6.7", "generator=generator) < epsilon", "generator=generator) > epsilon"),
    ("6.7", "values.argmax(dim=1))", "values.argmin(dim=1))"),
    # the grid: its world, its exact values, learning
    ("6.7", "            frozen.load_state_dict(network.state_dict())", "            pass"),
    ("6.7", 'more["final_obs"], terminated)', "seen, terminated)"),
    (
        "6.7",
        "torch.where(over, self.somewhere(), arrived)",
        "torch.where(over, self.somewhere(), self.at)",
    ),
    ("6.7", "learned_on_grid(k, capacity=8)", "learned_on_grid(k)"),
    # Breakout
    (
        "6.7",
        "right = torch.where((ahead < 0) | (ahead > 9), -right, right)",
        "right = right.clone()",
    ),
    ("6.7", "hit = brick & ~board.struck", "hit = brick"),
    ("6.7", "(board.paddle + actions - 1)", "(board.paddle + 1 - actions)"),
    ("6.7", "flat = bottom & (paddle == column)", "flat = bottom & (board.paddle == column)"),
    ("6.7", "torch.where(corner, -right, right)", "torch.where(flat, -right, right)"),
    ("6.7", "torch.where(returned | ceiling, -down, down)", "torch.where(returned, -down, down)"),
    ("6.7", "~bricks.flatten(1).any(dim=1)", "~bricks.flatten(1).all(dim=1)"),
    ("6.7", "hit.float(), bottom & ~flat & ~corner", "hit.float(), bottom & ~flat"),
    ("6.7", "pictured(self.board), rewards, terminated", "final, rewards, terminated"),
    # what the values say
    ("6.7", "0.95 * to_come[t + 1]", "to_come[t + 1]"),
    ("6.7", "-rise[hit & goes_on]", "rise[hit & goes_on]"),
]
