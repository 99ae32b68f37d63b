"""How many of each class are in sight, told while the video is still being read.

python examples/count_as_it_plays.py street.mp4 [MODEL]
"""

import sys
from collections import Counter

import vistool

model = vistool.load_model(sys.argv[2] if len(sys.argv) > 2 else "ifc-lite")
shown = None
for frame in vistool.iterate_video(model, sys.argv[1], vistool.PredictConfig(conf=0.4)):
    counts = Counter(instance.class_name for instance in frame.instances)
    if counts != shown:
        shown = counts
        print(f"{frame.time:6.2f} s: {dict(sorted(counts.items())) or 'nothing'}")
