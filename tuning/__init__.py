"""What Ray Tune searches."""
