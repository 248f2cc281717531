"""scikit-learn, the reference."""

import sklearn
from sklearn.mixture import GaussianMixture

from bench.workers.estimator import Estimator


class Library(Estimator):
    """`sklearn.mixture.GaussianMixture`; OpenBLAS and OpenMP take their threads from the environment."""

    def __init__(self) -> None:
        super().__init__(GaussianMixture, sklearn.__version__)
