"""The methods that the Hybrid paper is compared with (its Tables I to III), as estimators.

Each is a `trainers.fusion.method.Method` with ``fit(table)`` and ``predict_scores(table)``. The
`Table` holds one feature vector per clip and stream, and no inner fold splits its groups. Scores
are (N, C) float64 probabilities.

The constants of a method are chosen by cross-validation by group on the clips that it is fitted on,
and noted in ``chosen``. Nothing here needs Ray or MLflow.
"""
