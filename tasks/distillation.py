"""The cached Prefect task of distillation."""

from tasks.base import stage_task

distillation = stage_task("distillation", description="Train the student, or its undistilled control.")
