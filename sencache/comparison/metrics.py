"""How far decoded frames are from those of a reference run: LPIPS, PSNR and SSIM.

All three look at the frames as they leave the decoder, before any video encoding.
"""

import functools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn.functional import unfold
from torchmetrics.functional.image import structural_similarity_index_measure

from sencache.errors import SencacheError
from sencache.schema import Metrics
from sencache.video import frame_pair

# AlexNet's last pooling has nothing left to pool below this; SSIM's 11x11 window alone would need 6 pixels.
SMALLEST_SIDE = 31

_BACKBONE = Path(__file__).parents[1] / "assets" / "lpips" / "alexnet_features.safetensors"
_HEADS = Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth"

# Bounds the memory: 5 frames of 480x832 at a time.
_PIXELS_PER_BATCH = 2**21


def compare_frames(
    frames: NDArray[Any], reference: NDArray[Any], *, device: torch.device | str = "cpu"
) -> Metrics:
    """Measure how far frames are from the reference's, frame by frame and as a mean.

    LPIPS is Zhang et al. 2018 (arXiv 1801.03924) by the `lpips` package, SSIM is Wang et al. 2004 by
    torchmetrics (Gaussian window 11x11, sigma 1.5, borders mirrored, mean over RGB), PSNR has a peak of 1.
    Identical frames get LPIPS 0 and SSIM 1 by definition. Between others SSIM is computed in float32, which
    leaves it uncertain by about 1e-4, and by 1e-3 where both frames are perfectly flat.

    Args:
        frames: `[frames, height, width, 3]`, floats in [0, 1] or uint8.
        reference: the same shape.
        device: where LPIPS and SSIM are computed.

    Raises:
        SencacheError: if the shapes differ, a side is below 31 pixels, or the values are not in [0, 1].
    """
    frames, reference = frame_pair(frames, reference)
    height, width = frames.shape[1:3]
    if min(height, width) < SMALLEST_SIDE:
        raise SencacheError(
            f"Frames of {height}x{width} are too small for LPIPS; "
            f"compare frames of at least {SMALLEST_SIDE}x{SMALLEST_SIDE}."
        )
    # In float64, where the square of no float32 difference vanishes: zero then means equal.
    errors = np.array(
        [np.mean(np.subtract(*pair, dtype=np.float64) ** 2) for pair in zip(frames, reference, strict=True)]
    )
    lpips_values, ssim_values = np.zeros(len(errors)), np.ones(len(errors))
    differing_frames, size = np.flatnonzero(errors), max(1, _PIXELS_PER_BATCH // (height * width))
    for start in range(0, len(differing_frames), size):
        some = differing_frames[start : start + size]
        lpips_values[some], ssim_values[some] = _lpips_and_ssim(frames[some], reference[some], str(device))
    psnrs = [_psnr(error) for error in errors]
    differing = [psnr for psnr in psnrs if psnr is not None]
    return Metrics(
        lpips=lpips_values.mean(),
        psnr=_psnr(errors.mean()),
        psnr_frames=sum(differing) / len(differing) if differing else None,
        ssim=ssim_values.mean(),
        identical=not differing,
        identical_frames=len(psnrs) - len(differing),
        per_frame={"lpips": lpips_values.tolist(), "psnr": psnrs, "ssim": ssim_values.tolist()},
    )


def _psnr(mean_squared_error: float) -> float | None:
    return -10 * math.log10(mean_squared_error) if mean_squared_error else None


@torch.inference_mode()
def _lpips_and_ssim(
    frames: NDArray[np.float32], reference: NDArray[np.float32], device: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    clips = (torch.from_numpy(clip).to(device) for clip in (frames, reference))
    pair = [clip.permute(0, 3, 1, 2).contiguous() for clip in clips]
    ssim = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none")
    assert isinstance(ssim, torch.Tensor)  # a tuple only where full images are asked for
    return _lpips_model(device)(*pair, normalize=True).flatten().cpu().numpy(), ssim.cpu().numpy()


class _Unrounded(torch.nn.Conv2d):
    """A convolution as a product of matrices, for GPUs.

    cuDNN would round its factors to TF32's ten bits, and what turns that off does so for the whole process,
    where other devices make videos meanwhile. (SSIM's go channel by channel, which is not cuDNN's.)
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        columns = unfold(images, self.kernel_size, self.dilation, self.padding, self.stride)  # type: ignore[arg-type]
        product = self.weight.flatten(1) @ columns
        if self.bias is not None:
            product = product + self.bias[:, None]
        height = (images.shape[2] + 2 * int(self.padding[0]) - self.kernel_size[0]) // self.stride[0] + 1
        return product.view(len(images), len(self.weight), height, -1)


@functools.cache
def _lpips_model(device: str) -> Callable[..., torch.Tensor]:
    """Load LPIPS (AlexNet) from the bundled backbone and the heads in the `lpips` package; no download."""
    # On "meta" nothing is initialised: that saves most of a second and leaves the global random state alone.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated signature
        model = lpips.LPIPS(net="alex", pnet_rand=True, pretrained=False, verbose=False)
    backbone = load_file(_BACKBONE)
    # "slice2.3.weight" there is "features.3.weight" here.
    model.net.load_state_dict(
        {name: backbone["features." + name.split(".", 1)[1]] for name in model.net.state_dict()}, assign=True
    )
    # Not strict: the heads' second registration (`lins`) and the scaling constants are not in the file.
    model.load_state_dict(torch.load(_HEADS, "cpu", weights_only=True), strict=False, assign=True)
    loaded: Callable[..., torch.Tensor] = _avoid_rounding(
        model.eval().requires_grad_(False).to(device), device
    )
    return loaded


def _avoid_rounding(model: torch.nn.Module, device: str) -> torch.nn.Module:
    if torch.device(device).type != "cpu":
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.__class__ = _Unrounded
    return model
