"""Read logged data of any format into one form, and check it."""

from rl_transformer.trajectories.data_spec import DataSpec as DataSpec
from rl_transformer.trajectories.dataset import TrajectoryDataset as TrajectoryDataset
from rl_transformer.trajectories.open import open_trajectories as open_trajectories
from rl_transformer.trajectories.spaces import Space as Space
from rl_transformer.trajectories.trajectory import Trajectory as Trajectory
