"""What Ray Data runs over shards of videos: decoding, optical flow, sound, features."""
