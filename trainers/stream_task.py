"""Fitting one stream's convolutional network on the samples cut from its clips."""

from __future__ import annotations

from trainers.examples import Example
from trainers.stream_settings import StreamSettings, default_stream_settings

__all__ = ["Example", "StreamSettings", "default_stream_settings"]
