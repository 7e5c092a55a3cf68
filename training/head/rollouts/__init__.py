"""Answers to learn from, with what the head was asked: by the served system, or by two engines in this process."""

from training.head.rollouts.types import Asked, Job, Rollout, Rollouts

__all__ = ["Asked", "Job", "Rollout", "Rollouts"]
