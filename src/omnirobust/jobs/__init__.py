"""Whole jobs, from names of data and models to a run folder: what the command line runs."""

from omnirobust.jobs.attack import run_attack as run_attack
from omnirobust.jobs.demo import DemoJob as DemoJob
from omnirobust.jobs.demo import run_demo as run_demo
from omnirobust.jobs.evaluate import EvaluationJob as EvaluationJob
from omnirobust.jobs.evaluate import run_evaluation as run_evaluation
from omnirobust.jobs.job import AttackJob as AttackJob
from omnirobust.jobs.job import Grouping as Grouping
from omnirobust.jobs.names import load_models as load_models
from omnirobust.jobs.records import AttackRecord as AttackRecord
from omnirobust.jobs.records import EvaluationRecord as EvaluationRecord
from omnirobust.jobs.records import TrainingRecord as TrainingRecord
from omnirobust.jobs.records import open_records as open_records
from omnirobust.jobs.train import run_training as run_training
from omnirobust.jobs.train_job import TrainingJob as TrainingJob
from omnirobust.jobs.transforms import load_transforms as load_transforms
