"""Compiles the optical flow's loops: ``python -m actors.flow``, part of the installation."""

from __future__ import annotations

from actors.flow import compile_kernels

if __name__ == "__main__":
    print(f"optical flow: loops ready after {compile_kernels():.1f} s")
