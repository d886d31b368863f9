"""Plausible wrong answers to the exercises, a module for each chapter; each must be told to be wrong.

Functions whose names end in a number are further wrong answers to the exercise of the name before it.
"""
