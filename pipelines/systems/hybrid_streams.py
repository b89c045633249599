"""The published streams of Hybrid (Jiang et al., section IV-A-2)."""

from __future__ import annotations

from actors.tracks import FLOW, FRAMES, SOUND
from trainers.settings import OptimizerSettings, SequenceSettings
from trainers.streams.settings import StreamSettings

SPATIAL = "spatial"
MOTION = "motion"
AUDIO = "audio"


def default_streams() -> dict[str, StreamSettings]:
    """Hybrid's streams by name, in the order in which they are listed.

    The paper gives networks, batch size, momentum, learning rates and their drops. Where it is
    silent: dropout 0.9 and 2048 units in fc7 for the motion network, and the end of fine-tuning
    at 20,000 steps, are those of the two-stream networks it builds on (Simonyan and Zisserman,
    2014, table 1 and section 5).
    """
    return {SPATIAL: _spatial(), MOTION: _motion(), AUDIO: _audio()}


def _spatial() -> StreamSettings:
    return StreamSettings(track=FRAMES, crop=224, sequence=SequenceSettings(model="lstm"))


def _motion() -> StreamSettings:
    return StreamSettings(
        track=FLOW,
        encoder="own:cnn_m",
        weights="none",
        hidden_dim=2048,
        dropout=0.9,
        crop=224,
        fit=OptimizerSettings(
            lr=1e-2, lr_drop_every=100_000, max_steps=250_000, evaluate_every=2_000
        ),
        sequence=SequenceSettings(model="lstm"),
    )


def _audio() -> StreamSettings:
    # The paper starts it from ImageNet as well; nobody publishes CNN-M weights in a form that
    # torchvision fetches, so a user who has them names the file.
    return StreamSettings(track=SOUND, encoder="own:cnn_m", weights="none", crop=224, flip=False)
