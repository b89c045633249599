"""One iteration of TV-L1 on one row, for the Triton kernels of `actors.flow.cuda`."""

# Triton infers the types of a kernel's arguments; only compile-time constants are annotated.
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

FLAT = tl.constexpr(1.1920929e-07)
"""Smallest squared gradient that counts as texture, as on the CPU."""


@triton.jit
def inverse(x):
    """1 / x for positive x in two instructions; a division takes about eight."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def iteration(row, above, left, right, within_y, limit, tau, rate):
    """One iteration on one row (Zach et al., Eq. 13 to 15).

    Args:
        row: u, v, the four old duals and the four data terms of row r.
        above: the new u and v and the four old duals of row r - 1.
        left: lane of the left neighbor.
        right: lane of the right neighbor; the lane itself at the image's right edge.
        within_y: 1 if r - 1 and r are both in the image, else 0.

    Returns:
        The new u and v of row r, the new duals of row r - 1, the squared change.
    """
    u, v, pux, puy, pvx, pvy, gx, gy, reciprocal, residual = row
    old_u, old_v, qux, quy, qvx, qvy = above
    step = tl.minimum(tl.maximum((residual + gx * u + gy * v) * reciprocal, -limit), limit)
    change_u = pux - tl.gather(pux, left, 1) + (puy - quy) + step * gx
    change_v = pvx - tl.gather(pvx, left, 1) + (pvy - qvy) + step * gy
    u += change_u
    v += change_v
    ux = tl.gather(old_u, right, 1) - old_u
    uy = (u - old_u) * within_y
    vx = tl.gather(old_v, right, 1) - old_v
    vy = (v - old_v) * within_y
    shrink_u = inverse(1.0 + rate * tl.sqrt(ux * ux + uy * uy))
    shrink_v = inverse(1.0 + rate * tl.sqrt(vx * vx + vy * vy))
    qux = (qux + tau * ux) * shrink_u
    quy = (quy + tau * uy) * shrink_u
    qvx = (qvx + tau * vx) * shrink_v
    qvy = (qvy + tau * vy) * shrink_v
    return (u, v), (qux, quy, qvx, qvy), change_u * change_u + change_v * change_v


@triton.jit
def primal_dual_iteration(row, above, left, right, within_y, limit, tau, rate, sigma):
    """One primal-dual iteration on one row (Chambolle and Pock, 2011, Algorithm 1).

    Arguments not listed are those of `iteration`.

    Args:
        above: of row r - 1 the new u and v, the four old duals, and the extrapolated u and v.
        limit: lambda * tau.
        tau: primal step.
        rate: tau / (tau + theta).
        sigma: dual step.

    Returns:
        The new u and v of row r, the new duals of row r - 1, the squared change, and the
        extrapolated u and v of row r.
    """
    u, v, pux, puy, pvx, pvy, gx, gy, reciprocal, residual = row
    _, _, qux, quy, qvx, qvy, bar_u, bar_v = above
    change_u = tau * (pux - tl.gather(pux, left, 1) + (puy - quy))
    change_v = tau * (pvx - tl.gather(pvx, left, 1) + (pvy - qvy))
    residual += gx * (u + change_u) + gy * (v + change_v)
    step = tl.minimum(tl.maximum(rate * residual * reciprocal, -limit), limit)
    change_u += step * gx
    change_v += step * gy
    u += change_u
    v += change_v
    new_bar_u, new_bar_v = u + change_u, v + change_v
    qux += sigma * (tl.gather(bar_u, right, 1) - bar_u)
    quy += sigma * (new_bar_u - bar_u) * within_y
    qvx += sigma * (tl.gather(bar_v, right, 1) - bar_v)
    qvy += sigma * (new_bar_v - bar_v) * within_y
    shrink_u = tl.rsqrt(tl.maximum(qux * qux + quy * quy, 1.0))
    shrink_v = tl.rsqrt(tl.maximum(qvx * qvx + qvy * qvy, 1.0))
    duals = qux * shrink_u, quy * shrink_u, qvx * shrink_v, qvy * shrink_v
    return (u, v), duals, change_u * change_u + change_v * change_v, (new_bar_u, new_bar_v)
