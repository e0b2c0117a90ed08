"""The cached Prefect task of every stage, made from its row."""

from tasks.base import stage_task
from tinywave_core.run.stages import STAGE

TASKS = {name: stage_task(name, description=stage.about) for name, stage in STAGE.items()}
"""By the name of the stage."""
