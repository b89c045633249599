"""Refinement: what joins and corrects class scores."""
