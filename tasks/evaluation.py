"""The cached Prefect task of evaluation."""

from tasks.base import stage_task

evaluation = stage_task("evaluation", description="Score teacher, student and control on held-out speech.")
