"""Attacks, one call each: options, presets, restarts, batches, results."""
