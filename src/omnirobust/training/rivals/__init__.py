"""Rules of training against several norms that others published."""
