"""Run the command line: ``python -m omnirobust``, which ``torchrun -m omnirobust`` needs."""

from omnirobust.cli import main

main()
