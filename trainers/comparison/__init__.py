"""The methods that the Hybrid paper is compared with (its Tables I to III), as estimators.

Each has ``fit(features, present, targets, groups)`` and ``predict_scores(features, present)`` on
plain arrays:

- features: stream -> (N, D) float, one vector per clip; rows of absent streams may hold anything;
- present: stream -> (N,) bool, whether the clip has the stream;
- targets: (N, C) of 0 and 1; single-label rows are one-hot;
- groups: (N,) names of groups (a person, a source video) that no inner fold splits; without them
  every clip is a group of its own;
- scores: (N, C) float64, probabilities.

What a method chooses for itself (its constants) it chooses by cross-validation by group on the
clips it is fitted on, and tells in ``chosen``. Nothing here needs Ray or MLflow.
"""
