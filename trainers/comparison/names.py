"""Names of the rows of Tables I to III. Light: to be checked before what the rows need is there."""

from __future__ import annotations

from collections.abc import Sequence

FUSIONS = ("svm_ef", "svm_lf", "svm_mkl", "nn_ef", "nn_lf", "m_dbm", "rdnn")
WHOLES = ("hybrid", "hybrid_dasd", "hybrid_confusion", "hybrid_learned")


def row_names(streams: Sequence[str], lstms: Sequence[str]) -> list[str]:
    """The names of `trainers.comparison.rows.rows`, in its order.

    Args:
        streams: that have features and a CNN.
        lstms: those of them that have an LSTM.
    """
    single = [
        f"{s}_{kind}" for s in streams for kind in ("cnn", "lstm") if kind == "cnn" or s in lstms
    ]
    first = [*single, *(f"{s}_cnn_lstm" for s in lstms)]
    first += ["cnn_lstm"] * (len(lstms) > 1)
    first += [f"cnn_lstm_{s}" for s in streams if s not in lstms and lstms]
    second = [*(f"{s}_svm" for s in streams), *FUSIONS, "fusion_plain", "fusion"]
    return [*first, *second, *WHOLES]
