"""The output layer and its cross-entropy in one."""

from .op import Losses, joint_cross_entropy, linear_cross_entropy

__all__ = ["Losses", "joint_cross_entropy", "linear_cross_entropy"]
