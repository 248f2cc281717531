"""A pytest plugin that puts our class in the place of scikit-learn's before its own tests are collected."""

import sklearn.mixture

import fastgmm

# scikit-learn's messages embed the class's name, so the stand-in is called as the original.
sklearn.mixture.GaussianMixture = type("GaussianMixture", (fastgmm.GaussianMixture,), {"__doc__": fastgmm.GaussianMixture.__doc__})
