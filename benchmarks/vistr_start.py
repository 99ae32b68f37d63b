"""A start for training a light VisTR: the backbone and the transformer of a light IFC.

    python benchmarks/vistr_start.py OUTPUT --ifc ifc-lite --data FOLDER

VisTR learns slowly from nothing (the paper starts from DETR, trained on COCO), so that ours starts
from an IFC of the same backbone. The two transformers code a cell's row and column alike, in 64
channels each; VisTR codes the frame in 64 more, which gives 192 channels for IFC's 128. What IFC
has not is left out of the file, and starts fresh: class, box and mask heads.

Of IFC's queries it gets those that are most often sure of an instance, on pictures of --data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import torch
from torch import Tensor

from vistool.config import IFCConfig, VisTRConfig
from vistool.models import build_model
from vistool.models.ifc import IFC
from vistool.models.vistr import VisTR
from vistool.models.weights import START, load_model, save_state
from vistool.ops.pixels import input_size, normalise, resize
from vistool.structures import Size

TIME = 64  # channels, which come first
QUIET = 0.1  # of the fresh weights of channels that IFC has not
PICTURES = "coco/train/*.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--ifc", default="ifc-lite", help="name or file of the IFC's weights")
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--clip-length", type=int, default=1)
    args = parser.parse_args()
    ifc = load_model(args.ifc).model
    assert isinstance(ifc, IFC)
    torch.manual_seed(0)
    with torch.inference_mode():
        chosen = busiest_queries(ifc, sorted(args.data.glob(PICTURES))[:64], args.queries)
        print(f"queries {chosen}")
        vistr = light_vistr(ifc.config, args.queries, args.clip_length)
        state = {**vistr.state_dict(), **transferred(ifc, vistr, chosen)}
    fresh = ("class_head.", "box_head.", "laterals.", "mask_head.", "instance_head.")
    kept = {key: value for key, value in state.items() if not key.startswith(fresh)}
    save_state(kept, vistr.config, args.output, {START: "vistr-lite"})


def light_vistr(ifc: IFCConfig, queries: int, clip_length: int) -> VisTR:
    config = VisTRConfig(
        class_names=ifc.class_names,
        backbone=ifc.backbone,
        pixels=ifc.pixels,
        hidden_dim=TIME + ifc.hidden_dim,
        num_heads=ifc.num_heads,
        feedforward_dim=ifc.feedforward_dim,
        encoder_layers=ifc.encoder_layers,
        decoder_layers=ifc.decoder_layers,
        num_queries=queries,
        dropout=0.0,
        clip_length=clip_length,
    )
    model = build_model(config)
    assert isinstance(model, VisTR)
    return model


def busiest_queries(ifc: IFC, pictures: list[Path], count: int) -> list[int]:
    """The queries that are most often likelier an instance than none, in their order."""
    config = ifc.config
    sure = torch.zeros(config.num_queries)
    for path in pictures:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        size = input_size(
            Size(*image.shape[:2]), config.test_short_side, config.test_long_side, config.pixels
        )
        logits = ifc(normalise(resize(image, size)[None], config.pixels)[None]).class_logits[0]
        sure += 1 - logits.softmax(-1)[:, -1]
    return sorted(sure.topk(count).indices.tolist())


def transferred(ifc: IFC, vistr: VisTR, chosen: list[int]) -> dict[str, Tensor]:
    """Tensors of VisTR that are made of IFC's."""
    theirs, ours = ifc.state_dict(), vistr.state_dict()
    wide = Widened(ifc.dim, vistr.dim, ifc.config.num_heads)
    made = {key: value for key, value in theirs.items() if key.startswith("backbone.")}
    made["project.weight"] = wide.rows(theirs["project.weight"], ours["project.weight"])
    made["project.bias"] = wide.rows(theirs["project.bias"], ours["project.bias"])
    for key, value in theirs.items():
        name = key.replace("encoder.frame_layers.", "encoder.")
        if name.startswith(("encoder.", "decoder.")) and name in ours:
            made[name] = wide.layer(name, value, ours[name])
    queries = theirs["queries.weight"][chosen].repeat(vistr.clip_length, 1)
    made["queries.weight"] = wide.columns(queries, ours["queries.weight"])
    # Where a query looks, as the last layer that looks at the picture has it.
    last = f"decoder.layers.{ifc.config.decoder_layers - 1}.cross_attention.attend.in_proj_"
    for kind in ("weight", "bias"):
        query, key, _ = made[last + kind].chunk(3)
        made[f"attention_maps.query.{kind}"] = query.clone()
        made[f"attention_maps.key.{kind}"] = key.clone()
    return made


class Widened:
    """IFC's channels among VisTR's: those of time come first, and are quiet at the start."""

    def __init__(self, narrow: int, width: int, heads: int) -> None:
        self.share = narrow / width
        self.same = slice(width - narrow, width)
        # A head's own channels are the first of those it has now.
        self.heads = torch.arange(width).view(heads, -1)[:, : narrow // heads].flatten()

    def layer(self, name: str, value: Tensor, fresh: Tensor) -> Tensor:
        """A tensor of an encoder's or a decoder's layer."""
        *_, module, kind = name.split(".")
        if module == "norm":
            # Quiet channels make what is divided by, the deviation, smaller.
            factor = self.share**0.5 if kind == "weight" else 1.0
            return self.rows(value * factor, fresh * (factor if kind == "weight" else 0.0), 1.0)
        if kind in ("in_proj_weight", "in_proj_bias"):
            # Products of queries and keys are divided by the root of a head's width.
            query, key, mixed = (
                self.among_heads(part, old)
                for part, old in zip(value.chunk(3), fresh.chunk(3), strict=True)
            )
            return torch.cat([query * self.share**-0.5, key, mixed])
        if module == "out_proj":
            if kind == "bias":
                return self.rows(value, fresh)
            grown = QUIET * fresh
            grown[self.same, self.heads] = value
            return grown
        if module == "linear1":
            return value if kind == "bias" else self.columns(value, fresh)
        assert module == "linear2", name
        return self.rows(value, fresh)

    def rows(self, value: Tensor, fresh: Tensor, quiet: float = QUIET) -> Tensor:
        grown = quiet * fresh
        grown[self.same] = value
        return grown

    def columns(self, value: Tensor, fresh: Tensor) -> Tensor:
        grown = QUIET * fresh
        grown[:, self.same] = value
        return grown

    def among_heads(self, value: Tensor, fresh: Tensor) -> Tensor:
        grown = QUIET * fresh
        grown[self.heads] = value if value.ndim == 1 else self.columns(value, fresh[self.heads])
        return grown


if __name__ == "__main__":
    main()
