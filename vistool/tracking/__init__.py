"""From a video's frames to clips, and from predictions of clips to tracks of the whole video."""
