"""Whole data sets: many processes, killed at any moment, nothing lost."""
