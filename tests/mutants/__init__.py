"""Deliberate mistakes, a module for each chapter: MUTANTS is a list of (section, right, wrong) pieces of code."""
