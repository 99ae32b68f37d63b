"""Segment and track a video, and list what was found.

python examples/predict_a_video.py street.mp4 [MODEL]
"""

import sys
from pathlib import Path

import vistool

source = Path(sys.argv[1])
model = vistool.load_model(sys.argv[2] if len(sys.argv) > 2 else "ifc-lite")
config = vistool.PredictConfig(conf=0.3, clip_stride=3)

done = vistool.predict_video(model, source, source.with_name(f"{source.stem}-tracks"), config)

meta = vistool.read_meta(done.folder / "meta.json")
names = {category.id: category.name for category in meta.categories}
for track in meta.tracks:
    first, last = meta.times[track.first_frame], meta.times[track.last_frame]
    print(
        f"{names[track.category_id]} {track.track_id}: "
        f"score {track.score:.2f}, {first:.1f} s to {last:.1f} s"
    )
print(f"{done.frames} frames, {done.tracks} tracks; look at {done.overlay}")
