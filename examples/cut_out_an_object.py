"""The most certain object on a black background: masks from results.json, pictures from the video.

python examples/cut_out_an_object.py street.mp4 [MODEL]
"""

import sys
from pathlib import Path

import vistool
from vistool.formats.video import open_video
from vistool.formats.video_writer import VideoWriter

source = Path(sys.argv[1])
folder = source.with_name(f"{source.stem}-cut-out")
model = sys.argv[2] if len(sys.argv) > 2 else "ifc-lite"
config = vistool.PredictConfig(conf=0.0, overlay=False)
done = vistool.predict_video(model, source, folder, config)

results = vistool.read_results(folder / "results.json")
if not results:
    raise SystemExit("nothing was found")
masks = results[0]["segmentations"]  # the best result comes first; one entry a frame, or None

with (
    open_video(source) as video,
    VideoWriter(folder / "object.mp4", video.size, fps=video.fps) as writer,
):
    for frame, rle in zip(video.frames(), masks, strict=True):
        image = frame.image
        image[~vistool.decode_mask(rle) if rle else slice(None)] = 0
        writer.write(image, frame.time)
print(f"{sum(rle is not None for rle in masks)} of {done.frames} frames: {folder / 'object.mp4'}")
