"""Graphs, weights, carry and cache: what an architecture file is executed by."""
