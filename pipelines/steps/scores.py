"""Collects every system's scores of every usable clip. Moves (files); the networks compute."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pipelines.steps.inputs import EmbeddedClips
from pipelines.train import NETWORK, TrainedStream
from pipelines.tune import Tuned
from trainers.embedding import Embedding
from trainers.evaluation import SystemScores
from trainers.network_files import load_network
from trainers.sequence.recurrent import SequenceNetwork
from trainers.sequence.task import score_sequence


def collect_scores(
    trained: Mapping[str, TrainedStream], tuned: Tuned, *, multi_label: bool
) -> dict[str, SystemScores]:
    """System -> its scores, in the order in which the report lists them."""
    inputs = tuned.inputs
    cnns = {
        f"{stream}_cnn": SystemScores(
            inputs.cnn_scores.features[stream], inputs.cnn_scores.present[stream]
        )
        for stream in trained
    }
    lstms = {
        f"{stream}_lstm": lstm_scores(inputs, fitted, multi_label=multi_label)
        for stream, fitted in trained.items()
        if fitted.lstm is not None
    }
    everywhere = np.ones(len(inputs.clips), bool)
    fused = tuned.fused().scores(inputs.table.features, inputs.table.present)
    return {**cnns, **lstms, "fusion": SystemScores(fused, everywhere)}


def lstm_scores(inputs: EmbeddedClips, fitted: TrainedStream, *, multi_label: bool) -> SystemScores:
    """The last step's scores; one clip at a time, so that memory does not grow with the clips."""
    assert fitted.lstm is not None
    network, _ = load_network(fitted.lstm.storage, NETWORK)
    assert isinstance(network, SequenceNetwork)
    present = inputs.table.present[fitted.stream]
    scores = np.zeros((len(inputs.clips), inputs.table.targets.n_classes), np.float32)
    with torch.inference_mode():
        for row in np.flatnonzero(present):
            blob = fitted.embeddings.read_bytes(inputs.clips[row].artifact)
            features = Embedding.from_bytes(blob).features
            scores[row] = score_sequence(network, features, multi_label=multi_label)
    return SystemScores(scores, present)
