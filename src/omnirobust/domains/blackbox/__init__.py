"""Models that can be asked, not differentiated: how they are asked, what is kept of their answers, and their slopes."""
