"""Fusion: what joins the streams' clip embeddings."""
