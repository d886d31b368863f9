"""Wrong answers to the exercises of chapter 1."""

import torch


def best_constant(y):
    return y.median()  # minimizes the mean absolute error


def best_constant_2(y):
    return y.square().mean().sqrt()


def best_constant_3(y):
    y.mean()  # forgets to return


def weighted_least_squares(Phi, y, c):
    return torch.linalg.solve(Phi.mT @ Phi, Phi.mT @ y)  # ignores the counts


def weighted_least_squares_2(Phi, y, c):
    return torch.linalg.solve(Phi.mT @ Phi, Phi.mT @ (c * y))  # on one side only


def weighted_least_squares_3(Phi, y, c):
    weighted = c[:, None] * Phi  # counts both factors, so by the square
    return torch.linalg.solve(weighted.mT @ weighted, weighted.mT @ (c * y))


def ridge(Phi, y, strength):
    return torch.linalg.solve(Phi.mT @ Phi + strength, Phi.mT @ y)  # adds to every entry


def ridge_2(Phi, y, strength):
    return torch.linalg.solve(Phi.mT @ Phi + strength**2 * torch.eye(Phi.shape[1], dtype=Phi.dtype), Phi.mT @ y)


def ridge_3(Phi, y, strength):
    return torch.linalg.lstsq(Phi, y).solution  # ignores the strength


def posterior(log_likelihood, log_prior):
    return log_likelihood.softmax(dim=1)  # forgets the prior


def posterior_2(log_likelihood, log_prior):
    return (log_likelihood + log_prior).softmax(dim=0)  # normalizes over the examples


def posterior_3(log_likelihood, log_prior):
    joint = (log_likelihood + log_prior).exp()  # overflows
    return joint / joint.sum(1, keepdim=True)
