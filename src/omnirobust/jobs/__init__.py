"""Whole jobs, from names of data and models to a run folder: what the command line runs."""

from omnirobust.jobs.demo import DemoJob as DemoJob
from omnirobust.jobs.demo import run_demo as run_demo
from omnirobust.jobs.ensemble import EnsembleJob as EnsembleJob
from omnirobust.jobs.ensemble import run_ensemble as run_ensemble
from omnirobust.jobs.models import load_models as load_models
from omnirobust.jobs.record import AttackRecord as AttackRecord
from omnirobust.jobs.record import open_records as open_records
